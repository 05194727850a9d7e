"""Ranks under torchrun: the only file that knows torch.distributed. On one rank all of it is the identity.

Shares sum to 1 over all ranks, so gradients are summed over ranks, never averaged. Whoever waits for the
other ranks looks after them meanwhile (`process.ranks`): none waits for one that cannot come.
"""

from __future__ import annotations

import errno
import os
import pickle
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from sightloop import accelerator
from sightloop.process import ranks

Item = TypeVar("Item")
Part = TypeVar("Part")
_BUCKET_ELEMENTS = 2**24
_LOOK, _MEETING, _WAITING = timedelta(seconds=0.5), timedelta(minutes=5), timedelta(hours=12)
_STANDING_SECONDS = 10.0
_TRY = timedelta(seconds=10)
_PORT_SECONDS = 30.0
"""So long a port may still be a process's that is about to end."""
_CONNECTIONS: list[Any] = []
"""To the store that all ranks reach: one of the group, two of the watch over the others."""
_STORES: list[Any] = []
"""The same, with names of the present meeting: a process may train several times."""
_MEETINGS: list[None] = []


def connect() -> None:
    """Meet the other ranks, if launched by torchrun with more than one process.

    Raises:
        ValueError: they cannot be met.
    """
    number = ranks.num_processes()
    if number == 1 or _STORES:
        return
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise ValueError(f"WORLD_SIZE is {number}, but {', '.join(missing)} is not set; start with torchrun")
    if not _CONNECTIONS:
        store = _opened_store(number)
        _CONNECTIONS[:] = [store, store.clone(), store.clone()]
    _MEETINGS.append(None)
    attempt = f"sightloop/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{len(_MEETINGS)}"
    _STORES[:] = [_below(attempt, each) for each in _CONNECTIONS]
    ranks.start_watch((_STORES[1], _STORES[2]), int(os.environ["RANK"]), number)


def _opened_store(number: int) -> Any:
    rank, address, port = (os.environ[name] for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"))
    by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_master = rank == "0" and not by_launcher
    until = time.monotonic() + _MEETING.total_seconds()
    try:
        while True:
            # torch waits where no signal is heard, and tells of each try.
            if is_master:
                _wait_for_port(int(port))
            else:
                _wait_for_store(address, int(port), until)
            try:
                store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
                    address,
                    int(port),
                    number,
                    is_master=is_master,
                    timeout=_TRY,
                    wait_for_workers=False,
                    multi_tenant=True,
                )
            except dist.DistError:
                # Whoever answers may be a process that is about to end.
                if is_master or time.monotonic() > until:
                    raise
            else:
                store.set_timeout(_MEETING)
                return store
    except (dist.DistError, ValueError, OSError, OverflowError) as error:
        raise ValueError(
            f"rank {rank} cannot meet the others at {address}:{port} ({str(error).partition('. ')[0]}); if "
            "another job uses this port, give torchrun --master-port with a free one"
        ) from error


def _wait_for_port(port: int) -> None:
    """Until nobody else has the port, such as an earlier start that is about to end."""
    until = time.monotonic() + _PORT_SECONDS
    while True:
        try:
            with socket.socket() as asked:
                asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                return asked.bind(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise
        time.sleep(0.2)


def _wait_for_store(address: str, port: int, until: float) -> None:
    """Until rank 0, or the launcher, has opened it."""
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection((address, port), timeout=5) as asked:
            # On one computer a connection may, by chance, be one with itself.
            if asked.getsockname() != asked.getpeername():
                return
        time.sleep(0.2)
    raise ValueError(f"nobody answered there for {_MEETING.total_seconds():.0f} s")


def start() -> None:
    """Join the process group if launched by torchrun with more than one process."""
    connect()
    if not _STORES or dist.is_initialized():
        return
    # Before the group is made: it would put every rank on the first device.
    accelerator.choose()
    dist.init_process_group(
        accelerator.collective_backend(),
        store=_below("group", _STORES[0]),
        rank=int(os.environ["RANK"]),
        world_size=ranks.num_processes(),
        timeout=_WAITING,
    )


def _below(name: str, store: Any) -> Any:
    return dist.PrefixStore(name, store)  # pyright: ignore[reportPrivateImportUsage]


def stop() -> None:
    """Leave the process group."""
    watch = ranks.watch()
    if watch is not None and not watch.problem:
        watch.close()
    # With an operation that some never joined, leaving would wait for them.
    if dist.is_initialized() and not (watch and watch.apart):
        dist.destroy_process_group()
        _STORES.clear()


def part() -> None:
    """This rank takes part in no common operation any more: what was in flight is dropped, or failed."""
    watch = ranks.watch()
    if watch is not None:
        watch.apart = True


def fail(sentence: str) -> None:
    """This rank fails: it parts, and the others need not wait for it."""
    watch = ranks.watch()
    if watch is not None:
        watch.fail(sentence)


def doing(phase: str, *, shared: bool = False) -> None:
    """What this rank does from now on, for the others to name; `shared`: all do it, in about equal time."""
    watch = ranks.watch()
    if watch is not None:
        watch.doing(phase, shared=shared)


def advise(how_to_go_on: str) -> None:
    """What is said after the cause if another rank ends the run."""
    watch = ranks.watch()
    if watch is not None:
        watch.how_to_go_on = how_to_go_on


def require_all() -> None:
    """Look whether all ranks are still there.

    Raises:
        RankFailedError: one failed, or is lost.
    """
    watch = ranks.watch()
    if watch is not None:
        watch.find_lost()
        if watch.problem is not None:
            raise ranks.RankFailedError(watch.problem.sentence())


def note_standing(step: int, standing: Any) -> None:
    """Leave with the others where this rank stands after a step, for a checkpoint that is written alone."""
    if _STORES:
        _STORES[0].set(_standing(step, rank()), pickle.dumps(standing))
        _STORES[0].delete_key(_standing(step - 2, rank()))


def standings(step: int, mine: Item) -> list[Item]:
    """Where every rank stands after a step; of ranks that take part no more, what they left.

    Raises:
        RankFailedError: one left nothing.
    """
    watch = ranks.watch()
    if watch is None or not watch.apart:
        return gather(mine)
    keys = [_standing(step, each) for each in range(num_ranks())]
    _wait_for_notes(keys, step)
    return [pickle.loads(_STORES[0].get(key)) for key in keys]


def all_have_written(step: int) -> None:
    """Wait for what all ranks write of a step, also those that take part in common operations no more.

    Raises:
        RankFailedError: one did not come to it.
    """
    watch = ranks.watch()
    if watch is None or not watch.apart:
        return barrier()
    keys = [f"written/{step}/{each}" for each in range(num_ranks())]
    _STORES[0].set(keys[rank()], "yes")
    if rank() == 0:
        _wait_for_notes(keys, step)


def _wait_for_notes(keys: list[str], step: int) -> None:
    until = time.monotonic() + _STANDING_SECONDS
    while not _STORES[0].check(keys):
        if time.monotonic() > until:
            raise ranks.RankFailedError(f"not every rank has come to step {step}")
        time.sleep(0.05)


def _standing(step: int, rank: int) -> str:
    return f"standing/{step}/{rank}"


def _finish(work: Any, result: Tensor) -> None:
    """Wait for a common operation, and look after the other ranks meanwhile.

    Raises:
        RankFailedError: one of them cannot come.
        Dropped: a signal came, and they do not come any more.
    """
    watch = ranks.watch()
    if watch is None or result.device.type != "cpu":
        # A device's operations are ordered on the device, without the host.
        work.wait()
        return
    with watch.waiting():
        while True:
            try:
                work.wait(_LOOK)
                return
            except RuntimeError:
                if work.is_completed():
                    break
            watch.look()
        try:
            work.wait()
        except RuntimeError:
            watch.explain()
            raise


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """How many processes take part."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all ranks, unless they parted."""
    watch = ranks.watch()
    if dist.is_initialized() and not (watch and watch.apart):
        any_rank(False)


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
    _finish(dist.all_reduce(total, async_op=True), total)
    return total


def gather(item: Item) -> list[Item]:
    """Every rank's item, in the order of ranks, on every rank."""
    if not dist.is_initialized():
        return [item]
    mine = torch.frombuffer(bytearray(pickle.dumps(item)), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(num_ranks())]
    _finish(dist.all_gather(sizes, torch.tensor([len(mine)]), async_op=True), mine)
    longest = int(max(sizes))
    rows = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
    padded = torch.cat([mine, mine.new_zeros(longest - len(mine))])
    _finish(dist.all_gather(rows, padded, async_op=True), mine)
    return [pickle.loads(row[: int(size)].numpy().tobytes()) for row, size in zip(rows, sizes, strict=True)]


def in_turns(parts: Iterable[Part], work: Callable[[Part], Item]) -> Iterator[Item]:
    """What `work` makes of each part, in order, on every rank: each rank does every R-th part.

    The parts are those of one process, and so is what becomes of them.
    """
    left = iter(parts)
    while some := list(islice(left, num_ranks())):
        mine = work(some[rank()]) if rank() < len(some) else None
        yield from gather(mine)[: len(some)]  # pyright: ignore[reportReturnType]


def first_rank_does(work: Callable[[], Item]) -> Item:
    """What rank 0 makes, on every rank: what is written is written once, and is there for all afterwards."""
    return gather(work() if rank() == 0 else None)[0]  # pyright: ignore[reportReturnType]


def all_ranks(flag: bool) -> bool:
    """Whether the flag holds on every rank."""
    return not any_rank(not flag)


def any_rank(flag: bool) -> bool:
    """Whether the flag holds on some rank."""
    return int(sum_over_ranks(torch.tensor(int(flag)))) > 0


def broadcast_parameters(modules: Iterable[nn.Module]) -> None:
    """Give every rank the trained parameters of rank 0; frozen ones come from files and may be sharded."""
    parameters = (parameter for module in modules for parameter in module.parameters())
    hand_out((parameter, 0) for parameter in parameters if parameter.requires_grad)


def hand_out(pairs: Iterable[tuple[nn.Parameter, int]]) -> None:
    """Give every rank each parameter as its owner has it."""
    if dist.is_initialized():
        for parameter, owner in pairs:
            _finish(dist.broadcast(parameter.data, owner, async_op=True), parameter.data)


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
    _finish(dist.all_reduce(flat, async_op=True), flat)
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
