"""What a trained policy is compared with: itself with its adapters off, or a copy from before training."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn

from sightloop.models.lora import Adapters
from sightloop.models.protocols import SupportsReference
from sightloop.types import Prompt, Sampling, Tokens, TokenScores, Turn

Kind = TypeVar("Kind", bound=nn.Module)


class Reference:
    """A `Policy`: the same model without its adapters and without gradient, with no weights of its own."""

    def __init__(self, policy: SupportsReference) -> None:
        self._policy = policy

    @torch.no_grad()
    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Draw tokens as the policy did before training."""
        with self._policy.adapters_off():
            return self._policy.sample(prompt, sampling)

    @torch.no_grad()
    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """Log-probabilities as they were before training."""
        with self._policy.adapters_off():
            return self._policy.score(turn, under)

    def encode(self, texts: list[str]) -> Tokens:
        """Tokens of given texts, end token included."""
        return self._policy.encode(texts)

    def decode(self, tokens: Tokens) -> list[list[str]]:
        """The text of each token."""
        return self._policy.decode(tokens)


def frozen_copy(policy: Kind) -> Kind:
    """The policy as it is now, never to change: the reference where all weights are trained.

    Weights that are not trained are shared with it, not copied.

    Raises:
        ValueError: it has adapters, whose hooks would still obey the original; use `Reference`.
    """
    if any(isinstance(part, Adapters) for part in policy.modules()):
        raise ValueError("a policy with adapters needs no copy: without them it is what it was")
    shared: dict[int, Any] = {id(p): p for p in policy.parameters() if not p.requires_grad}
    copied = copy.deepcopy(policy, shared)
    return copied.eval().requires_grad_(False)
