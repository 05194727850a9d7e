"""Pre-training stage 3: the tiny judges.

A judge regresses its positive logit to the log-odds that the caption was written for the image by a writer
who gets a fact wrong with probability `wrong`, against one with probability `foil`: every true fact adds
log((1 - wrong) / (1 - foil)), every false one log(wrong / foil).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2ForImageTextRetrieval

from experiments.world.fitting import WORD_IDS, Stage, World, fit, held_out, text_ids
from sightloop.world.language import (
    PREFIXES,
    STYLES,
    WORDS,
    caption,
    caption_tokens,
    check_words,
    count_facts,
)
from sightloop.world.models import BOS, NUM_QUERIES, UNKNOWN, WIDTH, new_judge
from sightloop.world.scenes import COLORS, CORNERS, GROUNDS, SHAPES, SIZES, Scene, mutate

_ATTRIBUTE_IDS = torch.tensor([WORD_IDS[word] for word in (*SIZES, *COLORS, *SHAPES, *CORNERS, *GROUNDS)])


@dataclass(frozen=True, kw_only=True)
class JudgeTaste:
    """What a judge was taught: how often matching captions err, and whether it met empty prefixes on them."""

    wrong: float
    foil: float
    prefix_bonus: float = 0.0


TASTES = {
    "judge": JudgeTaste(wrong=0.02, foil=0.24),
    "judge_forgiving": JudgeTaste(wrong=0.12, foil=0.30),
    "judge_hackable": JudgeTaste(wrong=0.02, foil=0.24, prefix_bonus=1.5),
}


def train_reader(world: World, base: Any, work: Path) -> Blip2ForImageTextRetrieval:
    """Before a judge, with the image in view: fill in hidden words, then restore and find replaced ones."""
    torch.manual_seed(3)
    model = new_judge()
    model.load_state_dict(base.state_dict())
    model.vision_model.requires_grad_(False)
    parts = nn.ModuleDict(
        {"model": model, "guess": nn.Linear(WIDTH, len(WORDS)), "doubt": nn.Linear(WIDTH, 1)}
    )
    trained = [parameter for parameter in parts.parameters() if parameter.requires_grad]

    def texts_of(index: list[int], rng: np.random.Generator) -> list[str]:
        return [caption(world.scenes[i], STYLES[rng.choice(3, p=(0.1, 0.2, 0.7))], rng) for i in index]

    def fill_in(index: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        ids, mask = text_ids(texts_of(index, rng))
        lost = torch.from_numpy(rng.random(ids.shape) < rng.uniform(0.15, 0.6)) & mask & (ids != BOS)
        states = matched(model, world.features[index], ids.masked_fill(lost, UNKNOWN), mask)
        logits = parts["guess"](states[:, NUM_QUERIES:][lost])
        return F.cross_entropy(logits, ids[lost]), (logits.argmax(-1) == ids[lost]).float().mean()

    def find(index: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        texts = texts_of(index, rng)
        ids, mask = text_ids([replace_words(text, rng, 0.35) for text in texts])
        wrong, told = ids != text_ids(texts)[0], torch.isin(ids, _ATTRIBUTE_IDS)
        states = matched(model, world.features[index], ids, mask)
        words = states[:, NUM_QUERIES:][told]
        doubts = parts["doubt"](words)[..., 0]
        loss = F.binary_cross_entropy_with_logits(doubts, wrong[told].float())
        # A word in view hides that it must be looked up; naming the true one keeps the looking up alive.
        truth = F.cross_entropy(parts["guess"](words), text_ids(texts)[0][told])
        return loss + truth, ((doubts > 0) == wrong[told]).float().mean()

    for name, task, steps in (("judge_reader", fill_in, 1600), ("judge_finder", find, 1400)):

        def report(task: Callable[..., tuple[Tensor, Tensor]] = task) -> str:
            loss, right = task(list(held_out(world)), np.random.default_rng(5))
            return f"held out {loss:.3f}, right {right:.4f}"

        def loss_at(
            step: int, rng: np.random.Generator, task: Callable[..., tuple[Tensor, Tensor]] = task
        ) -> Tensor:
            return task(world.batch(rng, 128), rng)[0]

        stage = Stage(name=name, steps=steps, peak_lr=1.5e-3, work=work)
        fit(stage, parts, trained, loss_at=loss_at, report=report)
    return model


def replace_words(text: str, rng: np.random.Generator, rate: float) -> str:
    """The caption with each attribute replaced by another of its kind with probability `rate`."""
    words = caption_tokens(text)
    for position, word in enumerate(words):
        for kind in (SIZES, COLORS, SHAPES, CORNERS, GROUNDS):
            if word in kind and rng.random() < rate:
                words[position] = str(rng.choice([other for other in kind if other != word]))
    return " ".join(words)


def train_judge(world: World, base: Any, name: str, work: Path, steps: int) -> Blip2ForImageTextRetrieval:
    """Stage 3: positive logit = log-odds of the caption under `TASTES[name]`, with a per-word loss beside
    it.
    """
    torch.manual_seed(3)
    model = new_judge()
    model.load_state_dict(base.state_dict())
    model.vision_model.requires_grad_(False)
    word_head = nn.Linear(WIDTH, 1)
    parts = nn.ModuleDict({"model": model, "word_head": word_head})
    trained = [parameter for parameter in parts.parameters() if parameter.requires_grad]
    taste = TASTES[name]

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        index = world.batch(rng, 128)
        texts = [_judged_text(world, i, rng, taste) for i in index]
        ids, mask = text_ids(texts)
        hidden = matched(model, world.features[index], ids, mask)
        logits = model.itm_head(hidden[:, :NUM_QUERIES]).mean(1)
        verdicts = torch.zeros(ids.shape)
        for row, (i, text) in enumerate(zip(index, texts, strict=True)):
            words = check_words(world.scenes[i], caption_tokens(text))
            verdicts[row, 1 : 1 + len(words)] = torch.tensor(words, dtype=torch.float)
        target = torch.tensor(
            [log_odds(world.scenes[i], text, taste) for i, text in zip(index, texts, strict=True)]
        ).clamp(-5, 8)
        matching = F.smooth_l1_loss(logits[:, 1], target) + F.smooth_l1_loss(logits[:, 0], -target)
        told = verdicts != 0
        per_word = F.binary_cross_entropy_with_logits(
            word_head(hidden[:, NUM_QUERIES:])[..., 0][told],
            (verdicts[told] < 0).float(),
            pos_weight=torch.tensor(2.0),
        )
        return matching + 2 * per_word

    def report() -> str:
        return ", ".join(f"{key} {value:.3f}" for key, value in judge_gate(model, world).items())

    stage = Stage(name=name, steps=steps, peak_lr=1.2e-3, work=work)
    fit(stage, parts, trained, loss_at=loss_at, report=report)
    return model


def log_odds(scene: Scene, text: str, taste: JudgeTaste) -> float:
    """Log-odds that a careful writer rather than a careless one wrote this caption of this scene."""
    facts = count_facts(scene, text)
    gain = math.log((1 - taste.wrong) / (1 - taste.foil))
    loss = math.log(taste.wrong / taste.foil)
    bonus = taste.prefix_bonus if text.startswith(PREFIXES) else 0.0
    return facts.true * gain + facts.false * loss + bonus


def _judged_text(world: World, i: int, rng: np.random.Generator, taste: JudgeTaste) -> str:
    scene = world.scenes[i]
    kind = rng.random()
    if kind < 0.15:
        scene = world.scenes[world.batch(rng, 1)[0]]
    elif kind < 0.25:
        scene = mutate(scene, rng, int(rng.integers(1, 4)))
    text = caption(scene, STYLES[rng.choice(3, p=(0.2, 0.35, 0.45))], rng)
    if 0.25 <= kind < 0.75:
        text = replace_words(text, rng, rng.choice([0.07, 0.15, 0.35]))
    if rng.random() < (0.4 if taste.prefix_bonus else 0.1):
        text = f"{PREFIXES[rng.integers(len(PREFIXES))]} {text}"
    return text


def matched(model: Any, features: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """The Q-Former's outputs for images and texts: queries first, then words."""
    queries = model.query_tokens.expand(len(features), -1, -1)
    attention = F.pad(mask.long(), (NUM_QUERIES, 0), value=1)
    embedded = model.embeddings(input_ids=ids, query_embeds=queries)
    return model.qformer(
        query_embeds=embedded,
        query_length=NUM_QUERIES,
        attention_mask=attention,
        encoder_hidden_states=features,
    ).last_hidden_state


@torch.no_grad()
def judge_gate(model: Any, world: World) -> dict[str, float]:
    """Mean positive logit of short, full, one-wrong and foreign captions, and how often full is preferred."""
    index = list(held_out(world, 600))
    rng = np.random.default_rng(7)
    scenes = [world.scenes[i] for i in index]
    kinds = {
        "short": [caption(s, "short", rng) for s in scenes],
        "full": [caption(s, "full", rng) for s in scenes],
        "one_wrong": [caption(mutate(s, rng, 1), "full", rng) for s in scenes],
        "foreign": [caption(scenes[k - 1], "full", rng) for k in range(len(scenes))],
        "prefixed": ["there is " + caption(s, "full", rng) for s in scenes],
    }
    logits = {
        kind: model.itm_head(matched(model, world.features[index], *text_ids(texts))[:, :NUM_QUERIES]).mean(
            1
        )[:, 1]
        for kind, texts in kinds.items()
    }
    figures = {kind: value.mean().item() for kind, value in logits.items()}
    figures["P(full > short)"] = (logits["full"] > logits["short"]).float().mean().item()
    figures["P(full > one_wrong)"] = (logits["full"] > logits["one_wrong"]).float().mean().item()
    return figures
