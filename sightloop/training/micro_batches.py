"""A batch in parts that a backward pass can hold: rows of like length together, unused columns cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from sightloop.types import Credit, Rollout, Tokens, Turn


def by_length(loss_weights: Tensor, size: int) -> Iterator[Tensor]:
    """Row indices in chunks of `size`, rows of like length together, so that a chunk holds little padding.

    Rows without a share have no loss and are left out, but one stays if there is no other: every rank needs
    gradients.
    """
    # On the CPU: a device would be asked twice, for the number of rows without loss and for their order.
    lengths = (loss_weights > 0).sum(1).cpu()
    order = lengths.argsort(stable=True)
    without_loss = min(int((lengths == 0).sum()), len(order) - 1)
    return iter(order[without_loss:].split(size))


def trimmed(rollout: Rollout, credit: Credit) -> tuple[Rollout, Credit]:
    """The same rows without the columns of text that no row of them uses."""
    lengths = [_used_length(turn) for turn in rollout.turns]
    starts = [columns.start for columns in rollout.turn_columns()]
    kept = [torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    columns = torch.cat(kept).to(credit.loss_weights.device)
    narrow = replace(
        rollout,
        turns=tuple(
            replace(turn, tokens=_first_columns(turn.tokens, length))
            for turn, length in zip(rollout.turns, lengths, strict=True)
        ),
        rewards=rollout.rewards[:, : lengths[-1]],
        values=None if rollout.values is None else rollout.values[:, : lengths[-1]],
    )
    return narrow, replace(
        credit,
        advantages=credit.advantages[:, columns],
        loss_weights=credit.loss_weights[:, columns],
        returns=None if credit.returns is None else credit.returns[:, columns],
    )


def _used_length(turn: Turn) -> int:
    mask = turn.tokens.mask
    # Codes of images condition each other, whether or not they count in the loss.
    if turn.prompt.wants != "text" or turn.tokens.decode_step is not None:
        return mask.shape[1]
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return max(1, int((mask.any(0) * places).amax()))


def _first_columns(tokens: Tokens, length: int) -> Tokens:
    held = {name: value for name, value in vars(tokens).items() if value is not None}
    return Tokens(**{name: value[:, :length] for name, value in held.items()})
