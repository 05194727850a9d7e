"""What rewards read of an outcome: images, the text that is judged, single samples; and how a score of
images and texts becomes a reward or an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sightloop.accelerator import in_float64
from sightloop.picking import numbers_of, picked
from sightloop.types import Evaluation, Images, Outcome, Tokens, on_last_token

RewardsOfImages = Callable[[Images, list[str]], Float[Tensor, " B"]]
"""Says how well each image and its text fit, or how good the image is alone."""
Judged = Literal["caption", "prompt", "reference"]
"""Which text is judged: what was written, what the image was drawn from, or the true answer."""
_IMAGE_FILES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}


@dataclass(frozen=True, kw_only=True)
class ImageReward:
    """A reward of images and texts, one an image, on the last token."""

    rewards: RewardsOfImages
    text: Judged = "caption"

    def __post_init__(self) -> None:
        if self.text not in ("caption", "prompt", "reference"):
            raise ValueError(f'text is {self.text!r}; use "caption", "prompt" or "reference"')

    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """The reward of each sample.

        Raises:
            ValueError: the outcome has no images, or not the text that is judged.
        """
        return on_last_token(
            self.rewards(outcome_images(outcome), texts_of(outcome, self.text)), outcome.tokens
        )


def measured(
    name: str, rewards: RewardsOfImages, images: Images, texts: list[str], *, sources: Sequence[str] = ()
) -> Evaluation:
    """The same as an evaluation of images and texts, under `name`.

    Raises:
        ValueError: not one text an image, or none at all.
    """
    if not texts or len(texts) != len(images):
        raise ValueError(f"{len(images)} images and {len(texts)} texts; give one text an image")
    values = in_float64(rewards(images, texts))
    return Evaluation(
        metrics={name: float(values.mean())},
        per_sample={name: [float(value) for value in values]},
        samples=[{"source": s, "caption": t} for s, t in zip(sources, texts, strict=False)],
        protocol={"pictures": str(len(images))},
    )


def outcome_images(outcome: Outcome) -> Images:
    """The images.

    Raises:
        ValueError: there are none.
    """
    if outcome.images is None:
        raise ValueError("the outcome has no images, which this reward looks at; let the collector show them")
    return outcome.images


def texts_of(outcome: Outcome, which: Judged) -> list[str]:
    """The text of each sample that is judged.

    Raises:
        ValueError: the outcome has no such texts.
    """
    if which == "caption":
        return outcome.texts()
    if which == "reference":
        return outcome.references
    for source in outcome.sources[:1]:
        if Path(source).suffix.lower() in _IMAGE_FILES:
            raise ValueError(f'{source!r} is an image, not the prompt of a drawing; judge the "caption"')
    if not outcome.sources:
        raise ValueError('the outcome has no prompts; judge the "caption" or the "reference"')
    return outcome.sources


def pil_images(images: Images) -> list[Image.Image]:
    """The images as PIL images, RGB, in their own shapes where these are known."""
    return images.pictures()


def sample_name(outcome: Outcome, row: int) -> str:
    """A sample as error messages call it: its source and what was written."""
    source = outcome.sources[row] if outcome.sources else f"row {row}"
    text = outcome.texts()[row]
    return f"{source}, text {text!r}" if text else str(source)


def rows_of(outcome: Outcome, index: Tensor) -> Outcome:
    """The samples at `index`."""
    rows = numbers_of(index)

    def of(values: list[Any]) -> list[Any]:
        return [values[row] for row in rows] if values else []

    return replace(
        outcome,
        tokens=outcome.tokens.rows(index),
        pieces=of(outcome.pieces),
        ended=picked(outcome.ended, index),
        images=None if outcome.images is None else outcome.images.rows(index),
        references=of(outcome.references),
        sources=of(outcome.sources),
        questions=of(outcome.questions),
        facts=of(outcome.facts),
        group=picked(outcome.group, index),
        prompts=of(outcome.prompts),
        columns={name: of(values) for name, values in outcome.columns.items()},
        others={name: rows_of(other, index) for name, other in outcome.others.items()},
    )


def chunks(rows: Sequence[int], size: int) -> list[list[int]]:
    """The rows in runs of at most `size`."""
    return [list(rows[first : first + size]) for first in range(0, len(rows), size)]


def outcome_of_texts(images: Images, texts: list[str], *, drawn_from: list[str] | None = None) -> Outcome:
    """Finished texts about images, one token a word, as rewards are given them.

    With `drawn_from` the images are drawings, and `texts` what was answered about them.
    """
    pieces = [[f" {word}" if place else word for place, word in enumerate(text.split())] for text in texts]
    lengths = torch.tensor([len(row) + 1 for row in pieces])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    return Outcome(
        tokens=Tokens(ids=mask.long(), mask=mask),
        pieces=pieces,
        ended=torch.ones(len(texts), dtype=torch.bool),
        images=images,
        references=drawn_from or [""] * len(texts),
        sources=drawn_from or [f"image {row}" for row in range(len(texts))],
        questions=[] if drawn_from is None else [""] * len(texts),
    )
