"""All that touches transformers' private or changing interfaces, for every version in pyproject.toml.

Caches and their layers, the name under which a cache is handed over, flags of layers, of configurations and
of loading, the parts of processors. Everything else imports names of transformers' top level, or classes of
its `models`, and calls them as documented; `tests/test_architecture.py` holds the package to that. Where
versions differ, this file asks the installed one what it has and does not compare numbers.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

import torch
from huggingface_hub.utils import enable_progress_bars
from huggingface_hub.utils import logging as hub_logging
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, ProcessorMixin
from transformers.activations import GELUActivation, QuickGELUActivation
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
)
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.models import pixtral
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.models.pixtral import image_processing_pil_pixtral
from transformers.models.smolvlm import processing_smolvlm
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file
from transformers.video_processing_utils import BaseVideoProcessor

__all__ = ["BaseModelOutput", "Cache", "GELUActivation", "QuickGELUActivation"]

Model = TypeVar("Model", bound=type)

# Its bars and advice would stand in every log; what matters of them is said by whoever opens a model.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
# Of a hub that cannot be reached, whoever opens a model says so once; each try would be two lines more.
hub_logging.set_verbosity_error()
if sys.stderr.isatty():
    # That one is of downloads, which take minutes.
    enable_progress_bars()

# Renamed in 5.24, at the same time in all models, their layers and the functions that make masks.
_CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"


# -- caches


def cache_argument(cache: object | None) -> dict[str, Any]:
    """The keyword argument that hands a cache to a model or to one of its layers."""
    return {_CACHE: cache}


def given_cache(arguments: dict[str, Any]) -> Any:
    """The cache among the keyword arguments of a model or a layer; None if there is none."""
    return arguments.get(_CACHE)


class StandInCache:
    """Stands where a layer expects a cache; a subclass says what the layer attends to."""

    def extend(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values for the layer of that number, which has made these new ones."""
        raise NotImplementedError

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """What transformers calls; some versions hand over more than is needed here."""
        return self.extend(key_states, value_states, layer_idx)


class PreallocatedCacheLayer(DynamicLayer):
    """Keys and values of one layer in buffers with room for the whole text, so that a step copies only
    itself.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append the new states and return everything so far, as views."""
        if not self.is_initialized:
            shape = (*key_states.shape[:2], self.room, key_states.shape[-1])
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values = key_states.new_empty(shape), value_states.new_empty(shape)
            self.is_initialized = True
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """Number of positions seen so far."""
        return self.length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        self.keys, self.values = self.keys[indices], self.values[indices]


class StaticLayer(PreallocatedCacheLayer):
    """Keys and values of one layer in buffers that are always read whole.

    A tensor says where the next ones go; what is not written yet must be masked.
    """

    def __init__(self, filled: PreallocatedCacheLayer, room: int, place: Int[Tensor, 1]) -> None:
        super().__init__(room)
        self.place = place
        self.dtype, self.device, self.is_initialized = filled.dtype, filled.device, True
        self.keys, self.values = (
            states.new_empty(*states.shape[:2], room, states.shape[3])
            for states in (filled.keys, filled.values)
        )
        self.length = room
        self.refill(filled)

    def refill(self, filled: PreallocatedCacheLayer) -> None:
        """Begin as another layer, in the same memory."""
        for own, states in ((self.keys, filled.keys), (self.values, filled.values)):
            own[:, :, : filled.length] = states[:, :, : filled.length]
            # Zeros: a mask cannot hide what is not a number.
            own[:, :, filled.length :] = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the states of one position and return the whole buffers."""
        self.keys.index_copy_(2, self.place, key_states)
        self.values.index_copy_(2, self.place, value_states)
        return self.keys, self.values


def growing_cache(num_layers: int) -> Cache:
    """An empty cache that makes room as it is filled."""
    return Cache(layers=[DynamicLayer() for _ in range(num_layers)])


def roomy_cache(num_layers: int, room: int) -> Cache:
    """An empty cache with room for so many positions."""
    return Cache(layers=[PreallocatedCacheLayer(room) for _ in range(num_layers)])


class _RowsCache(Cache):
    """Knows which of its first rows each of its rows was."""

    rows: Tensor | None = None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        super().batch_select_indices(indices)
        self.rows = indices if self.rows is None else self.rows[indices]


def known_rows(cache: Cache) -> Cache:
    """The same empty cache, which can be asked for `rows_in`."""
    return _RowsCache(layers=cache.layers)


def rows_in(cache: Cache) -> Tensor:
    """Which row each is of those that there were before any was picked."""
    assert isinstance(cache, _RowsCache) and cache.rows is not None
    return cache.rows


class CrossCache(EncoderDecoderCache):
    """Of a decoder that attends to images: room for so many positions of its own, and the images' states."""

    def __init__(self, room: int) -> None:
        layer: Any = partial(PreallocatedCacheLayer, room)
        super().__init__(Cache(layer_class_to_replicate=layer), Cache(layer_class_to_replicate=DynamicLayer))
        self.image_rows: Tensor | None = None
        """Which image each row is about, as a row of the first pass; None = its own."""
        self._rows = 0

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows; as many as before are the same texts' beams in another order."""
        self.self_attention_cache.batch_select_indices(indices)
        if len(indices) == self._rows:
            return
        self.cross_attention_cache.batch_select_indices(indices)
        self.image_rows = indices if self.image_rows is None else self.image_rows[indices]
        self._rows = len(indices)


def remembers_by_keys(model: Any) -> bool:
    """Whether all that a model remembers of what it has read are keys and values, a pair of them a layer."""
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return plain and not model.config.is_encoder_decoder and len(layers) in (0, config.num_hidden_layers)


def static_cache(filled: Cache, room: int, place: Int[Tensor, 1]) -> Cache:
    """A cache with room for so many positions that begins as another one, which is emptied layer by layer."""
    return Cache(layers=[StaticLayer(layer, room, place) for layer in _emptied(filled)])


def refill(static: Cache, filled: Cache) -> None:
    """Let a static cache begin as another one, which is emptied layer by layer."""
    for layer, other in zip(static.layers, _emptied(filled), strict=True):
        assert isinstance(layer, StaticLayer)
        layer.refill(other)


def _emptied(cache: Cache) -> Iterator[PreallocatedCacheLayer]:
    while cache.layers:
        layer = cache.layers.pop(0)
        assert isinstance(layer, PreallocatedCacheLayer)
        yield layer


# -- layers and attention


def recomputable_layers(module: nn.Module) -> list[Any]:
    """The layers of a module that transformers can compute anew in the backward pass."""
    return [part for part in module.modules() if isinstance(part, GradientCheckpointingLayer)]


def hooks_of(part: nn.Module) -> list[object]:
    """What others do before or after a module's forward pass, or in its place."""
    instead = [vars(part)["forward"]] if "forward" in vars(part) else []
    return [*part._forward_hooks.values(), *part._forward_pre_hooks.values(), *instead]


def recompute_by(layer: Any, function: Callable[..., Any]) -> None:
    """Let a layer run through this function, which recomputes it, whenever it is in training mode."""
    layer.gradient_checkpointing = True
    layer._gradient_checkpointing_func = function


def attention_of(config: Any) -> str:
    """The name of the attention that a model was loaded with."""
    return str(config._attn_implementation)


def flash_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention that keeps no probabilities, on torch's meta device too."""
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]


def attend_by(model: nn.Module, attention: str) -> None:
    """Let every part of a model attend by a function of this name, whatever the part supports by itself."""
    for part in model.modules():
        config: Any = vars(part).get("config")
        if isinstance(config, PreTrainedConfig):
            config._attn_implementation = attention


# -- classes, configurations, files


def exact_in(names: tuple[str, ...]) -> Callable[[Model], Model]:
    """Decorates a class of models: these parts are loaded in float32, whatever the rest is loaded in."""

    def decorate(model: Model) -> Model:
        model._keep_in_fp32_modules_strict = list(names)  # pyright: ignore[reportAttributeAccessIssue]
        return model

    return decorate


def without_tensors(*patterns: str) -> Callable[[Model], Model]:
    """Decorates a class of models: tensors of these names may be in a checkpoint and are left out."""

    def decorate(model: Model) -> Model:
        model._keys_to_ignore_on_load_unexpected = list(patterns)  # pyright: ignore[reportAttributeAccessIssue]
        return model

    return decorate


def is_language_model(config: Any) -> bool:
    """Whether transformers has a model that continues texts for this configuration."""
    return type(config) in AutoModelForCausalLM._model_mapping


def made_by_hand(generation: GenerationConfig) -> GenerationConfig:
    """The same values, marked as not taken from a model's configuration: saving would drop such ones."""
    generation._from_model_config = False
    return generation


def file_of(model: str, name: str) -> str | None:
    """The path of one file of a folder or of a model of the hub; None if it is not there."""
    return cached_file(
        model,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )


# -- processors


class _NoVideos(BaseVideoProcessor):
    """Stands where a processor holds its part for videos; every setting of it is None."""

    def __init__(self) -> None:
        pass

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


@contextmanager
def videos_left_out() -> Iterator[None]:
    """Processors that are opened inside read images and texts only.

    Their part for videos needs torchvision, and SmolVLM's spells numbers of frames with num2words. Pixtral's
    takes one function from the file of an image processor that needs torchvision, and the other has it too.
    """
    require = ProcessorMixin.check_argument_for_proper_class

    def check(processor: Any, name: str, given: Any) -> Any:
        return _NoVideos if isinstance(given, _NoVideos) else require(processor, name, given)

    def stand_in(*_: object, **__: object) -> _NoVideos:
        return _NoVideos()

    with (
        _replaced(AutoVideoProcessor, "from_pretrained", staticmethod(stand_in)),
        _replaced(ProcessorMixin, "check_argument_for_proper_class", check),
        _replaced(processing_smolvlm, "num2words", str),
    ):
        _find_pixtral()
        yield


def _find_pixtral() -> None:
    """Let Pixtral's processor be found without torchvision."""
    missing = "transformers.models.pixtral.image_processing_pixtral"
    known = sys.modules.setdefault(missing, image_processing_pil_pixtral)
    try:
        found = import_module("transformers.models.pixtral.processing_pixtral")
    finally:
        if known is image_processing_pil_pixtral:
            del sys.modules[missing]
    # In its place stands a class that asks for the library.
    place: Any = pixtral
    place.PixtralProcessor = found.PixtralProcessor


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


# -- images that enter at several layers (DeepStack, arXiv 2406.04334)


def reads_deep(decoder: Any) -> bool:
    """Whether a language model adds features of images behind its first layers, as Qwen3-VL's does."""
    known = inspect.signature(decoder.forward).parameters
    return "visual_pos_masks" in known and "deepstack_visual_embeds" in known


def deep_features(seen: Any) -> list[Any]:
    """What a tower's output holds for these layers, a tensor or one an image for each."""
    return list(dict(seen).get("deepstack_features") or [])


def deep_arguments(slots: Tensor, layers: list[Tensor]) -> dict[str, Any]:
    """Arguments of such a language model: where images are, and what is added there behind each layer."""
    return {"visual_pos_masks": slots, "deepstack_visual_embeds": layers}
