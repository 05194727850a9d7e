"""Any of our policies as one that answers questions about images: text out, likelihoods of given text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightloop.data.decode import Decoding, Fit, decode
from sightloop.image_files import BrokenImageError, upright_rgb
from sightloop.models.families import WorldModel
from sightloop.models.protocols import Captioner, missing_members, sees_whole
from sightloop.runs.restore import open_policy
from sightloop.training import distributed
from sightloop.types import Images, Policy, Prompt, Sampling, Tokens, Turn

_UNUSED = {"num_beams": (None, 1), "top_p": (None, 0, 0.0, 1, 1.0), "do_sample": (None, False, True)}
"""Settings of other libraries, with the values that change nothing here."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question about an image."""

    picture: Image.Image
    question: str
    seed: int = 0
    """Decides the draws of an answer at a temperature above 0."""


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """How likely a text is as an answer."""

    log_prob: float
    """Natural logarithm, without the end of the text."""
    is_greedy: bool
    """True if the most likely answer begins with it."""


@dataclass(frozen=True, kw_only=True)
class AnswererSettings:
    """How answers are drawn."""

    max_tokens: int = 64
    temperature: float = 0.0
    stops: tuple[str, ...] = ()
    """Texts before which an answer ends."""


def settings_from(given: Mapping[str, Any], *, max_tokens: int = 64) -> AnswererSettings:
    """Settings from those of lmms-eval's tasks: `until`, `max_new_tokens`, `temperature`.

    >>> settings_from({"until": "\\n", "max_new_tokens": 8, "temperature": 0, "num_beams": 1}).stops
    ('\\n',)

    Raises:
        ValueError: a setting that would change answers and that our policies do not have.
    """
    known = {"until", "max_new_tokens", "temperature", *_UNUSED}
    for name, value in given.items():
        if name not in known or value not in _UNUSED.get(name, (value,)):
            raise ValueError(
                f"{name}={value!r} is not known to our policies, which draw greedily or at a temperature; "
                "leave it out with lmms-eval's --gen_kwargs"
            )
    until = given.get("until") or ()
    # A temperature without sampling is greedy, as in transformers.
    temperature = 0.0 if given.get("do_sample") is False else float(given.get("temperature") or 0.0)
    return AnswererSettings(
        max_tokens=int(given.get("max_new_tokens") or max_tokens),
        temperature=temperature,
        stops=(until,) if isinstance(until, str) else tuple(until),
    )


class Respondent:
    """Answers with a policy; `fit` "crop" or "squash" is how a captioner's image becomes its square."""

    def __init__(self, policy: Policy, *, fit: Fit = "squash") -> None:
        self.policy = policy
        self.fit: Fit = fit
        self._captioner: Captioner | None = (
            None if missing_members(policy, Captioner) else cast("Any", policy)
        )

    @staticmethod
    def from_name(
        name: str, *, world_model: WorldModel = "show-o", device: str = "auto", fit: Fit = "squash"
    ) -> Respondent:
        """The policy of a run or a folder (an image generator or a captioner; also a hub name), or
        the embedded world's `world_model`.

        Raises:
            ValueError: no such model, or one that cannot be driven.
        """
        where = distributed.device(device)
        return Respondent(open_policy(name, world_model=world_model, device=where), fit=fit)

    @torch.no_grad()
    def answers(self, asked: Sequence[Asked], settings: AnswererSettings) -> list[str]:
        """One answer a question, cut before the first of the stops; images of one size go together."""
        by_row: dict[int, str] = {}
        sampling = Sampling(max_tokens=settings.max_tokens, temperature=settings.temperature)
        for places in _of_one_size(asked):
            tokens = self.policy.sample(self._prompt([asked[place] for place in places]), sampling)
            for place, pieces in zip(places, self.policy.decode(tokens), strict=True):
                by_row[place] = _cut("".join(pieces).strip(), settings.stops)
        return [by_row[place] for place in range(len(asked))]

    @torch.no_grad()
    def likelihood(self, asked: Asked, text: str) -> Likelihood:
        """How likely the answer is to begin with `text`.

        Raises:
            ValueError: the text has no tokens.
        """
        prompt = self._prompt([asked])
        whole = self.policy.encode([text])
        number = int(whole.mask.sum()) - 1
        if number < 1:
            raise ValueError(f"{text!r} has no tokens whose likelihood could be told")
        tokens = Tokens(ids=whole.ids[:, :number], mask=whole.mask[:, :number])
        score = float(self.policy.score(Turn(prompt=prompt, tokens=tokens)).log_probs.sum())
        drawn = self.policy.sample(prompt, Sampling(max_tokens=number, temperature=0.0))
        found = drawn.ids[0, :number].tolist()
        return Likelihood(log_prob=score, is_greedy=found == tokens.ids[0].tolist())

    def _prompt(self, asked: Sequence[Asked]) -> Prompt:
        rows = [_pixels(self._seen(each.picture)) for each in asked]
        images = Images(pixels=torch.stack(rows))
        if self._captioner is not None:
            images = self._captioner.encode_images(images)
        return Prompt(
            texts=[each.question for each in asked], images=images, seeds=[each.seed for each in asked]
        )

    def _seen(self, image: Image.Image) -> np.ndarray:
        """Some captioners see their own square; all others prepare images themselves."""
        if self._captioner is not None and not sees_whole(self._captioner):
            return decode(image, Decoding(size=self._captioner.image_size, fit=self.fit))
        try:
            return np.asarray(upright_rgb(image))
        except BrokenImageError as error:
            raise ValueError(f"an image cannot be used: {error}") from error


def _of_one_size(asked: Sequence[Asked]) -> list[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for place, each in enumerate(asked):
        groups.setdefault(each.picture.size, []).append(place)
    return list(groups.values())


def _pixels(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _cut(text: str, stops: Sequence[str]) -> str:
    ends = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends)].strip() if ends else text
