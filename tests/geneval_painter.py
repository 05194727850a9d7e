"""A policy that draws what it is asked for, in the embedded world, and a folder of its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sightloop.evaluators.geneval_images import Drawing, draw_prompts
from sightloop.geneval.prompts import GenEvalPrompt, parse_prompt
from sightloop.quizzes.grammar import CATEGORIES, Quiz
from sightloop.types import Images, Prompt, Sampling, Tokens, TokenScores, Turn
from sightloop.world.quizzes import sample_quiz, scene_for
from sightloop.world.scenes import SIDE, render


def some_quizzes(per_category: int = 2) -> list[Quiz]:
    """Distinct quizzes of every category."""
    rng = np.random.default_rng(0)
    quizzes: dict[str, Quiz] = {}
    for category in CATEGORIES:
        wanted = len(quizzes) + per_category
        while len(quizzes) < wanted:
            quiz = sample_quiz(rng, category)
            quizzes.setdefault(quiz.prompt, quiz)
    return list(quizzes.values())


def prompts_of(quizzes: list[Quiz]) -> list[GenEvalPrompt]:
    """The same as GenEval's prompts."""
    return [parse_prompt(quiz.metadata()) for quiz in quizzes]


class Painter(nn.Module):
    """Its tokens are the values of the image; it fails after `patience` images."""

    num_image_tokens = 3 * SIDE * SIDE
    adapters = None
    templates: Mapping[str, str] = {}

    def __init__(self, quizzes: list[Quiz], *, patience: int = 10**9) -> None:
        super().__init__()
        self.by_prompt = {quiz.prompt: quiz for quiz in quizzes}
        self.patience = patience
        self.drawn: list[str] = []

    def default_sampling(self, **changes: Any) -> Sampling:
        """Its usual distribution."""
        return Sampling(max_tokens=self.num_image_tokens, **changes)

    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """A scene for each prompt, by its seed."""
        assert prompt.wants == "image" and prompt.seeds is not None
        if len(self.drawn) + len(prompt) > self.patience:
            raise KeyboardInterrupt
        self.drawn += prompt.texts
        pictures = [
            render(scene_for(self.by_prompt[text], rng := np.random.default_rng(seed)), rng)
            for text, seed in zip(prompt.texts, prompt.seeds, strict=True)
        ]
        ids = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).flatten(1).long()
        return Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))

    def pixels(self, tokens: Tokens) -> Images:
        """The image whose values the tokens are."""
        return Images(pixels=tokens.ids.view(-1, 3, SIDE, SIDE).to(torch.uint8))

    def image_tokens(self, images: Images) -> Tokens:
        """Nothing here reads images."""
        raise NotImplementedError

    def understanding_input(self, tokens: Tokens) -> Images | Tokens:
        """Nothing here is asked about images."""
        raise NotImplementedError

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """Nothing here scores."""
        raise NotImplementedError

    def encode(self, texts: list[str]) -> Tokens:
        """Nothing here writes."""
        raise NotImplementedError

    def decode(self, tokens: Tokens) -> list[list[str]]:
        """Nothing here writes."""
        raise NotImplementedError

    def trainable_module(self) -> nn.Module:
        """Nothing is trained."""
        raise NotImplementedError

    def forward(self, values: Tensor) -> Tensor:
        """Nothing is computed."""
        raise NotImplementedError


def paint(folder: Path, quizzes: list[Quiz], *, per_prompt: int = 2, painter: Painter | None = None) -> None:
    """A folder of images of the quizzes."""
    policy = painter or Painter(quizzes)
    draw_prompts(
        policy,
        prompts_of(quizzes),
        folder,
        name="painter",
        sampling=policy.default_sampling(),
        drawing=Drawing(per_prompt=per_prompt, batch=5),
    )
