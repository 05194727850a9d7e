"""Runs of several ranks with a stand-in for torchrun, one after another: `forked_ranks.py FILE`.

FILE is a JSON object of objects: `words` of the command line or a `script`, and optionally `ranks` (2), a
folder that is copied first with `copy` [FROM, TO], and `after` seconds from when `mark` exists on, `signal`
to `rank`. Ranks are forks of this process, which has loaded everything. As torchrun does, it has their store,
and once a rank ends badly it sends SIGTERM to the others and, 30 seconds later, SIGKILL.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shutil
import signal
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sightloop.cli import main


def forked(case: dict[str, Any], rank: int, port: int, folder: Path) -> int:
    """A rank; its process."""
    pid = os.fork()
    if pid:
        return pid
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(case["ranks"]), MASTER_ADDR="127.0.0.1"
    )
    os.environ.update(MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(folder / f"{name}_{rank}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
    code = 1
    try:
        main(case["words"]) if "words" in case else runpy.run_path(case["script"])
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def launched(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One command on all ranks: how each ended, what it printed, and seconds until the last one did."""
    folder.mkdir(parents=True)
    if "copy" in case:
        shutil.copytree(*case["copy"])
    if "mark" in case:
        Path(case["mark"]).unlink(missing_ok=True)
    store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        "127.0.0.1", 0, None, True, timeout=timedelta(seconds=60), wait_for_workers=False
    )
    case = {"ranks": 2, **case}
    left = {rank: forked(case, rank, store.port, folder) for rank in range(case["ranks"])}
    pids, codes = dict(left), dict[int, int]()
    begun = time.monotonic()
    hit = failed = None
    while left:
        time.sleep(0.05)
        now = time.monotonic()
        if hit is None and "mark" in case and Path(case["mark"]).exists():
            time.sleep(case.get("after", 0))
            hit = time.monotonic()
            os.kill(pids[case["rank"]], getattr(signal, case["signal"]))
        for rank, pid in list(left.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[rank] = os.waitstatus_to_exitcode(status)
                del left[rank]
        if failed is None and any(codes.values()):
            failed = now
            for pid in left.values():
                os.kill(pid, signal.SIGTERM)
        stopped = failed is not None and set(left) == {case.get("rank")} and case["signal"] == "SIGSTOP"
        if stopped or now - (failed or now) > 30 or now - begun > 400:
            for pid in left.values():
                os.kill(pid, signal.SIGKILL)
    seconds = time.monotonic() - (hit or begun)
    said = {
        f"{name}_{rank}": (folder / f"{name}_{rank}").read_text() for name in ("out", "err") for rank in pids
    }
    return {"codes": [codes[rank] for rank in pids], "seconds": seconds, **said}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for module in ("sightloop.api.train", "sightloop.recipes.vlrm.build", "sightloop.report.page"):
        importlib.import_module(module)
    file = Path(sys.argv[1])
    cases = json.loads(file.read_text(encoding="utf-8"))
    found = {name: launched(case, file.parent / name) for name, case in cases.items()}
    file.with_suffix(".found").write_text(json.dumps(found), encoding="utf-8")
