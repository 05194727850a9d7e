"""Settings with which a run fits the memory of a device: `train ... --plan --fit 24GB`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sightloop.planning.caption_plan import CaptionPlan
from sightloop.planning.image_plan import ImagePlan
from sightloop.planning.networks import is_relaxed
from sightloop.planning.resources import Plan
from sightloop.planning.rows_plan import RowsPlan
from sightloop.recipes.captioner_runs import as_captions, trains_captioner
from sightloop.recipes.rows.config import RowsConfig
from sightloop.recipes.unirl.config import UniConfig
from sightloop.recipes.vlrm.config import VlrmConfig

_LEFT = 0.1
"""Of a device, to its driver, to libraries and to blocks too small for what is asked; not measured."""
_GAIN = 0.005
"""An option that saves a smaller share of what is too much is not worth a word."""
_FEW = 8
"""Samples at once, below which a device is idle for a part of the time."""
_OTHER_NETWORKS = ("--dtype", "--model.trained")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(?:gi?b?)?", re.IGNORECASE)


AnyConfig = VlrmConfig | RowsConfig | UniConfig


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A configuration that was made smaller until it fitted."""

    config: Any
    options: tuple[str, ...]
    """What was changed, as options of the command line."""
    peak: float
    """GiB at most on a rank."""
    is_enough: bool


def size_of(text: str) -> float:
    """The GiB of a device as people write it; makers of devices mean GiB by GB.

    >>> size_of("24GB"), size_of("79.6 GiB"), size_of("40")
    (24.0, 79.6, 40.0)

    Raises:
        ValueError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise ValueError(f"fit is {text!r}; give the memory of a device, such as 24GB")
    return float(match[1])


def fitted(config: AnyConfig, size: float, *, num_ranks: int, is_paper: bool = False) -> Fit:
    """The configuration with as few changes as the plan finds, on each of so many ranks.

    What changes nothing but the time comes first, then precision, then what is trained.

    Raises:
        ValueError: as for the plan itself.
    """
    counted, options, chosen = counted_plan(config, is_paper=is_paper), dict[str, str](), config
    room = size * (1 - _LEFT)
    while (most := _beyond(counted.plan(num_ranks), room)) > 0:
        for option, less in smaller(chosen, num_ranks):
            tried = (
                counted_plan(less, is_paper=is_paper)
                if option.startswith(_OTHER_NETWORKS)
                else _with(counted, less)
            )
            if _beyond(tried.plan(num_ranks), room) < most * (1 - _GAIN):
                counted, chosen = tried, less
                options[option.split()[0]] = option
                break
        else:
            break
    return Fit(
        config=chosen,
        options=tuple(options.values()),
        peak=counted.plan(num_ranks).peak,
        is_enough=most <= 0,
    )


def _beyond(plan: Plan, room: float) -> float:
    """How many GiB all phases together need beyond the room that each has."""
    return sum(max(0.0, plan.total(phase) - room) for phase in plan.phases)


def fitting_lines(
    config: AnyConfig, text: str, *, ranks: tuple[int, ...], is_paper: bool = False
) -> list[str]:
    """What to add to the command so that it fits a device of this size, for each number of ranks."""
    size = size_of(text)
    lines = [f"to fit {size:g} GB, {_LEFT:.0%} of it left to the driver and to fragments (not measured)"]
    for number in ranks:
        found = fitted(config, size, num_ranks=number, is_paper=is_paper)
        name = "1 rank" if number == 1 else f"of {number}"
        needed = (
            f"{found.peak:.3f} GiB" if found.is_enough else f"does not fit: {found.peak:.3f} GiB at least"
        )
        with_these = f" with {' '.join(found.options)}" if found.options else " as it is"
        lines.append(f"  {name:<8} {needed}{with_these}")
    return lines


def counted_plan(config: AnyConfig, *, is_paper: bool = False) -> CaptionPlan | RowsPlan | ImagePlan:
    """The plan of any recipe, for any number of ranks.

    Raises:
        ValueError: a model does not exist, or its folder does not tell its sizes.
    """
    if isinstance(config, RowsConfig):
        return RowsPlan(config)
    return CaptionPlan(config) if isinstance(config, VlrmConfig) else ImagePlan(config, is_paper=is_paper)


def _with(counted: Any, config: AnyConfig) -> Any:
    """The same networks, which are counted slowly, in another configuration."""
    if isinstance(config, RowsConfig):
        return RowsPlan(config)
    other = object.__new__(type(counted))
    vars(other).update(vars(counted), config=config)
    return other


def smaller(config: Any, num_ranks: int) -> Iterator[tuple[str, Any]]:
    """Options of the command line that take less memory, each with the configuration that it makes."""
    schedule = config.schedule
    if num_ranks > 1 and not schedule.shard_optimizer:
        yield "--shard-optimizer", replace(config, schedule=replace(schedule, shard_optimizer=True))
    yield from _smaller_batches(config, num_ranks, least=_FEW)
    if not config.gradient_checkpointing:
        yield "--gradient-checkpointing", replace(config, gradient_checkpointing=True)
    if trains_captioner(config) and config.keep_features:
        yield "--no-keep-features", replace(config, keep_features=False)
    yield from _smaller_batches(config, num_ranks, least=1)
    if isinstance(config, VlrmConfig) and num_ranks > 1 and not config.shard:
        yield "--shard", replace(config, shard=True)
    if config.dtype == "float32":
        yield "--dtype bfloat16", replace(config, dtype="bfloat16")
    if isinstance(config, UniConfig) and config.model.trained == "full":
        yield "--model.trained lora", replace(config, model=replace(config.model, trained="lora"))


def _smaller_batches(config: Any, num_ranks: int, *, least: int) -> Iterator[tuple[str, Any]]:
    """Half of what is in memory at once, where that is no less than `least`."""
    schedule = config.schedule
    half = schedule.micro_batch // 2
    if half >= least and not (isinstance(config, UniConfig) and is_relaxed(config)):
        yield f"--micro-batch {half}", replace(config, schedule=replace(schedule, micro_batch=half))
    given: Any = config
    captions = as_captions(given) if trains_captioner(given) else None
    samples = config.group if captions is None else captions.draw.per_image
    half = (config.draw_batch or -(-config.batch // num_ranks) * samples) // 2
    # Captions that are contrasted with each other are judged in one part.
    if half >= least and not (captions and captions.rewards.retrieval):
        yield f"--draw-batch {half}", replace(config, draw_batch=half)
    if isinstance(config, VlrmConfig) and config.held_out.images:
        half = config.held_out.draw_batch // 2
        less = replace(config, held_out=replace(config.held_out, draw_batch=max(1, half)))
        yield from [(f"--held-out.draw-batch {half}", less)] * (half >= least)
    if isinstance(config, UniConfig) and config.joint.per_category:
        half = config.joint.draw_batch // 2
        less = replace(config, joint=replace(config.joint, draw_batch=max(1, half)))
        yield from [(f"--joint.draw-batch {half}", less)] * (half >= least)
