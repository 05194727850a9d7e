"""Long runs of the smallest recipes: does memory rise, do open files or threads pile up?

python -m benchmarks.reliability.soak --steps 2000
python -m benchmarks.reliability.soak --only "a2c" "grpo show-o"

Each recipe is a process of its own, watched from outside. The slope is that of the means over blocks of 50
steps in the second half of the run, with Student's 95% interval: neighboring readings are not independent.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from benchmarks.reliability.records import record
from benchmarks.reliability.tiny_runs import RECIPES, make_images, train_words

LIMIT = 1.0
"""MiB a 100 steps."""
_BLOCK = 50
# Student's 97.5% quantile by degrees of freedom; beyond the table the normal one is near enough.
_QUANTILES = {
    1: 12.71,
    2: 4.30,
    3: 3.18,
    4: 2.78,
    5: 2.57,
    6: 2.45,
    8: 2.31,
    10: 2.23,
    15: 2.13,
    20: 2.09,
    30: 2.04,
}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A process at a step."""

    step: int
    mib: float
    files: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class Soaked:
    """What a run showed in its second half."""

    recipe: str
    steps: int
    seconds: float
    mib_first: float
    mib_last: float
    slope: float
    """MiB a 100 steps."""
    half_width: float
    """Of its 95% interval."""
    files: tuple[int, int]
    """Fewest and most open files."""
    threads: tuple[int, int]

    @property
    def holds(self) -> bool:
        """Memory rises by less than the limit; files and threads do not grow."""
        return self.slope + self.half_width < LIMIT


def soak(recipe: str, place: Path, steps: int) -> Soaked:
    """Train for so many steps and watch."""
    run = place / recipe.replace(" ", "-").replace(",", "")
    words = train_words(recipe, place, run)
    words += ["--steps", str(steps), "--save-every", "100", "--eval-every", "250", "--sample-every", "100"]
    started = time.monotonic()
    with open(place / "said.txt", "w", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "sightloop", *words],
            stdout=said,
            stderr=said,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    readings: list[Reading] = []
    while process.poll() is None:
        time.sleep(0.5)
        if (reading := _read(process.pid, run)) is not None:
            readings.append(reading)
    if process.returncode:
        raise SystemExit(f"{recipe}: exit {process.returncode}\n{(place / 'said.txt').read_text()}")
    later = [each for each in readings if steps / 2 <= each.step < steps]
    slope, half_width = slope_of(later)
    return Soaked(
        recipe=recipe,
        steps=steps,
        seconds=time.monotonic() - started,
        mib_first=_blocks(later)[0][1],
        mib_last=_blocks(later)[-1][1],
        slope=slope * 100,
        half_width=half_width * 100,
        files=(min(each.files for each in later), max(each.files for each in later)),
        threads=(min(each.threads for each in later), max(each.threads for each in later)),
    )


def _read(process: int, run: Path) -> Reading | None:
    status = Path(f"/proc/{process}")
    try:
        lines = dict(line.split(":", 1) for line in (status / "status").read_text().splitlines())
        files = len(list((status / "fd").iterdir()))
        step = (run / "metrics.jsonl").read_bytes().count(b'"kind": "train"')
        return Reading(
            step=step, mib=int(lines["VmRSS"].split()[0]) / 1024, files=files, threads=int(lines["Threads"])
        )
    except (OSError, KeyError):
        # Not yet begun, or just over.
        return None


def _blocks(readings: list[Reading]) -> list[tuple[float, float]]:
    found: dict[int, list[Reading]] = {}
    for each in readings:
        found.setdefault(each.step // _BLOCK, []).append(each)
    return [
        (mean(each.step for each in block), mean(each.mib for each in block))
        for _, block in sorted(found.items())
    ]


def slope_of(readings: list[Reading]) -> tuple[float, float]:
    """Least squares through the blocks, in MiB a step, and half the width of its 95% interval."""
    blocks = _blocks(readings)
    steps, sizes = mean(step for step, _ in blocks), mean(mib for _, mib in blocks)
    spread = sum((step - steps) ** 2 for step, _ in blocks)
    slope = sum((step - steps) * (mib - sizes) for step, mib in blocks) / spread
    left = sum((mib - sizes - slope * (step - steps)) ** 2 for step, mib in blocks)
    freedom = len(blocks) - 2
    quantile = next((value for known, value in reversed(_QUANTILES.items()) if known <= freedom), math.inf)
    return slope, quantile * math.sqrt(left / max(freedom, 1) / spread)


def main() -> None:
    """Soak, print, keep; exit code 1 if memory rises too fast."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--only", nargs="*", choices=RECIPES, default=[*RECIPES][:8])
    options = parser.parse_args()
    found: list[Soaked] = []
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder))
        for recipe in options.only:
            found.append(soak(recipe, Path(folder), options.steps))
            print(found[-1], flush=True)
            record("soak", {recipe: asdict(found[-1])})
    sys.exit(not all(each.holds for each in found))


if __name__ == "__main__":
    main()
