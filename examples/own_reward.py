"""A captioner learns from a reward of one's own beside the judge's.

python examples/own_reward.py                          # the embedded world's tiny captioner, no download
python examples/own_reward.py --model blip2-opt-2.7b/ --judge blip2-itm-vit-g/ --images photos/
"""

from __future__ import annotations

import argparse
from typing import Any

import sightloop


def names_a_color(completions: list[str], **columns: Any) -> list[float]:
    """1 for a caption that names a color, else 0: what TRL calls a reward function."""
    colors = {"red", "green", "blue", "yellow", "purple", "orange", "black", "white", "gray"}
    return [float(any(word in colors for word in text.split())) for text in completions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="", help="captioner: folder or hub name")
    parser.add_argument("--judge", default="", help="BLIP-2 matcher: folder or hub name")
    parser.add_argument("--images", default="", help="folder of images")
    parser.add_argument("--run", default="runs/own-reward", help="folder of the run")
    parser.add_argument("--steps", type=int, default=20)
    words = parser.parse_args()
    given = {name: getattr(words, name) for name in ("model", "judge", "images") if getattr(words, name)}
    run = sightloop.train(
        "vlrm",
        rewards={"similarity": 1.0, "reference": 1.0, "missing_end": 1.0, "color": (names_a_color, 0.5)},
        run=words.run,
        steps=words.steps,
        **given,
    )
    print(run.verdict)
    print(run.captions())
    print("page:", run.report())


if __name__ == "__main__":
    main()
