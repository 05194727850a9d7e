"""Drawing in steps of fixed shapes: the same images, and nothing that a recorded graph could not replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_janus import tiny_janus, tiny_model, tokenizer
from tiny_show_o import pictures, show_o, stirred
from torch.utils._python_dispatch import TorchDispatchMode

from sightloop.models.decoding.cuda_graphs import repeat_step
from sightloop.models.janus import sampling as janus_drawing
from sightloop.models.janus.policy import Janus
from sightloop.models.show_o import static_sampling as show_o_static
from sightloop.types import Prompt, Tokens, Turn

TEXTS = ["a cat", "two red dogs", ""]
ASKS_THE_HOST = (
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "masked_select",
    "unique",
    "lift_fresh",
    "item",
)
"""Operators whose result the program must read, or whose shape depends on numbers, or that bring numbers."""


def both(make: Callable[[], Any]) -> tuple[Any, Any]:
    """A policy and its like that draws in steps of fixed shapes."""
    made: list[Any] = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(make())
    made[1].enable_decode_graphs()
    return made[0], made[1]


def same(one: Tokens, other: Tokens) -> None:
    """The same codes, rounds and log-probabilities."""
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.mask, other.mask)
    assert (one.log_probs is None) == (other.log_probs is None)
    if one.log_probs is not None:
        torch.testing.assert_close(one.log_probs, other.log_probs, atol=1e-4, rtol=0)
    if one.decode_step is not None:
        assert other.decode_step is not None
        assert torch.equal(one.decode_step, other.decode_step)


@pytest.mark.parametrize("texts", [TEXTS, ["a cat"] * 3])
@pytest.mark.parametrize(
    "changes",
    [{}, {"guidance": 0.0}, {"guidance": 2.5, "top_k": 7, "temperature": 1.3}, {"temperature": 0.0}],
)
def test_janus_draws_the_same_in_steps_of_fixed_shapes(texts: list[str], changes: dict[str, Any]) -> None:
    plain, static = both(tiny_janus)
    prompt, law = Prompt(texts=texts, wants="image", seeds=[3, 4, 5]), plain.default_sampling(**changes)
    drawn = static.sample(prompt, law)
    same(plain.sample(prompt, law), drawn)
    if drawn.log_probs is not None:
        scored = static.score(Turn(prompt=prompt, tokens=drawn), law).log_probs
        torch.testing.assert_close(scored, drawn.log_probs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("texts", [TEXTS, ["a cat"] * 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance": 0.0, "decode_steps": 1},
        {"guidance": 2.5, "top_k": 7, "temperature": 1.3, "decode_steps": 9},
        {"temperature": 0.0, "decode_steps": 5},
        {"schedule": "sigmoid", "order_temperature": 3.0, "decode_steps": 4},
    ],
)
def test_show_o_draws_the_same_in_rounds_of_fixed_shapes(texts: list[str], changes: dict[str, Any]) -> None:
    plain, static = both(lambda: stirred(show_o()))
    given = plain.image_tokens(pictures(3))
    mask = torch.zeros_like(given.mask)
    mask[0, :5], mask[1, ::2] = True, True
    law = plain.default_sampling(**changes)
    for known in (None, replace(given, mask=mask)):
        prompt = Prompt(texts=texts, wants="image", seeds=[3, 4, 5], images=known)
        drawn = static.sample(prompt, law)
        same(plain.sample(prompt, law), drawn)
        if drawn.log_probs is not None:
            scored = static.score(Turn(prompt=prompt, tokens=drawn), law).log_probs
            torch.testing.assert_close(scored, drawn.log_probs, atol=1e-4, rtol=0)


def test_relaxed_drawings_stay_as_they_are() -> None:
    for make in (tiny_janus, lambda: stirred(show_o())):
        plain, static = both(make)
        prompt, law = (
            Prompt(texts=["a cat"], wants="image", seeds=[3]),
            plain.default_sampling(relaxation=1.0),
        )
        one, other = plain.sample(prompt, law), static.sample(prompt, law)
        assert torch.equal(one.ids, other.ids)
        assert other.one_hot.requires_grad


class Host(TorchDispatchMode):
    """Collects what a recorded graph could not replay."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note an operator and run it."""
        name = str(func)
        by_mask = name.startswith("aten.index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for group in args[1:2]
            if isinstance(group, list | tuple)
            for index in group
        )
        self.count += 1
        if by_mask or name.split(".")[1].startswith(ASKS_THE_HOST):
            self.asked.append(name)
        return func(*args, **(kwargs or {}))


def test_a_step_asks_nothing_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    host, steps = Host(), []

    def watched(step: Callable[[], object], times: int, device: torch.device) -> None:
        steps.append(times)
        with host:
            repeat_step(step, times, device)

    for module in (janus_drawing, show_o_static):
        monkeypatch.setattr(module, "repeat_step", watched)
    for make in (tiny_janus, lambda: stirred(show_o())):
        _, static = both(make)
        prompt = Prompt(texts=TEXTS, wants="image", seeds=[3, 4, 5])
        static.sample(prompt, static.default_sampling(top_k=4))
    assert steps == [15, 9]
    assert host.count > 1000
    assert not host.asked
    with host:
        kept = torch.arange(3)[torch.tensor([True, False, True])]
        assert bool(kept.nonzero().sum() > 0)
    assert len(host.asked) >= 3


def test_without_a_gpu_a_step_is_called_so_many_times() -> None:
    total = torch.zeros(1)
    repeat_step(lambda: total.add_(1), 5, torch.device("cpu"))
    assert float(total) == 5


@pytest.mark.gpu
def test_on_a_gpu_the_recorded_steps_draw_the_same() -> None:
    total = torch.zeros(1, device="cuda")
    repeat_step(lambda: total.add_(1), 7, torch.device("cuda"))
    assert float(total) == 7
    for make in (tiny_janus, lambda: stirred(show_o())):
        plain, static = both(lambda make=make: make().to("cuda"))
        prompt = Prompt(texts=TEXTS, wants="image", seeds=[3, 4, 5])
        same(plain.sample(prompt, plain.default_sampling()), static.sample(prompt, static.default_sampling()))


def test_attention_that_misreads_masks_is_refused() -> None:
    model = tiny_model()
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="sdpa"):
        Janus(model, tokenizer()).enable_decode_graphs()
