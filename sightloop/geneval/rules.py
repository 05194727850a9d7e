"""GenEval's rules (arXiv 2310.11513): from what a detector saw to a verdict, its reason and a shaped reward.

Pure functions of plain data: no network, no files. Verdicts, reasons and kept objects are those of the
official evaluator; a benchmark number also depends on the detector, so name it beside the number.

Differences from the official code:
1. A reason that names two relations names them in alphabetical order; officially the order is that of a set.
2. Objects of equal score keep the order they were given in; officially it is left to the sorting routine.
3. Coordinates are compared in double precision; whole pixels give the same answers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from sightloop.geneval.prompts import COLORS, RELATIONS, GenEvalPrompt
from sightloop.quizzes.grammar import Clause

_NO_OFFSET = 1e-3
_DIRECTION = 0.5

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One object that a detector saw."""

    name: str
    box: Box
    score: float
    """0 to 1; compared in float32."""
    color: str | None = None
    """None = not classified."""
    mask: Bool[np.ndarray, "H W"] | None = None
    """The object's pixels; None = all of its box."""


@dataclass(frozen=True, kw_only=True)
class GenEvalRules:
    """The settings of the evaluation; the defaults are official."""

    threshold: float = 0.3
    """An object counts if its score is larger."""
    counting_threshold: float = 0.9
    """The same for prompts of the counting task."""
    max_objects: int = 16
    """Most confident objects of a class that are looked at."""
    max_overlap: float = 1.0
    """An object is dropped if it overlaps a more confident one of its class this much (IoU); 1 = never."""
    position_margin: float = 0.1
    """Share of both sizes that two objects must be apart before a relation holds."""

    def __post_init__(self) -> None:
        for name in ("threshold", "counting_threshold", "max_overlap"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; use a number from 0 to 1")
        if self.max_objects < 1:
            raise ValueError(f"max_objects is {self.max_objects}; use at least 1, officially 16")
        if not 0 <= self.position_margin < math.inf:
            raise ValueError(f"position_margin is {self.position_margin}; use 0 or more, officially 0.1")

    @property
    def floor(self) -> float:
        """No object of this score or less can matter."""
        return min(self.threshold, self.counting_threshold)


OFFICIAL = GenEvalRules()
Kept = dict[str, list[Detection]]
"""Objects of each class that count, the most confident first."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether an image shows what its prompt asked for."""

    correct: bool
    reason: str
    """What is wrong, a line each; "" if nothing."""
    kept: Kept


@dataclass(frozen=True, kw_only=True)
class Shaped:
    """A reward with partial credit."""

    reward: float
    strict: bool
    """True if every count is met exactly, and every color and relation."""


def kept_objects(tag: str, detections: Iterable[Detection], rules: GenEvalRules = OFFICIAL) -> Kept:
    """The objects that count for a prompt of this task: by threshold, then number, then overlap."""
    # Official scores are float32: one of 0.3 in float32 is not above 0.3.
    limit = np.float32(rules.counting_threshold if tag == "counting" else rules.threshold)
    given = list(detections)
    scores = np.array([detection.score for detection in given], np.float32)
    groups: Kept = {}
    for place in np.argsort(-scores, kind="stable").tolist():
        if not scores[place] > limit:
            break
        group = groups.setdefault(given[place].name, [])
        if len(group) < rules.max_objects:
            group.append(given[place])
    if rules.max_overlap == 1:
        return groups
    return {name: _without_overlap(group, rules.max_overlap) for name, group in groups.items()}


def objects_to_color(prompt: GenEvalPrompt, kept: Kept) -> list[Detection]:
    """The objects whose color the verdict depends on."""
    wanted: dict[int, Detection] = {}
    for clause in prompt.include:
        found = kept.get(clause.noun, [])
        if clause.color is not None and len(found) >= clause.count:
            wanted |= {id(detection): detection for detection in found[: clause.count]}
    return list(wanted.values())


def verdict_of(
    prompt: GenEvalPrompt, detections: Iterable[Detection], *, rules: GenEvalRules = OFFICIAL
) -> Verdict:
    """What the official evaluator says of an image in which these objects were seen.

    More objects than asked for are right unless `exclude` says otherwise; the surplus is never looked at.

    Raises:
        ValueError: an object whose color matters has none.
    """
    kept = kept_objects(prompt.tag, detections, rules)
    reasons: list[str] = []
    groups: list[list[Detection] | None] = []
    for clause in prompt.include:
        found = kept.get(clause.noun, [])[: clause.count]
        wrong = _what_is_wrong(clause, found, groups, rules.position_margin)
        groups.append(None if wrong else found)
        if wrong:
            reasons.append(wrong)
    for clause in prompt.exclude:
        number = len(kept.get(clause.noun, []))
        if number >= clause.count:
            reasons.append(f"expected {clause.noun}<{clause.count}, found {number}")
    return Verdict(correct=not reasons, reason="\n".join(reasons), kept=kept)


def relations_between(box: Box, seen_from: Box, *, margin: float = OFFICIAL.position_margin) -> set[str]:
    """Where `box` is, seen from another: none, one or two of `RELATIONS`.

    >>> relations_between((30, 0, 40, 10), (0, 0, 10, 10))
    {'right of'}
    """
    offsets = [(box[i] + box[i + 2] - seen_from[i] - seen_from[i + 2]) / 2 for i in (0, 1)]
    sizes = [abs(box[i + 2] - box[i]) + abs(seen_from[i + 2] - seen_from[i]) for i in (0, 1)]
    beyond = [
        math.copysign(max(abs(offset) - margin * size, 0.0), offset)
        for offset, size in zip(offsets, sizes, strict=True)
    ]
    if max(map(abs, beyond)) < _NO_OFFSET:
        return set()
    # The margin shortens the offset, not the length it is divided by.
    dx, dy = (part / math.hypot(*offsets) for part in beyond)
    holds = (dx < -_DIRECTION, dx > _DIRECTION, dy < -_DIRECTION, dy > _DIRECTION)
    return {relation for relation, true in zip(RELATIONS, holds, strict=True) if true}


def flow_grpo_reward(
    prompt: GenEvalPrompt, detections: Iterable[Detection], *, rules: GenEvalRules = OFFICIAL
) -> Shaped:
    """The reward that Flow-GRPO's server (arXiv 2505.05470) gives, slips included.

    The mean of one entry for each count, `1 - |wanted - found| / wanted`, one for each color and two for
    each relation. Its slips: entries have no lower end, so that 16 dogs instead of one cost 15; a relation
    that fails earns half of its two entries; `exclude` is ignored. `exact_reward` has none of them.

    Raises:
        ValueError: an object whose color matters has none.
    """
    kept = kept_objects(prompt.tag, detections, rules)
    entries: list[float] = []
    groups: list[list[Detection] | None] = []
    for clause in prompt.include:
        found = kept.get(clause.noun, [])
        entries.append(1 - abs(clause.count - len(found)) / clause.count)
        met = len(found) == clause.count
        if not met:
            entries += [0.0] * (clause.color is not None or clause.relation is not None)
        if met and clause.color is not None:
            right = _colors(found).count(clause.color)
            entries.append(1 - (clause.count - right) / clause.count)
            met = right == clause.count
        if met and clause.position is not None:
            target = groups[clause.position[1]]
            met = target is not None and not _broken_relation(clause, found, target, rules.position_margin)
            entries += [0.0] * (not met) + [1.0] * (target is not None)
        groups.append(found if met else None)
    return Shaped(reward=sum(entries) / max(len(entries), 1), strict=bool(groups) and None not in groups)


def exact_reward(
    prompt: GenEvalPrompt, detections: Iterable[Detection], *, rules: GenEvalRules = OFFICIAL
) -> Shaped:
    """The mean of one entry from 0 to 1 for everything that a prompt asks for; 1 only if all is met exactly.

    A count earns `1 - |wanted - found| / wanted`, at least 0; a color the share of the wanted objects that
    have it, 0 if there are too few objects; a relation the share of pairs that stand so, 0 if its target is
    not met; an `exclude` clause 1 or 0.

    Raises:
        ValueError: an object whose color matters has none.
    """
    kept = kept_objects(prompt.tag, detections, rules)
    entries: list[float] = []
    for clause, number, shares in _clauses_met(prompt, kept, rules.position_margin):
        enough = number >= clause.count
        entries.append(max(0.0, 1 - abs(clause.count - number) / clause.count))
        entries += [share if enough else 0.0 for share in shares]
    entries += [float(met) for met in _exclusions_met(prompt, kept)]
    return Shaped(reward=sum(entries) / len(entries), strict=min(entries) == 1)


def conditions_met(
    prompt: GenEvalPrompt, detections: Iterable[Detection], *, rules: GenEvalRules = OFFICIAL
) -> list[bool]:
    """Everything that a prompt asks for, one by one: of each clause its number, color and relation; no more.

    All are met exactly if the verdict is right.

    Raises:
        ValueError: an object whose color matters has none.
    """
    kept = kept_objects(prompt.tag, detections, rules)
    met: list[bool] = []
    for clause, number, shares in _clauses_met(prompt, kept, rules.position_margin):
        met += [number >= clause.count, *(share == 1 for share in shares)]
    return met + _exclusions_met(prompt, kept)


def _clauses_met(
    prompt: GenEvalPrompt, kept: Kept, margin: float
) -> Iterator[tuple[Clause, int, list[float]]]:
    """Each clause with the number of its objects, and how much of its color and its relation holds."""
    groups: list[list[Detection]] = []
    for clause in prompt.include:
        every = kept.get(clause.noun, [])
        found = every[: clause.count]
        enough = len(found) == clause.count
        shares: list[float] = []
        if clause.color is not None:
            shares.append(_colors(found).count(clause.color) / clause.count if enough else 0.0)
        if clause.position is not None:
            shares.append(_share_related(clause, found, groups[clause.position[1]], margin))
        # Objects that are not what was asked for are nobody's target.
        groups.append(found if enough and all(share == 1 for share in shares) else [])
        yield clause, len(every), shares


def _exclusions_met(prompt: GenEvalPrompt, kept: Kept) -> list[bool]:
    return [len(kept.get(clause.noun, [])) < clause.count for clause in prompt.exclude]


def _what_is_wrong(
    clause: Clause, found: list[Detection], groups: Sequence[list[Detection] | None], margin: float
) -> str:
    """The official text about the first condition of a clause that fails; "" if none does."""
    name, count = clause.noun, clause.count
    if len(found) < count:
        return f"expected {name}>={count}, found {len(found)}"
    if clause.color is not None:
        numbers = Counter(_colors(found))
        if numbers[clause.color] < count:
            seen = [c for c in COLORS if c in numbers] + sorted(set(numbers) - set(COLORS))
            listed = ", ".join(f"{numbers[color]} {color}" for color in seen)
            right = f"{numbers[clause.color]} {clause.color}"
            return f"expected {clause.color} {name}>={count}, found {right}; and {listed}"
    if clause.position is None:
        return ""
    target = groups[clause.position[1]]
    if target is None:
        return f"no target for {name} to be {clause.relation}"
    return _broken_relation(clause, found, target, margin)


def _broken_relation(clause: Clause, found: list[Detection], target: list[Detection], margin: float) -> str:
    for subject in found:
        for other in target:
            seen = relations_between(subject.box, other.box, margin=margin)
            if clause.relation not in seen:
                listed = " and ".join(sorted(seen))
                return f"expected {clause.noun} {clause.relation} target, found {listed} target"
    return ""


def _share_related(clause: Clause, found: list[Detection], target: list[Detection], margin: float) -> float:
    pairs = [(subject.box, other.box) for subject in found for other in target]
    held = sum(clause.relation in relations_between(*pair, margin=margin) for pair in pairs)
    return held / len(pairs) if pairs else 0.0


def _colors(found: Iterable[Detection]) -> list[str]:
    colors: list[str] = []
    for detection in found:
        if detection.color is None:
            raise ValueError(
                f"the {detection.name} at {detection.box} has no color, and the prompt asks for one; "
                "classify the objects of `objects_to_color` first"
            )
        colors.append(detection.color)
    return colors


def _without_overlap(group: list[Detection], limit: float) -> list[Detection]:
    kept: list[Detection] = []
    for detection in group:
        if all(_overlap(detection.box, other.box) < limit for other in kept):
            kept.append(detection)
    return kept


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union where the last pixel belongs to the box, as officially."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    shared = width * height
    return shared / (sum(areas) - shared)
