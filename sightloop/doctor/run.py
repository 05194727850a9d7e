"""What `sightloop doctor` does: the computer, every judge of a recipe, and its rewards on real samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from sightloop.doctor.calibration import MeasuredReward, MeasuringJudge, calibration
from sightloop.doctor.environment import environment
from sightloop.doctor.findings import Finding, as_text, is_healthy, save_findings
from sightloop.doctor.models import ModelToExamine, examine
from sightloop.doctor.probes import Probe, drawn_probe, world_probe
from sightloop.doctor.record import BUNDLED
from sightloop.doctor.rewards import examine_rewards
from sightloop.models.protocols import Captioner
from sightloop.rewards.custom import Named, read_names
from sightloop.rewards.loading import Loading
from sightloop.terminal import say
from sightloop.training import distributed
from sightloop.types import Reward

RECIPE_PROBES = {
    "vlrm": "sightloop.doctor.vlrm",
    "grpo": "sightloop.doctor.rows",
    "unirl-grpo": "sightloop.doctor.unirl",
    "unirl-sft": "sightloop.doctor.unirl",
}
"""Modules that know the judges of a recipe: `judges_of(config)` and `opened(config, folder)`."""
_KINDS = {"itm": "itm", "clip": "clip", "siglip": "clip", "pickscore": "clip", "hps": "clip", "vqa": "yes-no"}


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A recipe with its networks loaded, ready to be measured."""

    rewards: dict[str, Reward]
    weights: dict[str, float]
    sample: Callable[[MeasuringJudge], Tensor]
    """Draws samples of the policy, has them judged, and says which group each belongs to."""
    evaluators: list[Finding] = field(default_factory=list[Finding])
    captioner: Captioner | None = None
    in_world: bool = True


def doctor(*, recipe: str, config: Any, rewards: Sequence[str], device: str, json: Path | None) -> bool:
    """Look at everything, print it, write it; True if nothing failed.

    Raises:
        ValueError: a reward that does not exist.
    """
    findings = environment()
    findings += _judges(recipe, config, rewards, device)
    if config is not None:
        name = config.policy or "the embedded world's"
        findings += _checked(
            f"policy: {name}", lambda: import_module(RECIPE_PROBES[recipe]).policy_of(config)
        )
    if config is not None and is_healthy(findings):
        findings += _checked("calibration", lambda: _recipe(recipe, config))
    elif config is not None:
        says = "not measured: something above failed"
        findings.append(Finding(part="calibration", name=recipe, mark="info", says=says))
    say(as_text(findings))
    if json is not None:
        save_findings(findings, json)
        say(f"wrote {json}")
    return is_healthy(findings)


def _judges(recipe: str, config: Any, rewards: Sequence[str], device: str) -> list[Finding]:
    named = read_names(rewards)
    wanted = [model for one in named if (model := as_model(one)) is not None]
    if config is not None:
        wanted = [*import_module(RECIPE_PROBES[recipe]).judges_of(config), *wanted]
    elif not rewards:
        wanted = list(BUNDLED)
    place = distributed.device(device)
    findings: list[Finding] = []
    for one in wanted:
        look = partial(examine, one, dtype=torch.float32, device=place)
        findings += _checked(f"{one.name}: {one.model}", look)
    for one in named:
        if one.offer is None:
            findings += _checked(one.short, partial(_own_reward, one))
    return findings


def _own_reward(one: Named) -> list[Finding]:
    return examine_rewards({one.short: one.load(Loading())}, drawn_probe())


def _checked(part: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What a check finds; one that cannot be made is a failure, and the others go on."""
    try:
        return look()
    except (ValueError, OSError, RuntimeError, LookupError, TypeError, ImportError) as error:
        says = " ".join(str(error).split())[:400] or type(error).__name__
        fix = "correct what is named above, or name another model"
        return [Finding(part=part, name="loads and runs", mark="fail", says=says, fix=fix)]


def as_model(one: Named) -> ModelToExamine | None:
    """The judge behind a named reward; None for one without images and texts to compare."""
    kind = one.name.partition(":")[0]
    if one.offer is None or kind not in _KINDS or not one.models:
        return None
    return ModelToExamine(
        name=one.short,
        model=one.models[0],
        kind=_KINDS[kind],  # pyright: ignore[reportArgumentType]
        scale="logit" if kind == "pickscore" else "cosine",
        processor=one.processor,
    )


def _recipe(recipe: str, config: Any) -> list[Finding]:
    """Rewards and evaluators with the recipe's own networks, then the calibration."""
    with TemporaryDirectory(prefix="sightloop-doctor-") as folder:
        opened: Opened = import_module(RECIPE_PROBES[recipe]).opened(config, Path(folder))
        probe: Probe = world_probe() if opened.in_world else drawn_probe()
        findings = examine_rewards(opened.rewards, probe, opened.captioner) + opened.evaluators
        judge = MeasuringJudge(rewards=opened.rewards)
        group = opened.sample(judge)
    measured = {name: _joined(parts) for name, parts in judge.seen.items()}
    return [*findings, *calibration(measured, group, opened.weights)]


def _joined(parts: list[MeasuredReward]) -> MeasuredReward:
    return MeasuredReward(
        values=torch.cat([part.values for part in parts]),
        seconds=sum(part.seconds for part in parts),
        megabytes=sum(part.megabytes for part in parts),
    )
