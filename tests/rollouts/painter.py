"""A tiny model that draws images of two codes and answers what color it sees, one word at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sightloop.quizzes.grammar import Clause, quiz_of
from sightloop.quizzes.stream import QuizBatch
from sightloop.quizzes.vocabulary import REAL
from sightloop.types import Images, Prompt, Sampling, Tokens, TokenScores, Turn

COLORS = ("red", "green", "blue")
WORDS = (*COLORS, "no", "<end>")
END = 4
BLANK = 3
"""The code of a grey place."""
WIDTH = 2


class Painter(nn.Module):
    """Each prompt has its own logits of codes; an answer reads the codes' mean through a table of words."""

    num_image_tokens = WIDTH
    adapters = None
    templates: Mapping[str, str] = {}

    def __init__(self, *, eyes: float = 2.0) -> None:
        super().__init__()
        self.draw = nn.Parameter(torch.zeros(3, 4))
        table = torch.zeros(4, 5)
        table[range(3), range(3)] = eyes
        self.see = nn.Parameter(table)
        self.frame = nn.Parameter(torch.tensor([1.0]), requires_grad=False)
        self.asked: list[str] = []

    def default_sampling(self, **changes: Any) -> Sampling:
        """Two codes."""
        return replace(Sampling(max_tokens=WIDTH), **changes)

    def law(self, prompt: Prompt, under: Sampling | None) -> Tensor:
        """Log-probabilities, sample by place by symbol."""
        if prompt.wants == "image":
            which = [next(i for i, c in enumerate(COLORS) if c in text) for text in prompt.texts]
            logits = self.draw[which][:, None].expand(-1, WIDTH, -1)
        else:
            assert isinstance(prompt.images, Tokens)
            codes = prompt.images.one_hot
            if codes is None:
                codes = nn.functional.one_hot(prompt.images.ids, 4).float()
            first = (codes.mean(1) @ self.see)[:, None]
            last = torch.full_like(first, -9.0)
            last[..., END] = 9.0
            logits = torch.cat([first, last], 1)
        temperature = 1.0 if under is None else under.temperature
        return (logits * self.frame / temperature).log_softmax(-1)

    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Drawn with each sample's own seed; straight-through codes if a relaxation is asked for."""
        if prompt.wants == "text":
            self.asked += prompt.texts
        greedy = sampling.temperature == 0
        law = self.law(prompt, None if greedy else sampling)
        if greedy:
            ids = law.argmax(-1)
        else:
            dice = [torch.Generator().manual_seed(seed) for seed in prompt.seeds or []]
            noise = torch.stack([torch.rand(law.shape[1:], generator=die) for die in dice])
            ids = (law.detach() - (-noise.log()).log()).argmax(-1)
        log_probs = law.gather(2, ids[..., None])[..., 0]
        mask = torch.ones_like(ids, dtype=torch.bool)
        if prompt.wants == "text":
            mask[:, 1] = ids[:, 0] != END
        one_hot = None
        if sampling.relaxation is not None:
            soft = (law / sampling.relaxation).softmax(-1)
            one_hot = nn.functional.one_hot(ids, 4) + soft - soft.detach()
        kept = None if greedy else (log_probs * mask).detach()
        return Tokens(ids=ids, mask=mask, log_probs=kept, one_hot=one_hot)

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """What `distribution` says of the turn's tokens."""
        mask = turn.tokens.mask
        law = self.law(turn.prompt, under)[:, : mask.shape[1]]
        log_probs = law.gather(2, turn.tokens.ids[..., None])[..., 0]
        entropy = -(law.exp() * law).sum(-1).detach()
        return TokenScores(log_probs=log_probs * mask, entropy=entropy * mask)

    def encode(self, texts: list[str]) -> Tokens:
        """One word and the end."""
        ids = torch.tensor([[WORDS.index(text), END] for text in texts])
        return Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))

    def decode(self, tokens: Tokens) -> list[list[str]]:
        """Words without the end."""
        rows = zip(tokens.ids.tolist(), tokens.mask.tolist(), strict=True)
        return [[WORDS[t] for t, counts in zip(*row, strict=True) if counts and t != END] for row in rows]

    def pixels(self, tokens: Tokens) -> Images:
        """A code a pixel: red, green, blue or grey at full strength."""
        palette = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [127, 127, 127]], dtype=torch.uint8)
        return Images(pixels=palette[tokens.ids].transpose(1, 2)[:, :, None])

    def image_tokens(self, images: Images) -> Tokens:
        """The code of each pixel."""
        flat = images.pixels[:, :, 0].transpose(1, 2)
        ids = torch.where((flat == 127).all(-1), BLANK, flat.int().argmax(-1)).long()
        return Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))

    def understanding_input(self, tokens: Tokens) -> Tokens:
        """It reads its codes."""
        return tokens

    def trainable_module(self) -> nn.Module:
        """All of it."""
        return self


def batch(*, colors: tuple[str, ...] = COLORS) -> QuizBatch:
    """A quiz about a car of each color."""
    quizzes = [quiz_of("colors", (Clause(noun="car", color=color),), REAL) for color in colors]
    numbers = list(range(len(quizzes)))
    return QuizBatch(
        quizzes=quizzes, indices=[10 + n for n in numbers], seeds=[101 * (n + 1) for n in numbers]
    )
