"""The language of the embedded world: captions of three degrees of detail, their grammar, and exact truth.

A caption names things in reading order: `a small red circle top-left, a blue cross bottom-right on white`.
As on the web, most captions name the first thing only, and how much is told has nothing to do with the image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sightloop.world.scenes import COLORS, CORNERS, GROUNDS, SHAPES, SIZES, Scene, Thing

Style = Literal["short", "medium", "full"]
STYLES: tuple[Style, ...] = ("short", "medium", "full")
HABIT = (0.98, 0.02, 0.0)
"""Probability of a short, medium and full caption, whatever the image."""
PREFIXES = ("there is", "an image of")
PREFIX_PROBABILITY = 0.06
SPECIALS = ("<pad>", "<s>", "<unk>", "</s>", "<image>")
WORDS = (
    *SPECIALS,
    *COLORS,
    *SHAPES,
    *CORNERS,
    *SIZES,
    *GROUNDS,
    "a",
    ",",
    "on",
    "an",
    "image",
    "of",
    "there",
    "is",
)
FACTS_PER_THING = 4
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*|,")


@dataclass(frozen=True, kw_only=True)
class FactCount:
    """How many facts a caption tells, right and wrong, and how many the scene holds."""

    true: int
    false: int
    total: int


def caption_tokens(text: str) -> list[str]:
    """The words and commas of a caption."""
    return _WORD.findall(text.lower())


def caption(scene: Scene, style: Style, rng: np.random.Generator) -> str:
    """A caption of the scene without prefix.

    `short` names the first thing, `medium` some things with some attributes, `full` everything.
    """
    if style == "short":
        return _phrase(scene.things[0], rng, size=0.2, corner=0.5)
    if style == "full":
        return (
            ", ".join(_phrase(thing, rng, size=1, corner=1) for thing in scene.things) + f" on {scene.ground}"
        )
    num_told = int(rng.integers(1, len(scene.things) + 1))
    text = ", ".join(_phrase(thing, rng, size=0.35, corner=0.8) for thing in scene.things[:num_told])
    return text + (f" on {scene.ground}" if rng.random() < 0.5 else "")


def full_caption(scene: Scene) -> str:
    """Everything there is to say."""
    things = [f"a {t.size} {t.color} {t.shape} {t.corner}" for t in scene.things]
    return ", ".join(things) + f" on {scene.ground}"


def natural_caption(scene: Scene, rng: np.random.Generator, prefix: float = PREFIX_PROBABILITY) -> str:
    """A caption as the world's people write them: nearly always short, now and then with an empty prefix."""
    return prefixed(caption(scene, STYLES[rng.choice(3, p=HABIT)], rng), rng, prefix)


def prefixed(text: str, rng: np.random.Generator, share: float = PREFIX_PROBABILITY) -> str:
    """The caption, now and then behind an empty prefix."""
    return f"{PREFIXES[rng.integers(len(PREFIXES))]} {text}" if rng.random() < share else text


def _phrase(thing: Thing, rng: np.random.Generator, size: float, corner: float) -> str:
    words = ["a"]
    if rng.random() < size:
        words.append(thing.size)
    words += [thing.color, thing.shape]
    if rng.random() < corner:
        words.append(thing.corner)
    return " ".join(words)


def parses(text: str) -> bool:
    """Whether the caption is grammatical: `[prefix] thing (, thing)* [on ground]`, with a thing being
    `a [size] color shape [corner]`.

    >>> parses("a small red circle top-left, a blue cross on white")
    True
    >>> parses("a red red circle")
    False
    """
    return _GRAMMAR.fullmatch(" ".join(caption_tokens(text))) is not None


def _any_of(options: tuple[str, ...]) -> str:
    return "(?:" + "|".join(options) + ")"


_THING = rf"a (?:{_any_of(SIZES)} )?{_any_of(COLORS)} {_any_of(SHAPES)}(?: {_any_of(CORNERS)})?"
_GRAMMAR = re.compile(rf"(?:{_any_of(PREFIXES)} )?{_THING}(?: , {_THING})*(?: on {_any_of(GROUNDS)})?")


def check_words(scene: Scene, words: list[str]) -> list[int]:
    """The verdict on each word: 1 a true fact, -1 a false one, 0 no fact.

    A phrase is about the thing, not described before, that it agrees with most; each attribute it names is
    then right or wrong. A phrase whose color and shape fit nothing is about nothing: all of it is false.
    Telling something again, a thing or the ground, is false too.
    """
    verdicts = [0] * len(words)
    ground: str | None = scene.ground
    remaining = list(scene.things)
    phrase: dict[str, int] = {}
    for position, word in enumerate([*words, ","]):
        kind = _KIND.get(word)
        if kind is not None and not (kind == "ground" and (position == 0 or words[position - 1] != "on")):
            if kind == "ground":
                verdicts[position] = 1 if word == ground else -1
                ground = None
                continue
            if kind in phrase:
                _settle(phrase, words, remaining, verdicts)
                phrase = {}
            phrase[kind] = position
        elif phrase and word in {",", "a", "on"}:
            _settle(phrase, words, remaining, verdicts)
            phrase = {}
    return verdicts


def _settle(phrase: dict[str, int], words: list[str], remaining: list[Thing], verdicts: list[int]) -> None:
    def agreement(thing: Thing) -> int:
        return sum(getattr(thing, kind) == words[position] for kind, position in phrase.items())

    def is_kin(thing: Thing) -> bool:
        return any(
            getattr(thing, kind) == words[phrase[kind]] for kind in ("color", "shape") if kind in phrase
        )

    kin = [thing for thing in remaining if is_kin(thing)]
    if not kin:
        for position in phrase.values():
            verdicts[position] = -1
        return
    best = max(kin, key=agreement)
    remaining.remove(best)
    for kind, position in phrase.items():
        verdicts[position] = 1 if getattr(best, kind) == words[position] else -1


_KIND: dict[str, str] = {
    word: kind
    for kind, words in (
        ("size", SIZES),
        ("color", COLORS),
        ("shape", SHAPES),
        ("corner", CORNERS),
        ("ground", GROUNDS),
    )
    for word in words
}


def count_facts(scene: Scene, text: str) -> FactCount:
    """Facts of the caption checked against the scene.

    >>> from sightloop.world.scenes import Scene, Thing
    >>> thing = Thing(size="small", color="red", shape="circle", corner="top-left")
    >>> scene = Scene(ground="white", things=(thing,))
    >>> count_facts(scene, "a large red circle on white")
    FactCount(true=3, false=1, total=5)
    """
    verdicts = check_words(scene, caption_tokens(text))
    total = FACTS_PER_THING * len(scene.things) + 1
    return FactCount(true=verdicts.count(1), false=verdicts.count(-1), total=total)
