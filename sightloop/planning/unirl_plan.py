"""The resource plan of UniRL: parameters, memory by part and FLOPs of a step by phase. No weight is loaded.

Weights and moments are exact; activations and caches are estimates from sizes and lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForUniversalSegmentation,
    CLIPConfig,
    CLIPModel,
)

from sightloop.models.named_models import model_config
from sightloop.models.transformers_internals import is_language_model
from sightloop.planning.flops import (
    ANSWER_SHARE,
    PROMPT,
    QUESTION,
    Lengths,
    has_reference,
    is_relaxed,
    lengths_of,
    num_codes,
    step_flops,
)
from sightloop.planning.networks import Networks, networks_of
from sightloop.planning.precision import is_mixed, precision_lines
from sightloop.planning.vlrm_plan import GIB, count
from sightloop.recipes.unirl.choices import asks_anyone
from sightloop.recipes.unirl.config import UniConfig
from sightloop.rewards.user_functions import names_function

ACTIVATIONS = "activations of a micro-batch, both turns"
_RANKS = (1, 8)
"""Numbers of ranks that the plan shows side by side."""
_CLIP_L: dict[str, Any] = {
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
    "projection_dim": 768,
}
_KNOWN = {"openai/clip-vit-large-patch14": lambda: CLIPConfig(**_CLIP_L)}
"""Known by heart, so that the plan needs no download."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """GiB by part on one rank: what is always there, and what comes and goes."""

    held: dict[str, float]
    passing: dict[str, float]

    @property
    def peak(self) -> float:
        """What is always there with the largest of the rest, which are never there together."""
        return sum(self.held.values()) + max(self.passing.values())


def memory_plan(config: UniConfig, networks: Networks, *, num_ranks: int = 1) -> Memory:
    """GiB by part on each rank."""
    half = 2 if config.dtype == "bfloat16" else 4
    trained = count(networks.trained)
    is_full = networks.adapters is None
    copies = 0 if not is_full else int(has_reference(config)) + int(config.answer.answerer == "frozen")
    held = {f"{name}, frozen": size * half for name, size in _frozen(networks).items()} | {
        "MAGVIT-v2, float32": count(networks.magvit) * 4,
        "language model, trained" if is_full else "adapters, trained": trained * 4,
        "gradients and Adam's moments": trained * 12,
        "reference: a copy of what is trained": copies * _bytes_of_copy(config, networks.trained),
        "grader: a moving average of what is trained": trained * 4 * (config.answer.answerer == "average"),
        **{name: count(model) * 4 for name, model in judges_of(config).items()},
    }
    passing = {
        ACTIVATIONS: _activations(config, networks, num_ranks),
        "while drawing: caches and codes": _drawing(config, networks, num_ranks),
        "while images are decoded": _decoding(config, networks, num_ranks),
    }
    return Memory(
        held={name: size / GIB for name, size in held.items() if size},
        passing={name: size / GIB for name, size in passing.items()},
    )


def _bytes_of_copy(config: UniConfig, trained: nn.Module | None) -> int:
    """Of what is trained as it was before: its matrices are kept in the precision of their products."""
    size = count(trained) * 4
    if not is_mixed(config) or trained is None:
        return size
    matrices = [part.weight.numel() for part in trained.modules() if isinstance(part, nn.Linear)]
    return size - 2 * sum(matrices)


def _frozen(networks: Networks) -> dict[str, int]:
    """Parameters that stay as they are, besides MAGVIT-v2."""
    is_full = networks.adapters is None
    if not networks.is_janus:
        tower = 0 if networks.vision is None else count(networks.vision[0])
        if networks.vision is not None and not is_full:
            tower += count(networks.vision[1])
        return {"language model": 0 if is_full else count(networks.language), "vision tower": tower}
    core: Any = networks.language.model
    eyes = count(core.vision_model) + count(core.aligner)
    rest = count(networks.language) - eyes - count(core.vqmodel)
    rest -= count(networks.trained) if is_full else 0
    return {
        "words and codes" if is_full else "language model": rest,
        "tower": eyes,
        "VQ model": count(core.vqmodel),
    }


def judges_of(config: UniConfig) -> dict[str, nn.Module]:
    """Detectors, color judges and language models that rewards and the evaluation name, on the meta device.

    What a function of the user's needs, nobody knows.

    Raises:
        ValueError: one cannot be found.
    """
    given = {
        "rewards: detector": config.judge.detector if config.rewards.detector else "",
        "rewards: CLIP of colors": config.judge.colors if config.rewards.detector else "",
        "rewards: language model": config.judge.text_model if config.rewards.text_judge else "",
        "evaluation: detector": config.joint.detector if config.joint.per_category else "",
        "evaluation: CLIP of colors": config.joint.colors if config.joint.per_category else "",
    }
    return {title: _judge(name) for title, name in given.items() if name and not names_function(name)}


def _judge(name: str) -> nn.Module:
    found: Any = _KNOWN[name]() if name in _KNOWN else model_config(name)
    with torch.device("meta"):
        if found.model_type == "clip":
            return CLIPModel(found)
        if found.model_type in ("mask2former", "oneformer", "maskformer"):
            return AutoModelForUniversalSegmentation.from_config(found, trust_remote_code=False)
        if is_language_model(found):
            return AutoModelForCausalLM.from_config(found, trust_remote_code=False)
        return AutoModel.from_config(found, trust_remote_code=False)


def _rows(config: UniConfig, num_ranks: int) -> int:
    """Drawings of a rank in a step."""
    return -(-config.prompts // num_ranks) * config.group


def _chunk(config: UniConfig, num_ranks: int) -> int:
    rows = _rows(config, num_ranks)
    return min(rows, config.draw.batch or rows)


def _precision(config: UniConfig) -> int:
    """Bytes of a number in the language model's products."""
    return 4 if config.dtype == "float32" else 2


def _casts(config: UniConfig, networks: Networks) -> int:
    """Bytes of the trained matrices as products read them, while a pass lasts."""
    return 2 * count(networks.trained) if is_mixed(config) else 0


def _layer(lengths: Lengths) -> int:
    """Numbers that a layer keeps of a position for the backward pass."""
    return 10 * lengths.width + 2 * lengths.inner


def _activations(config: UniConfig, networks: Networks, num_ranks: int) -> float:
    lengths = lengths_of(config, networks)
    # Norms and sums of layers are kept in float32: 2.5 to 2.8 of 4 bytes on the embedded world's models.
    bytes_each = 2.7 if is_mixed(config) else _precision(config)
    drawing = lengths.scored * lengths.score_guided * (PROMPT + lengths.canvas)
    if config.drawing_weight == 0 and not is_relaxed(config):
        drawing = 0
    answering = lengths.seen + QUESTION + lengths.answer if config.objectives.answering > 0 else 0
    positions = drawing + answering
    layers = 1 if config.gradient_checkpointing else lengths.layers
    kept = layers * _layer(lengths) + lengths.layers * lengths.width
    # Relaxed codes keep a row of weights each; plain ones are scored a part at a time.
    relaxed = 3 * lengths.codes * num_codes(networks) * 4 if is_relaxed(config) else 0
    rows = min(config.schedule.micro_batch, _rows(config, num_ranks))
    return rows * (positions * kept * bytes_each + relaxed) + _casts(config, networks)


def _drawing(config: UniConfig, networks: Networks, num_ranks: int) -> float:
    """The larger of drawing and answering."""
    lengths, bytes_each = lengths_of(config, networks), _precision(config)
    per_position = lengths.cached * lengths.layers * bytes_each
    if networks.is_janus:
        drawing = lengths.guided * (PROMPT + lengths.codes) * per_position
    else:
        # A round sees the whole image: a layer's work, and the distribution of every code.
        work = lengths.canvas * _layer(lengths) * bytes_each + 3 * lengths.codes * num_codes(networks) * 4
        drawing = lengths.guided * (PROMPT * per_position + work)
    answering = (lengths.seen + QUESTION + lengths.answer) * per_position
    rows = _chunk(config, num_ranks)
    return rows * max(drawing, answering if asks_anyone(config) else 0) + _casts(config, networks)


def _decoding(config: UniConfig, networks: Networks, num_ranks: int) -> float:
    """Two of the largest maps of features."""
    if networks.magvit is not None:
        width, bytes_each = networks.magvit.config.channels * networks.magvit.config.decoder_multipliers[0], 4
        objective = round(_num_image_tokens(networks) ** 0.5) * networks.magvit.factor
    else:
        given: Any = networks.language.config.vq_config
        width, bytes_each = given.base_channels * given.channel_multiplier[0], 2
        bytes_each = 2 if config.dtype == "bfloat16" else 4
        objective = networks.language.config.vision_config.image_size
    return _chunk(config, num_ranks) * 2 * width * objective * objective * bytes_each


def _num_image_tokens(networks: Networks) -> int:
    assert networks.sizes is not None
    return networks.sizes.num_image_tokens


def print_plan(config: UniConfig, *, is_paper: bool = False) -> None:
    """The plan as three small tables."""
    networks = networks_of(config, is_paper=is_paper)
    print(f"policy: {networks.name}")
    print("parameters")
    for name, number in parameter_counts(config, networks).items():
        print(f"  {name:<52} {number:>15,}")
    print("\n".join(precision_lines(config)))
    columns = [memory_plan(config, networks, num_ranks=number) for number in _RANKS]
    print(f"{'memory on each rank, GiB (estimate)':<54} {'1 rank':>15} {'of 8':>15}")
    for name in columns[0].held:
        print(f"  {name:<52} " + " ".join(f"{column.held[name]:>15.3f}" for column in columns))
    for name in columns[0].passing:
        print(f"  {name:<52} " + " ".join(f"{column.passing[name]:>15.3f}" for column in columns))
    told = "together (of the last three the largest)"
    print(f"  {told:<52} " + " ".join(f"{column.peak:>15.3f}" for column in columns))
    if networks.adapters is not None and has_reference(config):
        print("  (the reference is the policy with its adapters off: no memory)")
    flops = step_flops(config, networks)
    print(
        f"FLOPs of a step of {config.prompts} prompts with {config.group} drawings, all ranks (expected; "
        f"prompts of {PROMPT} tokens, answers of {ANSWER_SHARE:.0%} of the limit; judges not counted)"
    )
    for name, number in (flops | {"together": sum(flops.values())}).items():
        print(f"  {name:<52} {number:>15.3e}")


def parameter_counts(config: UniConfig, networks: Networks) -> dict[str, int]:
    """Parameters by network, and how many learn."""
    if networks.is_janus:
        core: Any = networks.language.model
        found = {
            "Janus": count(networks.language),
            "  language model": count(core.language_model) + count(networks.language.lm_head),
            "  vision tower and its aligner": count(core.vision_model) + count(core.aligner),
            "  VQ model": count(core.vqmodel),
            "  what reads and writes codes": count(core.generation_embeddings)
            + count(core.generation_aligner)
            + count(core.generation_head),
        }
    else:
        found = {"Show-o's language model": count(networks.language), "MAGVIT-v2": count(networks.magvit)}
        if networks.vision is not None:
            found["vision tower and its projector"] = count(networks.vision)
    learned = "adapters, which learn" if networks.adapters is not None else "of these learn"
    found[learned] = count(networks.trained)
    return found | {name: count(model) for name, model in judges_of(config).items()}
