"""The stream of quizzes: a function of seed and running number, the same for any number of ranks."""

from collections import Counter

import pytest
import torch

from sightloop.quizzes.grammar import CATEGORIES, Clause, quiz_of
from sightloop.quizzes.prompt_guard import excludes
from sightloop.quizzes.stream import GrammarQuizzes, ListedQuizzes, QuizStream
from sightloop.quizzes.vocabulary import REAL

GRAMMAR = GrammarQuizzes(REAL, seed=3)
LISTED = [quiz_of("single_object", (Clause(noun=noun.name),), REAL) for noun in REAL.nouns[:5]]


def test_a_quiz_depends_on_seed_and_number_alone() -> None:
    forwards = [GRAMMAR.quiz(k) for k in range(20)]
    again = GrammarQuizzes(REAL, seed=3)
    assert [again.quiz(k) for k in reversed(range(20))] == forwards[::-1]
    assert [GrammarQuizzes(REAL, seed=4).quiz(k) for k in range(20)] != forwards


def test_every_category_comes_about_as_often_and_two_of_a_quiz_differ() -> None:
    quizzes = [GRAMMAR.quiz(k) for k in range(600)]
    counts = Counter(quiz.category for quiz in quizzes)
    assert set(counts) == set(CATEGORIES)
    assert min(counts.values()) > 70
    for quiz in quizzes:
        assert len({clause.noun for clause in quiz.include}) == len(quiz.include)
        if quiz.category == "color_attr":
            assert quiz.include[0].color != quiz.include[1].color
        if quiz.category in ("colors", "color_attr"):
            assert "person" not in {clause.noun for clause in quiz.include}
        if quiz.category == "counting":
            assert quiz.include[0].count in (2, 3, 4)
    assert len({quiz.question for quiz in quizzes}) == 24
    placed = {clause.position[0] for quiz in quizzes for clause in quiz.include if clause.position}
    assert placed == {"left of", "right of", "above", "below"}


def test_weights_decide_how_often_a_category_comes() -> None:
    source = GrammarQuizzes(REAL, seed=0, weights={"position": 3, "counting": 1, "colors": 0})
    counts = Counter(source.quiz(k).category for k in range(400))
    assert set(counts) == {"position", "counting"}
    assert 0.68 < counts["position"] / 400 < 0.82


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "weights are"),
        ({"colors": 0}, "weights are"),
        ({"colors": -1}, "weights"),
        ({"color": 1}, "'color'"),
    ],
)
def test_weights_that_name_no_category_are_refused(weights, message) -> None:
    with pytest.raises(ValueError, match=message):
        GrammarQuizzes(REAL, seed=0, weights=weights)


def test_excluded_quizzes_never_come_and_the_others_stay_where_they_were() -> None:
    plain = [GRAMMAR.quiz(k) for k in range(60)]
    is_held = excludes([quiz.prompt for quiz in plain[::3]])
    guarded = GrammarQuizzes(REAL, seed=3, excluded=is_held)
    for k, quiz in enumerate(plain):
        if is_held(quiz):
            assert not is_held(guarded.quiz(k))
        else:
            assert guarded.quiz(k) == quiz


def test_a_guard_that_excludes_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="1000 quizzes in a row"):
        GrammarQuizzes(REAL, seed=0, excluded=lambda quiz: True).quiz(0)


def test_listed_quizzes_come_once_an_epoch_in_a_fresh_order() -> None:
    source = ListedQuizzes(LISTED, seed=1)
    epochs = [[source.quiz(k).prompt for k in range(start, start + 5)] for start in (0, 5, 10)]
    assert all(sorted(epoch) == sorted(quiz.prompt for quiz in LISTED) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [source.quiz(k).prompt for k in range(5)] == epochs[0]
    kept = ListedQuizzes(LISTED, seed=1, shuffle=False)
    assert [kept.quiz(k) for k in range(7)] == LISTED + LISTED[:2]


def test_no_quizzes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ListedQuizzes([], seed=0)


def test_ranks_share_what_one_rank_would_get() -> None:
    alone = QuizStream(GRAMMAR, batch_size=6, seed=1)
    ranks = [QuizStream(GRAMMAR, batch_size=6, seed=1, rank=r, num_ranks=3) for r in range(3)]
    for _ in range(2):
        whole, parts = next(alone), [next(rank) for rank in ranks]
        assert [quiz for part in parts for quiz in part.quizzes] == whole.quizzes
        assert [k for part in parts for k in part.indices] == whole.indices
        assert [k for part in parts for k in part.seeds] == whole.seeds


def test_a_stream_goes_on_where_its_state_was_taken() -> None:
    stream = QuizStream(GRAMMAR, batch_size=4, seed=1)
    next(stream)
    state = stream.state_dict()
    expected = next(stream)
    resumed = QuizStream(GRAMMAR, batch_size=4, seed=1, rank=1, num_ranks=2)
    resumed.load_state_dict(state)
    assert next(resumed) == expected.rows(torch.tensor([2, 3]))
    assert stream.state_dict()["next_index"] == 8


def test_a_state_of_other_quizzes_is_refused() -> None:
    state = QuizStream(GRAMMAR, batch_size=4, seed=1).state_dict()
    with pytest.raises(ValueError, match="another stream"):
        QuizStream(ListedQuizzes(LISTED, seed=1), batch_size=4, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="another stream"):
        QuizStream(GRAMMAR, batch_size=4, seed=2).load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 5, "num_ranks": 2}, "cannot be split"),
        ({"batch_size": 0}, "cannot be split"),
        ({"batch_size": 2, "rank": 1}, "rank is 1"),
    ],
)
def test_batches_that_cannot_be_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        QuizStream(GRAMMAR, seed=0, **settings)
