"""The emulated accelerator refuses and counts what CUDA would, and its values are the CPU's."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from benchmarks.device_counts import counted, phase


@pytest.mark.parametrize(
    "mix",
    [
        lambda there, here: there + here,
        lambda there, here: torch.cat([there, here]),
        lambda there, here: here[there.argsort()],
        lambda there, here: functional.mse_loss(there, here),
        lambda there, here: there.index_select(0, torch.tensor(0)),
        lambda there, here: there.numpy(),
    ],
)
def test_tensors_of_two_devices_do_not_mix(
    emulated: torch.device, mix: Callable[[Tensor, Tensor], object]
) -> None:
    here = torch.arange(3.0)
    with pytest.raises((RuntimeError, TypeError), match=r"device|indices"):
        mix(here.to(emulated), here)


def test_numbers_and_places_may_come_from_the_cpu(emulated: torch.device) -> None:
    there = torch.arange(3.0).to(emulated)
    assert (there + torch.tensor(1.0)).tolist() == [1, 2, 3]
    assert there[torch.tensor([2, 0])].tolist() == [2, 0]
    assert there.masked_fill(there > 1, torch.tensor(7.0)).tolist() == [0, 1, 7]


@pytest.mark.parametrize(
    ("what", "launches", "waits", "uploads"),
    [
        (lambda x: x[1:].view(2, 1), 0, 0, 0),
        (lambda x: (x + 1) * 2, 2, 0, 0),
        (lambda x: x.new_zeros(3), 1, 0, 0),
        (lambda x: x.sum().item(), 1, 1, 0),
        (lambda x: bool(x.any()), 1, 1, 0),
        (lambda x: x.tolist(), 1, 1, 0),
        (lambda x: x[x > 1], 2, 1, 0),
        (lambda x: (x > 1).nonzero(), 2, 1, 0),
        (lambda x: x.to("cpu"), 1, 1, 0),
        (lambda x: torch.tensor([1.0], device=x.device), 1, 0, 1),
        (lambda x: torch.ones(2).to(x.device, non_blocking=True), 1, 0, 0),
    ],
)
def test_launches_and_waits_are_counted(
    emulated: torch.device, what: Callable[[Tensor], object], launches: int, waits: int, uploads: int
) -> None:
    values = torch.arange(3.0).to(emulated)
    with counted() as counts:
        what(values)
    found = [sum(numbers.values()) for numbers in (counts.launches, counts.waits, counts.uploads)]
    assert found == [launches, waits, uploads]


def test_counts_are_told_apart_by_phase(emulated: torch.device) -> None:
    values = torch.arange(3.0).to(emulated)
    with counted() as counts, phase("first"):
        values.tolist()
        with phase("second"):
            values.add_(1)
    assert dict(counts.phase("first").waits) == {"elsewhere": 1}
    assert not counts.phase("second").waits
    assert dict(counts.phase("second").launches) == {"elsewhere": 1}


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_are_the_cpu_s_bit_for_bit(emulated: torch.device, recomputed: bool, mixed: bool) -> None:
    layers, start = [nn.Linear(8, 8) for _ in range(2)], torch.randn(4, 8)

    def gradients(device: torch.device) -> list[Tensor]:
        there, hidden = [copy.deepcopy(layer).to(device) for layer in layers], start.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed):
            for layer in there:

                def run(states: Tensor, layer: nn.Module = layer) -> Tensor:
                    return functional.layer_norm(layer(layer(states)).relu(), (8,))

                hidden = checkpoint(run, hidden, use_reentrant=False) if recomputed else run(hidden)
            functional.scaled_dot_product_attention(hidden, hidden, hidden).square().sum().backward()
        return [layer.weight.grad.cpu() for layer in there if layer.weight.grad is not None]

    for there, here in zip(gradients(emulated), gradients(torch.device("cpu")), strict=True):
        assert torch.equal(there, here)


def test_low_precision_norms_and_saved_tensors_come_back(emulated: torch.device, tmp_path: object) -> None:
    values = torch.randn(3, 8, dtype=torch.bfloat16)
    norm = nn.LayerNorm(8, dtype=torch.bfloat16)
    assert torch.equal(copy.deepcopy(norm).to(emulated)(values.to(emulated)).cpu(), norm(values))
    torch.save({"x": values.to(emulated)}, f"{tmp_path}/x.pt")
    assert torch.equal(torch.load(f"{tmp_path}/x.pt", map_location="cpu")["x"], values)
