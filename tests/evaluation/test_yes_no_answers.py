"""Yes-or-no answers in the manner of POPE, against figures counted by hand."""

from __future__ import annotations

import pytest

from sightloop.evaluation.pope import read_as_pope, read_yes_no, yes_no_measures


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("yes", True),
        ("Yes, there is a dog in the image.", True),
        ("YES!", True),
        ("There is a dog.", True),
        ("It is.", True),
        ("The image shows a dog lying on a bed.", True),
        ("I can see a dog.", True),
        ("True", True),
        ("no", False),
        ("No, there is a cat.", False),
        ("Nope.", False),
        ("There is no dog in the image.", False),
        ("There isn't a dog.", False),
        ("I don\u2019t see a dog. There is a cat.", False),
        ("The image shows a table without a dog.", False),
        ("False", False),
        ("", None),
        ("...", None),
        ("a dog", None),
        ("Maybe.", None),
        ("I'm not sure, it is dark.", None),
        ("I cannot tell from the image.", None),
        ("It is difficult to say.", None),
    ],
)
def test_free_text_is_read_as_people_read_it(answer: str, said: bool | None) -> None:
    assert read_yes_no(answer) is said


def test_pope_takes_everything_without_no_or_not_for_a_yes() -> None:
    assert read_as_pope("a dog") and read_as_pope("") and read_as_pope("There isn't one")
    assert read_as_pope("Yes. There is no cat")
    assert (
        not read_as_pope("There is no dog") and not read_as_pope("No, none") and not read_as_pope("It is not")
    )


def test_the_figures_are_those_counted_by_hand() -> None:
    answers = ["Yes", "Yes.", "no", "There is no dog", "maybe", "yes", "No", "a dog"]
    truth = [True, False, True, False, True, True, False, False]
    found = yes_no_measures(answers, truth)
    # Right: 1, 4, 6, 7 of eight. Yes said three times, twice rightly; four are truly yes.
    assert found.metrics["accuracy"] == 4 / 8
    assert found.metrics["precision"] == pytest.approx(2 / 3)
    assert found.metrics["recall"] == 2 / 4
    assert found.metrics["f1"] == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert found.metrics["yes_share"] == 3 / 8
    assert found.metrics["unparsable"] == 2 / 8
    assert found.samples[4] == {"answer": "maybe", "read": "unparsable", "truth": "yes"}
    for name, values in found.per_sample.items():
        assert sum(values) / 8 == pytest.approx(found.metrics[name])
    lenient = yes_no_measures(answers, truth, reading="pope")
    # "maybe" and "a dog" are yes now: one right, one wrong.
    assert lenient.metrics["accuracy"] == 5 / 8
    assert lenient.metrics["precision"] == 3 / 5
    assert (lenient.metrics["yes_share"], lenient.metrics["unparsable"]) == (5 / 8, 0)
    assert lenient.protocol["hash"] != found.protocol["hash"]


def test_who_never_says_yes_has_no_precision() -> None:
    found = yes_no_measures(["no", "no"], [True, False])
    assert (found.metrics["precision"], found.metrics["recall"], found.metrics["f1"]) == (0, 0, 0)
    assert found.metrics["accuracy"] == 0.5


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="no answers"):
        yes_no_measures([], [])
    with pytest.raises(ValueError, match="1 truths for 2 answers"):
        yes_no_measures(["yes", "no"], [True])
    with pytest.raises(ValueError, match="reading is 'lax'; use 'strict' or 'pope'"):
        yes_no_measures(["yes"], [True], reading="lax")  # pyright: ignore[reportArgumentType]
