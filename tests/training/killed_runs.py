"""Kills toy runs at given moments, resumes them, and tells what differs from a run that nobody disturbed.

`python killed_runs.py FOLDER 5 17,9`: one run killed at its 5th event; one at its 17th and, once resumed, at
its 9th. Forks keep the price of starting low.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from toy_run import Collector, Mortal, experiment_of, run_in, traces

from sightloop.training.loop import train


def in_child(work: Callable[[], None]) -> int:
    """Do the work in a process of its own; its exit status as `os.waitpid` gives it."""
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def live(folder: Path, die_at: int) -> int:
    """Start the run in `folder`, or go on with it, until it ends or dies."""
    mortal = Mortal(die_at)

    def work() -> None:
        os.replace, os.fsync = mortal.around(os.replace), mortal.around(os.fsync)
        run = run_in(folder, resume=(folder / "config.json").exists())
        # Not in other tests: the run-time check of annotations draws from Python's generator, too.
        collector = Collector(noise=("torch", "numpy", "python"), watch=mortal.beat)
        train(experiment_of(collector=collector), run)
        run.close()
        (folder.parent / f"{folder.name}.events").write_text(str(die_at - mortal.left))

    return in_child(work)


def main() -> None:
    """Kill, resume, compare; a JSON object on stdout."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    live(folder / "undisturbed", 0)
    expected = traces(folder / "undisturbed")
    found: dict[str, list[str]] = {}
    for moments in sys.argv[2:]:
        hurt = folder / f"killed_{moments}"
        for moment in moments.split(","):
            assert live(hurt, int(moment)) == signal.SIGKILL, (
                f"the run ended before event {moment} of {moments}"
            )
        assert live(hurt, 0) == 0
        now = traces(hurt)
        found[moments] = sorted(
            name for name in now.keys() | expected.keys() if now.get(name) != expected.get(name)
        )
    events = int((folder / "undisturbed.events").read_text())
    print(json.dumps({"events": events, "files": sorted(expected), "differences": found}))


if __name__ == "__main__":
    main()
