"""Verdicts on what the checker found: GenEval's rules, worked out by hand."""

import numpy as np
import pytest

from experiments.world.lessons import mistaken
from sightloop.quizzes.grammar import CATEGORIES, Clause, quiz_of
from sightloop.world.checker import Detection, detect
from sightloop.world.quizzes import SHAPES_VOCABULARY, sample_quiz, scene_for
from sightloop.world.scenes import render
from sightloop.world.verdicts import checks, fulfils, fulfils_exactly, relations, share_fulfilled


def thing(
    noun: str, colour: str = "red", *, at: tuple[float, float] = (8, 8), score: float = 0.95
) -> Detection:
    x, y = at
    return Detection(noun=noun, colour=colour, box=(x - 6, y - 6, x + 6, y + 6), score=score)


def quiz(category, *clauses: Clause):
    return quiz_of(category, clauses, SHAPES_VOCABULARY)


RIGHT, BELOW, DIAGONAL = (24, 8), (8, 24), (24, 24)
TWO = quiz("two_object", Clause(noun="circle"), Clause(noun="square"))
THREE = quiz("counting", Clause(noun="cross", count=3))
LEFT = quiz("position", Clause(noun="circle"), Clause(noun="square", position=("left of", 0)))
BOUND = quiz("color_attr", Clause(noun="circle", colour="red"), Clause(noun="square", colour="blue"))


def test_relations_are_those_of_the_centres_outside_the_margin() -> None:
    assert relations(thing("circle"), thing("square", at=RIGHT)) == {"left of"}
    assert relations(thing("square", at=RIGHT), thing("circle")) == {"right of"}
    assert relations(thing("circle"), thing("square", at=BELOW)) == {"above"}
    assert relations(thing("square", at=BELOW), thing("circle")) == {"below"}
    # Dead zone .1 * (12 + 12) = 2.4: (16 - 2.4) / 22.6 = .6 on both axes.
    assert relations(thing("circle"), thing("square", at=DIAGONAL)) == {"left of", "above"}
    assert relations(thing("circle"), thing("square", at=(10, 8))) == set()


def test_both_things_must_be_there() -> None:
    assert fulfils([thing("circle"), thing("square", at=RIGHT)], TWO)
    assert not fulfils([thing("circle"), thing("circle", at=RIGHT)], TWO)
    assert checks([thing("circle")], TWO) == [True, False]


def test_a_thing_that_is_not_sure_does_not_count() -> None:
    assert not fulfils([thing("circle"), thing("square", at=RIGHT, score=0.8)], TWO)


def test_counted_things_may_be_neither_fewer_nor_more() -> None:
    crosses = [thing("cross", at=at) for at in ((8, 8), RIGHT, BELOW, DIAGONAL)]
    assert checks(crosses[:2], THREE) == [False, True]
    assert checks(crosses[:3], THREE) == [True, True]
    assert checks(crosses, THREE) == [True, False]


def test_surplus_things_of_other_kinds_are_punished_by_the_strict_rule_only() -> None:
    crosses = [thing("cross", at=at) for at in ((8, 8), RIGHT, BELOW)]
    more = [*crosses, thing("circle", at=DIAGONAL)]
    assert fulfils(crosses, THREE)
    assert fulfils_exactly(crosses, THREE)
    assert fulfils(more, THREE)
    assert not fulfils_exactly(more, THREE)
    unclear = [*crosses, thing("circle", at=DIAGONAL, score=0.3)]
    assert not fulfils_exactly(unclear, THREE)


def test_a_relation_needs_its_direction() -> None:
    assert fulfils([thing("square"), thing("circle", at=RIGHT)], LEFT)
    assert not fulfils([thing("circle"), thing("square", at=RIGHT)], LEFT)
    assert not fulfils([thing("square"), thing("circle", at=BELOW)], LEFT)
    assert share_fulfilled([thing("circle"), thing("square", at=RIGHT)], LEFT) == pytest.approx(2 / 3)


def test_a_relation_to_a_missing_target_fails() -> None:
    assert checks([thing("square")], LEFT) == [False, True, False]


def test_colours_belong_to_their_things() -> None:
    assert fulfils([thing("circle", "red"), thing("square", "blue", at=RIGHT)], BOUND)
    swapped = [thing("circle", "blue"), thing("square", "red", at=RIGHT)]
    assert checks(swapped, BOUND) == [True, False, True, False]
    assert share_fulfilled(swapped, BOUND) == 0.5


def test_only_the_surest_things_of_a_kind_are_looked_at() -> None:
    red = quiz("colors", Clause(noun="circle", colour="red"))
    blue_is_surer = [thing("circle", "blue", score=0.99), thing("circle", "red", at=RIGHT, score=0.9)]
    assert not fulfils(blue_is_surer, red)
    assert fulfils(blue_is_surer, quiz("colors", Clause(noun="circle", colour="blue")))


@pytest.mark.parametrize("category", CATEGORIES)
def test_scenes_that_fulfil_a_quiz_are_found_to_do_so_and_mistaken_ones_not(category) -> None:
    rng = np.random.default_rng(5)
    for _ in range(12):
        asked = sample_quiz(rng, category)
        assert fulfils_exactly(detect(render(scene_for(asked, rng), rng)), asked)
        wrong = scene_for(mistaken(asked, rng), rng)
        assert not fulfils(detect(render(wrong, rng)), asked)
