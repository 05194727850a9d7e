"""The critic of VLRM: a value head and its own low-rank adapters over the policy's frozen language model.

The adapters work through forward hooks and only inside the critic's own pass, so the policy's weights,
names and
state dict stay plain and nobody else knows about them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import MethodType
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sightloop.types import Tokens, Turn

ValuePosition = Literal["pre", "post"]


class Trunk(Protocol):
    """A policy whose hidden states a critic can read."""

    hidden_size: int

    def trunk_linears(self) -> dict[str, nn.Linear]:
        """The language model's linear layers by name."""
        ...

    def hidden_states(self, turn: Turn, position: ValuePosition = "pre") -> Float[Tensor, "B T h"]:
        """Last hidden state at each token: `pre` the one that predicts it, `post` the one that has read it.

        The policy's trainable parts receive no gradient through it.
        """
        ...


class Adapters(nn.Module):
    """Low-rank adapters (LoRA, arXiv 2106.09685) over given linear layers; off unless switched on."""

    def __init__(self, linears: Mapping[str, nn.Linear], *, rank: int, alpha: float) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"adapter rank is {rank}; use at least 1")
        self.active = False
        self.scale = alpha / rank
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, linear in linears.items():
            key, device = name.replace(".", "/"), linear.weight.device
            down = torch.empty(rank, linear.in_features, device=device)
            self.down[key] = nn.Parameter(nn.init.kaiming_uniform_(down, a=5**0.5))
            self.up[key] = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))
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


class ValueHead(nn.Module):
    """A perceptron on every token's hidden state, in float32; widths are multiples of the hidden size.

    The paper's figure of it is not public; 2h, 4h, 8h is the only perceptron of up to three hidden layers
    with
    widths 1, 2, 4 or 8 h that has the paper's 275 M parameters at h = 2560. No widths = the plain linear
    head that
    the paper reports to collapse.
    """

    def __init__(
        self, hidden_size: int, widths: Sequence[float] = (2, 4, 8), device: torch.device | None = None
    ) -> None:
        super().__init__()
        sizes = [hidden_size, *(round(hidden_size * width) for width in widths)]
        layers: list[nn.Module] = []
        for wide_in, wide_out in pairwise(sizes):
            layers += [nn.Linear(wide_in, wide_out, device=device), nn.GELU()]
        last = nn.Linear(sizes[-1], 1, device=device)
        nn.init.normal_(last.weight, 0, 1e-3)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, hidden: Float[Tensor, "N h"]) -> Float[Tensor, " N"]:
        """The value at each hidden state."""
        return self.layers(hidden.float())[..., 0]


class TrunkCritic(nn.Module):
    """The value before each token: head and adapters are its own, the trunk is the policy's."""

    def __init__(
        self,
        trunk: Trunk,
        *,
        widths: Sequence[float] = (2, 4, 8),
        rank: int = 4,
        alpha: float | None = None,
        position: ValuePosition = "pre",
    ) -> None:
        super().__init__()
        self._trunk = (trunk,)
        self.position: ValuePosition = position
        linears = trunk.trunk_linears()
        self.adapters = Adapters(linears, rank=rank, alpha=2 * rank if alpha is None else alpha)
        device = next(iter(linears.values())).weight.device
        self.head = ValueHead(trunk.hidden_size, widths, device)

    def forward(self, turn: Turn) -> Float[Tensor, "B T"]:
        """Values at the turn's tokens, 0 where masked."""
        mask, used = turn.tokens.mask, _used_columns(turn)
        with self.adapters.switched(True):
            hidden = self._trunk[0].hidden_states(used, self.position)
        values = torch.zeros(mask.shape, device=mask.device)
        return values.masked_scatter(mask, self.head(hidden[used.tokens.mask]))


def _used_columns(turn: Turn) -> Turn:
    # Columns of text behind the last token that counts would be read for nothing.
    mask = turn.tokens.mask
    used = mask.any(0).nonzero()
    if not len(used) or turn.prompt.wants != "text" or turn.tokens.decode_step is not None:
        return turn
    length = int(used[-1]) + 1
    return replace(turn, tokens=Tokens(ids=turn.tokens.ids[:, :length], mask=mask[:, :length]))
