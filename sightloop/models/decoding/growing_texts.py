"""Texts of a batch as they are drawn token by token, with few questions to the device.

Whether a text has ended is known to the device first, and asking makes the host wait for it. So the host asks
every few tokens, and rows that have ended leave the batch then; until then they run on in vain.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sightloop.models.only_numbers import marked
from sightloop.types import Tokens

LOOK_EVERY = 8
"""Tokens between two looks at which texts have ended."""
LEAVE_SHARE = 1 / 4
"""Ended rows leave once they are this share of the batch: each leaving copies the cache of the others."""


def are_ends(ids: Tensor, ends: tuple[int, ...]) -> Tensor:
    """Which ids are end tokens, in one operation for each kind."""
    found = ids == ends[0]
    for end in ends[1:]:
        found = found | (ids == end)
    return found


class GrowingTexts:
    """Ids and log-probabilities of all rows, and which rows are still in the batch.

    Rows leave after the same tokens on every device: the rows of a batch round each other's numbers, and
    results shall not depend on the device. With `may_stop` the CPU, which never waits, also stops after any
    token once all texts have ended.
    """

    def __init__(
        self, size: int, *, ends: tuple[int, ...], max_tokens: int, device: torch.device, may_stop: bool
    ) -> None:
        self.length = 0
        """Tokens drawn so far."""
        self._max = max_tokens
        self._last_look = max_tokens // LOOK_EVERY * LOOK_EVERY
        self._ends = ends
        self._places = torch.arange(1, max_tokens + 1, device=device)
        self._ids = torch.zeros(size, max_tokens, dtype=torch.long, device=device)
        self._sure = torch.zeros(size, max_tokens, device=device)
        self._lengths = torch.full((size,), max_tokens, device=device)
        self._known = [max_tokens] * size
        """Lengths as of the last look."""
        self._batch = list(range(size))
        """The texts in the batch."""
        self._rows: Tensor | None = None
        """The same on the device; None = all."""
        self._new: list[tuple[Tensor, Tensor]] = []
        watched = may_stop and device.type == "cpu"
        self._alive = torch.ones(size, dtype=torch.bool) if watched else None

    def append(self, drawn: Int[Tensor, " B"], sure: Float[Tensor, " B"]) -> None:
        """Take one token a row of the batch, and what it was chosen by."""
        self._new.append((drawn, sure))
        self.length += 1
        if self._alive is not None:
            self._alive = self._alive & ~are_ends(drawn, self._ends)

    @property
    def is_time_to_look(self) -> bool:
        """Whether to ask now which texts have ended."""
        return self.length % LOOK_EVERY == 0 or self.length == self._max or self._all_ended()

    @property
    def next_look(self) -> int:
        """The number of tokens at which that comes next, at the latest."""
        return min((self.length // LOOK_EVERY + 1) * LOOK_EVERY, self._max)

    def _all_ended(self) -> bool:
        return self._alive is not None and not bool(self._alive.any())

    def running(self) -> list[int]:
        """Rows of the batch that have not ended. Behind the last place to look all may still run."""
        self._write()
        if self.length <= self._last_look:
            self._known = self._lengths.tolist()
        if self._all_ended():
            return []
        return [place for place, row in enumerate(self._batch) if self._known[row] == self._max]

    def may_leave(self, running: list[int]) -> bool:
        """Whether so many rows have ended that the others go on alone."""
        enough = len(running) <= (1 - LEAVE_SHARE) * len(self._batch)
        return self.length % LOOK_EVERY == 0 and enough

    def keep(self, running: list[int]) -> Int[Tensor, " N"]:
        """Only these rows of the batch go on; their index on the device."""
        at = torch.tensor(running).to(self._lengths.device, non_blocking=True)
        self._batch = [self._batch[place] for place in running]
        self._rows = at if self._rows is None else self._rows[at]
        self._alive = None if self._alive is None else self._alive[at]
        return at

    def tokens(self, pad: int, *, has_distribution: bool) -> Tokens:
        """All texts, `pad` behind their ends; log-probabilities if tokens were chosen by these."""
        self._write()
        longest = max(self._known)
        counts = torch.arange(longest, device=self._lengths.device)[None] < self._lengths[:, None]
        sure = self._sure[:, :longest]
        return Tokens(
            ids=torch.where(counts, marked(self._ids[:, :longest], sure), pad),
            mask=counts,
            log_probs=torch.where(counts, sure, 0.0) if has_distribution else None,
        )

    def _write(self) -> None:
        """Put the new tokens in their places and find ends among them."""
        if not self._new:
            return
        first, last = self.length - len(self._new), self.length
        ids = torch.stack([drawn for drawn, _ in self._new], 1)
        ended_at = torch.where(are_ends(ids, self._ends), self._places[first:last], self._max).amin(1)
        self._put(self._ids[:, first:last], ids)
        self._put(self._sure[:, first:last], torch.stack([sure for _, sure in self._new], 1))
        before = self._lengths if self._rows is None else self._lengths[self._rows]
        self._put(self._lengths, torch.minimum(before, ended_at))
        self._new = []

    def _put(self, into: Tensor, values: Tensor) -> None:
        if self._rows is None:
            into.copy_(values)
        else:
            into.index_copy_(0, self._rows, values)
