"""Per-token penalties read off the caption's text: bad phrases, years, repeated words, a missing end.

Sources: VLRM (arXiv 2404.01911), section 3.4 and table 6. Differences from the paper:
1. The paper flags token spans; its list can only be matched on text (it holds words run together). Phrases
   are matched on the lower-cased text, and every token whose characters, leading space left out, touch a
   match is flagged.
2. The boundaries are ours: whole words where a phrase begins or ends with a letter or digit, any white space
   between words, either apostrophe. A year is four digits that no other digit touches.
3. The paper exempts "colors, prepositions and articles" from the repeat penalty but prints no lists; ours
   are below.
4. Phrases that its text names and its table does not list are in `EXTRA_PHRASES`, off unless asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sightloop.text_files import read_text_file
from sightloop.types import Outcome, on_last_token

Span = tuple[int, int]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


EXTRA_PHRASES = ("a video of", "a youtube video of", "a camera shot of", "is talking about")

ARTICLES = _words("a an the")
PREPOSITIONS = _words(
    """
    about above across after against along alongside amid among around as at atop before behind
    below beneath beside besides between beyond by despite down during except for from in inside
    into like near next of off on onto opposite out outside over past per round since than through
    throughout till to toward towards under underneath until up upon via with within without
    """
)
COLORS = _words(
    """
    amber aqua beige black blue bronze brown burgundy charcoal copper coral cream crimson cyan gold
    golden gray green grey indigo ivory khaki lavender lilac lime magenta maroon mauve mustard navy
    olive orange peach pink purple red salmon scarlet silver tan teal turquoise violet white yellow
    """
)
EXEMPT_WORDS = ARTICLES | PREPOSITIONS | COLORS

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_YEAR = r"(?<![0-9])[0-9]{4}(?![0-9])"
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'"})


def load_phrases(path: str | Path | None = None) -> tuple[str, ...]:
    """Phrases of a file, one a line, `#` for comments; the paper's table 6 if no path is given.

    Raises:
        ValueError: the file holds no phrase.
    """
    source = files("sightloop.rewards") / "bad_phrases.txt" if path is None else Path(path)
    lines = [line.strip() for line in read_text_file(str(source)).splitlines()]
    phrases = tuple(line for line in lines if line and not line.startswith("#"))
    if not phrases:
        raise ValueError(f"{path} holds no phrase; write one a line")
    return phrases


TABLE_6 = load_phrases()
"""The paper's list, 212 phrases."""


def flag_bad(pieces: Sequence[str], phrases: tuple[str, ...] = TABLE_6) -> list[bool]:
    """True for each piece that touches a bad phrase or a year, wherever matches overlap.

    >>> flag_bad(["a", " shot", " of", " a", " cats", "hot", " in", " 19", "93"])
    [False, True, False, False, False, False, False, True, True]
    """
    return _touched(pieces, _bad_spans(normal_text(pieces), _matcher(phrases)))


def flag_repeats(pieces: Sequence[str], exempt: frozenset[str] = EXEMPT_WORDS) -> list[bool]:
    """True for each piece of a word that was there before and is not exempt.

    >>> flag_repeats(["a", " green", " shirt", " and", " a", " green", " sh", "irt", "s", ",", " Shirt"])
    [False, False, False, False, False, False, False, False, False, False, True]
    """
    return _touched(pieces, _repeat_spans(normal_text(pieces), exempt))


def repeated(items: Sequence[Hashable], exempt: frozenset[str] = frozenset()) -> list[bool]:
    """True for each item that was there before and is not exempt: what reward and metric count.

    >>> repeated(["a", "dog", "a", "dog"], exempt=frozenset({"a"}))
    [False, False, False, True]
    """
    seen: set[Hashable] = set()
    flags: list[bool] = []
    for item in items:
        flags.append(item in seen and item not in exempt)
        seen.add(item)
    return flags


def share_repeated(text: str, exempt: frozenset[str] = EXEMPT_WORDS) -> float:
    """Share of a caption's words that the reward against repeats punishes; 0 if there is none.

    >>> share_repeated("a man is standing and a dog is sitting")
    0.1111111111111111
    """
    flags = repeated(_WORD.findall(normal_text([text])), exempt)
    return sum(flags) / len(flags) if flags else 0.0


def contains_bad_phrase(text: str, phrases: tuple[str, ...] = TABLE_6) -> bool:
    """Whether a caption holds a bad phrase or a year.

    >>> contains_bad_phrase("Footage  of a dog"), contains_bad_phrase("a shotgun in room 20155")
    (True, False)
    """
    return _matcher(phrases).search(normal_text([text])) is not None


def normal_text(pieces: Sequence[str]) -> str:
    """The joined pieces in lower case with plain apostrophes, character for character.

    >>> normal_text(["The", " camera\u2019s"])
    "the camera's"
    """
    text = "".join(pieces)
    lower = text.lower()
    if len(lower) != len(text):
        # A few letters grow when lowered, which would shift every span behind them.
        lower = "".join(small if len(small := letter.lower()) == 1 else letter for letter in text)
    return lower.translate(_APOSTROPHES)


def _bad_spans(text: str, matcher: re.Pattern[str]) -> list[Span]:
    return [match.span(match.lastindex or 0) for match in matcher.finditer(text)]


def _repeat_spans(text: str, exempt: frozenset[str]) -> list[Span]:
    found = list(_WORD.finditer(text))
    flags = repeated([match.group() for match in found], exempt)
    return [match.span() for match, flag in zip(found, flags, strict=True) if flag]


def _touched(pieces: Sequence[str], spans: Sequence[Span]) -> list[bool]:
    flags = [False] * len(pieces)
    if not spans:
        return flags
    end = 0
    for index, piece in enumerate(pieces):
        start, end = end + len(piece) - len(piece.lstrip()), end + len(piece)
        flags[index] = start < end and any(first < end and last > start for first, last in spans)
    return flags


@lru_cache(maxsize=16)
def _matcher(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """Finds, at every position, the longest phrase that begins there; the lookahead lets matches overlap."""
    unique = {" ".join(normal_text([phrase]).split()) for phrase in phrases} - {""}
    in_words = [phrase for phrase in unique if phrase[0].isalnum()]
    in_marks = [phrase for phrase in unique if not phrase[0].isalnum()]
    parts: list[str] = []
    if in_words:
        # The list is tried at the beginnings of words only, and by first words: that makes it fast.
        parts.append(rf"(?<![^\W_])(?=({_any_of(in_words)}))")
    if in_marks:
        parts.append(rf"(?=({_any_of(in_marks)}))")
    return re.compile("|".join([*parts, rf"(?=({_YEAR}))"]))


def _any_of(phrases: list[str]) -> str:
    # Longer first, of first words and of rests: the first alternative that fits is then the longest match.
    rests: dict[str, list[str]] = {}
    for phrase in sorted(phrases, key=len, reverse=True):
        first, *rest = phrase.split(" ")
        boundary = r"(?![^\W_])" if phrase[-1].isalnum() else ""
        rests.setdefault(first, []).append("".join(rf"\s+{re.escape(word)}" for word in rest) + boundary)
    firsts = sorted(rests, key=len, reverse=True)
    return "|".join(f"{re.escape(first)}(?:{'|'.join(rests[first])})" for first in firsts)


def _penalties(outcome: Outcome, flag: Callable[[Sequence[str]], list[bool]]) -> Float[Tensor, "B T"]:
    mask = outcome.tokens.mask
    rows = [flag(pieces) for pieces in outcome.pieces]
    width = mask.shape[1]
    padded = torch.tensor([row + [False] * (width - len(row)) for row in rows], dtype=torch.bool)
    return torch.zeros(mask.shape, device=mask.device).masked_fill(padded.to(mask.device) & mask, -1.0)


@dataclass(frozen=True, kw_only=True)
class BadPhrases:
    """A reward: -1 on every token that touches a bad phrase or a year."""

    phrases: tuple[str, ...] = TABLE_6

    def __post_init__(self) -> None:
        if isinstance(self.phrases, str) or not any(phrase.strip() for phrase in self.phrases):
            raise ValueError(f"phrases is {self.phrases!r}; give a tuple with at least one phrase")

    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """-1 or 0 a token."""
        return _penalties(outcome, lambda pieces: flag_bad(pieces, self.phrases))


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """A reward: -1 on every token of a word that the caption has used before, exempt words excepted."""

    exempt: frozenset[str] = EXEMPT_WORDS

    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """-1 or 0 a token."""
        return _penalties(outcome, lambda pieces: flag_repeats(pieces, self.exempt))


def missing_end(outcome: Outcome) -> Float[Tensor, "B T"]:
    """A reward: -1 on the last token of a caption that was cut off before its end token."""
    return on_last_token(outcome.ended.float() - 1, outcome.tokens)
