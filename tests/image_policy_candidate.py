"""What the contract of image policies is tried on: a policy with its prompts, questions and images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sightloop.types import Images, Prompt, Sampling, Tokens, TokenScores, Turn

TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A policy with what it can be tried on."""

    make: Callable[[], Any]
    """A policy just built, its adapters as they start: an `ImageGenerator` that trains adapters, with
    `adapters_off()`, `is_end()` and `enable_gradient_checkpointing()`.
    """
    stir: Callable[[Any], Any]
    """Gives a policy adapters that do something, and returns it."""
    prompts: list[str]
    """At least 4, of different lengths, one of them empty."""
    questions: list[str]
    """As many, of different lengths."""
    images: Images
    """As many, different ones; other sizes are tried too."""
    answers: list[str]
    """As many texts that the tokenizer holds without loss, of different lengths."""
    num_codes: int
    num_words: int
    """Size of the distribution that answers are drawn from."""
    max_tokens: int
    """At temperature 1 some answers end within it."""
    laws: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Changes of `policy.drawing()` by name: all that the family can do."""
    greedy: dict[str, Any] = field(default_factory=lambda: {"temperature": 0.0})
    """Changes of `policy.drawing()` that leave nothing to chance."""

    @property
    def policy(self) -> Any:
        """A policy with adapters that do something, the same at every call."""
        torch.manual_seed(0)
        return self.stir(self.make())

    @property
    def seeds(self) -> list[int]:
        """One a prompt."""
        return [7 + 13 * row for row in range(len(self.prompts))]

    def default_sampling(self, texts: list[str] | None = None, seeds: list[int] | None = None) -> Prompt:
        """A prompt that wants images."""
        texts = self.prompts if texts is None else texts
        return Prompt(texts=texts, wants="image", seeds=self.seeds if seeds is None else seeds)

    def asking(self, about: Images | Tokens | None = None) -> Prompt:
        """Questions about images."""
        return Prompt(texts=self.questions, images=self.images if about is None else about, seeds=self.seeds)

    def writing(self, **changes: Any) -> Sampling:
        """A distribution of answers."""
        return Sampling(max_tokens=self.max_tokens, **changes)


def close(one: Tensor, other: Tensor, tolerance: float = TOLERANCE) -> None:
    """Equal within the tolerance."""
    torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


def rows(*index: int) -> Tensor:
    """An index of rows."""
    return torch.tensor(index)


def one_by_one(policy: Any, turn: Turn, under: Sampling | None) -> TokenScores:
    """Scores of each row alone."""
    found = [policy.score(turn.rows(rows(row)), under) for row in range(len(turn))]
    return TokenScores(
        log_probs=torch.cat([one.log_probs for one in found]),
        entropy=torch.cat([one.entropy for one in found]),
    )


def same_texts(one: Tokens, other: Tokens) -> None:
    """The same ids where they count."""
    for a, b, mask_a, mask_b in zip(one.ids, other.ids, one.mask, other.mask, strict=True):
        assert torch.equal(a[mask_a], b[mask_b])
