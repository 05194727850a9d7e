"""A policy and a critic that are tables of numbers, and rollouts for them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sightloop.types import Images, Prompt, Rollout, Sampling, Tokens, TokenScores, Turn


class TablePolicy(nn.Module):
    """Logits of each position, the same for every prompt; token ids pick from them."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Random tokens, all of which count."""
        ids = torch.randint(self.logits.shape[1], (len(prompt), len(self.logits)))
        return Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """The table's log-softmax, divided by the distribution's temperature."""
        law = (self.logits / (1.0 if under is None else under.temperature)).log_softmax(-1)
        entropy = -(law * law.exp()).sum(-1)
        mask = turn.tokens.mask
        log_probs = law.expand(len(mask), -1, -1).gather(2, turn.tokens.ids[..., None])[..., 0]
        return TokenScores(
            log_probs=log_probs.masked_fill(~mask, 0),
            entropy=entropy.expand(len(mask), -1).masked_fill(~mask, 0),
        )

    def encode(self, texts: list[str]) -> Tokens:
        """No text is known to a table."""
        raise NotImplementedError

    def decode(self, tokens: Tokens) -> list[list[str]]:
        """Ids as words."""
        return [[f" {token}" for token in row] for row in tokens.ids.tolist()]


class TableCritic(nn.Module):
    """One value an image and position; it counts its calls."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)
        self.sizes: list[int] = []

    def forward(self, turn: Turn) -> Float[Tensor, "B T"]:
        """The table's rows of the images, which carry their number in the first pixel."""
        self.sizes.append(len(turn))
        assert isinstance(turn.prompt.images, Images)
        return self.values[turn.prompt.images.pixels[:, 0, 0, 0].long()]


def rollout_of(
    rewards: Tensor,
    mask: Tensor,
    *,
    ids: Tensor | None = None,
    baseline: Tensor | None = None,
    per_image: int = 1,
) -> Rollout:
    """A rollout of one turn; image k is a single pixel of level k."""
    rows = len(rewards)
    pixels = torch.arange(rows, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 1, 1)
    tokens = Tokens(ids=torch.zeros_like(mask, dtype=torch.long) if ids is None else ids, mask=mask)
    prompt = Prompt(texts=[""] * rows, images=Images(pixels=pixels))
    return Rollout(
        turns=(Turn(prompt=prompt, tokens=tokens),),
        rewards=rewards,
        reward_parts={},
        group=torch.arange(rows) // per_image,
        baseline=baseline,
    )
