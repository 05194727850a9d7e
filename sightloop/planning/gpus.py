"""How long a run would take on GPUs by name: a roofline of what the plan counts, with stated efficiency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sightloop.planning.resources import Plan, Work
from sightloop.training.schedule import Schedule

COMPUTE, BANDWIDTH = 0.4, 0.6
"""Assumed shares of a GPU's peaks that training reaches; nothing of it was measured here."""
_TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU by its data sheet: dense products a second in TFLOPS, memory."""

    name: str
    half: float
    tf32: float
    float32: float
    bandwidth: float
    """TB a second."""
    gib: float

    def seconds(self, work: Work, *, precision: str, num_ranks: int) -> float:
        """Of a work: what takes longer, to compute or to read."""
        peak = {"half": self.half, "tf32": self.tf32}.get(precision, self.float32)
        compute = work.flops / num_ranks / (peak * _TERA * COMPUTE)
        return max(compute, work.reads / (self.bandwidth * _TERA * BANDWIDTH))


GPUS = (
    Gpu(name="RTX 4090 24 GB", half=165, tf32=82.6, float32=82.6, bandwidth=1.01, gib=24),
    Gpu(name="L40S 48 GB", half=362, tf32=183, float32=91.6, bandwidth=0.86, gib=45),
    Gpu(name="A100 80 GB", half=312, tf32=156, float32=19.5, bandwidth=2.04, gib=80),
    Gpu(name="H100 80 GB", half=989, tf32=494, float32=67, bandwidth=3.35, gib=80),
    Gpu(name="H200 141 GB", half=989, tf32=494, float32=67, bandwidth=4.8, gib=140),
)


def time_lines(plans: Mapping[int, Plan], schedule: Schedule, *, dtype: str, tf32: bool) -> list[str]:
    """Seconds a step and hours a run on each GPU, for each number of them; what does not fit is told."""
    precision = "half" if dtype != "float32" else "tf32" if tf32 else "float32"
    evaluations = schedule.steps // schedule.eval_every + 1
    products = "TF32" if precision == "tf32" else dtype
    lines = [
        f"time on GPUs, at {COMPUTE:.0%} of their peak of products in {products} and {BANDWIDTH:.0%} of that "
        "of their memory,",
        f"  both assumed; {schedule.steps} steps and {evaluations} evaluations, without loading and reading "
        "of images",
        f"  {'':<18} " + " ".join(f"{_column(number):>34}" for number in plans),
    ]
    for gpu in GPUS:
        cells = [
            _cell(gpu, plan, precision, number, (schedule.steps, evaluations))
            for number, plan in plans.items()
        ]
        lines.append(f"  {gpu.name:<18} " + " ".join(f"{cell:>34}" for cell in cells))
    return lines


def _column(number: int) -> str:
    return "one" if number == 1 else f"{number} of them"


def _cell(gpu: Gpu, plan: Plan, precision: str, num_ranks: int, times: tuple[int, int]) -> str:
    if plan.peak > gpu.gib:
        return f"does not fit ({plan.peak:.0f} of {gpu.gib:.0f} GiB)"
    took = [(w, gpu.seconds(w, precision=precision, num_ranks=num_ranks)) for w in plan.works]
    step = sum(seconds for work, seconds in took if work.phase != "evaluate")
    evaluation = sum(seconds for work, seconds in took if work.phase == "evaluate")
    whole = times[0] * step + times[1] * evaluation
    return f"{_told(step)} a step, {_told(whole)} in all"


def _told(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
