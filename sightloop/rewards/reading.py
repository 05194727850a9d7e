"""What a short answer claims: things, and the numbers, colours and places it gives them.

A reader of one pass over words and phrases. Numbers and colours belong to the noun they stand before, or
to the subject of their sentence, never to a neighbour; negation lasts to the next comma, "and" or "but".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sightloop.rewards.lexicon import COLOURS, LONGEST, PHRASES, Item, Kind

BARE, UNKNOWN = "", "?"
"""Whose colour or number it is: nobody's that is named, or a thing's that no fact knows."""
_WORD = re.compile(r"[a-z]+|[0-9]+|'s|[.,;:!?&]")
_MAX_BETWEEN = 2
"""Unknown words between a number or colour and its noun: "four old wooden chairs"."""
_PARTS: frozenset[Kind] = frozenset(("and", "or", "but", "stop"))


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """A number or colour that a thing is said to have; an article is a weak "one"."""

    kind: Kind
    owner: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Relation:
    """Where the subject is, seen from the target."""

    subject: str
    name: str
    target: str


Claim = str | Attribute | Relation
"""A thing (its name), an attribute or a relation. A place in the picture is a relation to nothing."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is said to be so, and what is said not to be."""

    affirmed: frozenset[Claim]
    denied: frozenset[Claim]

    def values(self, kind: Kind, owner: str) -> frozenset[str]:
        """All values that a thing is said to have."""
        return frozenset(
            c.value for c in self.affirmed if isinstance(c, Attribute) and c.kind == kind and c.owner == owner
        )


def words_of(text: str) -> list[str]:
    """Lower-case words, numbers and punctuation marks; "isn't" is two words.

    >>> words_of("There isn't a wine-glass.")
    ['there', 'is', 'not', 'a', 'wine', 'glass', '.']
    """
    plain = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return _WORD.findall(plain.replace("can't", "can not").replace("n't", " not"))


def read(text: str, nouns: Mapping[str, Sequence[str]], *, colours: Sequence[str] = ()) -> Reading:
    """What `text` claims; `nouns` gives the spellings of each thing that can be told, by name.

    `colours` are colour words besides the usual ones.

    >>> reading = read("a red circle and a blue cross", {"circle": ["circle"], "cross": ["cross"]})
    >>> reading.values("colour", "circle"), reading.values("colour", "cross")
    (frozenset({'red'}), frozenset({'blue'}))
    """
    spelled: dict[tuple[str, ...], Item] = {
        tuple(words_of(word)): ("colour", COLOURS.get(word, word)) for word in colours
    }
    for name, forms in nouns.items():
        for form in forms:
            for spelling in (form, plural_of(form)):
                spelled[tuple(words_of(spelling))] = ("noun", name)
    reader = _Reader(_items(words_of(text), spelled))
    return Reading(affirmed=frozenset(reader.affirmed), denied=frozenset(reader.denied))


def plural_of(name: str) -> str:
    """The regular plural of a name's last word.

    >>> plural_of("bench"), plural_of("wine glass"), plural_of("cherry"), plural_of("toy")
    ('benches', 'wine glasses', 'cherries', 'toys')
    """
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


def _items(words: list[str], spelled: Mapping[tuple[str, ...], Item]) -> list[Item]:
    longest = max([LONGEST, *map(len, spelled)])
    items: list[Item] = []
    place = 0
    while place < len(words):
        for size in range(min(longest, len(words) - place), 0, -1):
            phrase = tuple(words[place : place + size])
            item = spelled.get(phrase) or PHRASES.get(phrase)
            if item is None and size == 1:
                item = ("number", phrase[0]) if phrase[0].isdigit() else ("other", phrase[0])
            if item is not None:
                if item[0] == "noun" and PHRASES.get(phrase, item)[0] == "colour":
                    item = _colour_or_noun(words, place, item, PHRASES[phrase])
                items.append(item)
                place += size
                break
    return items


def _colour_or_noun(words: list[str], place: int, noun: Item, colour: Item) -> Item:
    # "An orange" is a fruit, "is orange" and "an orange cat" are colours.
    before = PHRASES.get((words[place - 1],), ("other", ""))[0] if place else "stop"
    behind = PHRASES.get((words[place + 1],), ("other", ""))[0] if place + 1 < len(words) else "stop"
    if behind in ("other", "noun", "colour") or before in ("is", "are"):
        return colour
    return noun


class _Reader:
    """Walks over the items and keeps who is being spoken about."""

    def __init__(self, items: list[Item]) -> None:
        self.affirmed: set[Claim] = set()
        self.denied: set[Claim] = set()
        self._items = items
        self._pending: list[Item] = []
        self._between = 0
        self._antecedent = ""
        self._start_sentence()
        for place, (kind, value) in enumerate(items):
            self._take(place, kind, value)
        self._flush()

    def _start_sentence(self) -> None:
        self._fronted: tuple[str, str] | None = None
        self._start_clause()

    def _start_clause(self) -> None:
        self._subjects: list[str] = []
        self._clause_nouns: list[str] = []
        self._told = False
        self._start_part()
        self._negated = False

    def _start_part(self) -> None:
        self._part_nouns: list[str] = []
        self._unknown = False
        self._there = False
        self._relation: str | None = None

    def _separate(self, place: int, kind: Kind) -> None:
        behind = self._items[place + 1 :]
        following = behind[0][0] if behind else "stop"
        # "A red and blue circle", "three or four bowls": both belong to what comes.
        if kind in ("and", "or") and self._pending and following == self._pending[-1][0]:
            return
        self._flush()
        if self._subjects[:1] not in ([], [UNKNOWN]):
            self._antecedent = self._subjects[0]
        elif self._clause_nouns:
            self._antecedent = self._clause_nouns[-1]
        if kind == "stop":
            self._start_sentence()
            return
        # "No dog or cat", "no dog and cat"; but "no dog and a cat".
        stays = kind == "or" or (kind == "and" and following in ("noun", "other"))
        negated = self._negated and stays
        end = next((i for i, item in enumerate(behind) if item[0] in _PARTS), len(behind))
        part = [item[0] for item in behind[:end]]
        told_anew = "is" in part or "are" in part
        if told_anew and (self._told or following == "pronoun"):
            self._start_clause()
        else:
            self._start_part()
        self._negated = negated

    def _take(self, place: int, kind: Kind, value: str) -> None:
        if kind in ("colour", "number", "article"):
            if kind == "article" and self._pending:
                self._flush()
            self._pending.append((kind, value))
        elif kind == "noun":
            self._noun(value)
        elif kind == "other":
            self._between += bool(self._pending)
            self._unknown = True
        elif kind in _PARTS:
            self._separate(place, kind)
        elif kind == "determiner":
            self._flush()
        elif kind == "not":
            self._flush()
            self._negated = True
        elif kind in ("is", "are"):
            self._flush()
            self._copula(kind)
        elif kind == "relation":
            self._flush()
            self._relation = value
        elif kind in ("place", "its_place"):
            self._flush()
            self._position(kind, value)
        elif value == "there":
            self._there = True
        elif kind == "pronoun" and value in ("it", "them") and self._relation is not None:
            self._relate_to(self._other_than(self._subject()))

    def _claim(self, claim: Claim) -> None:
        (self.denied if self._negated else self.affirmed).add(claim)

    def _noun(self, name: str) -> None:
        bound = [item for item in self._pending if item[0] != "article"]
        known = self._between <= _MAX_BETWEEN
        for kind, value in self._pending:
            self._claim(Attribute(kind=kind, owner=name if known else UNKNOWN, value=value))
        if ("number", "0") in bound:
            self.denied.add(name)
        elif not (self._negated and bound):
            # "No red circle" denies the colour: there may be a circle.
            self._claim(name)
        self._pending, self._between = [], 0
        if self._relation is not None:
            self._relate_to(name)
            return
        if self._fronted is not None:
            relation, target = self._fronted
            self._claim(Relation(subject=name, name=relation, target=target))
            self._fronted = None
        self._part_nouns.append(name)
        self._clause_nouns.append(name)

    def _copula(self, kind: Kind) -> None:
        if not self._told or self._part_nouns:
            if self._part_nouns:
                self._subjects = list(self._clause_nouns) if kind == "are" else self._part_nouns[:1]
            elif self._unknown:
                self._subjects = [UNKNOWN]
            elif self._antecedent and not self._there:
                self._subjects = [self._antecedent]
        self._told = True

    def _subject(self) -> str:
        if self._part_nouns:
            return self._part_nouns[0]
        return self._subjects[0] if self._subjects else BARE

    def _other_than(self, name: str) -> str:
        others = [noun for noun in (*self._clause_nouns, self._antecedent) if noun not in (name, "")]
        return others[0] if others else BARE

    def _relate_to(self, target: str) -> None:
        relation, self._relation = self._relation, None
        assert relation is not None
        subject = self._subject()
        if subject == BARE and not self._told:
            self._fronted = (relation, target)
        elif subject and target:
            self._claim(Relation(subject=subject, name=relation, target=target))

    def _position(self, kind: Kind, relation: str) -> None:
        if kind == "its_place":
            nearest = self._part_nouns[-1] if self._part_nouns else BARE
            self._claim(Relation(subject=nearest, name=relation, target=self._other_than(nearest)))
        else:
            self._claim(Relation(subject=self._subject(), name=relation, target=BARE))

    def _flush(self) -> None:
        pending = [item for item in self._pending if item[0] != "article"]
        unknown = self._between > 0
        self._pending, self._between = [], 0
        if not pending:
            return
        owners = [BARE]
        if unknown:
            owners = [UNKNOWN]
        elif self._told and self._subjects:
            owners = self._subjects
        elif self._part_nouns:
            owners = self._part_nouns[-1:]
        for kind, value in pending:
            for owner in owners:
                self._claim(Attribute(kind=kind, owner=owner, value=value))
