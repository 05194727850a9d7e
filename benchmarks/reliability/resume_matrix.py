"""Runs that are disturbed, go on, and are compared with runs that nobody disturbed: bit for bit.

python -m benchmarks.reliability.resume_matrix                  what the record has not yet of this commit
python -m benchmarks.reliability.resume_matrix --ranks 2        the same of two processes, over gloo
python -m benchmarks.reliability.resume_matrix --only "a2c" --again

Commands run in forks, the signals are real: `sightloop train ...`, then `sightloop train --resume`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

# Before torch counts the cores: the runs are tiny.
os.environ["OMP_NUM_THREADS"] = "1"

import torch.distributed as dist

from benchmarks.reliability.disturbances import DISTURBANCES, Disturbance, give_back, own_disk
from benchmarks.reliability.records import measured_commit, record, recorded
from benchmarks.reliability.tiny_runs import RECIPES, make_images, train_words
from sightloop.cli import main as sightloop

_SCHEDULE = ("--steps", "5", "--save-every", "2", "--eval-every", "3", "--sample-every", "2")
_CLOCKS = ("seconds/", "speed/", "memory/")
_PATIENCE_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the runs are, and in how many processes."""

    folder: Path
    ranks: int

    def run(self, words: list[str], said: Path, *, hit: Disturbance | None = None, **how: Any) -> list[int]:
        """A command on all ranks; exit codes. `hit` disturbs one of them."""
        chance: random.Random = how.get("chance", random.Random(0))
        # As under torchrun, who starts the ranks has what they meet at, on a port that nobody else had.
        store = None if self.ranks == 1 else _store()
        whom = chance.randrange(self.ranks)
        processes: list[int] = []
        for rank in range(self.ranks):
            processes.append(os.fork())
            if processes[-1] == 0:
                if hit is not None and hit.inside is not None and rank == whom:
                    hit.inside(chance)
                _be_rank(words, rank, self.ranks, store.port if store else 0, said)
        if hit is not None and hit.outside is not None:
            hit.outside(processes[whom], how["run"], chance, how["seconds"])
        return _ended(processes)


def _be_rank(words: list[str], rank: int, ranks: int, port: int, said: Path) -> None:
    os.setpgid(0, 0)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if ranks > 1:
        where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in where.items()}, MASTER_ADDR="127.0.0.1")
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    code = 0
    try:
        sightloop(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    sys.stdout.flush()
    os._exit(code)


def _ended(processes: list[int]) -> list[int]:
    """As under torchrun: once one ends badly the others are told to end, then made to."""
    codes: dict[int, int] = {}
    started = failed = time.monotonic()
    while len(codes) < len(processes):
        time.sleep(0.02)
        for process in set(processes) - set(codes):
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                codes[process] = os.waitstatus_to_exitcode(status)
        now = time.monotonic()
        if not any(codes.values()):
            failed = now
        for process in set(processes) - set(codes):
            if now - failed > 60 or now - started > _PATIENCE_SECONDS:
                os.kill(process, signal.SIGKILL)
            elif now - failed > 5:
                os.kill(process, signal.SIGTERM)
    return [codes[process] for process in processes]


def _store() -> Any:
    return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        "127.0.0.1", 0, None, True, timeout=timedelta(seconds=60), wait_for_workers=False
    )


def traces(run: Path) -> dict[str, Any]:
    """All of a run that must not depend on interruptions: the newest checkpoint, figures, samples."""
    found: dict[str, Any] = {}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found["metrics.jsonl"] = [{k: v for k, v in r.items() if not k.startswith(_CLOCKS)} for r in records]
    newest = max((run / "checkpoints").glob("step_*"))
    files = [file for file in newest.iterdir() if file.name != "manifest.json"]
    for part in ("samples", "evaluations"):
        files += [file for file in (run / part).rglob("*") if file.is_file()]
    for file in files:
        found[str(file.relative_to(run))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def tried(recipe: str, name: str, place: Place, *, seed: int) -> dict[str, Any]:
    """One recipe disturbed in one way: what differs from the undisturbed run."""
    hit = DISTURBANCES[name]
    whole, seconds = _undisturbed(recipe, place)
    chance = random.Random(f"{seed} {recipe} {name} {place.ranks}")
    said = place.folder / "said.txt"
    parent = place.folder / "disturbed"
    shutil.rmtree(parent, ignore_errors=True)
    if not hit.needs_disk:
        parent.mkdir()
    elif own_disk(parent, 200) is None:
        return {"result": "not tried: this user may not mount a disk"}
    run = parent / "run"
    try:
        for _ in range(5):
            said.unlink(missing_ok=True)
            for left in parent.iterdir():
                left.unlink() if left.is_file() else shutil.rmtree(left)
            words = [*train_words(recipe, place.folder, run), *_SCHEDULE]
            codes = place.run(words, said, hit=hit, chance=chance, run=run, seconds=seconds)
            if any(codes) or hit.codes == (0,):
                break
            # It was over before it was hit.
            seconds *= 0.7
        if hit.after is not None:
            hit.after(run, chance)
        told, before = said.read_text(errors="replace"), len(said.read_text(errors="replace"))
        good = any(code in hit.codes for code in codes) and "Traceback" not in told[:before]
        resumed = place.run(["train", "--resume", str(run)], said)
        if any(resumed):
            return {
                "result": f"not resumed, exit {resumed}",
                "said": said.read_text(errors="replace")[-2000:],
            }
        now = traces(run)
        differing = sorted(key for key in whole.keys() | now.keys() if whole.get(key) != now.get(key))
        result = "bit-identical" if not differing else f"differs in {', '.join(differing)}"
        return {"result": result if good else f"{result}; ended with {codes}: {told[-1500:]}"}
    finally:
        if hit.needs_disk:
            give_back(parent)


def _undisturbed(recipe: str, place: Place) -> tuple[dict[str, Any], float]:
    """Its traces, and how long it trained."""
    run, said = place.folder / "undisturbed", place.folder / "undisturbed.txt"
    kept = place.folder / f"undisturbed {recipe} {place.ranks}.json"
    if not kept.exists():
        said.unlink(missing_ok=True)
        shutil.rmtree(run, ignore_errors=True)
        if any(place.run([*train_words(recipe, place.folder, run), *_SCHEDULE], said)):
            raise SystemExit(said.read_text())
        began = (run / "config.json").stat().st_mtime
        kept.write_text(json.dumps([traces(run), (run / "metrics.jsonl").stat().st_mtime - began]))
    whole, seconds = json.loads(kept.read_text())
    return whole, seconds


def _load_everything(place: Place) -> None:
    """Import what a run imports, in a process that itself never trains and so may be forked."""
    listed = place.folder / "modules.json"
    child = os.fork()
    if child == 0:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        for recipe in ("a2c", "grpo janus", "sft show-o"):
            sightloop(
                [*train_words(recipe, place.folder, place.folder / "first"), "--steps", "1", "--overwrite"]
            )
        listed.write_text(json.dumps(sorted(name for name in sys.modules if name.startswith("sightloop."))))
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the tiny runs cannot be trained")
    for name in json.loads(listed.read_text()):
        importlib.import_module(name)


def main() -> None:
    """Try what is missing in the record; exit code 1 if anything differed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=RECIPES)
    parser.add_argument("--ways", nargs="*", choices=DISTURBANCES, default=[*DISTURBANCES])
    parser.add_argument("--forget", action="store_true", help="keep nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="also what the record has")
    options = parser.parse_args()
    recipes = options.only or RECIPES
    kept, wrong = recorded("resume"), 0
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder=Path(folder), ranks=options.ranks)
        make_images(place.folder)
        _load_everything(place)
        for recipe in recipes:
            for name in options.ways:
                key = f"{recipe} | {name} | {options.ranks} | {options.seed}"
                if (
                    not (options.again or options.forget)
                    and kept.get(key, {}).get("commit") == measured_commit()
                ):
                    continue
                found = tried(recipe, name, place, seed=options.seed)
                wrong += (
                    not found["result"].startswith(("bit-identical", "not tried")) or ";" in found["result"]
                )
                print(key, found, flush=True)
                if not options.forget:
                    record("resume", {key: found})
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
