"""A policy that is two tables of numbers, and rollouts in which it drew an image and answered about it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sightloop.types import Prompt, Rollout, Sampling, Tokens, TokenScores, Turn


class TwoTables(nn.Module):
    """Logits of each place of an image and of an answer; a temperature is the only distribution it knows."""

    def __init__(self, picture: Tensor, answer: Tensor) -> None:
        super().__init__()
        self.picture, self.answer = nn.Parameter(picture), nn.Parameter(answer)
        self.calls: list[str] = []

    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Drawn from the tables; all tokens count."""
        law = self.law(prompt, sampling)
        ids = torch.multinomial(law.exp(), len(prompt), replacement=True).T
        mask = torch.ones_like(ids, dtype=torch.bool)
        log_probs = law.expand(len(prompt), -1, -1).gather(2, ids[..., None])[..., 0]
        return Tokens(ids=ids, mask=mask, log_probs=log_probs.detach())

    def law(self, prompt: Prompt, under: Sampling | None) -> Tensor:
        """Log-probabilities of the table that the prompt wants."""
        table = self.picture if prompt.wants == "image" else self.answer
        return (table / (1.0 if under is None else under.temperature)).log_softmax(-1)

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """The table's numbers; straight-through codes of an image, if any, add to an answer's."""
        self.calls.append(turn.prompt.wants)
        mask = turn.tokens.mask
        law = self.law(turn.prompt, under)[: mask.shape[1]]
        entropy = -(law * law.exp()).sum(-1).expand(len(mask), -1)
        log_probs = law.expand(len(mask), -1, -1).gather(2, turn.tokens.ids[..., None])[..., 0]
        seen = turn.prompt.images
        if isinstance(seen, Tokens) and seen.one_hot is not None:
            log_probs = log_probs + seen.one_hot[..., 0].sum(1, keepdim=True)
        return TokenScores(
            log_probs=log_probs.masked_fill(~mask, 0), entropy=entropy.detach().masked_fill(~mask, 0)
        )

    def encode(self, texts: list[str]) -> Tokens:
        """Texts of digits."""
        ids = torch.tensor([[int(letter) for letter in text] for text in texts])
        return Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))

    def decode(self, tokens: Tokens) -> list[list[str]]:
        """Ids as words."""
        return [[f" {token}" for token in row] for row in tokens.ids.tolist()]


def tables(scale: float = 1.0) -> TwoTables:
    """Four places with three codes, three words of four."""
    return TwoTables(scale * torch.randn(4, 3), scale * torch.randn(3, 4))


ANSWERS = torch.tensor([[True, True, False], [True, True, True], [True, False, False], [True, True, False]])


def two_turns(
    policy: TwoTables, rewards: list[float], group: list[int], *, law: Sampling | None = None
) -> Rollout:
    """Drawings and answers with the lengths of `ANSWERS`, rewarded on the first token of the answer."""
    size = len(rewards)
    law = Sampling(max_tokens=4) if law is None else law
    drawing = Prompt(texts=["draw"] * size, wants="image")
    codes = policy.sample(drawing, law)
    asking = Prompt(texts=["what?"] * size, images=codes)
    words = policy.sample(asking, law)
    mask = ANSWERS[:size]
    assert words.log_probs is not None
    words = replace(words, mask=mask, log_probs=words.log_probs * mask)
    earned = torch.zeros(mask.shape)
    earned[:, 0] = torch.tensor(rewards)
    return Rollout(
        turns=(Turn(prompt=drawing, tokens=codes), Turn(prompt=asking, tokens=words)),
        rewards=earned,
        reward_parts={"right": torch.tensor(rewards)},
        group=torch.tensor(group),
    )
