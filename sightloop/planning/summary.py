"""The plan of any recipe, by its configuration."""

from __future__ import annotations

from sightloop.planning.fitting import counted_plan, fitting_lines
from sightloop.planning.gpus import time_lines
from sightloop.planning.precision import precision_lines
from sightloop.planning.resources import Plan, disk_lines, table
from sightloop.recipes.rows.config import RowsConfig
from sightloop.recipes.unirl.config import UniConfig
from sightloop.recipes.vlrm.config import VlrmConfig
from sightloop.terminal import say

_RANKS = (1, 8)
"""Numbers of ranks that are shown side by side."""


def plans_of(
    config: VlrmConfig | RowsConfig | UniConfig, *, ranks: tuple[int, ...] = _RANKS, is_paper: bool = False
) -> dict[int, Plan]:
    """The resources of one rank, by the number of all; no weight is loaded.

    Raises:
        ValueError: a model does not exist, or its folder does not tell its sizes.
    """
    found = counted_plan(config, is_paper=is_paper)
    return {number: found.plan(number) for number in ranks}


def print_plan(config: VlrmConfig | RowsConfig | UniConfig, *, fit: str = "", is_paper: bool = False) -> None:
    """Parameters, precision, memory, FLOPs, hours on GPUs, disk; `is_paper` = in the paper's sizes.

    With `fit` also the options that make it fit a device of this memory.
    """
    fitting = fitting_lines(config, fit, ranks=_RANKS, is_paper=is_paper) if fit else []
    plans = plans_of(config, is_paper=is_paper)
    named = {"1 rank" if n == 1 else f"of {n}": plan for n, plan in plans.items()}
    times = time_lines(plans, config.schedule, dtype=config.dtype, tf32=config.tf32)
    disk = disk_lines(plans[1], config.schedule.keep_checkpoints)
    say("\n".join([table(named, precision_lines(config)), *times, *disk, *fitting]))
