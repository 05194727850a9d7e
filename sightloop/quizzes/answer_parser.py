"""What a short answer claims: things, and the numbers, colors and places it gives them.

A reader of one pass over words and phrases. Numbers and colors belong to the noun they stand before, or
to the subject of their sentence, never to a neighbor; negation lasts to the next comma, "and" or "but".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sightloop.quizzes.answer_words import items_of, plural_word, words_of
from sightloop.quizzes.lexicon import COLORS, FRUITS, Item, Kind

BARE, UNKNOWN, SCENERY = "", "?", "~"
"""Whose color or number it is: nobody's that is named, a thing's that no fact knows, or the background's."""
_MAX_BETWEEN = 2
"""Unknown words between a number or color and its noun: "four old wooden chairs"."""
_ON_REACH = 3
"""Words behind "on" among which its thing is looked for: "on a wooden chair"."""
_PARTS: frozenset[Kind] = frozenset(("and", "or", "but", "stop"))


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """A number or color that a thing is said to have; an article is a weak "one"."""

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
"""A thing (its name), an attribute or a relation. A place in the image is a relation to nothing."""


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


def read(text: str, nouns: Mapping[str, Sequence[str]], *, colors: Sequence[str] = ()) -> Reading:
    """What `text` claims; `nouns` gives the spellings of each thing that can be told, by name.

    `colors` are color words besides the usual ones.

    >>> reading = read("a red circle and a blue cross", {"circle": ["circle"], "cross": ["cross"]})
    >>> reading.values("color", "circle"), reading.values("color", "cross")
    (frozenset({'red'}), frozenset({'blue'}))
    """
    spelled: dict[tuple[str, ...], Item] = {
        tuple(words_of(word)): ("color", COLORS.get(word, word)) for word in colors
    }
    singular: set[tuple[str, ...]] = set()
    for name, forms in nouns.items():
        for form in forms:
            for spelling in (form, plural_word(form)):
                spelled[tuple(words_of(spelling))] = ("noun", name)
            singular.add(tuple(words_of(form)))
            if form in FRUITS:
                spelled[form, "fruit"] = ("noun", name)
    reader = _Reader(items_of(words_of(text), spelled, singular))
    return Reading(affirmed=frozenset(reader.affirmed), denied=frozenset(reader.denied))


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
        self._end_part()

    def _start_sentence(self) -> None:
        self._fronted: tuple[str, str] | None = None
        self._order = ""
        self._ordered = ""
        self._start_clause()

    def _start_clause(self) -> None:
        self._subjects: list[str] = []
        self._clause_nouns: list[str] = []
        self._told = False
        self._counted: Attribute | None = None
        self._start_part()
        self._negated = False

    def _start_part(self) -> None:
        self._part_nouns: list[str] = []
        self._unknown = False
        self._there = False
        self._relation: str | None = None
        self._side = ""
        self._bound = ""
        self._partitive = False
        self._is_part = False
        self._compared = False
        self._described: list[Item] = []

    def _end_part(self) -> None:
        # "The dog is above, the cat below"; "on the left" with nothing behind it.
        if self._relation and self._subject() not in (BARE, UNKNOWN):
            self._position("place", self._relation)
        elif self._side:
            self._claim(Relation(subject=BARE, name=self._side, target=BARE))

    def _separate(self, place: int, kind: Kind) -> None:
        behind = self._items[place + 1 :]
        following = behind[0][0] if behind else "stop"
        # "A red and blue circle", "three or four bowls": both belong to what comes.
        if (
            kind in ("and", "or")
            and self._pending
            and not self._between
            and following == self._pending[-1][0]
        ):
            return
        self._flush()
        self._end_part()
        if self._subjects[:1] not in ([], [UNKNOWN], [SCENERY]):
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
        if kind in ("color", "number", "article"):
            self._attribute(place, kind, value)
        elif kind in ("noun", "scenery"):
            self._thing(place, kind, value)
        elif kind == "other":
            self._between += bool(self._pending)
            self._unknown = True
            if not self._carries(place):
                # "Above the table": the relation is to a thing that no fact knows.
                self._relation = None
        elif kind in _PARTS:
            self._separate(place, kind)
        elif kind == "determiner":
            self._flush()
        elif kind in ("not", "missing"):
            self._flush()
            self._deny(place, kind)
        elif kind == "bound_before" or (kind == "bound" and self._follows(place) in _PARTS):
            self._bind_before(place, value)
        elif kind == "bound":
            self._bound = f"{value} "
        elif kind == "partitive":
            self._take_part(value)
        elif kind == "like":
            self._flush()
            self._compared = bool(self._clause_nouns) or self._unknown
        elif kind == "order":
            self._order = value
        elif kind in ("is", "are"):
            if not (self._told or self._unknown or self._part_nouns):
                # "The purple object is a wine glass."
                self._described = [item for item in self._pending if item[0] == "color"]
            self._flush()
            self._copula(kind)
        elif kind == "relation" or (kind == "on" and self._carries(place)):
            if self._follows(place) == "number" and self._subject() == BARE:
                self._bound = f"{value} "
                return
            self._flush()
            self._relation = "above" if kind == "on" else value
        elif kind in ("place", "its_place"):
            self._flush()
            self._position(kind, value)
        elif value == "there":
            self._there = True
        elif kind == "pronoun" and value in ("it", "them") and self._relation is not None:
            self._relate_to(self._other_than(self._subject()))

    def _bind_before(self, place: int, value: str) -> None:
        # "Four or more bowls", "four bowls or more".
        known, ends = self._counted, self._follows(place) in _PARTS
        waits = any(kind == "number" for kind, _ in self._pending)
        if known is not None and known in self.affirmed and ends and not waits:
            self.affirmed.remove(known)
            self.affirmed.add(replace(known, value=f"{value} {known.value}"))
        self._pending = [(k, f"{value} {v}" if k == "number" else v) for k, v in self._pending]

    def _follows(self, place: int) -> Kind:
        return self._items[place + 1][0] if place + 1 < len(self._items) else "stop"

    def _rest_of_part(self, place: int) -> list[Kind]:
        rest: list[Kind] = [item[0] for item in self._items[place + 1 :]]
        return rest[: next((i for i, kind in enumerate(rest) if kind in _PARTS), len(rest))]

    def _carries(self, place: int) -> bool:
        """Whether a thing comes within reach: "on a wooden chair", "left of the old dog"."""
        rest = self._rest_of_part(place)[:_ON_REACH]
        return "noun" in rest and not {"relation", "place", "is", "are"} & set(rest[: rest.index("noun")])

    def _attribute(self, place: int, kind: Kind, value: str) -> None:
        if kind == "article" and self._pending:
            self._flush()
        if kind == "number":
            known = bool(self._antecedent or self._clause_nouns)
            counted = any(isinstance(claim, Attribute) and claim.kind == kind for claim in self.affirmed)
            if known and self._follows(place) in ("is", "are") and (value == "1" or counted):
                return  # "Three dogs, one is brown and two are black."
            value, self._bound = self._bound + value, ""
        if kind == "color" and self._bound:
            self._bound = ""
            return  # "Darker than pink" names another color.
        self._pending.append((kind, value))

    def _thing(self, place: int, kind: Kind, value: str) -> None:
        if self._compared:
            # "A cat that looks like a dog" is no dog.
            self._pending, self._between, self._compared = [], 0, False
        elif kind == "scenery":
            self._scenery()
        elif self._follows(place) == "noun" and ("article", "a") in self._pending:
            # "A dog bowl" is a bowl.
            return
        else:
            self._noun(value)

    def _scenery(self) -> None:
        for kind, value in self._pending:
            self._claim(Attribute(kind=kind, owner=SCENERY, value=value))
        self._pending, self._between, self._relation = [], 0, None
        if not self._clause_nouns:
            self._part_nouns.append(SCENERY)

    def _deny(self, place: int, kind: Kind) -> None:
        rest = self._rest_of_part(place)
        absent = not {"noun", "article", "number", "color", "relation", "place", "other"} & set(rest)
        named = [name for name in self._part_nouns or self._subjects if name not in (UNKNOWN, SCENERY)]
        if absent and named and (kind == "missing" or self._told or "is" in rest):
            # "The ball is missing", "the ball is not visible".
            self.affirmed -= set(named)
            self.denied |= set(named)
        else:
            self._negated = True

    def _take_part(self, value: str) -> None:
        if not any(kind == "number" for kind, _ in self._pending):
            self._flush()
            self._is_part = self._unknown and not self._clause_nouns
        elif value in ("of the", "of its"):
            self._partitive = True
        elif any(isinstance(claim, str) for claim in self.affirmed):
            # "Three dogs, two of them are brown": a part's number is not the whole's.
            self._pending, self._between = [], 0

    def _claim(self, claim: Claim) -> None:
        (self.denied if self._negated else self.affirmed).add(claim)
        if isinstance(claim, Attribute) and claim.kind == "number":
            self._counted = claim

    def _noun(self, name: str) -> None:
        bound = [item for item in self._pending if item[0] != "article"]
        known = self._between <= _MAX_BETWEEN
        if self._partitive and any(isinstance(c, Attribute) and c.owner == name for c in self.affirmed):
            self._pending = [item for item in self._pending if item[0] != "number"]
        self._partitive = False
        for kind, value in self._pending:
            self._claim(Attribute(kind=kind, owner=name if known else UNKNOWN, value=value))
        if ("number", "0") in bound:
            self.denied.add(name)
        elif self._relation is not None and self._subject() != BARE:
            # "The dog is not left of the cat": both are there.
            self.affirmed.add(name)
        elif not (self._negated and bound):
            # "No red circle" denies the color: there may be a circle.
            self._claim(name)
        for kind, value in self._described:
            self._claim(Attribute(kind=kind, owner=name, value=value))
        self._pending, self._between, self._described = [], 0, []
        if self._relation is not None:
            self._relate_to(name)
            return
        if self._fronted is not None:
            relation, target = self._fronted
            self._claim(Relation(subject=name, name=relation, target=target))
            self._fronted = None
        if self._side:
            self._claim(Relation(subject=name, name=self._side, target=BARE))
            self._side = ""
        if self._order and self._ordered:
            self._claim(Relation(subject=self._ordered, name=self._order, target=name))
        self._ordered = name
        if self._is_part:
            # "The wheels of the car are pink."
            self._is_part = False
            return
        self._part_nouns.append(name)
        self._clause_nouns.append(name)

    def _copula(self, kind: Kind) -> None:
        if not self._told or self._part_nouns:
            if self._part_nouns:
                several = kind == "are" and bool(self._clause_nouns)
                self._subjects = list(self._clause_nouns) if several else self._part_nouns[:1]
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
        if kind == "its_place" and not self._part_nouns and self._antecedent:
            # "There is a dog. On its left is a cat."
            self._fronted = (relation, self._antecedent)
        elif kind == "place" and self._subject() == BARE:
            # "On the left is a dog."
            self._side = relation
        elif kind == "its_place":
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
