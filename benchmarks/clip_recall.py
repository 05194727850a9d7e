"""Time and memory of ranking images and texts: `python benchmarks/clip_recall.py`.

Each line is a fresh process on random unit embeddings. Memory is what the process held at most beyond the
embeddings themselves. `--sizes 100000x100000x512` takes some minutes a direction.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro
from measure import MIB, peak_resident, reset_peak, table

from sightloop.evaluation.ranking import rank_images, rank_texts

DIRECTIONS = {"text to image": rank_texts, "image to text": rank_images}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    sizes: tuple[str, ...] = ("5000x5000x1024", "100000x1000x512")
    """Images x texts x width of the embeddings."""
    threads: tuple[int, ...] = (1, 2)
    repeats: int = 3
    """The fastest counts."""


def measured(direction: str, size: str, threads: int, repeats: int) -> dict[str, float]:
    """Wall and CPU seconds of the fastest run, and the most MiB held beyond the embeddings."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    num_images, num_texts, width = map(int, size.split("x"))
    images = F.normalize(torch.randn(num_images, width), dim=1)
    texts = F.normalize(torch.randn(num_texts, width), dim=1)
    target = torch.randint(num_images, (num_texts,))
    # The first product sets up the library's threads and buffers, once in a process.
    DIRECTIONS[direction](images[:64], texts[:64], torch.arange(min(64, num_texts)))
    held = reset_peak()
    runs: list[tuple[float, float]] = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        DIRECTIONS[direction](images, texts, target)
        runs.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = min(runs)
    return {"wall": wall, "cpu": cpu, "memory": (peak_resident() - held) / MIB}


def in_fresh_process(direction: str, size: str, threads: int, repeats: int) -> dict[str, float]:
    """The same, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "one", direction, size, str(threads), str(repeats)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main(options: Options) -> None:
    """Print one table."""
    rows = []
    for size in options.sizes:
        for direction in DIRECTIONS:
            for threads in options.threads:
                found = in_fresh_process(direction, size, threads, options.repeats)
                shape = size.replace("x", " x ")
                times = [f"{found['wall']:.2f}", f"{found['cpu']:.2f}"]
                rows.append([direction, shape, str(threads), *times, f"{found['memory']:.0f}"])
    print(table(["direction", "images x texts x width", "threads", "wall s", "CPU s", "MiB"], rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(measured(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))))
    else:
        main(tyro.cli(Options))
