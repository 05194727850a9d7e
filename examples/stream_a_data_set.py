"""Train on a data set that is streamed and never held whole.

    python examples/stream_a_data_set.py                                  # images made here, no download
    python examples/stream_a_data_set.py --dataset NAME --split train --column image

Needs `pip install 'sightloop[data]'`.
"""

from __future__ import annotations

import argparse
from typing import Any

import datasets
from PIL import Image, ImageDraw

import sightloop
from sightloop.world.bundled import WEIGHTS


def made_here(number: int) -> datasets.IterableDataset:
    """Images with one colored disk each."""

    def rows() -> Any:
        for place in range(number):
            image = Image.new("RGB", (32, 32), "white")
            corner = 4 + place % 8
            ImageDraw.Draw(image).ellipse((corner, 6, corner + 14, 20), fill=("red", "blue")[place % 2])
            yield {"image": image}

    return datasets.IterableDataset.from_generator(rows, features=datasets.Features(image=datasets.Image()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dataset", default="", help="hub name or folder; empty = images made here")
    parser.add_argument("--split", default="train")
    parser.add_argument("--column", default="image")
    parser.add_argument("--model", default=str(WEIGHTS / "captioner"), help="captioner")
    parser.add_argument("--judge", default=str(WEIGHTS / "judge"), help="BLIP-2 matcher")
    parser.add_argument("--run", default="runs/streamed", help="folder of the run")
    parser.add_argument("--steps", type=int, default=4)
    words = parser.parse_args()
    if words.dataset:
        images = datasets.load_dataset(words.dataset, split=words.split, streaming=True)
    else:
        images = made_here(64)
    run = sightloop.train(
        "vlrm",
        preset="paper" if words.dataset else "shapes",
        model=words.model,
        judge=words.judge,
        images=images,
        data__column=words.column,
        run=words.run,
        steps=words.steps,
        batch=16,
        micro_batch=16,
    )
    print(run.metrics())


if __name__ == "__main__":
    main()
