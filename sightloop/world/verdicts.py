"""Whether a picture shows what a quiz asks for, from what the checker found: GenEval's rules, exactly.

The surest things of a kind are looked at, as many as asked for; their colours and places must fit; counted
things may not be more. Surplus things of other kinds are not punished, except by `fulfils_exactly`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sightloop.quizzes.grammar import Clause, Quiz
from sightloop.world.checker import SURE, Detection

_MARGIN = 0.1
"""Share of both sizes that two things must be apart before a relation holds."""
_DIRECTION = 0.5


def relations(one: Detection, other: Detection) -> set[str]:
    """Where one thing lies, seen from the other: none, one or two of left of, right of, above, below."""
    offset, direction = [0.0, 0.0], [0.0, 0.0]
    for axis in (0, 1):
        low, high, other_low, other_high = (
            one.box[axis],
            one.box[axis + 2],
            other.box[axis],
            other.box[axis + 2],
        )
        offset[axis] = (low + high - other_low - other_high) / 2
        dead = _MARGIN * (high - low + other_high - other_low)
        beyond = max(abs(offset[axis]) - dead, 0.0)
        direction[axis] = beyond if offset[axis] > 0 else -beyond
    length = (offset[0] ** 2 + offset[1] ** 2) ** 0.5
    if max(abs(direction[0]), abs(direction[1])) < 1e-3:
        return set()
    x, y = direction[0] / length, direction[1] / length
    holds = {
        "left of": x < -_DIRECTION,
        "right of": x > _DIRECTION,
        "above": y < -_DIRECTION,
        "below": y > _DIRECTION,
    }
    return {name for name, is_so in holds.items() if is_so}


def checks(found: Sequence[Detection], quiz: Quiz) -> list[bool]:
    """One verdict for each thing the quiz asks for: the number of a kind, its colour, its place, no more."""
    sure = sorted((d for d in found if d.score > SURE), key=lambda d: -d.score)
    groups: list[list[Detection]] = []
    verdicts: list[bool] = []
    for clause in quiz.include:
        group = [d for d in sure if d.noun == clause.noun][: clause.count]
        own = _clause_checks(group, clause, groups)
        verdicts += own
        # A failed group is nobody's target.
        groups.append(group if all(own) else [])
    for clause in quiz.exclude:
        verdicts.append(sum(d.noun == clause.noun for d in sure) < clause.count)
    return verdicts


def _clause_checks(group: list[Detection], clause: Clause, groups: list[list[Detection]]) -> list[bool]:
    verdicts = [len(group) == clause.count]
    if clause.colour is not None:
        verdicts.append(sum(d.colour == clause.colour for d in group) >= clause.count)
    if clause.position is not None:
        relation, place = clause.position
        pairs = [(one, other) for one in group for other in groups[place]]
        verdicts.append(bool(pairs) and all(relation in relations(one, other) for one, other in pairs))
    return verdicts


def share_fulfilled(found: Sequence[Detection], quiz: Quiz) -> float:
    """Share of what the quiz asks for that the picture shows: a graded exact reward."""
    verdicts = checks(found, quiz)
    return sum(verdicts) / len(verdicts)


def fulfils(found: Sequence[Detection], quiz: Quiz) -> bool:
    """Whether the picture shows all that the quiz asks for."""
    return all(checks(found, quiz))


def fulfils_exactly(found: Sequence[Detection], quiz: Quiz) -> bool:
    """The same, and nothing besides: unclear things count as surplus too."""
    return fulfils(found, quiz) and len(found) == sum(clause.count for clause in quiz.include)
