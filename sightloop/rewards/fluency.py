"""How natural a caption reads: the mean log-probability of its text under a frozen language model, in nats.

VLRM's "ref" (arXiv 2404.01911, section 3.4). Its text speaks of the logarithm of perplexity and its formula
is the mean log-probability; the formula rewards natural text, so it is what is computed here. The end token
is left out unless asked for, and a caption without text gets 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sightloop.models.only_numbers import require_numbers
from sightloop.models.open import LANGUAGE_MODEL, open_model
from sightloop.models.written_text import text_ids
from sightloop.types import Outcome, Tokens, on_last_token


def mean_log_prob(log_probs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Mean over the tokens that count; 0 for a row without any.

    >>> mask = torch.tensor([[True, True, False], [False, False, False]])
    >>> mean_log_prob(torch.tensor([[-1.0, -3.0, -9.0], [-1.0, -1.0, -1.0]]), mask)
    tensor([-2.,  0.])
    """
    return log_probs.masked_fill(~mask, 0).sum(1) / mask.sum(1).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class TokenFluency:
    """Fluency of the drawn tokens, for a policy whose own frozen language model is the reference."""

    log_probs: Callable[[Tokens], Float[Tensor, "B T"]]
    """Log-probabilities of the text alone, no image, no adapters."""
    is_end: Callable[[Tokens], Bool[Tensor, "B T"]]
    include_end: bool = False

    @torch.no_grad()
    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """The mean on the last token."""
        tokens = outcome.tokens
        mask = tokens.mask if self.include_end else tokens.mask & ~self.is_end(tokens)
        return on_last_token(mean_log_prob(self.log_probs(tokens), mask), tokens)


class LanguageModelFluency:
    """Fluency of the text under any causal language model of transformers, read with its own tokenizer."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        include_end: bool = False,
        batch: int = 64,
    ) -> None:
        """Take a model and its tokenizer; `batch` captions are read at once.

        Raises:
            ValueError: the tokenizer has neither a begin nor an end token, or no end token to include.
        """
        start, end = cast("tuple[int | None, int | None]", (tokenizer.bos_token_id, tokenizer.eos_token_id))
        # The first word needs a predecessor. Models without a begin token learnt their end token as one.
        if start is None and end is None:
            raise ValueError(
                "the tokenizer has neither a begin nor an end token to put before the first word"
            )
        if include_end and end is None:
            raise ValueError("include_end is on, but the tokenizer has no end token")
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.start = cast("int", end if start is None else start)
        self.end = [cast("int", end)] if include_end else []
        self.batch = batch

    @staticmethod
    def from_pretrained(
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        include_end: bool = False,
    ) -> LanguageModelFluency:
        """Load a folder of the hub's format (or a hub name).

        Raises:
            ValueError: weights or tokenizer are missing.
        """
        found = open_model(folder, LANGUAGE_MODEL, dtype=dtype, device=device)
        return LanguageModelFluency(found.model, found.words, include_end=include_end)

    @torch.no_grad()
    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """The mean on the last token; the end token counts only where it was drawn."""
        ended = [bool(drawn) for drawn in outcome.ended.cpu()]
        return on_last_token(self.of_texts(outcome.texts(), ended), outcome.tokens)

    @torch.no_grad()
    def of_texts(self, texts: list[str], ended: list[bool]) -> Float[Tensor, " B"]:
        """Mean log-probability of each text's tokens, and of the end token behind it where asked for."""
        ids = [text_ids(self.tokenizer, text) for text in texts]
        rows = [row + self.end * end for row, end in zip(ids, ended, strict=True)]
        fluency = torch.zeros(len(rows), device=self.model.device)
        # By length, so that a batch holds little padding.
        order = sorted((index for index, row in enumerate(rows) if row), key=lambda index: len(rows[index]))
        for first in range(0, len(order), self.batch):
            index = order[first : first + self.batch]
            fluency[index] = self._of_rows([rows[i] for i in index])
        return require_numbers(fluency, self.model.name_or_path or "")

    def _of_rows(self, rows: list[list[int]]) -> Float[Tensor, " B"]:
        longest = max(map(len, rows))
        device = self.model.device
        # Right padding: no real token ever looks at it, so any id will do.
        ids = torch.tensor(
            [[self.start, *row] + [self.start] * (longest - len(row)) for row in rows], device=device
        )
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(longest, device=device)[None] < lengths[:, None]
        seen = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)[:, :-1].long()
        logits: Tensor = cast("Any", self.model)(input_ids=ids[:, :-1], attention_mask=seen).logits
        # Float32 only where there is a token: logits are the biggest tensor of the reward.
        wanted = logits[mask].float()
        picked = wanted.gather(1, ids[:, 1:][mask][:, None])[:, 0] - wanted.logsumexp(1)
        return mean_log_prob(torch.zeros_like(mask, dtype=torch.float32).masked_scatter(mask, picked), mask)
