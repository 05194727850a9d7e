"""How long the demonstration takes from SIGTERM, at any moment, until all is saved and the process is gone.

python -m benchmarks.reliability.sigterm --number 4
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.reliability.records import record
from sightloop.training.checkpoint import finished_checkpoints

LIMIT = 10.0
_PATIENCE_SECONDS = 900
# The demonstration's own settings; the shorter run comes to its report in a reasonable time.
_DEMO = ("demo", "unirl")
_SHORT = ("train", "unirl-grpo", "--preset", "shapes", "--steps", "1", "--eval-every", "1")
_LAST = re.compile("^(stopped|sightloop: ended by) ", re.MULTILINE)
_STEPS = "step 1 is done"
MOMENTS: dict[str, tuple[tuple[str, ...], str]] = {
    "models are loaded": (_DEMO, ""),
    "the first evaluation": (_DEMO, "Ctrl-C stops"),
    "a step, drawing or updating": (_DEMO, _STEPS),
    "the report is written": (_SHORT, "finished 1 steps"),
}
"""The command, and what is read in its output or its folder when the moment has come."""


def seconds_to_end(moment: str, place: Path, chance: random.Random) -> tuple[float, float, str]:
    """From the signal until all is saved and until the process is gone; its last words."""
    words, mark = MOMENTS[moment]
    run, said = place / "run", place / "said.txt"
    with open(said, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sightloop", *words, "--run", str(run)],
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        started = time.monotonic()
        while not _has_come(mark, said, run) and time.monotonic() - started < _PATIENCE_SECONDS:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.1, 5))
        sent = time.monotonic()
        process.send_signal(signal.SIGTERM)
        saved = 0.0
        while process.poll() is None and time.monotonic() - sent < _PATIENCE_SECONDS:
            if not saved and _LAST.search(said.read_text(encoding="utf-8")):
                saved = time.monotonic() - sent
            time.sleep(0.01)
        gone = time.monotonic() - sent
        last = said.read_text(encoding="utf-8").strip().splitlines()[-1]
        return saved or gone, gone, f"exit {process.returncode}: {last}"
    finally:
        process.kill()


def _has_come(mark: str, said: Path, run: Path) -> bool:
    if mark == _STEPS:
        # Steps are not told one by one.
        steps = run / "metrics.jsonl"
        return steps.exists() and b'"train"' in steps.read_bytes()
    return mark in said.read_text(encoding="utf-8")


def main() -> None:
    """Measure, print, keep; exit code 1 if any took longer than the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--number", type=int, default=4, help="signals at each of the moments")
    parser.add_argument("--only", nargs="*", choices=MOMENTS, default=[*MOMENTS])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, longest = random.Random(options.seed), 0.0
    for moment in options.only:
        found: list[tuple[float, float]] = []
        for _ in range(options.number):
            with tempfile.TemporaryDirectory() as folder:
                saved, gone, last = seconds_to_end(moment, Path(folder), chance)
                steps = [each.step for each in finished_checkpoints(Path(folder) / "run" / "checkpoints")]
                print(f"{moment}: {saved:.1f} s, gone {gone:.1f} s, steps {steps}, {last}", flush=True)
            found.append((saved, gone))
        saved, gone = (max(each) for each in zip(*found, strict=True))
        row = {"signals": len(found), "saved_seconds": saved, "gone_seconds": gone}
        record("sigterm", {moment: row})
        longest = max(longest, saved)
    sys.exit(longest > LIMIT)


if __name__ == "__main__":
    main()
