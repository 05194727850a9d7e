"""Vision towers of two models, compared so that equal ones run once."""

from __future__ import annotations

import torch
from torch import nn


def same_tower(one: nn.Module, other: nn.Module) -> bool:
    """Whether two BLIP-2 vision towers are equal but for their last LayerNorm, up to half-precision
    rounding.
    """
    ours, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    if ours.keys() != theirs.keys():
        return False
    return all(
        ours[name].shape == theirs[name].shape
        and torch.allclose(
            ours[name].float(), theirs[name].float().to(ours[name].device), rtol=8e-3, atol=1e-5
        )
        for name in ours
        if not name.startswith("post_layernorm")
    )
