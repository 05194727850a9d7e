"""The critic of VLRM: a value head and its own low-rank adapters over the policy's frozen language model.

The adapters work through forward hooks and only inside the critic's own pass, so the policy's weights, names
and state dict stay plain and nobody else knows about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sightloop.models.lora import Adapters
from sightloop.models.protocols import SupportsCritic, ValuePosition
from sightloop.types import Tokens, Turn


class ValueHead(nn.Module):
    """A perceptron on every token's hidden state, in float32; widths are multiples of the hidden size.

    The paper's figure of it is not public; 2h, 4h, 8h is the only perceptron of up to three hidden layers
    with widths 1, 2, 4 or 8 h that has the paper's 275 M parameters at h = 2560. No widths = the plain linear
    head that the paper reports to collapse.
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
        trunk: SupportsCritic,
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
        device = next(iter(linears.values())).get_parameter("weight").device
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
