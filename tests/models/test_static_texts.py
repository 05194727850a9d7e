"""Captions drawn in steps of fixed shapes: the same texts, also where steps are recorded and replayed.

No graph can be recorded without a GPU. A recorder stands for it that keeps every operation with the tensors
that it read, and runs these operations again on the same tensors: whatever a program knew while it recorded
stays as it was then.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from models import tiny_blip2
from models.test_static_steps import Host, same
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.device_counts import counted
from sightloop import accelerator
from sightloop.models.captioners.blip2 import Blip2Captioner
from sightloop.models.decoding import cuda_graphs, static_texts
from sightloop.types import Images, Prompt, Sampling, Tokens

TEXTS = ["a red circle", "", "a"]
LAWS = [
    Sampling(max_tokens=20, temperature=2.0),
    Sampling(max_tokens=9, temperature=1.3, top_k=4),
    Sampling(max_tokens=16, temperature=0.0),
    Sampling(max_tokens=1),
]


def captioners(device: str | torch.device = "cpu") -> tuple[Blip2Captioner, Blip2Captioner]:
    """A policy and its like that draws in steps of fixed shapes."""
    plain, static = (tiny_blip2.captioner().to(device) for _ in range(2))
    plain.enable_decode_graphs(False)
    static.enable_decode_graphs()
    return plain, static


def asked(texts: list[str], seed: int) -> Prompt:
    """About images of that seed."""
    images = tiny_blip2.pictures(len(texts), seed=seed)
    return Prompt(texts=texts, images=images, seeds=[seed + row for row in range(len(texts))])


@pytest.mark.parametrize("texts", [TEXTS, ["a"] * 5])
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_captions_are_the_same_in_steps_of_fixed_shapes(texts: list[str], law: Sampling) -> None:
    plain, static = captioners()
    for seed in range(4):
        prompt = asked(texts, 10 * seed)
        same(plain.sample(prompt, law), static.sample(prompt, law))


class Recorder(TorchDispatchMode):
    """Keeps operations with what they read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and keep it."""
        made = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        """Run all operations again on the same tensors."""
        for func, args, kwargs, made in self.operations:
            for old, new in zip(tensors(made), tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def tensors(made: Any) -> list[Tensor]:
    """Of one operation."""
    found = made if isinstance(made, list | tuple) else [made]
    return [one for one in found if isinstance(one, Tensor)]


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replays of each recording, on a CPU that is taken for a device that records."""
    replays: list[int] = []

    def recorded(step: Callable[[], object]) -> Callable[[], None]:
        recorder, number = Recorder(), len(replays)
        with recorder:
            step()
        replays.append(0)

        def replay() -> None:
            # To record, a graph runs nothing; here the step has run once.
            if replays[number]:
                recorder.replay()
            replays[number] += 1

        return replay

    def warmed_up(step: Callable[[], object], times: int, device: torch.device) -> None:
        for _ in range(times):
            step()

    monkeypatch.setattr(accelerator, "can_record", lambda device: True)
    monkeypatch.setattr(accelerator, "warmed_up", warmed_up)
    monkeypatch.setattr(accelerator, "recorded", recorded)
    return replays


def compared(plain: Blip2Captioner, static: Blip2Captioner, law: Sampling, seed: int = 0) -> Tokens:
    """What both draw, which is the same."""
    prompt = asked(["a"] * 4, seed)
    drawn = static.sample(prompt, law)
    same(plain.sample(prompt, law), drawn)
    return drawn


LONG = Sampling(max_tokens=20, temperature=3.0)


@pytest.mark.parametrize("texts", [TEXTS, ["a"] * 4])
def test_a_recording_holds_for_later_batches(recordings: list[int], texts: list[str]) -> None:
    plain, static = captioners()
    for law in (LONG, replace(LONG, temperature=0.0)):
        for seed in range(4):
            prompt = asked(texts, 10 * seed)
            same(plain.sample(prompt, law), static.sample(prompt, law))
    assert len(recordings) == 2
    assert min(recordings) > 20


def test_a_recording_sees_weights_that_change_and_ends_with_those_that_go(recordings: list[int]) -> None:
    plain, static = captioners()
    before = compared(plain, static, LONG)
    for policy in (plain, static):
        policy.model.language_model.model.decoder.layers[0].fc1.weight.data.mul_(-1)
        policy.trainable_module().language_projection.weight.data.mul_(-1)
    assert not torch.equal(before.ids, compared(plain, static, LONG).ids)
    assert len(recordings) == 1
    for policy in (plain, static):
        linear = policy.model.language_model.model.decoder.layers[0].fc2
        linear.weight.data = -linear.weight.data
    compared(plain, static, LONG)
    compared(plain, static, LONG, seed=7)
    assert len(recordings) == 2
    copied = copy.deepcopy(static)
    compared(plain, copied, LONG)
    assert len(recordings) == 3


def test_few_shapes_are_kept_and_large_batches_are_drawn_without(
    recordings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, static = captioners()
    for length in (20, 19, 18, 17, 16, 20):
        compared(plain, static, Sampling(max_tokens=length, temperature=3.0))
    assert len(recordings) == 6
    compared(plain, static, Sampling(max_tokens=16, temperature=3.0))
    assert len(recordings) == 6

    monkeypatch.setattr(static_texts, "KEPT_BYTES", 1000)
    compared(plain, static, Sampling(max_tokens=16, temperature=3.0))
    compared(plain, static, Sampling(max_tokens=15, temperature=3.0))
    assert len(recordings) == 6


def test_a_device_that_records_does_so_by_default(recordings: list[int]) -> None:
    policy = tiny_blip2.captioner()
    compared(captioners()[0], policy, LONG)
    assert len(recordings) == 1
    policy.everyone_done = lambda done: done
    policy.sample(asked(["a"] * 4, 0), replace(LONG, max_tokens=12))
    assert len(recordings) == 1, "sharded weights are not recorded"


def test_recording_can_be_switched_off_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert accelerator.can_record(torch.device("cuda"))
    monkeypatch.setenv("SIGHTLOOP_GRAPHS", "0")
    assert not accelerator.can_record(torch.device("cuda"))


def test_a_step_asks_nothing_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()

    class Watched(cuda_graphs.RepeatedStep):
        def __call__(self, times: int) -> None:
            with host:
                super().__call__(times)

    monkeypatch.setattr(static_texts, "RepeatedStep", Watched)
    captioners()[1].sample(asked(TEXTS, 0), LAWS[1])
    assert host.count > 100
    assert not host.asked


def test_a_device_draws_the_same_and_is_asked_every_few_tokens(emulated: torch.device) -> None:
    (plain, here), (_, there) = captioners(), captioners(emulated)
    law = Sampling(max_tokens=20, temperature=8.0)
    for seed in (0, 5):
        prompt = asked(["a"] * 4, seed)
        assert isinstance(prompt.images, Images)
        prompt = replace(prompt, images=there.look(prompt.images))
        with counted() as counts:
            drawn = there.sample(prompt, law)
        on_host = Tokens(ids=drawn.ids.cpu(), mask=drawn.mask.cpu(), log_probs=drawn.log_probs.cpu())  # pyright: ignore
        mine = here.sample(asked(["a"] * 4, seed), law)
        assert torch.equal(mine.ids, on_host.ids)
        assert torch.equal(mine.log_probs, on_host.log_probs)  # pyright: ignore
        same(plain.sample(asked(["a"] * 4, seed), law), on_host)
        assert sum(counts.waits.values()) <= 0.15 * law.max_tokens


@pytest.mark.gpu
def test_on_a_gpu_recorded_captions_are_the_same() -> None:
    plain, static = captioners("cuda")
    for seed in range(4):
        prompt = asked(["a"] * 4, seed)
        same(plain.sample(prompt, LONG), static.sample(prompt, LONG))
