"""What a pass through a network takes: counted by running it on torch's meta device, without a weight.

FLOPs are what torch's own counter says of each operation (`torch.utils.flop_counter`), forward and backward
to whatever learns; of attention it counts the whole square, also where half of it is masked. Bytes are those
of all tensors that live at the same time besides the weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import AttentionInterface

from sightloop.models.mixed_precision import keep_products_in
from sightloop.models.transformers_internals import (
    attend_by,
    cache_argument,
    flash_attention,
    growing_cache,
    recomputable_layers,
)

_FUSED = "fused_on_meta"
_POSITIONS = 64
"""Positions of the pass by which a language model is measured."""


def _fused(_: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **__: Any) -> Any:
    """Attention that keeps no probabilities, as every device's own kernels do."""
    groups = query.shape[1] // key.shape[1]
    query, key = query.to(value.dtype), key.to(value.dtype)
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    seen = flash_attention(query, key, value)
    return seen.transpose(1, 2).contiguous(), None


AttentionInterface.register(_FUSED, _fused)


def on_meta(make: Callable[[], Any], dtype: torch.dtype = torch.float32) -> Any:
    """A frozen network without weights, in `dtype`."""
    with torch.device("meta"):
        model = make().eval().requires_grad_(False).to(dtype)
    attend_by(model, _FUSED)
    return model


def cast_as_autocast_does(model: nn.Module, dtype: torch.dtype) -> None:
    """Let matrices be multiplied in `dtype` and norms be computed as they are kept."""
    keep_products_in(model, dtype)
    for part in model.modules():
        if isinstance(part, nn.Linear | nn.LayerNorm):
            part.register_forward_pre_hook(_in_its_precision)


def _in_its_precision(part: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weight: Any = part.weight
    return given[0].to(weight.dtype), *given[1:]


def count(*modules: nn.Module | None) -> int:
    """Parameters of modules; None has none."""
    return sum(p.numel() for module in modules if module is not None for p in module.parameters())


@dataclass(frozen=True, kw_only=True)
class Pass:
    """FLOPs and bytes of one pass; with a gradient the bytes are what waits for the backward pass."""

    forward: float = 0.0
    attention: float = 0.0
    """Part of `forward` that grows with the square of the length."""
    backward: float = 0.0
    attention_backward: float = 0.0
    live: float = 0.0


class _Tally(TorchDispatchMode):
    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.flops = self.attention = self.now = self.most = 0.0
        self._known = weights

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            flops = flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
            self.flops += flops
            self.attention += flops if "scaled_dot_product" in str(func) else 0
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(id(storage))
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, id(storage), storage.nbytes())
        self.most = max(self.most, self.now)
        return out

    def _gone(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self.now -= size


def passing(run: Callable[[], Tensor], *modules: nn.Module, learns: bool = False) -> Pass:
    """What `run` takes through these modules; `learns` also goes back to what requires a gradient.

    Raises:
        ValueError: the network cannot run without values.
    """
    stacks = [stack for module in modules for stack in _stacks_of_equals(module)]
    if not stacks:
        return _passing(run, *modules, learns=learns)
    # Layers are alike but for the first, so two depths tell all of them.
    depth, found = len(stacks[0][2]), []
    for number in (2, 3):
        with _cut(stacks, number):
            found.append(asdict(_passing(run, *modules, learns=learns)))
    two, three = found
    return Pass(**{key: value + (depth - 2) * (three[key] - value) for key, value in two.items()})


@contextmanager
def _cut(stacks: list[tuple[nn.Module, str, nn.ModuleList]], number: int) -> Iterator[None]:
    for parent, name, layers in stacks:
        setattr(parent, name, layers[:number])
    try:
        yield
    finally:
        for parent, name, layers in stacks:
            setattr(parent, name, layers)


def _stacks_of_equals(module: nn.Module) -> list[tuple[nn.Module, str, nn.ModuleList]]:
    """Lists of more than three layers that all have equally many parameters, with where they hang."""
    found = [
        (parent, name, part)
        for parent in module.modules()
        for name, part in parent.named_children()
        if isinstance(part, nn.ModuleList) and len(part) > 3 and set(part) <= set(recomputable_layers(part))
    ]
    alike = {len({count(layer) for layer in part}) for _, _, part in found} == {1}
    return found if alike and len({len(part) for _, _, part in found}) == 1 else []


def _passing(run: Callable[[], Tensor], *modules: nn.Module, learns: bool) -> Pass:
    weights = {id(t.untyped_storage()) for m in modules for t in (*m.parameters(), *m.buffers())}
    try:
        with torch.set_grad_enabled(learns), _Tally(weights) as forward:
            out = run()
    except (NotImplementedError, RuntimeError) as error:
        names = ", ".join(type(module).__name__ for module in modules)
        line = str(error).strip().partition("\n")[0]
        raise ValueError(f"the plan cannot run {names} without its weights ({line})") from error
    back = None
    if learns:
        with _Tally(weights) as back:
            out.backward(torch.empty_like(out))
    return Pass(
        forward=forward.flops,
        attention=forward.attention,
        backward=back.flops if back else 0.0,
        attention_backward=back.attention if back else 0.0,
        live=forward.most,
    )


@dataclass(frozen=True, kw_only=True)
class Language:
    """What a position of a language model's layers takes, and a pair of positions in its attention."""

    reading: Pass
    """Without a gradient."""
    learning: Pass
    width: int
    """Bytes of a hidden state."""
    layers: int
    cached: float
    """Bytes that a position leaves in the cache."""

    def read(self, new: float, context: float) -> float:
        """FLOPs of new positions that see `context` ones, those of the cache among them."""
        return new * (self.reading.forward + context * self.reading.attention)

    def learn(self, new: float, context: float, *, recomputed: bool) -> float:
        """FLOPs of the same forward and backward, with the layers computed twice if they are recomputed."""
        each = self.learning
        forward = each.forward + context * each.attention
        return new * (forward * (1 + recomputed) + each.backward + context * each.attention_backward)

    def kept(self, positions: float, *, recomputed: bool) -> float:
        """Bytes that wait for the backward pass."""
        if recomputed:
            return positions * (self.learning.live / self.layers + self.layers * self.width)
        return positions * self.learning.live


def language_of(
    decoder: Any, *, width: int, dtype: torch.dtype, gradient_from_below: bool, learns: bool = True
) -> Language:
    """Run a decoder of transformers; `gradient_from_below` = what stands before it learns."""
    layers = len(recomputable_layers(decoder))

    def seen(gradient: bool = False, **options: Any) -> Tensor:
        embeds = torch.empty(1, _POSITIONS, width, dtype=dtype, device="meta", requires_grad=gradient)
        return decoder(inputs_embeds=embeds, **options).last_hidden_state

    stacks = _stacks_of_equals(decoder)
    run = 2 if stacks else layers
    cache = growing_cache(run)
    with torch.no_grad(), _cut(stacks, run):
        seen(use_cache=True, **cache_argument(cache))
    filled: Any = cache.layers
    cached = sum(s.numel() * s.itemsize for layer in filled for s in (layer.keys, layer.values))
    reading = passing(lambda: seen(use_cache=False), decoder)
    learning = Pass()
    if learns:
        learning = passing(lambda: seen(gradient_from_below, use_cache=False), decoder, learns=True)
    return Language(
        reading=_each(reading),
        learning=_each(learning),
        width=width * dtype.itemsize,
        layers=layers,
        cached=cached * layers / run / _POSITIONS,
    )


def _each(whole: Pass) -> Pass:
    """A pass over many positions as what one position takes, and one pair."""
    pairs = _POSITIONS**2
    return Pass(
        forward=(whole.forward - whole.attention) / _POSITIONS,
        attention=whole.attention / pairs,
        backward=(whole.backward - whole.attention_backward) / _POSITIONS,
        attention_backward=whole.attention_backward / pairs,
        live=whole.live / _POSITIONS,
    )
