"""Products in half precision from weights that are kept in float32, by torch's autocast."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

Given = ParamSpec("Given")
Found = TypeVar("Found")


class MixedPrecision:
    """In which precision a policy computes products of trained weights; its copies take this along.

    One region holds a whole pass: weights are cast once in it, and a backward pass has the precisions of its
    forward pass.
    """

    def __init__(self) -> None:
        self.dtype: torch.dtype | None = None
        """None = that of the weights."""

    def active(self, device: torch.device) -> AbstractContextManager[object]:
        """Products inside are computed in it."""
        return nullcontext() if self.dtype is None else torch.autocast(device.type, dtype=self.dtype)


def keep_frozen_in(part: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights of a part that do not learn."""
    for weight in part.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.to(dtype)


def keep_products_in(part: nn.Module, dtype: torch.dtype) -> None:
    """Keep the matrices of a part that no longer learns as an autocast casts them: the same numbers.

    Norms and embeddings, which an autocast reads as they are, stay so.
    """
    tables = {id(layer.weight) for layer in part.modules() if isinstance(layer, nn.Embedding)}
    for layer in part.modules():
        if isinstance(layer, nn.Linear) and id(layer.weight) not in tables:
            layer.weight.data = layer.weight.data.to(dtype)


def forget_casts() -> None:
    """Casts made where no gradient was wanted must not serve a pass that wants one."""
    torch.clear_autocast_cache()


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """For parts that have cast what they need: once, not in every operation."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def in_own_precision(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """Decorates what frozen parts compute from a tensor: in their weights' precision, whoever calls them."""

    @wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Found:
        given = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with without_autocast(given.device):
            return function(*args, **kwargs)

    return call
