"""A captioner's networks without weights, and what a pass through each takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, Blip2ForConditionalGeneration

from sightloop.models.captioners.blip2 import Blip2Captioner, Bridge
from sightloop.models.captioners.critic import ValueHead
from sightloop.models.captioners.prompt_reader import PromptReader
from sightloop.models.kinds import is_captioner, is_classic
from sightloop.models.lora import Adapters
from sightloop.models.named_models import base_of
from sightloop.models.open import open_processor, refuse_as
from sightloop.models.precision import DTYPES
from sightloop.planning.classic_networks import classic_networks_of
from sightloop.planning.counting import Language, Pass, count, language_of, on_meta, passing
from sightloop.planning.published import config_of
from sightloop.recipes.vlrm.algorithms import ALGORITHMS
from sightloop.recipes.vlrm.config import VlrmConfig

_WORDS = 64
"""Words by which a value head is measured."""


@dataclass(frozen=True, kw_only=True)
class CaptionerNetworks:
    """What trains captions, on the meta device."""

    name: str
    model: Any
    trained: nn.Module
    """The bridge of a BLIP-2, or adapters."""
    head: nn.Module | None
    """The critic's, with its adapters."""
    adapters: nn.Module | None
    sharded: int
    """Parameters of the layers that `shard` spreads."""
    places: int
    """Positions of the prompt and its image."""
    features: int
    """Numbers that the tower leaves of an image."""
    vocabulary: int
    tower: Pass
    """An image through the frozen tower."""
    bridge: Pass
    """An image from there to the language model; nothing but in BLIP-2."""
    policy: Language
    critic: Language | None
    value: Pass
    """A word through the critic's head."""
    kept_states: float = 0.0
    """Bytes that a row keeps of its image while it is written, besides its positions."""
    shares_tower: bool = False
    """Whether a judge of the same family may read this one's tower."""

    @property
    def has_bridge(self) -> bool:
        """Whether a part of the model itself is trained, and no adapters."""
        return isinstance(self.trained, Bridge)


def captioner_networks_of(config: VlrmConfig, source: str) -> CaptionerNetworks:
    """The networks of a policy by its folder or hub name.

    Raises:
        ValueError: there is no such model, or it is no captioner.
    """
    given = config_of(source)
    if not is_captioner(given):
        refuse_as(given, "a captioner that reads images and writes text", source)
    text = given.to_dict().get("text_config") or {}
    if is_classic(given) or (given.model_type == "blip-2" and text.get("model_type") != "opt"):
        return _classic(config, source, given)
    return (_blip2 if given.model_type == "blip-2" else _generic)(config, source, given)


def _blip2(config: VlrmConfig, source: str, given: Any) -> CaptionerNetworks:
    dtype = DTYPES[config.dtype]
    model = on_meta(lambda: Blip2ForConditionalGeneration(given), dtype)
    trained = Bridge(model).float().requires_grad_(True)
    decoder, vision = model.language_model.model.decoder, given.vision_config
    hidden = given.text_config.hidden_size
    objective, width = vision.image_size, vision.hidden_size
    patches = (objective // vision.patch_size) ** 2 + 1

    def see() -> Tensor:
        return model.vision_model(
            torch.empty(1, 3, objective, objective, dtype=dtype, device="meta")
        ).last_hidden_state

    def bridge() -> Tensor:
        features = torch.empty(1, patches, width, device="meta")
        seen = trained.qformer(query_embeds=trained.query_tokens, encoder_hidden_states=features)
        return trained.language_projection(seen.last_hidden_state)

    layers = [*model.vision_model.encoder.layers, *decoder.layers]
    return CaptionerNetworks(
        name=source,
        model=model,
        trained=trained,
        sharded=count(*layers),
        places=given.num_query_tokens + 1 + len(config.draw.prompt.split()),
        features=patches * width,
        vocabulary=given.text_config.vocab_size,
        tower=passing(see, model.vision_model),
        bridge=passing(bridge, trained, learns=True),
        policy=language_of(decoder, width=hidden, dtype=dtype, gradient_from_below=True),
        shares_tower=True,
        **_critic(config, Blip2Captioner.linears_of(model), hidden, _read_by(decoder, hidden, dtype)),
    )


def _generic(config: VlrmConfig, source: str, given: Any) -> CaptionerNetworks:
    dtype, chosen = DTYPES[config.dtype], config.captioner
    model = on_meta(lambda: AutoModelForImageTextToText.from_config(given, trust_remote_code=False), dtype)
    decoder, head = model.base_model.get_decoder(), model.get_output_embeddings()
    inputs = _inputs(config, source, given)
    linears = {
        name: part
        for name, part in decoder.named_modules()
        if isinstance(part, nn.Linear) and part is not head
    }
    wanted = chosen.lora_targets
    with torch.device("meta"):
        adapted = {n: part for n, part in linears.items() if not wanted or n.rsplit(".", 1)[-1] in wanted}
        trained = Adapters(adapted, rank=chosen.lora_rank, alpha=1.0)
    tower = count(model.base_model) - count(decoder)
    width = int(given.get_text_config().hidden_size)
    with trained.switched(True):
        policy = language_of(decoder, width=width, dtype=dtype, gradient_from_below=False)
    return CaptionerNetworks(
        name=source,
        model=model,
        trained=trained,
        sharded=count(*decoder.layers),
        places=inputs["input_ids"].shape[1],
        features=int((inputs["input_ids"] == _image_token(given)).sum()) * width,
        vocabulary=head.weight.shape[0],
        tower=tower_pass(tower, given.to_dict()["vision_config"], inputs["pixel_values"].numel(), dtype),
        bridge=Pass(),
        policy=policy,
        **_critic(config, linears, width, _read_by(decoder, width, dtype)),
    )


def _classic(config: VlrmConfig, source: str, given: Any) -> CaptionerNetworks:
    found = classic_networks_of(config, source, given)
    adapters = found.trained if isinstance(found.trained, Adapters) else None
    policy, once = found.text.language(adapters)
    bridge = Pass(
        forward=found.bridge.forward + once.forward,
        backward=found.bridge.backward + once.backward,
        live=found.bridge.live,
    )
    return CaptionerNetworks(
        name=source,
        model=found.model,
        trained=found.trained,
        # One copy a rank.
        sharded=0,
        places=found.places,
        features=found.features,
        vocabulary=found.vocabulary,
        tower=found.tower,
        bridge=bridge,
        policy=policy,
        kept_states=found.text.kept,
        **_critic(config, found.linears, found.width, lambda its: found.text.language(its)[0]),
    )


def _read_by(decoder: nn.Module, width: int, dtype: torch.dtype) -> Callable[[Adapters], Language]:
    def read(adapters: Adapters) -> Language:
        with adapters.switched(True):
            return language_of(decoder, width=width, dtype=dtype, gradient_from_below=False)

    return read


def _inputs(config: VlrmConfig, source: str, given: Any) -> dict[str, Tensor]:
    """A prompt with an empty image, by the checkpoint's own processor."""
    objective = config.captioner.image_size or given.to_dict()["vision_config"].get("image_size") or 448
    objective = max(objective) if isinstance(objective, list | tuple) else objective
    reader = PromptReader(
        open_processor(base_of(source), given),
        SimpleNamespace(device="cpu"),
        image_token=_image_token(given),
        template=config.captioner.template or None,
    )
    return reader.inputs([config.draw.prompt], [Image.new("RGB", (objective, objective))])


def _image_token(given: Any) -> int:
    fields = given.to_dict()
    return fields.get("image_token_id") or fields["image_token_index"]


def tower_pass(tower: int, vision: Mapping[str, Any], pixels: int, dtype: torch.dtype) -> Pass:
    """Pixels through a tower of so many parameters: most cannot run without values, so this is estimated."""
    objective = vision["patch_size"]
    objective = objective if isinstance(objective, int) else objective[0]
    patches = pixels / (3 * vision.get("temporal_patch_size", 1) * objective**2)
    width = vision.get("embed_dim") or vision["hidden_size"]
    attention = 4 * width * patches**2 * (vision.get("depth") or vision["num_hidden_layers"])
    # A layer has its input, and its widest part, four times as wide, in three versions.
    live = patches * 16 * width * dtype.itemsize
    return Pass(forward=2 * tower * patches + attention, attention=attention, live=live)


def _critic(
    config: VlrmConfig,
    linears: Mapping[str, nn.Module],
    width: int,
    read: Callable[[Adapters], Language],
) -> dict[str, Any]:
    """Nothing without a critic."""
    if not ALGORITHMS[config.algorithm].has_critic:
        return {"head": None, "adapters": None, "critic": None, "value": Pass()}
    settings = config.critic
    with torch.device("meta"):
        head = ValueHead(width, settings.widths, torch.device("meta"))
        adapters = Adapters(linears, rank=settings.lora_rank, alpha=1.0)
    value = passing(lambda: head(torch.empty(_WORDS, width, device="meta")), head, learns=True)
    each = Pass(forward=value.forward / _WORDS, backward=value.backward / _WORDS, live=value.live / _WORDS)
    return {"head": head, "adapters": adapters, "critic": read(adapters), "value": each}
