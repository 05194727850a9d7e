"""What would have needed less memory, by the plan: the end of a run that did not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sightloop.planning.fitting import smaller
from sightloop.planning.resources import PHASES, Phase
from sightloop.planning.summary import plans_of
from sightloop.recipes.captioner_runs import trains_captioner
from sightloop.training.checkpoint import finished_checkpoints
from sightloop.training.memory import DRAWING, UPDATING, OutOfMemoryError

_MEANT: dict[str, tuple[Phase, ...]] = {
    DRAWING: ("generate", "judge"),
    UPDATING: ("policy",),
    "models were loaded": ("load",),
    "credit was computed": ("reference", "critic"),
    "the policy was evaluated": ("evaluate",),
}


def out_of_memory_message(error: OutOfMemoryError, config: Any, folder: Path, *, num_ranks: int) -> str:
    """One paragraph: phase, sizes, which options would take how much, and what is saved."""
    try:
        now = _planned(config, num_ranks, error.phase)
        less = [(option, _planned(c, num_ranks, error.phase)) for option, c in smaller(config, num_ranks)]
        helpful = sorted((size, option) for option, size in less if size < now)
        advice = (
            f"The plan counts {now:.3g} GiB there on each rank"
            + "".join(f", with {option} {size:.3g}" for size, option in helpful)
            + "; start again with some of these options, and see every part with --plan"
        )
    except ValueError as no_plan:
        options = ", ".join(option for option, _ in smaller(config, num_ranks))
        advice = f"Less memory is needed with {options} (no figures: {no_plan})"
    saved = finished_checkpoints(folder / "checkpoints")
    kept = f" The checkpoint of step {saved[-1].step} in {folder} is whole." if saved else ""
    return f"{error}. {advice}.{kept}"


def _planned(config: Any, num_ranks: int, phase: str) -> float:
    """GiB on each rank in a phase, as the training loop names it."""
    plan = plans_of(config, ranks=(num_ranks,))[num_ranks]
    # A drawing run scores its reference with the update, a caption run has it among its judges.
    is_reward = phase == DRAWING and trains_captioner(config)
    meant = (*_MEANT.get(phase, PHASES), *(("reference",) if is_reward else ()))
    return max((plan.total(one) for one in plan.phases if one in meant), default=plan.peak)
