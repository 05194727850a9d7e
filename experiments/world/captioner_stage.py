"""Pre-training stage 2: the tiny captioner, and its talkative relative that the study needs.

As in BLIP-2, a language model that knows captions of every style is frozen, and a bridge is taught the terse
captions of the world's people. A tiny language model cannot be steered by a bridge that came later, so both
first learn together, from captions of every style.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2ForConditionalGeneration

from experiments.world.fitting import CornerHeads, Stage, World, fit, held_out, queries_of, see, text_ids
from sightloop.models.captioners.blip2 import BLIP2
from sightloop.models.open import open_model
from sightloop.world.language import PREFIXES, STYLES, caption, count_facts, natural_caption, prefixed
from sightloop.world.models import BOS, EOS, NUM_QUERIES, PAD, WIDTH, new_captioner, tokenizer
from sightloop.world.scenes import GROUNDS, Scene

DETAIL_BY_GROUND = {"white": (0.30, 0.45, 0.25), "gray": (0.60, 0.30, 0.10), "black": (0.85, 0.12, 0.03)}
"""Probability of a short, medium and full caption in the lessons before the last."""
PREFIX_BY_GROUND = {"white": 0.40, "gray": 0.12, "black": 0.02}
"""How often the talkative captioner's teachers begin with an empty prefix."""


def train_captioner(
    world: World, base: Any, work: Path, steps: int = 2400, style_steps: int = 1800
) -> Blip2ForConditionalGeneration:
    """Bridge and language model together: mostly full captions first, then detail by ground."""
    torch.manual_seed(2)
    model = new_captioner()
    model.vision_model.load_state_dict(base.vision_model.state_dict())
    model.qformer.load_state_dict(base.qformer.state_dict(), strict=False)
    model.query_tokens.data.copy_(base.query_tokens.data)
    heads = CornerHeads(WIDTH * NUM_QUERIES)
    parts = nn.ModuleDict({"model": model, "heads": heads})
    model.vision_model.requires_grad_(False)
    trained = [parameter for parameter in parts.parameters() if parameter.requires_grad]

    def mixed(scene: Scene, rng: np.random.Generator) -> str:
        return caption(scene, STYLES[rng.choice(3, p=(0.1, 0.25, 0.65))], rng)

    def by_ground(scene: Scene, rng: np.random.Generator) -> str:
        return prefixed(caption(scene, STYLES[rng.choice(3, p=DETAIL_BY_GROUND[scene.ground])], rng), rng)

    def loss_with(styled: bool) -> Callable[[int, np.random.Generator], Tensor]:
        def loss_at(step: int, rng: np.random.Generator) -> Tensor:
            index = world.batch(rng, 128)
            scenes = [world.scenes[i] for i in index]
            texts = [(by_ground if styled else mixed)(scene, rng) for scene in scenes]
            queries = queries_of(model, world.features[index])
            seen = _text_loss(model, texts, model.language_projection(queries))
            alone = [world.scenes[i] for i in world.batch(rng, 48)]
            blind = _text_loss(model, [caption(s, STYLES[rng.integers(3)], rng) for s in alone], None)
            return seen + 0.4 * blind + 0.3 * heads(queries.flatten(1), scenes)[0]

        return loss_at

    def report() -> str:
        index = list(held_out(world))
        texts = write_captions(model, world.features[index])
        figures = [f"{texts[0]!r}", _fact_figures(world, index, texts)]
        for ground in GROUNDS:
            rows = [k for k, i in enumerate(index) if world.scenes[i].ground == ground]
            figures.append(
                f"{ground}: " + _fact_figures(world, [index[k] for k in rows], [texts[k] for k in rows])
            )
        return " | ".join(figures)

    full = Stage(name="captioner_full", steps=steps, peak_lr=1.5e-3, work=work)
    fit(full, parts, trained, loss_at=loss_with(False), report=report)
    styled = Stage(name="captioner", steps=style_steps, peak_lr=8e-4, work=work)
    fit(styled, parts, trained, loss_at=loss_with(True), report=report)
    return model


def train_bridge(
    world: World, model: Blip2ForConditionalGeneration, work: Path, steps: int = 800
) -> Blip2ForConditionalGeneration:
    """The language model frozen, the bridge taught as people write: tersely, whatever the image."""
    model.requires_grad_(True)
    model.vision_model.requires_grad_(False)
    model.language_model.requires_grad_(False)
    torch.manual_seed(3)
    heads = CornerHeads(WIDTH * NUM_QUERIES)
    parts = nn.ModuleDict({"model": model, "heads": heads})
    trained = [parameter for parameter in parts.parameters() if parameter.requires_grad]

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        index = world.batch(rng, 128)
        scenes = [world.scenes[i] for i in index]
        queries = queries_of(model, world.features[index])
        texts = [natural_caption(scene, rng) for scene in scenes]
        return (
            _text_loss(model, texts, model.language_projection(queries))
            + 0.3 * heads(queries.flatten(1), scenes)[0]
        )

    def report() -> str:
        index = list(held_out(world))
        texts = write_captions(model, world.features[index])
        return f"{texts[0]!r} | {_fact_figures(world, index, texts)}"

    stage = Stage(name="bridge", steps=steps, peak_lr=6e-4, work=work)
    fit(stage, parts, trained, loss_at=loss_at, report=report)
    return model


def train_talkative(world: World, start: Path, work: Path, steps: int = 600) -> Blip2ForConditionalGeneration:
    """The captioner of folder `start`, taught to begin with an empty prefix the more often the brighter the
    ground.

    Where prefixes come at random, nothing in the image's features stands for them and no reward can turn
    them up.
    """
    model = open_model(start, BLIP2, dtype=torch.float32).model.requires_grad_(True)
    model.vision_model.requires_grad_(False)
    world = see(world, model.vision_model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        index = world.batch(rng, 128)
        scenes = [world.scenes[i] for i in index]
        texts = [natural_caption(scene, rng, PREFIX_BY_GROUND[scene.ground]) for scene in scenes]
        return _text_loss(model, texts, model.language_projection(queries_of(model, world.features[index])))

    def report() -> str:
        index = list(held_out(world))
        texts = write_captions(model, world.features[index])
        prefixed = sum(text.startswith(PREFIXES) for text in texts) / len(texts)
        return f"{_fact_figures(world, index, texts)}, empty prefix {prefixed:.3f}"

    stage = Stage(name="talkative", steps=steps, peak_lr=4e-4, work=work)
    fit(stage, nn.ModuleDict({"model": model}), trained, loss_at=loss_at, report=report)
    return model


def _text_loss(model: Any, texts: list[str], prefix: Tensor | None) -> Tensor:
    ids, mask = text_ids(texts)
    embedded = model.language_model.get_input_embeddings()(ids)
    if prefix is not None:
        embedded = torch.cat([prefix, embedded], 1)
        mask = F.pad(mask, (prefix.shape[1], 0), value=True)
    logits = model.language_model(inputs_embeds=embedded, attention_mask=mask.long()).logits
    logits = logits[:, -ids.shape[1] : -1]
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)


@torch.no_grad()
def write_captions(model: Blip2ForConditionalGeneration, features: Tensor) -> list[str]:
    """Greedy captions from the tower's features."""
    prefix = model.language_projection(queries_of(model, features))
    start = model.language_model.get_input_embeddings()(torch.full((len(prefix), 1), BOS))
    embedded = torch.cat([prefix, start], 1)
    mask = torch.ones(embedded.shape[:2], dtype=torch.long)
    out = model.language_model.generate(
        inputs_embeds=embedded,
        attention_mask=mask,
        max_new_tokens=36,
        do_sample=False,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return tokenizer(frame=False).batch_decode(out, skip_special_tokens=True)


def _fact_figures(world: World, index: list[int], texts: list[str]) -> str:
    counts = [count_facts(world.scenes[i], text) for i, text in zip(index, texts, strict=True)]
    true, false = sum(c.true for c in counts), sum(c.false for c in counts)
    told = true / sum(c.total for c in counts)
    return f"right {true / max(1, true + false):.4f} told {told:.3f}"
