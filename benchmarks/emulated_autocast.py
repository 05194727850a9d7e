"""Autocast for the emulated accelerator, by the CPU's lists, so that values equal the CPU's bit for bit."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor

_KEY = "AutocastPrivateUse1"
_LOWER = {
    "linear", "matmul", "mm", "bmm", "addmm", "addbmm", "baddbmm", "linalg_vecdot", "conv1d", "conv2d",
    "conv3d", "_convolution", "conv_tbc", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "scaled_dot_product_attention", "_native_multi_head_attention", "_addmm_activation", "mkldnn_rnn_layer",
}  # fmt: skip
_WIDEST = {"cat", "stack", "index_copy"}
"""Run in the widest precision of their arguments. What else the CPU's lists name runs in float32."""
_casts: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}
"""Trained weights in low precision, kept for the length of a region: their gradients add up there."""


def register(aten: torch.library.Library, device: str) -> None:
    """Register every operation that the CPU's autocast knows, for the device."""
    everything = torch.library.Library("_", "IMPL")
    _libraries.append(everything)
    everything.fallback(torch.library.fallthrough_kernel, _KEY)
    for name in torch._C._dispatch_get_all_op_names():
        if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCPU"):
            continue
        base, _, overload = name.removeprefix("aten::").partition(".")
        found = getattr(getattr(torch.ops.aten, base), overload or "default")
        aten.impl(name.removeprefix("aten::"), partial(_cast_and_run, found, base, device), _KEY)
    clear = torch.clear_autocast_cache

    def clear_both() -> None:
        _casts.clear()
        clear()

    # What the end of a region calls.
    torch.clear_autocast_cache = clear_both


_libraries: list[torch.library.Library] = []


def _cast_and_run(operation: Any, base: str, device: str, *args: Any, **kwargs: Any) -> Any:
    target = torch.get_autocast_dtype(device) if base in _LOWER else torch.float32
    if base in _WIDEST:
        found = {one.dtype for one in _tensors([args, kwargs]) if one.is_floating_point()}
        target = torch.float32 if len(found) != 1 else found.pop()
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C._dispatch_key_parse(_KEY))):
        cast = partial(_cast, target=target, device=device)
        return operation(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [one for part in value for one in _tensors(part)] if isinstance(value, list | tuple) else []


def _cast(value: Any, *, target: torch.dtype, device: str) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_cast(one, target=target, device=device) for one in value)
    if not isinstance(value, Tensor) or value.device.type != device or value.dtype == target:
        return value
    if not value.is_floating_point() or value.dtype == torch.float64:
        return value
    keep = (
        target == torch.get_autocast_dtype(device)
        and value.dtype == torch.float32
        and value.requires_grad
        and value.is_leaf
        and torch.is_autocast_cache_enabled()
    )
    if not keep:
        return value.to(target)
    known = _casts.get(id(value))
    # What was cast where no gradient was wanted has none to give.
    has_gradient = known is not None and known[1].requires_grad
    if known is None or known[0]() is not value or (torch.is_grad_enabled() and not has_gradient):
        known = _casts[id(value)] = (weakref.ref(value), value.to(target))
    return known[1]
