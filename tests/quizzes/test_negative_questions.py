import pytest

from sightloop.quizzes.negative_questions import NegativeQuestions
from sightloop.rewards.answers import denies, facts_stated
from sightloop.types import Fact

TRAPS = NegativeQuestions(nouns=("cat", "apple", "bowl", "bear"), colors=("red", "blue", "green"))
BOWL, BEAR = ("bowl", "bowls"), ("bear", "bears")


@pytest.mark.parametrize(
    ("facts", "questions"),
    [
        ((Fact(kind="noun", words=BOWL),), ["Is there a cat", "Is there an apple", "Is there a bear"]),
        ((Fact(kind="color", words=("red",), about=BOWL),), ["Is the bowl blue?", "Is the bowl green?"]),
        ((Fact(kind="color", words=("red",)),), ["Is the object blue?", "Is the object green?"]),
        (
            (Fact(kind="relation", words=("left of",), about=BOWL, target=BEAR),),
            ["Is the bowl right of the bear?"],
        ),
    ],
)
def test_each_kind_of_fact_has_its_negative_questions(facts: tuple[Fact, ...], questions: list[str]) -> None:
    for seed, wanted in enumerate(questions):
        question, absent = TRAPS(facts, seed)
        assert question.startswith(wanted)
        assert denies("No", absent) and not denies("Yes", absent)


def test_a_number_is_asked_of_its_thing_and_the_truth_denies_it() -> None:
    facts = (Fact(kind="number", words=("four", "4")), Fact(kind="noun", words=BOWL))
    asked = {TRAPS(facts, seed)[0] for seed in range(0, 20, 2)}
    assert asked == {"Are there two bowls?", "Are there three bowls?", "Are there five bowls?"}
    _, absent = TRAPS(facts, 0)
    assert denies("There are four bowls", absent) and not denies("There are two bowls", absent)


def test_negative_questions_are_never_true() -> None:
    facts = (
        Fact(kind="noun", words=BOWL),
        Fact(kind="noun", words=BEAR),
        Fact(kind="color", words=("red",), about=BOWL),
        Fact(kind="color", words=("blue",), about=BEAR),
        Fact(kind="relation", words=("above",), about=BOWL, target=BEAR),
    )
    truth = "The red bowl is above the blue bear"
    assert all(facts_stated(truth, facts))
    for seed in range(50):
        _, absent = TRAPS(facts, seed)
        assert facts_stated(truth, (absent,)) == [False]


def test_too_few_words_and_no_facts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 nouns"):
        NegativeQuestions(nouns=("cat", "dog"), colors=("red", "blue", "green"))
    with pytest.raises(ValueError, match="no facts"):
        TRAPS((), 0)
