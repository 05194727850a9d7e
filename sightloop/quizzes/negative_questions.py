"""Questions about what is not there, to catch a grader that says yes to everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sightloop.quizzes.answer_words import plural_word
from sightloop.quizzes.lexicon import NUMBERS, OPPOSITES
from sightloop.types import Fact

_COUNTS = ("two", "three", "four", "five")


@dataclass(frozen=True, kw_only=True)
class NegativeQuestions:
    """From true facts to a yes-or-no question about a false one: another thing, number, color or side."""

    nouns: Sequence[str]
    colors: Sequence[str]

    def __post_init__(self) -> None:
        if len(set(self.nouns)) < 3 or len(set(self.colors)) < 3:
            raise ValueError(
                "negative questions need at least 3 nouns and 3 colors, so that some are absent from a quiz"
            )

    def __call__(self, facts: Sequence[Fact], seed: int) -> tuple[str, Fact]:
        """The question, and the fact that its answer must deny. The seed picks which true fact is turned.

        Raises:
            ValueError: there are no facts.
        """
        if not facts:
            raise ValueError("no facts to ask a negative question about")
        fact = facts[seed % len(facts)]
        pick = seed // len(facts)
        if fact.kind == "noun":
            return self._absent_thing(facts, pick)
        if fact.kind == "relation":
            opposite = OPPOSITES[fact.words[0]]
            if opposite == fact.words[0]:
                return self._absent_thing(facts, pick)
            question = f"Is the {fact.about[0]} {opposite} the {fact.target[0]}?"
            return question, replace(fact, words=(opposite,))
        if fact.kind == "number":
            return _other_number(fact, facts, pick)
        true = {word for other in facts if other.kind == "color" for word in other.words}
        free = [color for color in self.colors if color not in true]
        color = free[pick % len(free)]
        thing = fact.about[0] if fact.about else "object"
        return f"Is the {thing} {color}?", replace(fact, words=(color,))

    def _absent_thing(self, facts: Sequence[Fact], pick: int) -> tuple[str, Fact]:
        named = {name for fact in facts for name in (*fact.words, *fact.about, *fact.target)}
        free = [noun for noun in self.nouns if noun not in named]
        noun = free[pick % len(free)]
        article = "an" if noun[0] in "aeiou" else "a"
        return f"Is there {article} {noun} in the picture?", Fact(kind="noun", words=(noun,))


def _other_number(fact: Fact, facts: Sequence[Fact], pick: int) -> tuple[str, Fact]:
    true = {NUMBERS.get(word, word) for word in fact.words} | {int(w) for w in fact.words if w.isdigit()}
    free = [word for word in _COUNTS if NUMBERS[word] not in true]
    word = free[pick % len(free)]
    nouns = [other.words for other in facts if other.kind == "noun"]
    thing = plural_word(nouns[0][0]) if len(nouns) == 1 else "objects"
    about = nouns[0] if len(nouns) == 1 else fact.about
    return f"Are there {word} {thing}?", Fact(kind="number", words=(word,), about=about)
