"""A model that draws learns from its own answers; the same prompts and seeds before and after.

python examples/drawings_before_and_after.py            # the embedded world's tiny Show-o, no download
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

import sightloop

PROMPTS = (
    "a photo of a red circle",
    "a photo of two blue squares",
    "a photo of a green star above a red cross",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", default="runs/drawings", help="folder of the run")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--number", type=int, default=4, help="drawings of each prompt")
    words = parser.parse_args()
    run = sightloop.train("unirl-grpo", run=words.run, steps=words.steps)
    rows = []
    for step in ("start", "best"):
        model = sightloop.load(run, step=step)
        rows.append([image for prompt in PROMPTS for image in model.generate(prompt, number=words.number)])
        for prompt in PROMPTS:
            print(f"{step}: {prompt}:", model.answer(model.generate(prompt)[0], "What is in the image?"))
    side = rows[0][0].width
    sheet = Image.new("RGB", (side * len(rows[0]), side * 2))
    for line, row in enumerate(rows):
        for place, image in enumerate(row):
            sheet.paste(image, (place * side, line * side))
    path = Path(words.run) / "before_and_after.png"
    sheet.resize((sheet.width * 3, sheet.height * 3), Image.Resampling.NEAREST).save(path)
    print(f"{path}: above before, below after; page: {run.report()}")


if __name__ == "__main__":
    main()
