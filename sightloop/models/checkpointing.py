"""Gradient checkpointing that leaves dropout off and restores what a layer depended on.

transformers recomputes layers only while they are in training mode, which would also switch dropout on. Here
only the layers' own flag is set, for the length of one pass; their parts stay in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sightloop.models.protocols import Contexts
from sightloop.models.transformers_internals import recomputable_layers, recompute_by


class Recomputation:
    """The layers of a module that may be computed anew in the backward pass instead of kept in memory."""

    def __init__(self, module: nn.Module) -> None:
        self.layers = recomputable_layers(module)
        self.enabled = False

    def enable(self, *contexts: Contexts) -> None:
        """Recompute from now on; `contexts` restore what the layers depended on (which adapters were on).

        Raises:
            ValueError: the module has no layer that transformers can recompute.
        """
        if not self.layers:
            raise ValueError("no layer of this model supports gradient checkpointing; switch it off")
        for layer in self.layers:
            recompute_by(
                layer, partial(checkpoint, use_reentrant=False, context_fn=partial(_joined, contexts))
            )
        self.enabled = True

    @contextmanager
    def active(self) -> Iterator[None]:
        """Layers inside are recomputed if enabled and if there is a backward pass to come."""
        layers = self.layers if self.enabled and torch.is_grad_enabled() else []
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False


def _joined(
    contexts: tuple[Contexts, ...],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    pairs = [make() for make in contexts]
    return _AllOf([first for first, _ in pairs]), _AllOf([second for _, second in pairs])


class _AllOf(AbstractContextManager[None]):
    """All contexts at once. A second backward pass over a kept graph enters the same object again."""

    def __init__(self, contexts: list[AbstractContextManager[None]]) -> None:
        self._contexts = contexts
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        with ExitStack() as stack:
            for context in self._contexts:
                stack.enter_context(context)
            self._entered.append(stack.pop_all())

    def __exit__(self, *_: object) -> None:
        self._entered.pop().close()


def no_dropout(module: nn.Module) -> None:
    """Switch off every dropout for good: scored probabilities must be those of sampling."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("dropout", "attention_dropout", "layerdrop"):
            if isinstance(part.__dict__.get(name), float):
                setattr(part, name, 0.0)
