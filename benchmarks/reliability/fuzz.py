"""Mutated inputs to every way in: no traceback, no hang, no memory beyond 2 GiB, and refusals name a file.

python -m benchmarks.reliability.fuzz --number 10000 --jobs 2
python -m benchmarks.reliability.fuzz --only 4711        one of them, with all that it says
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

# Before anything asks a hub, or counts the cores: cases are many and small.
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

from benchmarks.reliability.command_lines import lines_and_options
from benchmarks.reliability.examples import make_examples
from benchmarks.reliability.guarded import GIB, Limits, Outcome, guarded
from benchmarks.reliability.records import record
from benchmarks.reliability.targets import FURTHER, Case, case_of, grouped, num_whole

MEMORY = 2 * GIB
_LIMITS = Limits(memory_bytes=MEMORY + GIB)
_FAULT = "this is a fault of sightloop"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
GOOD = ("done", "refused")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a case ended."""

    number: int
    target: str
    kind: str
    """"done", "refused", or what is wrong with it."""
    told: str
    said: str
    seconds: float


def kind_of(case: Case, outcome: Outcome) -> str:
    """ "done", "refused", or what is wrong with how a case ended."""
    said = outcome.said
    if outcome.code is None or outcome.code == -24:
        return "hang"
    if outcome.peak_bytes > MEMORY or "out of memory" in said:
        return "memory"
    if "Traceback (most recent call last)" in said or _FAULT in said:
        return "traceback"
    # Doctor's way to say that something is wrong.
    if outcome.code not in ((0, 1, 2) if "doctor" in case.told[:12] else (0, 2)):
        return f"exit {outcome.code}"
    if _CONTROL.search(said):
        return "control characters"
    if outcome.code and not (any(name in said for name in case.names) or (said and not case.names)):
        return "no name"
    return "refused" if outcome.code else "done"


def tried(number: int, examples: Path, place: Path, seed: int) -> Ended:
    """The case of this number, and how it ended."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    case = case_of(number, examples, place, seed=seed)
    outcome = guarded(case.work, place, _LIMITS)
    kind = kind_of(case, outcome)
    return Ended(
        number=number,
        target=case.target,
        kind="whole, but refused" if number < 0 and kind == "refused" else kind,
        told=case.told,
        said=outcome.said,
        seconds=outcome.seconds,
    )


def prepare(place: Path) -> Path:
    """The examples, below `place`; whatever their commands import is imported here, once for all cases.

    They are made in a process of its own, because one that computed gradients must not be forked. Examples
    that are there already are used again.
    """
    examples, list_file = place / "examples", place / "modules.json"

    def make() -> None:
        make_examples(examples)
        list_file.write_text(json.dumps(sorted(name for name in sys.modules if "." in name)))

    if not list_file.exists():
        shutil.rmtree(examples, ignore_errors=True)
        examples.mkdir(parents=True)
        made = guarded(make, place, Limits(seconds=3000, cpu_seconds=600))
        if made.code:
            raise SystemExit(f"the examples themselves are refused, exit {made.code}\n{made.said}")
    for name in json.loads(list_file.read_text()):
        if name.startswith(("sightloop.", "transformers.", "PIL.", "pyarrow.", "tokenizers.", "torch.")):
            importlib.import_module(name)
    lines_and_options()
    return examples


def fuzz(numbers: Iterable[int], place: Path, *, seed: int, jobs: int) -> list[Ended]:
    """How the cases of these numbers ended, in `jobs` processes."""
    examples = prepare(place)
    before = _digest(examples)
    files = [place / f"ended_{job}.jsonl" for job in range(jobs)]
    workers: list[int] = []
    listed = list(numbers)
    for job, file in enumerate(files):
        workers.append(os.fork())
        if workers[-1]:
            continue
        with open(file, "w", encoding="utf-8") as ended:
            for number in listed[job::jobs]:
                found = tried(number, examples, place / f"case_{job}", seed)
                if found.kind not in GOOD:
                    print(
                        f"{number} {found.kind} [{found.target}] {found.told!a}", file=sys.stderr, flush=True
                    )
                ended.write(json.dumps(asdict(found)) + "\n")
        os._exit(0)
    for worker in workers:
        if os.waitpid(worker, 0)[1]:
            raise SystemExit("a worker ended before its cases")
    if _digest(examples) != before:
        raise SystemExit("a command changed files that it was only to read")
    return [Ended(**json.loads(line)) for file in files for line in file.read_text().splitlines()]


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(str(file).encode(errors="surrogateescape") + file.read_bytes())
    return digest.hexdigest()


def main() -> None:
    """Print every fault and the counts; exit code 1 if there is any fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--further", type=int, help="of the ways in that came later; default a fifth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="*")
    parser.add_argument("--place", type=Path, help="keep the examples there, and use them again")
    parser.add_argument("--keep", action="store_true", help="keep the counts for docs/reliability.md")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        # In a long run the examples as they are come first.
        first = -num_whole() if options.number > 1000 else 0
        further = options.number // 5 if options.further is None else options.further
        numbers = [*range(first, min(options.number, FURTHER)), *range(FURTHER, FURTHER + further)]
        numbers = numbers if options.only is None else options.only
        place = (options.place or Path(folder)).resolve()
        ended = fuzz(numbers, place, seed=options.seed, jobs=options.jobs)
    for each in ended:
        if options.only is not None:
            print(f"{each.number} {each.kind} [{each.target}] {each.told}\n{each.said}")
        elif each.kind not in GOOD:
            last = next(reversed(each.said.strip().splitlines()), "")
            print(f"{each.number} {each.kind} [{each.target}] {each.told!a}: {last[:600]}")
    counted = Counter(each.kind for each in ended)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counted.items())))
    if options.keep and options.only is None:
        _keep(ended, time.monotonic() - started, options.seed)
    sys.exit(any(each.kind not in GOOD for each in ended))


def _keep(ended: list[Ended], seconds: float, seed: int) -> None:
    group_of = {name: group for group, known in grouped().items() for name in known}
    counts = {
        "groups": dict(Counter(group_of.get(each.target, each.target) for each in ended)),
        "inputs": len(ended),
        "taken": sum(each.kind == "done" for each in ended),
        "refused": sum(each.kind == "refused" for each in ended),
        "faults": dict(Counter(each.kind for each in ended if each.kind not in GOOD)),
        "ways_in": len({each.target for each in ended}),
        "longest_seconds": max(each.seconds for each in ended),
        "minutes": seconds / 60,
    }
    record("fuzz", {f"seed {seed}": counts})


if __name__ == "__main__":
    main()
