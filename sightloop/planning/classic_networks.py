"""The networks of captioners whose images do not stand among the words of a prompt, without weights.

They are run on the meta device by their own rows, as training runs them: the tower, what leads from its
features to the language model, and texts of three lengths, which tell what an image costs once, what a word
does, and what a pair of words.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from sightloop.models.captioners.blip2 import Bridge
from sightloop.models.captioners.encoder_decoder import architecture_of
from sightloop.models.captioners.image_states import ImageStates, SeenStates, part_of
from sightloop.models.families import CaptionerChoices
from sightloop.models.lora import Adapters, adaptable
from sightloop.models.open import open_images, open_tokenizer
from sightloop.models.precision import DTYPES
from sightloop.models.written_text import template_ids
from sightloop.planning.counting import Language, Pass, on_meta, passing
from sightloop.recipes.vlrm.config import VlrmConfig

_LENGTHS = (8, 16, 32)
"""Words of the texts that are measured."""


@dataclass(frozen=True, kw_only=True)
class ClassicNetworks:
    """What such a captioner has beside a critic."""

    model: Any
    trained: nn.Module
    linears: dict[str, nn.Module]
    """What adapters may sit on."""
    text: MeasuredText
    tower: Pass
    features: int
    bridge: Pass
    """What leads from features to the language model."""
    places: int
    vocabulary: int
    width: int


def classic_networks_of(config: VlrmConfig, source: str, given: Any) -> ClassicNetworks:
    """The networks of such a captioner by its folder or hub name.

    Raises:
        ValueError: its tokenizer or image processor cannot be opened, or it cannot run without weights.
    """
    dtype, chosen, plan = DTYPES[config.dtype], config.captioner, architecture_of(given)
    model = on_meta(lambda: AutoModelForImageTextToText.from_config(given, trust_remote_code=False), dtype)
    images, words = open_images(AutoImageProcessor, source), open_tokenizer(AutoTokenizer, source)
    states = ImageStates(model, plan, words=words, images=images, template=chosen.template or None, pad=0)
    linears = {
        name: part
        for name, part in adaptable(part_of(model, plan.language)).items()
        if part is not states.head
    }
    trained = Bridge(model).float().requires_grad_(True) if plan.bridge else _adapters(linears, chosen)
    pixels = images(images=[Image.new("RGB", (64, 64))], return_tensors="pt")["pixel_values"]
    seen: list[Tensor] = []

    def see() -> Tensor:
        seen[:] = [states.tower(torch.empty(pixels.shape, dtype=dtype, device="meta")).last_hidden_state]
        return seen[0]

    tower = passing(see, states.tower)
    asked = torch.ones(1, len(template_ids(words, states.prompt_text(config.draw.prompt))), dtype=torch.long)
    prompt = {"input_ids": asked.to("meta"), "attention_mask": asked.to("meta")}
    given_queries = prompt if given.model_type == "instructblip" else {}

    def enter() -> Tensor:
        return plan.enter(model, torch.empty_like(seen[0]), given_queries)

    with torch.no_grad():
        entered = enter()
    bridge = passing(enter, trained, learns=True) if plan.bridge else Pass()
    if plan.form == "encoded":
        entered = torch.empty(1, entered.shape[1] + asked.shape[1], entered.shape[2], device="meta")
        encoder = part_of(model, plan.encoder)

        def encode() -> Tensor:
            embedded = _input(entered.shape, dtype, learns=bool(plan.bridge))
            return encoder(inputs_embeds=embedded).last_hidden_state

        with _on(trained if isinstance(trained, Adapters) else None):
            bridge = _sum(bridge, passing(encode, encoder, learns=True))
    starts = max(1, len(states.starts([config.draw.prompt])[0]))
    text = MeasuredText(states, entered.shape, dtype)
    return ClassicNetworks(
        model=model,
        trained=trained,
        linears=linears,
        text=text,
        tower=tower,
        features=seen[0].numel(),
        bridge=bridge,
        places=starts + text.in_front,
        vocabulary=states.head.out_features,
        width=states.head.in_features,
    )


def _adapters(linears: dict[str, nn.Module], chosen: CaptionerChoices) -> Adapters:
    wanted = chosen.lora_targets
    adapted = {
        name: part for name, part in linears.items() if not wanted or name.rsplit(".", 1)[-1] in wanted
    }
    with torch.device("meta"):
        return Adapters(adapted, rank=chosen.lora_rank, alpha=1.0)


class MeasuredText:
    """A text model with the states of one image."""

    def __init__(self, states: ImageStates, entered: torch.Size, dtype: torch.dtype) -> None:
        self.states, self.entered, self.dtype = states, entered, dtype
        front = len(states.plan.front(states.model, states.words))
        self.in_front = entered[1] + front if states.plan.form in ("before", "in front") else 0
        """Positions before the words."""
        self.layers = int(states.text.config.get_text_config(decoder=True).num_hidden_layers)
        self.width = states.head.in_features * dtype.itemsize

    @property
    def kept(self) -> float:
        """Bytes of the image's keys and values that a row has while it is written, if not by position."""
        return 0.0 if self.in_front else 2.0 * self.layers * self.width * self.entered[1]

    def language(self, adapters: Adapters | None) -> tuple[Language, Pass]:
        """What a word takes with these adapters on, and what an image takes once."""
        with _on(adapters):
            read = [passing(lambda n=n: self._run(n), self.states.text) for n in _LENGTHS]
            learned = [passing(lambda n=n: self._run(n), self.states.text, learns=True) for n in _LENGTHS]
        once, reading = self._fitted(read)
        learning_once, learning = self._fitted(learned)
        # The positions in front are counted as positions.
        both = Pass() if self.in_front else Pass(forward=once.forward, backward=learning_once.backward)
        cached = 2.0 * self.layers * self.width
        language = Language(
            reading=reading, learning=learning, width=self.width, layers=self.layers, cached=cached
        )
        return language, both

    def _run(self, words: int) -> Tensor:
        width = self.states.embed(torch.ones(1, 1, dtype=torch.long, device="meta")).shape[-1]
        plan = self.states.plan
        # Something learns below: queries, or adapters on an encoder.
        learns = bool(plan.bridge) or plan.form == "encoded"
        before = self.in_front if plan.form == "in front" else 0
        embeds = _input((1, words + before, width), self.dtype, learns=learns and before > 0)
        seen = _input(self.entered, self.dtype, learns=learns)
        return self.states._run(embeds, SeenStates(states=seen))

    def _fitted(self, passes: list[Pass]) -> tuple[Pass, Pass]:
        """What is there once, and what comes with each position and pair of positions."""
        at = [float(length + self.in_front) for length in _LENGTHS]
        forward = _parabola(at, [each.forward for each in passes])
        backward = _parabola(at, [each.backward for each in passes])
        live = passes[-1].live / at[-1]
        each = Pass(
            forward=forward[1],
            attention=forward[2],
            backward=backward[1],
            attention_backward=backward[2],
            live=live,
        )
        return Pass(forward=forward[0], backward=backward[0]), each


def _parabola(at: list[float], values: list[float]) -> tuple[float, float, float]:
    """The parabola through three points."""
    (a, b, c), (u, v, w) = at, values
    rise, more = (v - u) / (b - a), (w - v) / (c - b)
    square = (more - rise) / (c - a)
    slope = rise - square * (a + b)
    return u - slope * a - square * a * a, slope, square


def _input(shape: Sequence[int], dtype: torch.dtype, *, learns: bool) -> Tensor:
    empty = torch.empty(tuple(shape), dtype=dtype, device="meta")
    return empty.requires_grad_() if learns and torch.is_grad_enabled() else empty


def _on(adapters: Adapters | None) -> Any:
    return nullcontext() if adapters is None else adapters.switched(True)


def _sum(one: Pass, other: Pass) -> Pass:
    second = asdict(other)
    return Pass(**{name: value + second[name] for name, value in asdict(one).items()})
