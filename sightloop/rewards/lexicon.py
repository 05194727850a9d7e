"""The words by which an answer names numbers, colours and places, and denies."""

from __future__ import annotations

from typing import Literal

Kind = Literal[
    "noun", "other", "colour", "number", "article", "determiner", "relation", "place", "its_place",
    "not", "is", "are", "and", "or", "but", "stop", "pronoun", "plain",
]  # fmt: skip
"""What a word does in a sentence: `other` names a thing that no fact knows, `plain` does nothing."""
Item = tuple[Kind, str]
"""A word or phrase with what it stands for."""

NUMBERS: dict[str, int] = {
    word: number
    for number, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        ]
    )
} | {"single": 1, "pair": 2, "couple": 2, "both": 2, "trio": 3, "dozen": 12}
COLOURS: dict[str, str] = {
    word: word
    for word in [
        "amber",
        "aqua",
        "beige",
        "black",
        "blue",
        "bronze",
        "brown",
        "cream",
        "crimson",
        "cyan",
        "gold",
        "gray",
        "green",
        "indigo",
        "ivory",
        "khaki",
        "lavender",
        "lilac",
        "lime",
        "magenta",
        "maroon",
        "mauve",
        "navy",
        "olive",
        "orange",
        "peach",
        "pink",
        "purple",
        "red",
        "salmon",
        "scarlet",
        "silver",
        "tan",
        "teal",
        "turquoise",
        "violet",
        "white",
        "yellow",
    ]
} | {"grey": "gray", "golden": "gold"}
OPPOSITES: dict[str, str] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "in front of": "behind",
    "behind": "in front of",
    "next to": "next to",
}
"""The relation that holds when the two things change places."""


def _side_phrases() -> dict[tuple[str, ...], Item]:
    found: dict[tuple[str, ...], Item] = {}
    for side in ("left", "right"):
        relation = f"{side} of"
        for start in ("", "to the ", "on the ", "at the ", "in the ", "to ", "on "):
            found[tuple(f"{start}{side} of".split())] = ("relation", relation)
            found[tuple(f"{start}{side} side of".split())] = ("relation", relation)
            if start:
                found[tuple(f"{start}{side}".split())] = ("place", relation)
                found[tuple(f"{start}{side} side".split())] = ("place", relation)
        for start in ("to its ", "on its ", "at its "):
            found[tuple(f"{start}{side}".split())] = ("its_place", relation)
            found[tuple(f"{start}{side} side".split())] = ("its_place", relation)
        found[side, "to"] = ("relation", relation)
        found[(side,)] = ("place", relation)
    return found


_RELATIONS = {
    "above": "above over atop|on top of|higher than|at the top of",
    "below": "below under beneath underneath|lower than|at the bottom of",
    "in front of": "|in front of",
    "behind": "behind|in back of",
    "next to": "beside|next to|close to",
}
PHRASES: dict[tuple[str, ...], Item] = _side_phrases()
for _name, _given in _RELATIONS.items():
    _words, *_longer = _given.split("|")
    for _phrase in (*_words.split(), *_longer):
        PHRASES[tuple(_phrase.split())] = ("relation", _name)
for _place, _name in (("top", "above"), ("bottom", "below")):
    for _start in ("at the", "on the", "on", "at"):
        PHRASES[*_start.split(), _place] = ("place", _name)

_KINDS: dict[Kind, str] = {
    "not": "not no never without neither nor none cannot",
    "is": "is was has looks appears seems remains be being 's",
    "are": "are were have look appear seem",
    "and": "and plus &",
    "or": "or",
    "but": "but , while whereas though although instead with however yet then",
    "stop": ". ; ! ? :",
    "pronoun": "it its they them which that who this these those",
    "determiner": "the another other each every his her their some any several many",
    "article": "a an",
    "plain": (
        "there of in on at to into from for by very only just also too exactly about around total "
        "color colour colors colours colored coloured hue shade object objects thing things item items "
        "picture pictures image images photo photos scene painted entirely all so both what how yes here "
        "answer shown shows show see seen i you we can visible placed located positioned situated sitting "
        "standing lying laying side directly immediately slightly light dark bright pale deep vivid small "
        "large big little tiny huge round group set bunch arranged main"
    ),
}
for _kind, _text in _KINDS.items():
    for _word in _text.split():
        PHRASES.setdefault((_word,), (_kind, _word))
for _word, _number in NUMBERS.items():
    PHRASES[(_word,)] = ("number", str(_number))
for _word, _colour in COLOURS.items():
    PHRASES[(_word,)] = ("colour", _colour)
# Names that end or begin with another thing's name.
for _name in ("hot dog", "hot dogs", "corn dog", "teddy bear", "teddy bears", "tv remote", "tv remotes"):
    PHRASES[tuple(_name.split())] = ("other", _name)
LONGEST = max(map(len, PHRASES))
