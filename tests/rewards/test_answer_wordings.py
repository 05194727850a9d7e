"""Wordings of answers about images, judged by hand: which facts they tell (1) and which not (0)."""

import pytest

from sightloop.quizzes.stream import GrammarQuizzes
from sightloop.quizzes.vocabulary import REAL
from sightloop.rewards.answers import facts_stated
from sightloop.types import Fact

Names = tuple[str, ...]
BOWL, DOG, CAT = ("bowl", "bowls"), ("dog", "dogs"), ("cat", "cats")


def thing(*names: str) -> Fact:
    """A thing that must be named."""
    return Fact(kind="noun", words=names)


def placed(relation: str, about: Names, target: Names) -> tuple[Fact, ...]:
    """Two things and how the first stands to the second."""
    related = Fact(kind="relation", words=(relation,), about=about, target=target)
    return (thing(*target), thing(*about), related)


def color(word: str, *named: str) -> tuple[Fact, ...]:
    """The color of the object, which the question does not name."""
    return (Fact(kind="color", words=(word,), named=named),)


def colors(one: Names, its: str, other: Names, others: str) -> tuple[Fact, ...]:
    """Two things with the color of each."""
    found = [Fact(kind="color", words=(c,), about=n) for n, c in ((one, its), (other, others))]
    return (thing(*one), thing(*other), *found)


FOUR_BOWLS = (Fact(kind="number", words=("four", "4")), thing(*BOWL))
THREE_DOGS = (Fact(kind="number", words=("three", "3")), thing(*DOG))


def told(answer: str, facts: tuple[Fact, ...]) -> str:
    """One digit a fact."""
    return "".join(str(int(one)) for one in facts_stated(answer, facts))


@pytest.mark.parametrize(
    ("answer", "facts", "expected"),
    [
        ("more than four bowls", FOUR_BOWLS, "01"),
        ("at least four bowls", FOUR_BOWLS, "01"),
        ("four or more bowls", FOUR_BOWLS, "01"),
        ("4+ bowls", FOUR_BOWLS, "01"),
        ("up to four bowls", FOUR_BOWLS, "01"),
        ("There are over four bowls", FOUR_BOWLS, "01"),
        ("no more than four bowls", FOUR_BOWLS, "01"),
        ("exactly four bowls", FOUR_BOWLS, "11"),
        ("There are three dogs in the image, two of them are brown.", THREE_DOGS, "11"),
        ("three dogs, one is brown and two are black", THREE_DOGS, "11"),
        ("Two of the dogs are brown, there are three dogs", THREE_DOGS, "01"),
        ("three of the dogs", THREE_DOGS, "11"),
        ("three oranges", (Fact(kind="number", words=("three",)), thing("orange", "oranges")), "11"),
        ("at most four bowls", FOUR_BOWLS, "01"),
        ("fewer than four bowls are shown", FOUR_BOWLS, "01"),
        ("almost four bowls", FOUR_BOWLS, "01"),
        ("Not four but five bowls", FOUR_BOWLS, "01"),
        ("There are two bowls on the left and two bowls on the right.", FOUR_BOWLS, "01"),
        ("2 bowls", FOUR_BOWLS, "01"),
        ("The number of bowls is four", FOUR_BOWLS, "11"),
        ("There's a total of four bowls.", FOUR_BOWLS, "11"),
        ("Four bowls, each with a spoon", FOUR_BOWLS, "11"),
        ("I see four bowls stacked on a table, with one spoon", FOUR_BOWLS, "11"),
        ("There are four bowls. One is red.", FOUR_BOWLS, "11"),
        ("four bowls; three are empty", FOUR_BOWLS, "11"),
        ("as many as four bowls", FOUR_BOWLS, "01"),
        ("around four bowls", FOUR_BOWLS, "11"),
        ("There are four bowls or so", FOUR_BOWLS, "01"),
        ("upwards of four bowls", FOUR_BOWLS, "01"),
        ("a minimum of four bowls", FOUR_BOWLS, "01"),
        ("four bowls at least", FOUR_BOWLS, "01"),
        ("four bowls at most.", FOUR_BOWLS, "01"),
        ("four bowls or more", FOUR_BOWLS, "01"),
        ("more bowls than four", FOUR_BOWLS, "01"),
        ("four-plus bowls", FOUR_BOWLS, "01"),
        ("exceeding four bowls", FOUR_BOWLS, "01"),
        ("between three and four bowls", FOUR_BOWLS, "01"),
        ("four bowls or more spoons", FOUR_BOWLS, "11"),
        ("two spoons and four bowls", FOUR_BOWLS, "11"),
        ("four spoons and some bowls", FOUR_BOWLS, "01"),
        ("There are four white bowls and a red one", FOUR_BOWLS, "01"),
        ("three dogs bigger than a cat", THREE_DOGS, "11"),
    ],
)
def test_a_number_is_the_one_of_the_whole_and_exact(
    answer: str, facts: tuple[Fact, ...], expected: str
) -> None:
    assert told(answer, facts) == expected


@pytest.mark.parametrize(
    ("answer", "facts", "expected"),
    [
        ("On the left is a dog, on the right a cat.", placed("left of", DOG, CAT), "111"),
        ("On the left is a dog, on the right a cat.", placed("right of", DOG, CAT), "110"),
        ("Left: dog. Right: cat.", placed("left of", DOG, CAT), "111"),
        ("From left to right: a dog and a cat", placed("left of", DOG, CAT), "111"),
        ("The dog is above, the cat is below", placed("above", DOG, CAT), "111"),
        ("The left object is a dog and the right one is a cat", placed("left of", DOG, CAT), "111"),
        ("Below the cat there is a dog", placed("below", DOG, CAT), "111"),
        ("There is a dog. On its left there is a cat.", placed("right of", DOG, CAT), "111"),
        ("a tv on a chair", placed("above", ("tv",), ("chair",)), "111"),
        ("a tv on a wooden chair", placed("above", ("tv",), ("chair",)), "111"),
        ("A dog above a table and a cat", placed("above", DOG, CAT), "110"),
        ("to the left of the fluffy cat is a dog", placed("left of", DOG, CAT), "111"),
        ("The dog is on the left and the cat is on the right.", placed("left of", DOG, CAT), "111"),
        ("A dog on the left side and a cat on the right side", placed("left of", DOG, CAT), "111"),
        (
            "In the image, there is a dog to the left and a cat to the right",
            placed("left of", DOG, CAT),
            "111",
        ),
        ("The cat has the dog on its left.", placed("left of", DOG, CAT), "111"),
        ("A dog is positioned to the left of a cat", placed("left of", DOG, CAT), "111"),
        ("There is a cat on the right side of the dog.", placed("left of", DOG, CAT), "111"),
        ("On the right there's a cat and on the left there's a dog", placed("left of", DOG, CAT), "111"),
        ("The cat is to the right, the dog to the left.", placed("left of", DOG, CAT), "111"),
        ("The dog is at the top and the cat is at the bottom", placed("above", DOG, CAT), "111"),
        ("The dog is on top, the cat is underneath.", placed("above", DOG, CAT), "111"),
        ("At the top is a dog, at the bottom a cat", placed("above", DOG, CAT), "111"),
        ("A cat with a dog above it", placed("above", DOG, CAT), "111"),
        ("The cat is beneath the dog.", placed("above", DOG, CAT), "111"),
        ("A dog is sitting on a cat", placed("above", DOG, CAT), "111"),
        ("Top: dog. Bottom: cat.", placed("above", DOG, CAT), "111"),
        ("The dog is left of the cat", placed("right of", DOG, CAT), "110"),
        ("cat on the right, dog on the left", placed("left of", DOG, CAT), "111"),
        ("A dog (left) and a cat (right)", placed("left of", DOG, CAT), "111"),
        ("The left one is a dog, the right one is a cat.", placed("left of", DOG, CAT), "111"),
        ("dog left, cat right", placed("left of", DOG, CAT), "111"),
        ("the dog is on the grass and the cat is on the road", placed("above", DOG, CAT), "110"),
        ("The dog is not left of the cat", placed("left of", DOG, CAT), "110"),
        ("a dog taller than a cat", placed("left of", DOG, CAT), "110"),
        ("the dog is in the top left and the cat in the bottom right", placed("above", DOG, CAT), "111"),
        ("the dog is in the upper part, the cat in the lower part", placed("above", DOG, CAT), "111"),
        (
            "the dog is in the top left corner, the cat in the top right corner",
            placed("left of", DOG, CAT),
            "111",
        ),
    ],
)
def test_relations_are_told_in_either_order_and_by_places(
    answer: str, facts: tuple[Fact, ...], expected: str
) -> None:
    assert told(answer, facts) == expected


@pytest.mark.parametrize(
    ("answer", "facts", "expected"),
    [
        ("The car is pink and the sky is blue.", color("pink", "car", "cars"), "1"),
        ("The background is white and the car is pink.", color("pink", "car"), "1"),
        ("The background is white and the car is pink.", color("pink"), "1"),
        ("The car is blue and the sky is pink.", color("pink", "car"), "0"),
        ("A pink car on a white background", color("pink", "car"), "1"),
        ("The vehicle is pink", color("pink", "car"), "1"),
        ("A pink bird next to a car", color("pink", "car"), "0"),
        ("wine glass: purple; apple: black", colors(("wine glass",), "purple", ("apple",), "black"), "1111"),
        ("wine glass: purple, apple: black", colors(("wine glass",), "purple", ("apple",), "black"), "1111"),
        ("The orange is brown.", color("brown", "orange", "oranges"), "1"),
        ("brown", color("brown", "orange"), "1"),
        ("It is brown.", color("brown", "orange"), "1"),
        ("a brown orange", color("brown", "orange"), "1"),
        ("an orange orange", color("orange", "orange"), "1"),
        ("The orange fruit is brown", color("brown", "orange"), "1"),
        ("The peach is green", color("green", "peach"), "1"),
        ("orange", color("orange", "car"), "1"),
        ("It is orange.", color("orange", "car"), "1"),
        ("The orange is orange", color("orange", "orange"), "1"),
        ("The color of the orange is brown.", color("brown", "orange"), "1"),
        ("There is a red apple and an orange", colors(("apple",), "red", ("orange",), "brown"), "1110"),
        (
            "a photo of a red apple and a brown orange",
            colors(("apple",), "red", ("orange",), "brown"),
            "1111",
        ),
        ("The wall is white. The car is pink.", color("pink", "car"), "1"),
        ("The car is pink with black wheels", color("pink", "car"), "1"),
        ("A pink car parked on a gray street under a blue sky", color("pink", "car"), "1"),
        ("The car is mostly pink.", color("pink", "car"), "1"),
        ("The color is pink", color("pink", "car"), "1"),
        ("pink car, green trees", color("pink", "car"), "1"),
        ("The car in the image is pink in color.", color("pink", "car"), "1"),
        ("The car is red, and the bench is pink", color("pink", "car"), "0"),
        ("The cup is pink and the table is brown", color("pink", "cup"), "1"),
        (
            "A wine glass in purple and an apple in black",
            colors(("wine glass",), "purple", ("apple",), "black"),
            "1111",
        ),
        (
            "The wine glass is purple, while the apple is black, on a white background",
            colors(("wine glass",), "purple", ("apple",), "black"),
            "1111",
        ),
        (
            "The purple object is a wine glass and the black object is an apple.",
            colors(("wine glass",), "purple", ("apple",), "black"),
            "1111",
        ),
        (
            "The orange is purple and the apple is black",
            colors(("orange",), "purple", ("apple",), "black"),
            "1111",
        ),
        (
            "The apple is orange and the orange is black",
            colors(("orange",), "black", ("apple",), "orange"),
            "1111",
        ),
        ("an orange apple and a black orange", colors(("orange",), "black", ("apple",), "orange"), "1111"),
        ("The dog is black and the background is white", colors(DOG, "black", CAT, "white"), "1010"),
        ("The car is pink instead of red", color("pink", "car"), "1"),
        ("The car is pink rather than red", color("pink", "car"), "1"),
        ("The car is red rather than pink", color("pink", "car"), "0"),
        ("darker than pink", color("pink", "car"), "0"),
        ("The car is more red than pink", color("pink", "car"), "0"),
        ("The wheels of the car are pink", color("pink", "car"), "0"),
        ("The body of the car is pink", color("pink", "car"), "1"),
        ("The colour of the car is pink", color("pink", "car"), "1"),  # words:skip
        ("The car is blue, with a pink roof", color("pink", "car"), "0"),
    ],
)
def test_colors_are_those_of_the_thing_asked_about(
    answer: str, facts: tuple[Fact, ...], expected: str
) -> None:
    assert told(answer, facts) == expected


@pytest.mark.parametrize(
    ("answer", "facts", "expected"),
    [
        ("a dog house", (thing(*DOG),), "0"),
        ("a mouse pad", (thing("computer mouse", "mouse"),), "0"),
        ("a baseball glove", (thing("glove"),), "0"),
        ("baseball gloves", (thing("glove"),), "0"),
        ("a notebook computer", (thing("notebook"),), "0"),
        ("a notebook computer", (thing("laptop", "notebook computer"),), "1"),
        ("a cat that looks like a dog", (thing(*DOG),), "0"),
        ("It looks like a dog.", (thing(*DOG),), "1"),
        ("The picture looks like a dog", (thing(*DOG),), "1"),
        ("A bench; the ball is missing", (thing("bench"), thing("ball")), "10"),
        ("A bench, but the ball is not visible.", (thing("bench"), thing("ball")), "10"),
        ("The picture is missing a ball. There is a bench", (thing("bench"), thing("ball")), "10"),
        ("The ball is not there, there is a bench", (thing("bench"), thing("ball")), "10"),
        ("An orange", (thing("orange", "oranges"),), "1"),
        ("a bird house", (thing("bird"),), "0"),
        ("a dog's toy", (thing(*DOG),), "0"),
        ("an apple pie", (thing("apple"),), "0"),
        ("a cat food bowl", (thing(*CAT),), "0"),
        ("a car seat", (thing("car"),), "0"),
        ("a bus stop", (thing("bus"),), "0"),
        ("a toilet seat", (thing("toilet"),), "0"),
        ("a book shelf", (thing("book"),), "0"),
        ("a tennis racket bag", (thing("tennis racket", "racket"),), "0"),
        ("a pizza box", (thing("pizza"),), "0"),
        ("orange juice", (thing("orange"),), "0"),
        ("a boxing glove", (thing("glove"),), "1"),
        ("a teddy bear", (thing("bear"),), "0"),
        ("a dog and a house", (thing(*DOG),), "1"),
        ("a dog in a house", (thing(*DOG),), "1"),
        ("The dog house is red", (thing(*DOG),), "0"),
        ("a dog bowl", (thing(*DOG), thing(*BOWL)), "01"),
        ("dog bowl", (thing(*DOG), thing(*BOWL)), "11"),
        ("a sculpture resembling a dog", (thing(*DOG),), "0"),
        ("something similar to a dog", (thing(*DOG),), "0"),
        ("This looks like a dog to me", (thing(*DOG),), "1"),
        ("It appears to be a dog", (thing(*DOG),), "1"),
        ("There is a bench, the ball is absent.", (thing("bench"), thing("ball")), "10"),
        ("a bench without a ball", (thing("bench"), thing("ball")), "10"),
        ("No ball is visible, only a bench", (thing("bench"), thing("ball")), "10"),
        ("The ball cannot be seen. A bench is.", (thing("bench"), thing("ball")), "10"),
        ("I can see a bench, but I can't see a ball", (thing("bench"), thing("ball")), "10"),
        ("a dog statue", (thing(*DOG),), "0"),
        ("a dog-shaped balloon", (thing(*DOG),), "0"),
        ("a cat-like creature", (thing(*CAT),), "0"),
        ("a horse saddle", (thing("horse"),), "0"),
        ("a refrigerator magnet", (thing("refrigerator"),), "0"),
        ("a traffic light pole", (thing("traffic light"),), "0"),
        ("a sheep dog", (thing("sheep"),), "0"),
        ("a dog sled", (thing(*DOG),), "0"),
        ("oven mitts", (thing("oven"),), "0"),
        ("a dog near a tree", (thing(*DOG),), "1"),
        ("a dog chases a ball", (thing(*DOG),), "1"),
        ("a dog wearing a hat", (thing(*DOG),), "1"),
        ("a dog larger than the house", (thing(*DOG),), "1"),
        ("a slice of pizza and a pizza slice", (thing("pizza"),), "1"),
        ("a red car outside", (thing("car"),), "1"),
        ("a dog top left", (thing(*DOG),), "1"),
    ],
)
def test_things_that_are_named_compared_or_missing_are_told_apart(
    answer: str, facts: tuple[Fact, ...], expected: str
) -> None:
    assert told(answer, facts) == expected


def test_every_quiz_accepts_its_own_prompt_and_answer() -> None:
    source = GrammarQuizzes(REAL, seed=5)
    for quiz in map(source.quiz, range(3000)):
        for text in (quiz.prompt.removeprefix("a photo of "), f"{quiz.answer}."):
            assert all(facts_stated(text, quiz.facts)), text
