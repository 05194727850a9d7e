import math

import pytest
import torch

from sightloop.rewards.answers import (
    FactReward,
    JudgedAnswer,
    NegativeAnswers,
    SubtractBlindBaseline,
    all_facts,
    denies,
    facts_stated,
    points,
    share,
)
from sightloop.types import Fact, OtherQuestion, Outcome, Tokens

BOWL, BEAR, DOG = ("bowl", "bowls"), ("bear", "bears"), ("dog", "dogs", "puppy", "puppies")
CIRCLE, CROSS, CAR = ("circle", "circles"), ("cross", "crosses"), ("car", "cars", "automobile")


def noun(names: tuple[str, ...]) -> Fact:
    return Fact(kind="noun", words=names)


def color(word: str, about: tuple[str, ...] = ()) -> Fact:
    return Fact(kind="color", words=(word,), about=about)


FOUR_BOWLS = (Fact(kind="number", words=("four", "4")), noun(BOWL))
RIGHT = Fact(kind="relation", words=("right of", "to the right of"), about=DOG, target=BEAR)
DOG_RIGHT = (noun(BEAR), noun(DOG), RIGHT)
ABOVE = Fact(kind="relation", words=("above",), about=CIRCLE, target=CROSS)
BOUND = (noun(CIRCLE), noun(CROSS), color("red", CIRCLE), color("blue", CROSS))
PINK = (color("pink"),)


@pytest.mark.parametrize(
    ("answer", "earned"),
    [
        ("two chairs", 0),
        ("three bowls", 1),
        ("four bowls", 2),
        ("There are 4 bowls.", 2),
        ("Four.", 1),
        ("bowls", 1),
        ("four of them: bowls", 2),
        ("There are four old wooden bowls on a table", 2),
        ("A group of four bowls", 2),
        ("four chairs", 0),
        ("four chairs and a bowl", 1),
        ("three or four bowls", 1),
        ("three bowls and four bowls", 1),
        ("two three four bowls", 1),
        ("not four bowls", 0),
        ("There are no bowls", 0),
        ("zero bowls", 0),
        ("fourteen bowls", 1),
        ("The bowls are four.", 2),
        ("fishbowls", 0),
        ("", 0),
    ],
)
def test_a_counted_thing_earns_a_point_for_the_number_and_one_for_the_noun(answer: str, earned: int) -> None:
    assert points(facts_stated(answer, FOUR_BOWLS)) == earned


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("The circle is red and the cross is blue", [1, 1, 1, 1]),
        ("a red circle and a blue cross", [1, 1, 1, 1]),
        ("A blue cross, a red circle.", [1, 1, 1, 1]),
        ("The circle, which is red, is left of the blue cross.", [1, 1, 1, 1]),
        ("There is a circle. It is red. There is a cross. It is blue.", [1, 1, 1, 1]),
        ("a circle in red and a cross in blue", [1, 1, 1, 1]),
        ("a blue circle and a red cross", [1, 1, 0, 0]),
        ("a red circle and a cross", [1, 1, 1, 0]),
        ("red and blue circle, blue cross", [1, 1, 0, 1]),
        ("The circle and the cross are red", [1, 1, 1, 0]),
        ("The circle is not red, the cross is blue", [1, 1, 0, 1]),
        ("The circle isn't blue but red and the cross is not red but blue", [1, 1, 1, 1]),
        ("a red square and a blue cross", [0, 1, 0, 1]),
        ("a red square and a circle, a blue cross", [1, 1, 0, 1]),
        ("a red circle, no cross", [1, 0, 1, 0]),
        ("no red circle, but a green circle and a blue cross", [1, 1, 0, 1]),
        ("red, blue", [0, 0, 0, 0]),
    ],
)
def test_colors_are_bound_to_their_things(answer: str, told: list[int]) -> None:
    assert [int(one) for one in facts_stated(answer, BOUND)] == told


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("pink", True),
        ("It is pink.", True),
        ("The car is pink", True),
        ("A pink car", True),
        ("The color of the car is pink.", True),
        ("not pink", False),
        ("pink or red", False),
        ("red blue green pink", False),
        ("pinkish", False),
    ],
)
def test_a_color_of_nothing_named_may_be_said_of_anything_but_alone(answer: str, right: bool) -> None:
    assert facts_stated(answer, PINK) == [right]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("The dog is right of the bear", True),
        ("The dog is to the right of the bear.", True),
        ("the bear is left of the dog", True),
        ("The bear is on the left side of the dog", True),
        ("a puppy right of a bear", True),
        ("There is a bear and a dog, and the dog is to the right of the bear", True),
        ("The bear is on the left and the dog is on the right", True),
        ("a bear on the left, a dog on the right", True),
        ("To the left of the dog is a bear.", True),
        ("The bear has a dog to its right", True),
        ("There is a bear. A dog is to the right of it.", True),
        ("The dog is left of the bear", False),
        ("The dog is not right of the bear", False),
        ("The dog is right of the bear and the bear is right of the dog", False),
        ("The dog is above the bear", False),
        ("a dog and a bear", False),
        ("right", False),
        ("The dog is right of the cat and left of the bear", False),
    ],
)
def test_relations_are_read_from_both_ends(answer: str, right: bool) -> None:
    assert facts_stated(answer, DOG_RIGHT)[2] is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("a red circle on top of a blue cross", True),
        ("The cross is under the circle", True),
        ("The circle next to the cross is below it", False),
        ("the circle is at the top, the cross at the bottom", True),
        ("the circle is over the cross", True),
    ],
)
def test_above_and_below_have_many_names(answer: str, right: bool) -> None:
    assert facts_stated(answer, (ABOVE,)) == [right]


@pytest.mark.parametrize(
    ("answer", "names", "right"),
    [
        ("benches", ("bench",), True),
        ("a sofa", ("couch", "sofa"), True),
        ("two wine glasses", ("wine glass",), True),
        ("a wine-glass", ("wine glass",), True),
        ("a hot dog", DOG, False),
        ("a teddy bear", BEAR, False),
        ("a hot dog", ("hot dog",), True),
        ("neither a dog nor a cat", DOG, False),
        ("no dog and cat", ("cat",), False),
        ("no dog and a cat", ("cat",), True),
        ("There isn't a dog", DOG, False),
        ("without a dog", DOG, False),
        ("a dog, not a cat", DOG, True),
        ("an orange", ("orange",), True),
        ("an orange cat", ("orange",), False),
        ("Yes, a dog", DOG, True),
    ],
)
def test_things_are_found_by_any_of_their_names(answer: str, names: tuple[str, ...], right: bool) -> None:
    assert facts_stated(answer, (noun(names),)) == [right]


@pytest.mark.parametrize(
    ("answer", "fact", "denied"),
    [
        ("No.", noun(DOG), True),
        ("no, there is no dog", noun(DOG), True),
        ("There is no dog", noun(DOG), True),
        ("Yes.", noun(DOG), False),
        ("a dog", noun(DOG), False),
        ("", noun(DOG), False),
        ("a cat", noun(DOG), False),
        ("The dog is left of the bear", RIGHT, True),
        ("The dog is not right of the bear", RIGHT, True),
        ("The bear is left of the dog", RIGHT, False),
        ("There are three bowls", Fact(kind="number", words=("four",), about=BOWL), True),
        ("a red and blue circle", color("blue", CIRCLE), False),
        ("Yes, it is not blue", color("blue", CIRCLE), False),
    ],
)
def test_an_absent_fact_is_denied_by_no_or_by_what_is_there_instead(
    answer: str, fact: Fact, denied: bool
) -> None:
    assert denies(answer, fact) is denied


def test_facts_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(ValueError, match="name no number"):
        facts_stated("many bowls", (Fact(kind="number", words=("many",)), noun(BOWL)))
    with pytest.raises(ValueError, match="unknown relation 'around'"):
        facts_stated("a dog", (Fact(kind="relation", words=("around",), about=DOG, target=BEAR),))
    with pytest.raises(ValueError, match="needs `about` and `target`"):
        facts_stated("a dog", (Fact(kind="relation", words=("above",), about=DOG),))


def test_colors_that_only_the_facts_know_count_too() -> None:
    assert facts_stated("an ultramarine car", (color("ultramarine", CAR),)) == [True]
    assert facts_stated("a grey car", (color("gray", CAR),)) == [True]


# Rewards.


def outcome(
    answers: list[str], facts: list[tuple[Fact, ...]], *, others: dict[OtherQuestion, Outcome] | None = None
) -> Outcome:
    mask = torch.tensor([[True, True, False]] * len(answers))
    return Outcome(
        tokens=Tokens(ids=mask.long(), mask=mask),
        pieces=[[answer] for answer in answers],
        ended=mask[:, 0],
        images=None,
        references=["the truth"] * len(answers),
        sources=[f"a photo of {number}" for number in range(len(answers))],
        questions=["what?"] * len(answers),
        facts=facts,
        others=others or {},
    )


def test_grades_sit_on_the_last_token() -> None:
    judged = outcome(["four bowls", "three bowls"], [FOUR_BOWLS, FOUR_BOWLS])
    assert FactReward()(judged).tolist() == [[0, 2, 0], [0, 1, 0]]
    assert FactReward(grade=share)(judged).tolist() == [[0, 1, 0], [0, 0.5, 0]]
    assert FactReward(grade=all_facts)(judged).tolist() == [[0, 1, 0], [0, 0, 0]]


def test_answers_without_facts_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="a photo of 1 has no facts"):
        FactReward()(outcome(["a", "b"], [FOUR_BOWLS, ()]))
    with pytest.raises(ValueError, match="facts of 0 samples for 1 answers"):
        FactReward()(outcome(["a"], []))


def test_a_judge_reads_question_truth_and_answer() -> None:
    heard: list[tuple[str, str, str]] = []

    def judge(question: str, truth: str, answer: str) -> float:
        heard.append((question, truth, answer))
        return len(answer)

    judged = outcome(["four", "bowls"], [])
    assert JudgedAnswer(judge=judge)(judged).tolist() == [[0, 4, 0], [0, 5, 0]]
    assert heard == [("what?", "the truth", "four"), ("what?", "the truth", "bowls")]


def test_a_judge_that_fails_is_an_error_that_names_the_sample() -> None:
    def broken(question: str, truth: str, answer: str) -> float:
        if answer == "bowls":
            raise OSError("no answer from the server")
        return math.nan if answer == "odd" else 1.0

    with pytest.raises(
        ValueError, match=r"failed on a photo of 1, question 'what\?', answer 'bowls': no ans"
    ):
        JudgedAnswer(judge=broken)(outcome(["four", "bowls"], []))
    with pytest.raises(ValueError, match="says nan about a photo of 0"):
        JudgedAnswer(judge=broken)(outcome(["odd", "bowls"], []))


def test_what_is_guessed_without_an_image_is_taken_off() -> None:
    blank = outcome(["three bowls", "four bowls", "nothing"], [FOUR_BOWLS] * 3)
    judged = outcome(["four bowls", "three bowls", "a bowl"], [FOUR_BOWLS] * 3, others={"blind": blank})
    assert SubtractBlindBaseline(reward=FactReward())(judged).sum(1).tolist() == [1, -1, 1]
    assert SubtractBlindBaseline(reward=FactReward(), floor=0.0)(judged).sum(1).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="no 'blind' answers"):
        SubtractBlindBaseline(reward=FactReward())(blank)


def test_negative_questions_must_be_denied() -> None:
    negatives = outcome(["No", "Yes", "There is no dog"], [(noun(DOG),)] * 3)
    judged = outcome(["bowls"] * 3, [FOUR_BOWLS] * 3, others={"negative": negatives})
    assert NegativeAnswers()(judged).tolist() == [[0, 1, 0], [0, 0, 0], [0, 1, 0]]
