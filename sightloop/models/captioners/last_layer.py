"""The last layer of an OPT decoder, computed only at the positions that somebody reads.

An image and a prompt in front of a text matter to the last layer through their keys and values alone: their
queries, and all that follows attention, would be thrown away, in the forward and in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sightloop.models.transformers_internals import StandInCache, cache_argument, given_cache

READ_FROM = "read_from"
"""Keyword of a decoder's call: the first new position whose hidden state is returned."""


class _Earlier(StandInCache):
    """Stands for a cache in a pass without one: keys and values of the positions that nobody reads."""

    def __init__(self) -> None:
        self._seen: list[tuple[Tensor, Tensor]] = []

    def extend(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append, and return everything so far."""
        self._seen.append((keys, values))
        all_keys, all_values = zip(*self._seen, strict=True)
        return torch.cat(all_keys, 2), torch.cat(all_values, 2)


def read_in_part(layer: nn.Module) -> None:
    """Let the last layer of a decoder obey `READ_FROM`; without that keyword it works as before."""
    layer.register_forward_pre_hook(_shorten, with_kwargs=True)


def _shorten(
    layer: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Tensor, ...], dict[str, Any]] | None:
    first = kwargs.pop(READ_FROM, 0)
    if not first:
        return None
    (hidden,), attention = args, layer.self_attn
    unread = hidden[:, :first]
    if layer.do_layer_norm_before:
        unread = layer.self_attn_layer_norm(unread)
    heads = (*unread.shape[:2], attention.num_heads, attention.head_dim)
    keys, values = (part(unread).view(heads).transpose(1, 2) for part in (attention.k_proj, attention.v_proj))
    cache = given_cache(kwargs) or _Earlier()
    seen, _ = cache.update(keys, values, attention.layer_idx)
    mask, length = kwargs.get("attention_mask"), seen.shape[2] - first + hidden.shape[1]
    if mask is None:
        places = torch.arange(length, device=hidden.device)
        mask = (places <= places[length - hidden.shape[1] + first :, None])[None, None]
    else:
        mask = mask[:, :, first:]
    return (hidden[:, first:],), kwargs | cache_argument(cache) | {"attention_mask": mask}
