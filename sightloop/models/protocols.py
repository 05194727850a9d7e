"""The whole interface of a model: what captioners and image generators must have, and what they may have.

Whoever uses what a model may have asks for it first (`require_members`): one sentence names what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sightloop.models.families import CaptionerChoices, Learning, Parts
from sightloop.types import Images, Policy, Sampling, Tokens, Turn

if TYPE_CHECKING:
    from sightloop.models.mixed_precision import MixedPrecision

ValuePosition = Literal["pre", "post"]
Contexts = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]
"""Called in the forward pass of each layer: contexts of that pass and of its later recomputations, which may
be several; contexts must allow to be entered again.
"""


# -- writes captions


class Captioner(Policy, Protocol):
    """A policy that writes about images and whose vision tower is frozen."""

    image_size: int
    """Side of the square images that it reads, in pixels."""

    def encode_images(self, images: Images) -> Images:
        """The same images with the frozen tower's features added."""
        ...

    def is_end(self, tokens: Tokens) -> Bool[Tensor, "B T"]:
        """True where a token is the end token."""
        ...

    def reference_log_probs(self, tokens: Tokens) -> Float[Tensor, "B T"]:
        """Log-probabilities of the text alone under the frozen language model, no image, no adapters."""
        ...

    def trainable_module(self) -> nn.Module:
        """What an optimizer may change and a checkpoint holds, in float32."""
        ...


class SupportsBeams(Protocol):
    """A captioner that also writes by beam search."""

    def write(
        self,
        images: Images,
        *,
        prompt: str,
        beams: int,
        no_repeat_ngram: int,
        min_tokens: int,
        max_tokens: int,
    ) -> list[str]:
        """Captions under the rules of caption evaluations."""
        ...


class SeesWhole(Protocol):
    """A captioner whose own processor makes its input of images in their own shapes (`Images.whole`)."""

    sees_whole: bool
    """False where squares of a fixed size are wanted."""


def sees_whole(captioner: Any) -> bool:
    """Whether a captioner is to be given images in their own shapes."""
    return not missing_members(captioner, SeesWhole) and captioner.sees_whole


class ReadsMessages(Protocol):
    """A captioner whose prompts may hold several messages, and several images or none."""

    reads_messages: bool


class SupportsCritic(Protocol):
    """A captioner whose hidden states a critic can read."""

    hidden_size: int

    def trunk_linears(self) -> Mapping[str, nn.Module]:
        """The language model's linear layers by name."""
        ...

    def hidden_states(self, turn: Turn, position: ValuePosition = "pre") -> Float[Tensor, "B T h"]:
        """Last hidden state at each token: `pre` the one that predicts it, `post` the one that has read it.

        The policy's trainable parts receive no gradient through it.
        """
        ...


class SupportsSharding(Protocol):
    """A captioner whose frozen weights can be spread over ranks."""

    all_ranks_finished: Callable[[bool], bool]
    """Asked before every drawn token: ranks with parts of the weights must take the same steps."""

    def shard_units(self) -> list[nn.Module]:
        """The frozen layers that are gathered one at a time."""
        ...


class SharesTower(Protocol):
    """A captioner whose vision tower a judge may read, where the two are equal."""

    tower_key: str
    """Key of the tower's features in `Images.features`."""

    @property
    def tower(self) -> nn.Module:
        """The frozen vision tower."""
        ...

    def prepares_like(self, mean: tuple[float, ...], std: tuple[float, ...], size: int) -> bool:
        """Whether pixels become the tower's input in this way."""
        ...


class SupportsCheckpointing(Protocol):
    """A captioner that can recompute its layers in the backward pass."""

    def enable_gradient_checkpointing(self, contexts: Contexts | None = None) -> None:
        """Do so from now on; `contexts` restore what the layers depended on (a critic's adapters)."""
        ...


# -- draws and answers


class ImageGenerator(Policy, Protocol):
    """A policy that also draws images: `sample` of a prompt that `wants` an image returns its tokens."""

    num_image_tokens: int
    """Tokens of an image."""

    @property
    def adapters(self) -> nn.Module | None:
        """What learns, where that is adapters; it then has `adapters_off` too. None = weights of its own."""
        ...

    @property
    def templates(self) -> Mapping[str, str]:
        """The strings around prompts and questions, for records."""
        ...

    def default_sampling(self, **changes: Any) -> Sampling:
        """The distribution its authors draw images with, with `changes`; `decode_steps` None = left to
        right."""
        ...

    def pixels(self, tokens: Tokens) -> Images:
        """Images of image tokens, without gradient."""
        ...

    def image_tokens(self, images: Images) -> Tokens:
        """Image tokens of images; all count."""
        ...

    def understanding_input(self, tokens: Tokens) -> Images | Tokens:
        """What questions about drawn codes read: the codes, or images with features of frozen towers."""
        ...

    def trainable_module(self) -> nn.Module:
        """What an optimizer may change and a checkpoint holds."""
        ...


class SupportsReference(Policy, Protocol):
    """A policy that knows itself as it was before training."""

    def adapters_off(self) -> AbstractContextManager[None]:
        """The policy as it was before training, inside."""
        ...


class SupportsMixedPrecision(Protocol):
    """An image generator all of whose weights can be trained in float32 with products in half precision."""

    mixed: MixedPrecision

    def compute_in(self, dtype: torch.dtype) -> None:
        """Compute products of trained weights in `dtype` from now on."""
        ...


class RecomputesLayers(Protocol):
    """An image generator that can recompute its layers in the backward pass."""

    def enable_gradient_checkpointing(self) -> None:
        """Do so from now on."""
        ...


# -- what a row of the table of families does (models/families.py)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card says."""

    base: str
    steps: int
    metrics: Mapping[str, tuple[float, float]]
    """Held-out figures before and after."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """The ends of the 95% interval of their paired changes, where they are known."""
    protocol: str = ""
    """Hash of the protocol of the evaluation."""
    hub_name: str = ""
    """What the hub calls the base, if that is known of a folder."""
    license_name: str = ""

    @property
    def published_base(self) -> str:
        """The base's name on the hub; "" if it has none that is known."""
        return self.hub_name or ("" if Path(self.base).exists() else self.base)

    @property
    def linked_base(self) -> str:
        """The base in a sentence."""
        name = self.published_base
        return f"[{name}](https://huggingface.co/{name})" if name else f"`{Path(self.base).name}`"

    def head(self, *lines: str) -> list[str]:
        """The beginning of the hub's header."""
        known = {"license": self.license_name, "base_model": self.published_base}
        return ["---", *lines, *(f"{key}: {value}" for key, value in known.items() if value)]

    def table(self, title: str) -> list[str]:
        """The metrics as Markdown, with what they were measured by; nothing where there are none."""
        if not self.metrics:
            return []
        more = (" change, 95% interval |", "--:|") if self.intervals else ("", "")
        lines = [f"| {title} | before | after |{more[0]}", f"|---|--:|--:|{more[1]}"]
        for name, (before, after) in self.metrics.items():
            low, high = self.intervals.get(name, (None, None))
            interval = "" if low is None else f" [{low:+.3f}, {high:+.3f}] |"
            lines.append(f"| {name} | {before:.3f} | {after:.3f} |{interval or (more[0] and ' |')}")
        protocol = [f"Protocol of the evaluation: `{self.protocol}`.", ""] if self.protocol else []
        return [*lines, "", *protocol]


@dataclass(frozen=True, kw_only=True)
class Export:
    """How a run's captioner is to be written."""

    run: Path
    form: Literal["folder", "merged", "tensors"]
    dtype: torch.dtype
    card: Card
    prompt: str
    """What captions were drawn for in training."""
    decoding: Mapping[str, int]
    """Options of `generate` that the run was evaluated with."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How a written folder is used, for its model card; `FOLDER` stands for it."""

    library: str
    """That loads it."""
    lines: Sequence[str]
    """Markdown."""


class LoadCaptioner(Protocol):
    """Opens the captioner in a folder or of a hub name; frozen weights in `dtype`."""

    def __call__(
        self, name: str, *, dtype: torch.dtype, device: torch.device, choices: CaptionerChoices
    ) -> Captioner: ...


class ExportCaptioner(Protocol):
    """Writes a trained captioner with its model card."""

    def __call__(self, policy: Any, output: Path, wanted: Export) -> None: ...


class LoadGenerator(Protocol):
    """Opens the image generator in a folder; frozen weights in `dtype`, `learning` None = it will not be
    trained.
    """

    def __call__(
        self,
        folder: Path,
        *,
        dtype: torch.dtype,
        device: torch.device,
        parts: Parts,
        learning: Learning | None,
    ) -> ImageGenerator: ...


class WriteGenerator(Protocol):
    """Writes a trained image generator, which began as the folder `start`, without its model card."""

    def __call__(self, policy: Any, folder: Path, *, dtype: torch.dtype, start: Path) -> Usage: ...


# -- what is asked for before it is used


def missing_members(model: Any, interface: type) -> list[str]:
    """What an interface of this file asks for and a model does not have, in the interface's order."""
    asked = [
        name
        for each in reversed(interface.__mro__)
        if each.__module__.startswith("sightloop.")
        for name in (*each.__annotations__, *vars(each))
        if not name.startswith("_")
    ]
    return [name for name in dict.fromkeys(asked) if name not in dir(model)]


def require_members(model: Any, interface: type, *, what: str, instead: str = "") -> Any:
    """The model, which has all that an interface of this file asks for; `what` needs it.

    Raises:
        ValueError: members are missing; they are named, with what to do `instead`.
    """
    missing = missing_members(model, interface)
    if missing:
        named = ", ".join(f"`{name}`" for name in missing)
        other = f", or {instead}" if instead else ""
        raise ValueError(
            f"{type(model).__name__} has no {named}, which {what} needs; add it as {interface.__name__} of "
            f"models/protocols.py says{other}"
        )
    return model
