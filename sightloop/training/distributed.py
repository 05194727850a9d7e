"""Ranks under torchrun: the only file that knows torch.distributed. On one rank all of it is the identity.

Shares sum to 1 over all ranks, so gradients are summed over ranks, never averaged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from sightloop import accelerator

Item = TypeVar("Item")
_BUCKET_ELEMENTS = 2**24


def start() -> None:
    """Join the process group if launched by torchrun with more than one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    # Before the group is made: it would put every rank on the first device.
    accelerator.choose()
    dist.init_process_group(accelerator.collective_backend())


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """How many processes take part."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def device(name: str = "auto") -> torch.device:
    """The device of this rank: `auto` is its accelerator if there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    return accelerator.choose(name)


def sum_over_ranks(tensor: Tensor, /) -> Tensor:
    """The sum over all ranks (`types.Reduction`)."""
    if not dist.is_initialized():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def gather(item: Item) -> list[Item]:
    """Every rank's item, in the order of ranks, on every rank."""
    if not dist.is_initialized():
        return [item]
    items: list[Any] = [None] * num_ranks()
    dist.all_gather_object(items, item)
    return items


def all_ranks(flag: bool) -> bool:
    """Whether the flag holds on every rank."""
    return not any_rank(not flag)


def any_rank(flag: bool) -> bool:
    """Whether the flag holds on some rank."""
    return int(sum_over_ranks(torch.tensor(int(flag)))) > 0


def broadcast_parameters(modules: Iterable[nn.Module]) -> None:
    """Give every rank the trained parameters of rank 0; frozen ones come from files and may be sharded."""
    if not dist.is_initialized():
        return
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                dist.broadcast(parameter.data, 0)


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients over ranks in flat buckets; a parameter that no rank reached stays without one."""
    if not dist.is_initialized():
        return
    reached = sum_over_ranks(torch.tensor([int(parameter.grad is not None) for parameter in parameters]))
    bucket: list[Tensor] = []
    room = _BUCKET_ELEMENTS
    for parameter, count in zip(parameters, reached.tolist(), strict=True):
        if not count:
            continue
        # A rank whose rows did not reach a parameter must still take part.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        room -= parameter.numel()
        if room <= 0:
            _sum_flat(bucket)
            bucket, room = [], _BUCKET_ELEMENTS
    if bucket:
        _sum_flat(bucket)


def _sum_flat(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def shard(units: Sequence[nn.Module], trained: Iterable[nn.Parameter]) -> None:
    """Spread the frozen weights of these modules over the ranks; each is gathered while it runs.

    Trained parameters stay whole on every rank, so that optimizer and checkpoints need not know.
    Does nothing on one rank.
    """
    if not dist.is_initialized():
        return
    whole = set(trained)
    for unit in units:
        # Said outright: each unit is the root of its own tree, and a root keeps what it gathered by default.
        fully_shard(unit, ignored_params=whole, reshard_after_forward=True)
