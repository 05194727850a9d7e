"""Adapters merged into the weights they adapt, so that a model needs no adapters any more."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sightloop.models.lora import Adapters, is_transposed


@torch.no_grad()
def merge_adapters(adapters: Adapters, trunk: nn.Module) -> None:
    """Add what the adapters do to the weights of their layers of `trunk`, and set them to do nothing.

    Sums are made in double precision: what is lost is one rounding to the weights' own.
    """
    for key, up in adapters.up.items():
        layer = trunk.get_submodule(key.replace("/", "."))
        weight: Tensor = layer.get_parameter("weight")
        change = adapters.scale * up.double() @ adapters.down[key].double()
        weight.copy_(weight.double() + (change.T if is_transposed(layer) else change))
        up.zero_()
