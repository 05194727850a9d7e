"""Quizzes of the embedded world: scenes that fulfill them, quizzes about scenes, right answers, words."""

from collections import Counter

import numpy as np
import pytest

from experiments.world.examples import WRONG_SHARES, answer_examples, drawing_examples, mistaken
from sightloop.quizzes.grammar import CATEGORIES, QUESTIONS, Clause, quiz_of
from sightloop.quizzes.vocabulary import REAL
from sightloop.world.quizzes import (
    SHAPES_VOCABULARY,
    is_right_answer,
    quiz_words,
    quizzes_about,
    right_answers,
    sample_quiz,
    scene_for,
)
from sightloop.world.scenes import CORNERS, GROUNDS, Scene, Thing


def place(scene: Scene, noun: str) -> tuple[int, int]:
    (thing,) = [thing for thing in scene.things if thing.shape == noun]
    return divmod(CORNERS.index(thing.corner), 2)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_scene_holds_exactly_what_its_quiz_names(category) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        quiz = sample_quiz(rng, category)
        scene = scene_for(quiz, rng)
        wanted = Counter({clause.noun: clause.count for clause in quiz.include})
        assert Counter(thing.shape for thing in scene.things) == wanted
        for clause in quiz.include:
            if clause.color is not None:
                assert [t.color for t in scene.things if t.shape == clause.noun] == [clause.color]
        corners = [CORNERS.index(thing.corner) for thing in scene.things]
        assert corners == sorted(set(corners))


def test_relations_hold_between_neighbors() -> None:
    rng = np.random.default_rng(0)
    steps = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
    for _ in range(60):
        quiz = sample_quiz(rng, "position")
        scene = scene_for(quiz, rng)
        target, subject = (place(scene, clause.noun) for clause in quiz.include)
        (relation,) = [clause.position[0] for clause in quiz.include if clause.position]
        assert (subject[0] - target[0], subject[1] - target[1]) == steps[relation]


def test_all_grounds_and_corners_come() -> None:
    rng = np.random.default_rng(0)
    scenes = [scene_for(sample_quiz(rng, "single_object"), rng) for _ in range(120)]
    assert {scene.ground for scene in scenes} == set(GROUNDS)
    assert {scene.things[0].corner for scene in scenes} == set(CORNERS)


def test_a_quiz_of_another_world_is_refused() -> None:
    rng = np.random.default_rng(0)
    cat = quiz_of("single_object", (Clause(noun="cat"),), REAL)
    with pytest.raises(ValueError, match="'a photo of a cat' is not of the embedded world"):
        scene_for(cat, rng)
    five = quiz_of("counting", (Clause(noun="circle", count=5),), SHAPES_VOCABULARY)
    with pytest.raises(ValueError, match="names 5 things"):
        scene_for(five, rng)


def test_a_scene_is_asked_about_in_every_category_that_fits_it() -> None:
    circle = Thing(size="large", color="red", shape="circle", corner="top-left")
    cross = Thing(size="small", color="blue", shape="cross", corner="bottom-left")
    asked = quizzes_about(Scene(ground="white", things=(circle, cross)))
    assert [quiz.answer for quiz in asked] == [
        "There is a circle and a cross",
        "The cross is below the circle",
        "The circle is red and the cross is blue",
    ]
    far = Thing(size="large", color="red", shape="cross", corner="bottom-right")
    asked = quizzes_about(Scene(ground="white", things=(circle, far)))
    assert [quiz.category for quiz in asked] == ["two_object"]
    three = tuple(Thing(size="large", color="red", shape="cross", corner=corner) for corner in CORNERS[:3])
    assert [quiz.answer for quiz in quizzes_about(Scene(ground="gray", things=three))] == ["three crosses"]
    assert quizzes_about(Scene(ground="gray", things=(*three[:2], circle))) == []


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_quiz_of_a_scene_is_among_those_about_it(category) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        quiz = sample_quiz(rng, category)
        about = quizzes_about(scene_for(quiz, rng))
        assert any(is_right_answer(other, quiz.answer) for other in about if other.category == category)


def test_an_answer_may_name_the_things_the_other_way_round() -> None:
    clauses = (Clause(noun="circle"), Clause(noun="cross", position=("below", 0)))
    quiz = quiz_of("position", clauses, SHAPES_VOCABULARY)
    assert right_answers(quiz) == ("The cross is below the circle", "The circle is above the cross")
    assert is_right_answer(quiz, " the circle is  above the cross")
    assert not is_right_answer(quiz, "the circle is below the cross")
    assert not is_right_answer(quiz, "")


def test_the_words_of_the_world_spell_all_its_quizzes() -> None:
    words = set(quiz_words())
    assert len(words) == len(quiz_words())
    rng = np.random.default_rng(0)
    spoken = [question for wordings in QUESTIONS.values() for question in wordings]
    for _ in range(200):
        quiz = sample_quiz(rng)
        spoken += [quiz.prompt, quiz.answer]
    for text in spoken:
        for mark in "?,.":
            text = text.replace(mark, f" {mark}")
        assert set(text.lower().split()) <= words, text


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_mistaken_quiz_asks_for_something_else(category) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        quiz = sample_quiz(rng, category)
        wrong = mistaken(quiz, rng)
        assert wrong.category == category
        assert not set(right_answers(quiz)) & set(right_answers(wrong))
        assert sum(c.count for c in wrong.include) <= 4


def test_examples_are_wrong_as_often_as_they_should_be() -> None:
    rng = np.random.default_rng(0)
    examples = drawing_examples(rng, 900)
    for category in CATEGORIES:
        own = [example for example in examples if example.quiz.category == category]
        told = [
            any(is_right_answer(q, example.quiz.answer) for q in quizzes_about(example.scene))
            for example in own
        ]
        assert abs(1 - sum(told) / len(told) - WRONG_SHARES[category]) < 0.13
    for example in answer_examples(rng, 60):
        assert any(is_right_answer(quiz, example.quiz.answer) for quiz in quizzes_about(example.scene))
