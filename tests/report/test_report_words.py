"""Word-level differences on cases worked out by hand."""

from __future__ import annotations

from sightloop.report.words import Word, compare, split_words


def changed(words: list[Word]) -> list[str]:
    return [word.text for word in words if word.changed]


def doubtful(words: list[Word]) -> list[tuple[int, str]]:
    return [(place, word.text) for place, word in enumerate(words) if word.doubtful]


def test_words_keep_hyphens_and_apostrophes_and_marks_stand_alone() -> None:
    texts = [(word.text, word.spaced) for word in split_words("  it's top-left, 3.5 m\n(new)")]
    assert texts == [
        ("it's", False), ("top-left", True), (",", False), ("3.5", True), ("m", True),
        ("(", True), ("new", False), (")", False),
    ]  # fmt: skip


def test_added_and_removed_words_are_marked_on_their_side() -> None:
    before, after = compare("a dog on grass", "a small dog runs on grass")
    assert changed(before) == []
    assert changed(after) == ["small", "runs"]
    before, after = compare("a photo of a red cross", "a blue cross")
    assert changed(before) == ["photo", "of", "a", "red"]
    assert changed(after) == ["blue"]


def test_case_alone_is_no_change() -> None:
    before, after = compare("A Dog", "a dog")
    assert (changed(before), changed(after)) == ([], [])


def test_empty_captions_compare() -> None:
    before, after = compare("", "a dog")
    assert (before, changed(after)) == ([], ["a", "dog"])
    assert compare("", "") == ([], [])


def test_words_the_truth_does_not_hold_are_doubtful() -> None:
    before, after = compare("a dog", "a red dog, sleeping", truth="A dog is sleeping.")
    assert doubtful(before) == []
    assert doubtful(after) == [(1, "red")]


def test_of_a_word_told_too_often_the_one_out_of_line_is_doubtful() -> None:
    truth = "a large red cross, a small blue circle"
    _, after = compare("", "a large red cross, a large blue circle", truth=truth)
    assert doubtful(after) == [(6, "large")]


def test_without_a_truth_nothing_is_doubtful() -> None:
    before, after = compare("a dog", "a zebra")
    assert doubtful(before) + doubtful(after) == []
