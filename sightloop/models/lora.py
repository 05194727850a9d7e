"""Low-rank adapters (arXiv 2106.09685) on layers of a frozen model, switched on where they are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import MethodType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Conv1D


def is_transposed(layer: nn.Module) -> bool:
    """Whether a linear layer keeps its weight the other way around, as GPT-2's do."""
    return isinstance(layer, Conv1D)


def adaptable(module: nn.Module) -> dict[str, nn.Module]:
    """The linear layers in a module by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear | Conv1D)}


class Adapters(nn.Module):
    """Low-rank adapters (LoRA, arXiv 2106.09685) over given linear layers; off unless switched on."""

    def __init__(self, linears: Mapping[str, nn.Module], *, rank: int, alpha: float) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"adapter rank is {rank}; use at least 1")
        self.active = False
        self.scale = alpha / rank
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, linear in linears.items():
            key, weight = name.replace(".", "/"), linear.get_parameter("weight")
            out, given = weight.T.shape if is_transposed(linear) else weight.shape
            down = torch.empty(rank, given, device=weight.device)
            self.down[key] = nn.Parameter(nn.init.kaiming_uniform_(down, a=5**0.5))
            self.up[key] = nn.Parameter(torch.zeros(out, rank, device=weight.device))
            # A function would still read these adapters in a copy of the model; a bound method is copied too.
            linear.register_forward_hook(partial(self._add, key))

    def _add(self, key: str, _: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        if not self.active:
            return None
        low = F.linear(args[0], self.down[key].to(args[0].dtype))
        return out + self.scale * F.linear(low, self.up[key].to(low.dtype))

    def switched(self, active: bool) -> AbstractContextManager[None]:
        """Adapters on or off inside, as before afterwards; may be entered again."""
        return Switched(self, active)

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For gradient checkpointing: recompute a layer with the adapters as they were in the forward
        pass.
        """
        return nullcontext(), self.switched(self.active)


def hooked_adapters(hook: Any) -> tuple[Adapters, str] | None:
    """Whose adapters a linear layer's hook adds, and their key; None if it does anything else."""
    method: Any = hook.func if isinstance(hook, partial) else None
    if isinstance(method, MethodType) and method.__func__ is Adapters._add:
        return cast("Adapters", method.__self__), str(hook.args[0])
    return None


class Switched(AbstractContextManager[None]):
    """Adapters on or off inside. A second backward pass enters the same object again."""

    def __init__(self, adapters: Adapters, active: bool) -> None:
        self._adapters, self._active = adapters, active
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(self._adapters.active)
        self._adapters.active = self._active

    def __exit__(self, *_: object) -> None:
        self._adapters.active = self._before.pop()
