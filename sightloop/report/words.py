"""What changed between two captions, word by word, and which words a true description does not hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import groupby

from sightloop.report.markup import Markup, element, together

_WORDS = re.compile(r"\w+(?:[-'\u2019.]\w+)*|[^\w\s]")
# Words that tell no fact, so that nobody misses them in a description.
_GRAMMAR = frozenset(
    {"a", "an", "the", "of", "on", "in", "at", "to", "by", "with", "and", "or", "is", "are", "was", "be"}
    | {"there", "this", "that", "it", "its", "image", "picture", "photo"}
)


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word or a punctuation mark of a caption."""

    text: str
    spaced: bool
    """True if white space stands before it."""
    changed: bool = False
    """True if the other caption does not have it at this place."""
    doubtful: bool = False
    """True if it tells something that the true description does not hold."""


def split_words(text: str) -> list[Word]:
    """The words and punctuation marks of a text; `top-left` and `it's` are one word."""
    text = text.strip()
    return [
        Word(text=match[0], spaced=text[max(0, match.start() - 1) : match.start()].isspace())
        for match in _WORDS.finditer(text)
    ]


def compare(before: str, after: str, truth: str = "") -> tuple[list[Word], list[Word]]:
    """The words of both captions, with those that differ marked; with a `truth`, the doubtful ones too.

    >>> before, after = compare("a circle", "a red circle")
    >>> [word.text for word in after if word.changed]
    ['red']
    """
    old, new = split_words(before), split_words(after)
    kept_old, kept_new = _aligned(old, new)
    old_doubts, new_doubts = _doubts(old, truth), _doubts(new, truth)
    return (
        [replace(word, changed=i not in kept_old, doubtful=i in old_doubts) for i, word in enumerate(old)],
        [replace(word, changed=i not in kept_new, doubtful=i in new_doubts) for i, word in enumerate(new)],
    )


def marked_words(words: Sequence[Word], mark: str) -> Markup:
    """The words with their spaces; changed neighbors share one element `mark` (`del`, `ins`)."""
    if not words:
        return element("span", "(nothing)", class_="nothing")
    parts: list[str] = []
    for changed, run_of_words in groupby(words, key=lambda word: word.changed):
        group = list(run_of_words)
        inside = [
            together(
                [
                    " " if word.spaced and index else "",
                    element("span", word.text, class_="doubt", title="not in the true description")
                    if word.doubtful
                    else word.text,
                ]
            )
            for index, word in enumerate(group)
        ]
        parts.append(" " if group[0].spaced else "")
        parts.append(element(mark, *inside) if changed else together(inside))
    return together(parts)


def _aligned(first: list[Word], second: list[Word]) -> tuple[set[int], set[int]]:
    """Places of the words that both have in the same order."""
    blocks = SequenceMatcher(
        a=[word.text.lower() for word in first], b=[word.text.lower() for word in second], autojunk=False
    ).get_matching_blocks()
    return (
        {place for block in blocks for place in range(block.a, block.a + block.size)},
        {place for block in blocks for place in range(block.b, block.b + block.size)},
    )


def _doubts(words: list[Word], truth: str) -> set[int]:
    """Places of words that tell more than the truth does: unknown to it, or told more often than it has them.

    Of a word told too often, those that do not line up with the truth are the surplus.
    """
    if not truth.strip():
        return set()
    true_words = split_words(truth)
    known = Counter(word.text.lower() for word in true_words)
    lined_up, _ = _aligned(words, true_words)
    doubts: set[int] = set()
    for place in sorted(range(len(words)), key=lambda place: place not in lined_up):
        text = words[place].text.lower()
        if not text[0].isalnum() or text in _GRAMMAR:
            continue
        if known[text] == 0:
            doubts.add(place)
        else:
            known[text] -= 1
    return doubts
