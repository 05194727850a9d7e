"""How long the passes of a UniRL step are, and the FLOPs of a step by phase; no weight is loaded.

FLOPs are 2 a weight and position forward, 2 more backward to inputs, 2 more to weights that learn, and those
of attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sightloop.algorithms.methods import METHODS
from sightloop.planning.networks import Networks
from sightloop.planning.vlrm_plan import count
from sightloop.recipes.unirl.choices import asks_anyone
from sightloop.recipes.unirl.config import GrpoConfig, SftConfig, UniConfig

PROMPT, QUESTION = 16, 24
"""Assumed tokens of a prompt, and of a question with its frame."""
ANSWER_SHARE = 0.5
"""Assumed mean length of answers, as a share of the limit."""
_SYSTEM = 28
"""Tokens before the features of a tower that Show-o reads."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Positions and widths that the estimates are made of."""

    codes: int
    """Codes of an image."""
    canvas: int
    """Positions that every pass over an image runs through."""
    seen: int
    """Positions of an image that is asked about."""
    answer: float
    """Words of an answer."""
    width: int
    inner: int
    layers: int
    cached: int
    """Numbers that a position leaves in the cache of a layer."""
    rounds: int
    """Passes that draw an image; Janus' codes go one by one, which is one pass in all."""
    scored: int
    """Passes that score a drawing."""
    guided: int
    """2 if the distribution that draws is guided, else 1."""
    score_guided: int


def lengths_of(config: UniConfig, networks: Networks) -> Lengths:
    """Read off the configuration and the networks."""
    if networks.is_janus:
        text: Any = networks.language.config.text_config
        vision: Any = networks.language.config.vision_config
        codes, seen = vision.num_image_tokens, vision.num_image_tokens
        canvas, inner, kept = codes, 2 * text.intermediate_size, text.num_key_value_heads
        usual_guidance, rounds = 5.0, 1
    else:
        text, codes = networks.language.config, networks.sizes.num_image_tokens  # pyright: ignore
        canvas = codes + 2
        seen, inner, kept = canvas, text.intermediate_size, text.num_attention_heads
        if networks.vision is not None:
            tower: Any = networks.vision[0].config  # pyright: ignore
            seen = _SYSTEM + (tower.image_size // tower.patch_size) ** 2
        large = codes >= 1024
        usual_guidance = 5.0 if large else 1.75
        rounds = min(config.draw.steps or (50 if large else 18), codes)
    guidance = usual_guidance if config.draw.guidance is None else config.draw.guidance
    guided = 2 if guidance > 0 else 1
    likelihood = config.likelihood if isinstance(config, GrpoConfig | SftConfig) else None
    number = 1 if likelihood is None else likelihood.number
    drawn = rounds if likelihood is None or likelihood.unmasking == "trajectory" else min(number, rounds)
    return Lengths(
        codes=codes,
        canvas=canvas,
        seen=seen,
        answer=ANSWER_SHARE * config.answer.max_tokens,
        width=text.hidden_size,
        inner=inner,
        layers=text.num_hidden_layers,
        cached=2 * kept * (text.hidden_size // text.num_attention_heads),
        rounds=rounds,
        scored=_relaxed_rounds(config, rounds) if is_relaxed(config) else drawn,
        guided=guided,
        score_guided=guided if is_relaxed(config) or (likelihood is not None and likelihood.guided) else 1,
    )


def is_relaxed(config: UniConfig) -> bool:
    """Whether the answer's loss reaches the drawing side."""
    return isinstance(config, SftConfig) and config.end_to_end


def _relaxed_rounds(config: UniConfig, rounds: int) -> int:
    relaxation = config.relaxation if isinstance(config, SftConfig) else None
    if relaxation is None or relaxation.codes in (None, "one-round"):
        return 1
    return rounds if relaxation.number is None else min(relaxation.number, rounds)


def has_reference(config: UniConfig) -> bool:
    """Whether the divergence from the policy before training counts."""
    if isinstance(config, SftConfig):
        return config.kl_weight > 0
    if not isinstance(config, GrpoConfig):
        return False
    if config.kl_weight is None:
        return METHODS[config.method].penalty
    return config.kl_weight > 0


def num_codes(networks: Networks) -> int:
    """Different codes of an image's cells."""
    if networks.sizes is not None:
        return networks.sizes.num_codes
    return networks.language.config.vq_config.num_embeddings


def step_flops(config: UniConfig, networks: Networks) -> dict[str, float]:
    """Expected FLOPs of one step by phase, over all ranks; judges of rewards are not counted."""
    lengths, rows = lengths_of(config, networks), config.prompts * config.group
    of = _Passes(networks, lengths)
    back = (3 if config.model.trained == "full" else 2) + config.gradient_checkpointing
    canvas = of.through(lengths.canvas, PROMPT + lengths.canvas) + lengths.codes * of.code
    prompt = of.through(PROMPT, PROMPT)
    question = of.through(QUESTION + lengths.answer, lengths.seen) + lengths.answer * of.word
    answer = of.through(lengths.seen, lengths.seen) + question
    scored = lengths.scored * lengths.score_guided * (canvas + prompt)
    asks = 1 + (config.rewards.negative_questions > 0) + config.judge.subtract_blind_baseline
    learns_drawing = config.drawing_weight > 0
    flops = {
        "drawing": rows * lengths.guided * (lengths.rounds * canvas + prompt),
        "codes to images": rows * of.decode,
    }
    if asks_anyone(config):
        flops["images to features"] = rows * of.look
        flops["asking"] = rows * (answer + (asks - 1) * question)
    updates = config.updates if isinstance(config, GrpoConfig) else 1
    turns = {
        "drawing": scored if learns_drawing else 0.0,
        "answering": answer * (config.objectives.answering > 0),
    }
    if has_reference(config):
        flops["reference"] = rows * sum(turns.values())
    if is_relaxed(config):
        # The answer's gradient goes back through what shows a drawing, to its codes.
        turns["drawing"] = scored
        flops["through the drawings, forward and backward"] = (
            rows * 2 * (of.decode + of.look) * networks.is_janus
        )
    for name, each in turns.items():
        flops[f"{name}, forward and backward"] = updates * rows * back * each
    return {name: number for name, number in flops.items() if number}


class _Passes:
    """FLOPs of the passes that a step is made of, for one image."""

    def __init__(self, networks: Networks, lengths: Lengths) -> None:
        model = networks.language.model
        trunk = model.language_model if networks.is_janus else model
        self._body, self._lengths = count(trunk.layers), lengths
        vocabulary: Any = networks.language.lm_head
        if networks.is_janus:
            self.word = 2 * count(vocabulary)
            self.code = 2 * (count(model.generation_head) + count(model.generation_aligner))
            given, objective = networks.language.config, round(lengths.codes**0.5)
            self.decode = counted(
                model.vqmodel.decoder, (1, given.vq_config.latent_channels, objective, objective)
            )
            pixels = given.vision_config.image_size
            tower = counted(model.vision_model, (1, 3, pixels, pixels))
            self.look = tower + 2 * count(model.aligner) * lengths.codes
        else:
            assert networks.magvit is not None
            self.code = 2 * lengths.width * num_codes(networks)
            self.word = 2 * lengths.width * (vocabulary.out_features - num_codes(networks))
            objective = round(lengths.codes**0.5)
            self.decode = counted(
                networks.magvit.decoder, (1, networks.magvit.config.num_bits, objective, objective)
            )
            self.look = 0.0
            if networks.vision is not None:
                tower, projector = networks.vision
                given: Any = tower.config
                pixels = given.image_size
                self.look = counted(tower, (1, 3, pixels, pixels)) + 2 * count(projector) * lengths.seen

    def through(self, positions: float, context: float) -> float:
        """The layers over positions that see a context."""
        attention = 4 * self._lengths.width * self._lengths.layers * context
        return positions * (2 * self._body + attention)


def counted(module: nn.Module, shape: tuple[int, ...]) -> float:
    """FLOPs of a module over an input of this shape, without computing."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.empty(shape, device="meta"))
    return float(counter.get_total_flops())
