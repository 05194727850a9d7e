"""Whether a classifier sees in an image what its text names: the probability of the classes in the text.

A class is named by its label or by one of the words that the label lists ("tabby, tabby cat"), also in the
plural; the longest phrase counts. The score is the mean over the classes that are named: naming all of them
earns next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageClassification

from sightloop.models.only_numbers import require_numbers
from sightloop.models.open import ModelRole, in_one_sentence, is_classifier, open_model
from sightloop.rewards.samples import chunks, pil_images
from sightloop.rewards.user_functions import said_of_each
from sightloop.types import Images

Classify = Callable[[Sequence[Image.Image]], Sequence[Mapping[str, float]]]
"""The probability of each label in each image."""
_ROUNDING = 1e-4
_CLASSIFIER = ModelRole(
    what="an image classifier",
    fits=is_classifier,
    model=AutoModelForImageClassification,
    has_processor=True,
)
Phrase = tuple[str, ...]
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


@dataclass(frozen=True, kw_only=True)
class NamedClasses:
    """The probability of the classes that a text names, from 0 to 1."""

    classify: Classify
    must_name: bool = True
    """True if a text that names no class is refused, as for prompts; False if it earns 0, as for captions."""

    def rewards(self, images: Images, texts: list[str]) -> Float[Tensor, " B"]:
        """The score of each image and its text.

        Raises:
            ValueError: a text names no class, or the classifier answers in another form.
        """
        wanted = "the probabilities of the classes of each, by name"
        said = said_of_each(pil_images(images), self.classify, what="classifier", kind=Mapping, wanted=wanted)
        return torch.tensor([self._score(*pair) for pair in zip(said, texts, strict=True)])

    def _score(self, chances: Mapping[str, float], text: str) -> float:
        for label, chance in chances.items():
            if not 0 <= chance <= 1 + _ROUNDING:
                raise ValueError(f"the classifier gives {label!r} the probability {chance}; use 0 to 1")
        phrases = phrases_of(tuple(chances))
        named = named_in(text, phrases)
        if not named and self.must_name:
            near = get_close_matches(text.lower(), map(" ".join, phrases), cutoff=0) or ["none"]
            raise ValueError(
                f"{text!r} names none of the {len(chances)} classes of the reward `class`; the nearest is "
                f"{near[0]!r}"
            )
        each = [sum(float(chances[label]) for label in phrases[phrase]) for phrase in named]
        return sum(each) / max(len(each), 1)


class ImageClassifier:
    """Any image classifier of transformers, with the names of its classes in its config.json."""

    def __init__(self, model: Any, prepare: Any, *, batch: int = 32) -> None:
        self.model = model.eval().requires_grad_(False)
        self.prepare = prepare
        self.batch = batch
        labels: Mapping[Any, str] = model.config.id2label
        self.labels = tuple(labels[number] for number in range(len(labels)))
        self.is_exclusive = model.config.problem_type != "multi_label_classification"

    @staticmethod
    def from_pretrained(
        folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> ImageClassifier:
        """Load a folder of the hub's format (or a hub name).

        Raises:
            ValueError: it is no classifier, or not whole.
        """
        found = open_model(folder, _CLASSIFIER, dtype=dtype, device=device)
        return ImageClassifier(found.model, found.processor)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[dict[str, float]]:
        """The probability of each label in each image; classes that share a label are added up."""
        rows: list[list[float]] = []
        for some in chunks(range(len(images)), self.batch):
            pixels = self.prepare(images=[images[row] for row in some], return_tensors="pt").pixel_values
            with in_one_sentence(self.model.name_or_path, "the model"):
                seen = self.model(pixel_values=pixels.to(self.model.device, self.model.dtype))
            logits = seen.logits.float()
            require_numbers(logits, self.model.name_or_path)
            rows += (logits.softmax(1) if self.is_exclusive else logits.sigmoid()).tolist()
        found: list[dict[str, float]] = []
        for row in rows:
            chances = dict.fromkeys(self.labels, 0.0)
            for label, chance in zip(self.labels, row, strict=True):
                chances[label] += chance
            found.append(chances)
        return found


@cache
def phrases_of(labels: tuple[str, ...]) -> dict[Phrase, tuple[str, ...]]:
    """The words that name each class: labels that share them go together.

    >>> phrases_of(("tabby, tabby cat", "tiger cat"))[("tabby", "cat")]
    ('tabby, tabby cat',)
    """
    found: dict[Phrase, tuple[str, ...]] = {}
    for label in labels:
        for name in label.split(","):
            phrase = _words(name)
            if phrase and label not in found.get(phrase, ()):
                found[phrase] = (*found.get(phrase, ()), label)
    return found


def named_in(text: str, phrases: Mapping[Phrase, tuple[str, ...]]) -> list[Phrase]:
    """The classes that a text names, one phrase of each, in their order.

    >>> named_in("Espressos and an espresso", phrases_of(("espresso",)))
    [('espresso',)]
    """
    words, place = _words(text), 0
    longest = max(map(len, phrases), default=0)
    found: dict[tuple[str, ...], Phrase] = {}
    while place < len(words):
        for size in range(min(longest, len(words) - place), 0, -1):
            phrase = _known(words[place : place + size], phrases)
            if phrase is not None:
                found.setdefault(phrases[phrase], phrase)
                place += size
                break
        else:
            place += 1
    return list(found.values())


def _known(words: Phrase, phrases: Mapping[Phrase, tuple[str, ...]]) -> Phrase | None:
    last = words[-1]
    for ending in ("", "s", "es"):
        if last.endswith(ending):
            phrase = (*words[:-1], last.removesuffix(ending))
            if phrase in phrases:
                return phrase
    return None


def _words(text: str) -> Phrase:
    return tuple(_WORD.findall(text.lower()))
