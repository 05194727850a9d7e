"""The same captioner, judge and images under several algorithms: a line each, with the spread over seeds.

    python examples/compare_algorithms.py --algorithms a2c group scst --steps 40 --seeds 0 1

One seed says little: compare rows whose intervals over seeds do not overlap.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import sightloop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--algorithms", nargs="+", default=["a2c", "group"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--held-out", type=int, default=200, help="images that are measured")
    parser.add_argument("--folder", default="runs/compare", help="folder of the runs")
    words = parser.parse_args()
    for algorithm in words.algorithms:
        gains: list[float] = []
        for seed in words.seeds:
            run = sightloop.train(
                "vlrm",
                algorithm=algorithm,
                seed=seed,
                steps=words.steps,
                batch=words.batch,
                held_out={"limit": words.held_out},
                eval_every=words.steps,
                run=Path(words.folder) / f"{algorithm}-{seed}",
            )
            before, after = recall(run)
            gains.append(after - before)
        spread = f" +- {statistics.stdev(gains):.3f}" if len(gains) > 1 else ""
        print(f"{algorithm}: recall at 1 {statistics.mean(gains):+.3f}{spread} over {len(gains)} seeds")


def recall(run: sightloop.TrainingRun) -> tuple[float, float]:
    """Recall at 1 before and after, by a CLIP that was no reward."""
    rows = run.metrics("eval")
    rows = rows if isinstance(rows, list) else rows.to_dict("records")
    return rows[0]["held_out/recall@1"], rows[-1]["held_out/recall@1"]


if __name__ == "__main__":
    main()
