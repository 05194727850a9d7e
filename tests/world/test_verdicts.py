"""Verdicts on what the checker found: GenEval's rules on the embedded world, worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from experiments.world.examples import mistaken
from sightloop.geneval.prompts import prompt_of
from sightloop.geneval.rules import Detection, conditions_met, relations_between, verdict_of
from sightloop.quizzes.grammar import CATEGORIES, Clause, Quiz, quiz_of
from sightloop.world.checker import CHECKER_RULES, SURE, detect
from sightloop.world.quizzes import SHAPES_VOCABULARY, sample_quiz, scene_for
from sightloop.world.scenes import COLORS, SHAPES, render


def thing(
    name: str, color: str = "red", *, at: tuple[float, float] = (8, 8), score: float = 0.95
) -> Detection:
    x, y = at
    return Detection(name=name, color=color, box=(x - 6, y - 6, x + 6, y + 6), score=score)


def quiz(category, *clauses: Clause):
    return quiz_of(category, clauses, SHAPES_VOCABULARY)


def checks(found: Sequence[Detection], asked: Quiz) -> list[bool]:
    return conditions_met(prompt_of(asked), found, rules=CHECKER_RULES)


def fulfills(found: Sequence[Detection], asked: Quiz) -> bool:
    right = verdict_of(prompt_of(asked), found, rules=CHECKER_RULES).correct
    assert right is all(checks(found, asked))
    return right


RIGHT, BELOW, DIAGONAL = (24, 8), (8, 24), (24, 24)
TWO = quiz("two_object", Clause(noun="circle"), Clause(noun="square"))
THREE = quiz("counting", Clause(noun="cross", count=3))
LEFT = quiz("position", Clause(noun="circle"), Clause(noun="square", position=("left of", 0)))
BOUND = quiz("color_attr", Clause(noun="circle", color="red"), Clause(noun="square", color="blue"))


def test_both_things_must_be_there() -> None:
    assert fulfills([thing("circle"), thing("square", at=RIGHT)], TWO)
    assert not fulfills([thing("circle"), thing("circle", at=RIGHT)], TWO)
    assert checks([thing("circle")], TWO) == [True, False]


def test_a_thing_that_is_not_sure_does_not_count() -> None:
    assert not fulfills([thing("circle"), thing("square", at=RIGHT, score=0.8)], TWO)


def test_counted_things_may_be_neither_fewer_nor_more() -> None:
    crosses = [thing("cross", at=at) for at in ((8, 8), RIGHT, BELOW, DIAGONAL)]
    assert checks(crosses[:2], THREE) == [False, True]
    assert checks(crosses[:3], THREE) == [True, True]
    assert checks(crosses, THREE) == [True, False]


def test_surplus_things_of_other_kinds_are_not_punished() -> None:
    crosses = [thing("cross", at=at) for at in ((8, 8), RIGHT, BELOW)]
    assert fulfills(crosses, THREE)
    assert fulfills([*crosses, thing("circle", at=DIAGONAL)], THREE)


def test_a_relation_needs_its_direction() -> None:
    assert fulfills([thing("square"), thing("circle", at=RIGHT)], LEFT)
    assert not fulfills([thing("circle"), thing("square", at=RIGHT)], LEFT)
    assert not fulfills([thing("square"), thing("circle", at=BELOW)], LEFT)
    assert checks([thing("circle"), thing("square", at=RIGHT)], LEFT) == [True, True, False]


def test_a_relation_to_a_missing_target_fails() -> None:
    assert checks([thing("square")], LEFT) == [False, True, False]


def test_colors_belong_to_their_things() -> None:
    assert fulfills([thing("circle", "red"), thing("square", "blue", at=RIGHT)], BOUND)
    swapped = [thing("circle", "blue"), thing("square", "red", at=RIGHT)]
    assert checks(swapped, BOUND) == [True, False, True, False]


def test_only_the_surest_things_of_a_kind_are_looked_at() -> None:
    red = quiz("colors", Clause(noun="circle", color="red"))
    blue_is_surer = [thing("circle", "blue", score=0.99), thing("circle", "red", at=RIGHT, score=0.9)]
    assert not fulfills(blue_is_surer, red)
    assert fulfills(blue_is_surer, quiz("colors", Clause(noun="circle", color="blue")))


@pytest.mark.parametrize("category", CATEGORIES)
def test_scenes_that_fulfil_a_quiz_are_found_to_do_so_and_mistaken_ones_not(category) -> None:
    rng = np.random.default_rng(5)
    for _ in range(12):
        asked = sample_quiz(rng, category)
        found = detect(render(scene_for(asked, rng), rng))
        assert fulfills(found, asked)
        assert len(found) == sum(clause.count for clause in asked.include)
        wrong = scene_for(mistaken(asked, rng), rng)
        assert not fulfills(detect(render(wrong, rng)), asked)


def written_out(found: Sequence[Detection], asked: Quiz) -> list[bool]:
    """The rule of the embedded world without an engine: surest things first, in double precision."""
    sure = sorted((seen for seen in found if seen.score > SURE), key=lambda seen: -seen.score)
    groups: list[list[Detection]] = []
    met: list[bool] = []
    for clause in asked.include:
        group = [seen for seen in sure if seen.name == clause.noun][: clause.count]
        own = [len(group) == clause.count]
        if clause.color is not None:
            own.append(sum(seen.color == clause.color for seen in group) >= clause.count)
        if clause.position is not None:
            pairs = [(one.box, other.box) for one in group for other in groups[clause.position[1]]]
            own.append(bool(pairs) and all(clause.relation in relations_between(*pair) for pair in pairs))
        groups.append(group if all(own) else [])
        met += own
    return met + [sum(seen.name == c.noun for seen in sure) < c.count for c in asked.exclude]


def test_the_engine_says_the_same_of_random_scenes_as_the_rule_written_out() -> None:
    rng = np.random.default_rng(11)
    right = 0
    for _ in range(5000):
        asked = sample_quiz(rng)
        names = [clause.noun for clause in asked.include for _ in range(clause.count)]
        names += [SHAPES[rng.integers(len(SHAPES))] for _ in range(rng.integers(3))]
        colors = {clause.noun: clause.color for clause in asked.include if rng.random() < 0.8}
        found = [
            thing(
                name,
                colors.get(name) or COLORS[rng.integers(len(COLORS))],
                at=tuple(rng.uniform(4, 28, 2).tolist()),
                score=float(rng.uniform(0.8, 1.0)),
            )
            for name in names
            if rng.random() < 0.95
        ]
        assert checks(found, asked) == written_out(found, asked)
        right += fulfills(found, asked)
    assert 1000 < right < 4000
