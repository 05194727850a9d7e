"""Rewards of your own: `module:function` or `file.py:function` on the command line, or given in Python.

Three forms are told apart by the names of the function's parameters:

1. `completions` among them: as TRL calls its reward functions, `(prompts, completions, **columns) -> list`;
   where data are rows, their columns too. Of conversations, prompts and completions are lists of messages.
2. `images` or `prompts` without it: a reward of images, `(images, prompts, facts) -> list`.
3. Neither: the library's own, one `Outcome` in, a tensor `B` or `B T` out.

The first two get only the columns they ask for, by name, one entry a sample (see `COLUMNS`). What TRL's form
says about a sample may be None, which adds nothing to its reward, as there. Any may be async.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from sightloop.accelerator import in_float64
from sightloop.messages import MessagePrompt, user_message, with_images
from sightloop.picking import numbers_of
from sightloop.process.faults import user_code_message
from sightloop.process.time_limit import limited
from sightloop.rewards.samples import pil_images, rows_of, sample_name
from sightloop.rewards.user_functions import awaited, load_function, shortly
from sightloop.types import Images, Outcome, on_last_token

COLUMNS: dict[str, str] = {
    "prompts": "what the image was drawn from; of captions the question, or nothing",
    "completions": "the text that was written: caption or answer",
    "completion_ids": "its tokens, as lists of numbers",
    "images": "the images, as PIL images",
    "image": "the same under the name that TRL's data sets use",
    "references": "the true answer or caption, empty where unknown",
    "sources": "path of the image, or the prompt it was drawn from",
    "questions": "what was asked about the image",
    "answers": "the same as completions",
    "facts": "what a right answer says, as tuples of `sightloop.types.Fact`",
}
"""What a function may ask for by the name of a parameter."""
_THEIRS = {"completions", "completion_ids"}
"""Who asks for one of these is called as TRL calls its reward functions."""


@dataclass(frozen=True, kw_only=True)
class CustomReward:
    """A user's function as a reward: what it says about a sample goes on its last token."""

    name: str
    """As the user gave it."""
    function: Callable[..., Any]
    columns: tuple[str, ...] = ()
    """Columns that it is given; none = it is given the outcome."""
    required: frozenset[str] = field(default_factory=frozenset[str])
    """Columns that it cannot do without."""
    takes_all: bool = False
    """Whether it is given every column of the rows that the data are."""
    may_pass: bool = False
    """Whether it may say None of a sample, which then earns nothing."""

    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """What each token earned.

        Raises:
            ValueError: the function fails, says nothing, or says what is not a finite number; function and
                sample are named.
        """
        given = self._given(outcome)
        with limited(f"reward {self.name!r}"), _Blame(self, outcome):
            said = self._said(given, outcome)
        return self._placed(said, outcome)

    def fails_on(self, outcome: Outcome) -> bool:
        """Whether the function raises something; asked when it did, to find the sample."""
        given, probe = self._given(outcome), _Probe()
        with probe:
            self._said(given, outcome)
        return probe.failed

    def _said(self, given: Mapping[str, list[Any]], outcome: Outcome) -> Any:
        return awaited(self.function(**given) if self.columns else self.function(outcome))

    def _given(self, outcome: Outcome) -> dict[str, list[Any]]:
        names = [*self.columns, *(outcome.columns if self.takes_all else ())]
        given = {name: values for name in names if (values := _column(name, outcome)) is not None}
        for name in sorted(self.required - given.keys()):
            there = f"; their columns are {', '.join(outcome.columns)}" if outcome.columns else ""
            raise ValueError(
                f"reward {self.name!r} asks for {name!r}, of which these samples have none{there}"
            )
        return given

    def _placed(self, said: Any, outcome: Outcome) -> Float[Tensor, "B T"]:
        mask = outcome.tokens.mask
        if isinstance(said, Tensor) and said.ndim == 2:
            if said.shape != mask.shape:
                raise ValueError(
                    f"reward {self.name!r} says {tuple(said.shape)} numbers about tokens {tuple(mask.shape)}"
                )
            values = said.detach().float()
            each = cast("list[float]", cast("Any", in_float64(values).sum(1)).tolist())
        else:
            each = self._numbers(said, outcome)
            values = on_last_token(torch.tensor(each, dtype=torch.float32), outcome.tokens)
        for row, value in enumerate(each):
            if not math.isfinite(value):
                raise ValueError(f"reward {self.name!r} says {value} about {sample_name(outcome, row)}")
        return values.to(mask.device)

    def _numbers(self, said: Any, outcome: Outcome) -> list[float]:
        rows = len(outcome.pieces)
        is_array = isinstance(said, Tensor) or type(said).__module__ == "numpy"
        listed = cast("Any", said).tolist() if is_array else said
        if not isinstance(listed, Sequence) or isinstance(listed, str):
            raise ValueError(f"reward {self.name!r} returned {shortly(said)}; return one number a sample")
        values = cast("Sequence[Any]", listed)
        if len(values) != rows:
            raise ValueError(f"reward {self.name!r} returned {len(values)} numbers for {rows} samples")
        for row, value in enumerate(values):
            if value is None and not self.may_pass:
                raise ValueError(
                    f"reward {self.name!r} returned None (not applicable) for {sample_name(outcome, row)}; "
                    "every sample needs a number, so return one that neither rewards nor punishes"
                )
            known = value is None or isinstance(value, bool | int | float | Tensor)
            if not known and not _is_numpy_number(value):
                raise ValueError(
                    f"reward {self.name!r} returned {shortly(value)} for {sample_name(outcome, row)}; "
                    "return one number a sample"
                )
        return [0.0 if value is None else float(value) for value in values]


class _Blame(AbstractContextManager[None]):
    """Turns whatever a user's function raises into an error that names it and the sample."""

    def __init__(self, reward: CustomReward, outcome: Outcome) -> None:
        self.reward = reward
        self.outcome = outcome

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A function that calls `sys.exit` would end the run without a word.
        if not isinstance(error, Exception | SystemExit):
            return
        why = user_code_message(error)
        raise ValueError(f"reward {self.reward.name!r} failed on {self._where()}: {why}") from error

    def _where(self) -> str:
        """The first sample that fails alone too; else the batch."""
        rows = len(self.outcome.pieces)
        for row in range(rows if rows > 1 else 0):
            if self.reward.fails_on(rows_of(self.outcome, torch.tensor([row]))):
                return sample_name(self.outcome, row)
        whole = f"a batch of {rows} samples that each pass alone; the first is "
        return (whole if rows > 1 else "") + sample_name(self.outcome, 0)


class _Probe(AbstractContextManager["_Probe"]):
    """Remembers whether something failed."""

    failed = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.failed = isinstance(error, Exception | SystemExit)
        return self.failed


def load_reward(name: str) -> CustomReward:
    """The reward that `module:function` or `file.py:function` names.

    Raises:
        ValueError: there is no such module, file or function, or its parameters fit none of the three forms.
    """
    found = load_function(name, what="reward").function
    columns, required = _asks_for(found, name)
    parameters = inspect.signature(found).parameters
    return CustomReward(
        name=name,
        function=found,
        columns=columns,
        required=required,
        takes_all=any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()),
        may_pass=bool(_THEIRS & parameters.keys()),
    )


def _column(name: str, outcome: Outcome) -> list[Any] | None:
    """One entry a sample; None if these samples have none."""
    if name in ("images", "image"):
        return None if outcome.images is None else _images(outcome.images, several=name == "images")
    if name == "completions" and _are_messages(outcome):
        return [[{"role": "assistant", "content": text}] for text in outcome.texts()]
    if name in ("completions", "answers") and name not in outcome.columns:
        return list(outcome.texts())
    if name == "completion_ids":
        rows = zip(outcome.tokens.ids.cpu(), outcome.tokens.mask.cpu(), strict=True)
        return [numbers_of(ids[mask]) for ids, mask in rows]
    if name == "prompts" and outcome.prompts:
        return _messages(outcome) if _are_messages(outcome) else list(outcome.prompts)
    if name == "prompts":
        # Drawings come with what is asked about them, and their source is the prompt.
        return list(outcome.sources if outcome.questions else [""] * len(outcome.pieces))
    values: Mapping[str, Sequence[Any]] = {
        "references": outcome.references,
        "sources": outcome.sources,
        "questions": outcome.questions,
        "facts": outcome.facts,
    }
    return list(outcome.columns.get(name, values.get(name, ()))) or None


def _images(images: Images, *, several: bool) -> list[Any]:
    """The image of each sample, or of samples that may have several a list each."""
    if images.counts is None or not several:
        return list(pil_images(images))
    parts = [list(pil_images(part)) for part in (images, *images.more)]
    return [[part[row] for part in parts[:count]] for row, count in enumerate(images.counts)]


def _are_messages(outcome: Outcome) -> bool:
    return any(isinstance(prompt, MessagePrompt) for prompt in outcome.prompts)


def _messages(outcome: Outcome) -> list[list[dict[str, Any]]]:
    """The prompts as messages with their images in place, as TRL hands them over."""
    assert outcome.images is not None
    parts = [list(pil_images(part)) for part in (outcome.images, *outcome.images.more)]
    counts = outcome.images.counts or [1] * len(outcome.prompts)
    found: list[list[dict[str, Any]]] = []
    for row, (prompt, count) in enumerate(zip(outcome.prompts, counts, strict=True)):
        shown = iter([part[row] for part in parts[:count]])
        asked = prompt.messages if isinstance(prompt, MessagePrompt) else [user_message(prompt)]
        found.append(
            [
                message
                | {
                    "content": [
                        part | {"image": next(shown)} if part.get("type") == "image" else part
                        for part in message["content"]
                    ]
                }
                for message in with_images(asked, count)
            ]
        )
    return found


def _asks_for(function: Any, name: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """The columns it is given, and those without a default; none for the library's own form."""
    parameters = list(inspect.signature(function).parameters.values())
    names = {parameter.name for parameter in parameters}
    plain = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    required = [p.name for p in plain if p.default is p.empty]
    if not names & {"completions", "completion_ids", "images", "image", "prompts"}:
        if len(required) > 1 or not plain or plain[0].kind is plain[0].KEYWORD_ONLY:
            raise ValueError(
                f"{name!r} takes ({', '.join(map(str, parameters))}); a reward takes one Outcome, or some of "
                f"the columns {', '.join(COLUMNS)} by name"
            )
        return (), frozenset()
    # What TRL's form asks for may stand in rows of data, which nobody has opened yet.
    for wrong in () if names & _THEIRS else required:
        if wrong not in COLUMNS:
            raise ValueError(f"{name!r} asks for {wrong!r}; the columns are {', '.join(COLUMNS)}")
    everything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    own = [p.name for p in plain if p.name not in COLUMNS] if names & _THEIRS else []
    columns = (*(column for column in COLUMNS if everything or column in names), *own)
    return columns, frozenset(required)


def _is_numpy_number(value: Any) -> bool:
    return type(value).__module__ == "numpy" and value.ndim == 0
