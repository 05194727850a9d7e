"""What a run needs: what is resident, what each phase of a step computes, and their table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sightloop.training.schedule import Schedule

GIB = 2**30
Phase = Literal["load", "generate", "judge", "reference", "critic", "policy", "evaluate"]
PHASES: tuple[Phase, ...] = ("load", "generate", "judge", "reference", "critic", "policy", "evaluate")
LOADED: tuple[Phase, ...] = PHASES
LEARNED: tuple[Phase, ...] = PHASES[1:]
"""From the first update on."""


def moments_on(schedule: Schedule, learned: int, num_ranks: int) -> float:
    """Bytes of Adam's moments on a rank."""
    return 8 * learned / (num_ranks if schedule.shard_optimizer else 1)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something that lies in the memory of a rank."""

    name: str
    size: float
    """Bytes."""
    phases: tuple[Phase, ...] = LOADED
    """When it is there."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something that is computed in a phase; the works of a phase follow each other."""

    phase: Phase
    name: str
    flops: float = 0.0
    """Of a step over all ranks; of an evaluation for `evaluate`."""
    live: float = 0.0
    """Bytes on a rank while it lasts, besides the parts."""
    reads: float = 0.0
    """Bytes that a rank reads where one word follows another: the weights each time, and caches."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The resources of a run on one rank of several."""

    title: str
    parameters: dict[str, int]
    parts: tuple[Part, ...]
    works: tuple[Work, ...]
    step: str
    """What a step is, in words."""
    saved: float
    """Bytes of a checkpoint."""
    downloads: Mapping[str, float] = field(default_factory=dict[str, float])
    """Bytes of weights by the hub's name."""
    notes: tuple[str, ...] = ()

    def resident(self, phase: Phase) -> float:
        """GiB of the parts that are there in a phase."""
        return sum(part.size for part in self.parts if phase in part.phases) / GIB

    def total(self, phase: Phase) -> float:
        """GiB in a phase at most."""
        live = max((work.live for work in self.works if work.phase == phase), default=0.0)
        return self.resident(phase) + live / GIB

    @property
    def phases(self) -> list[Phase]:
        """Those that this run has."""
        return [phase for phase in PHASES if phase == "load" or any(w.phase == phase for w in self.works)]

    @property
    def peak(self) -> float:
        """GiB at most in any phase."""
        return max(map(self.total, self.phases))

    @property
    def step_flops(self) -> float:
        """FLOPs of a step, over all ranks."""
        return sum(work.flops for work in self.works if work.phase != "evaluate")


def table(plans: dict[str, Plan], precision: list[str]) -> str:
    """Parameters, precision, memory and FLOPs of one run; its memory on several numbers of ranks."""
    first, *_ = columns = list(plans.values())
    lines = [first.title, "parameters"]
    lines += [f"  {name:<52} {number:>15,}" for name, number in first.parameters.items()]
    return "\n".join([*lines, *precision, *_memory(plans, columns), *_flops(first), *first.notes])


def _memory(plans: dict[str, Plan], columns: list[Plan]) -> list[str]:
    title = "memory on each rank, GiB (weights exact, the rest counted or estimated)"
    lines = [title, f"  {'what is resident':<52} " + " ".join(f"{name:>15}" for name in plans)]
    lines += [
        _row(part[0].name, [p.size for p in part]) for part in zip(*(c.parts for c in columns), strict=True)
    ]
    lines.append("  what is computed with")
    for works in zip(*(c.works for c in columns), strict=True):
        if any(work.live for work in works):
            lines.append(_row(f"{works[0].phase}: {works[0].name}", [work.live for work in works]))
    lines.append("  at most in each phase")
    lines += [_row(phase, [c.total(phase) * GIB for c in columns]) for phase in columns[0].phases]
    return [*lines, _row("peak", [column.peak * GIB for column in columns])]


def _row(name: str, sizes: list[float]) -> str:
    return f"  {name:<52} " + " ".join(f"{size / GIB:>15.3f}" for size in sizes)


def disk_lines(plan: Plan, kept: int) -> list[str]:
    """What is fetched, and what checkpoints take: those that are kept, the best and the one being written."""
    lines = [f"  {f'download {name}':<52} {size / 1e9:>12.2f} GB" for name, size in plan.downloads.items()]
    title = f"{kept + 2} checkpoints of {plan.saved / 1e9:.2f} GB at most"
    return ["disk", *lines, f"  {title:<52} {(kept + 2) * plan.saved / 1e9:>12.2f} GB"]


def _flops(plan: Plan) -> list[str]:
    lines = [f"FLOPs of {plan.step}, all ranks (expected)"]
    rows = [work for work in plan.works if work.flops]
    lines += [f"  {f'{w.phase}: {w.name}':<52} {w.flops:>15.3e}" for w in rows if w.phase != "evaluate"]
    lines.append(f"  {'together':<52} {plan.step_flops:>15.3e}")
    return lines + [
        f"  {f'an evaluation: {w.name}':<52} {w.flops:>15.3e}" for w in rows if w.phase == "evaluate"
    ]
