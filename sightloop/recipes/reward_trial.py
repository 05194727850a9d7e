"""The user's own rewards tried on two samples, before anything large is loaded or written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sightloop.data.decode import Decoded, Decoding
from sightloop.data.encoded import Broken, load_row
from sightloop.data.images import make_batch
from sightloop.data.sources import Source
from sightloop.late import late
from sightloop.rewards.loading import Loading
from sightloop.types import Images, Outcome, Tokens

_SAMPLES, _SIDE = 2, 224
# Loaded where a configuration asks for it.
_read_names = late("sightloop.rewards.custom:read_names")


def try_rewards(named: Sequence[str], samples: Callable[[], Outcome]) -> None:
    """Ask the user's own functions about two samples.

    Raises:
        ValueError: one fails, or says what is no finite number; function and sample are named.
    """
    functions = [one for one in _read_names(named) if one.offer is None] if named else []
    if functions:
        outcome = samples()
        for function in functions:
            function.load(Loading())(outcome)


def captions_to_try(source: Source) -> Outcome:
    """Two images of the run's own with a caption that nobody wrote."""
    images = list(itertools.islice(source.pictures(), _SAMPLES))
    loaded = [load_row(image, Decoding(size=_SIDE, fit="crop")) for image in images]
    blank = (Decoded(np.full((_SIDE, _SIDE, 3), 127, dtype=np.uint8)),)
    pixels = [blank if isinstance(one, Broken) else one for one in loaded]
    batch = make_batch(images, pixels, indices=list(range(len(images))), seed=0)
    tokens, pieces = _written(["a photo of something"] * len(batch))
    return Outcome(
        tokens=tokens,
        pieces=pieces,
        ended=torch.ones(len(batch), dtype=torch.bool),
        images=batch.images,
        references=batch.references,
        sources=batch.sources,
        group=torch.arange(len(batch)),
        prompts=batch.prompts,
        columns=batch.columns,
    )


def answers_to_try(quizzes: Sequence[Any]) -> Outcome:
    """Quizzes with the right answers and blank drawings."""
    tried = list(quizzes)[:_SAMPLES]
    tokens, pieces = _written([quiz.answer for quiz in tried])
    return Outcome(
        tokens=tokens,
        pieces=pieces,
        ended=torch.ones(len(tried), dtype=torch.bool),
        images=Images(pixels=torch.full((len(tried), 3, _SIDE, _SIDE), 127, dtype=torch.uint8)),
        references=[quiz.answer for quiz in tried],
        sources=[quiz.prompt for quiz in tried],
        questions=[quiz.question for quiz in tried],
        facts=[quiz.facts for quiz in tried],
        group=torch.arange(len(tried)),
    )


def _written(texts: list[str]) -> tuple[Tokens, list[list[str]]]:
    """A token a word and one for the end."""
    pieces = [[f" {word}" for word in text.split()] for text in texts]
    lengths = torch.tensor([len(row) + 1 for row in pieces])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return Tokens(ids=mask.long(), mask=mask), pieces
