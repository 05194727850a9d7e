"""The text that each token of a caption adds.

Rewards punish single tokens for the words they spell, so every token needs its own stretch of the caption.
A token's stretch is what it adds to the text after its predecessor. That depends on the pair only, so it is
remembered; the joined pieces are checked against the tokenizer's own text of the whole row, and rows where
the pairs do not add up (a character spread over several tokens) are cut by decoding every prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from sightloop.models.only_numbers import require_drawn
from sightloop.types import Tokens

NO_TOKEN = -1


class Pieces:
    """Cuts captions into the text of each token: `"".join(pieces[i])` is caption i.

    Special tokens and `end_ids` spell nothing: "" inside a row, no entry behind its last spelled token.
    `source` is what messages call the model.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_ids: Iterable[int] = (),
        source: str = "the model",
    ) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self.silent = frozenset(tokenizer.all_special_ids) | frozenset(end_ids)
        self._added: dict[tuple[int, int], str] = {}

    def __call__(self, tokens: Tokens) -> list[list[str]]:
        """The text of each token that counts; piece k belongs to token k, at most T a row.

        Raises:
            ValueError: a token was drawn from values that are not numbers.
        """
        pairs = list(zip(tokens.ids.tolist(), tokens.mask.tolist(), strict=True))
        counted = (token for ids, mask in pairs for token, counts in zip(ids, mask, strict=True) if counts)
        require_drawn(min(counted, default=0), self.source, "texts")
        rows = [
            [token if counts else NO_TOKEN for token, counts in zip(ids, mask, strict=True)]
            for ids, mask in pairs
        ]
        spelled = [[t for t in row if t != NO_TOKEN and t not in self.silent] for row in rows]
        texts = self._decode(spelled)
        self._remember(spelled)
        return [
            self._spread(row, self._cut(ids, text))
            for row, ids, text in zip(rows, spelled, texts, strict=True)
        ]

    def _decode(self, rows: list[list[int]]) -> list[str]:
        if not rows:
            return []
        return self.tokenizer.batch_decode(
            rows, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _remember(self, rows: list[list[int]]) -> None:
        pairs = {pair for ids in rows for pair in zip([NO_TOKEN, *ids], ids, strict=False)}
        new = [pair for pair in pairs if pair not in self._added]
        before = self._decode([[] if first == NO_TOKEN else [first] for first, _ in new])
        after = self._decode([[t for t in pair if t != NO_TOKEN] for pair in new])
        for pair, short, long in zip(new, before, after, strict=True):
            self._added[pair] = long[len(short) :]

    def _cut(self, ids: list[int], text: str) -> list[str]:
        pieces = [self._added[pair] for pair in zip([NO_TOKEN, *ids], ids, strict=False)]
        return pieces if "".join(pieces) == text else self._cut_by_prefixes(ids, text)

    def _cut_by_prefixes(self, ids: list[int], text: str) -> list[str]:
        # A prefix that ends inside a character decodes to a replacement mark, so only what it shares with the
        # whole text is settled; the token that completes the character gets it.
        prefixes = self._decode([ids[: k + 1] for k in range(len(ids))])
        pieces: list[str] = []
        settled = 0
        for prefix in prefixes[:-1]:
            shared = max(settled, _shared_length(prefix, text))
            pieces.append(text[settled:shared])
            settled = shared
        return [*pieces, text[settled:]]

    def _spread(self, row: list[int], pieces: list[str]) -> list[str]:
        spread: list[str] = []
        length = 0
        rest = iter(pieces)
        for token in row:
            spells = token != NO_TOKEN and token not in self.silent
            spread.append(next(rest) if spells else "")
            length = len(spread) if spells else length
        return spread[:length]


def _shared_length(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((k for k, (a, b) in pairs if a != b), min(len(one), len(other)))


def token_batch(rows: Sequence[Sequence[int]], *, pad: int, device: torch.device) -> Tokens:
    """Rows of ids as one batch; what fills the shorter ones up does not count."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return Tokens(ids=ids, mask=torch.arange(longest, device=device)[None] < lengths[:, None])
