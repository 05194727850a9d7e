"""Rewards of answers about images: which facts they tell, and which of them could be guessed.

UniRL (arXiv 2505.23380) asks the model that drew an image about it and compares the answer with the truth of
the prompt. The only values known from the paper are those of its figure: for "four bowls" two chairs earn 0,
three bowls 1, four bowls 2: one point a fact, which `points` gives. A model that grades itself can learn to
flatter itself; `NegativeAnswers` and `subtract_blind_baseline` are two checks on that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sightloop.quizzes.answer_parser import BARE, UNKNOWN, Attribute, Claim, Reading, Relation, read
from sightloop.quizzes.answer_words import words_of
from sightloop.quizzes.lexicon import COLORS, NUMBERS, OPPOSITES, PHRASES
from sightloop.types import Fact, OtherQuestion, Outcome, Reward, on_last_token

TextJudge = Callable[[str, str, str], float]
"""Says how well an answer fits: question, truth, answer -> score."""


def facts_stated(answer: str, facts: Sequence[Fact]) -> list[bool]:
    """Whether the answer tells each fact, and nothing that contradicts it.

    Who names several numbers or colors for one thing tells none of them.

    >>> bowls = (Fact(kind="number", words=("four", "4")), Fact(kind="noun", words=("bowl", "bowls")))
    >>> [sum(facts_stated(said, bowls)) for said in ("Two chairs", "There are three bowls.", "4 bowls")]
    [0, 1, 2]
    """
    reading = read(answer, _nouns(facts), colors=_colors(facts))
    return [_is_stated(fact, facts, reading) for fact in facts]


def denies(answer: str, fact: Fact) -> bool:
    """Whether the answer says that the fact is not so: "no", a denial of it, or another value in its place.

    >>> fact = Fact(kind="color", words=("blue",), about=("circle",))
    >>> [denies(said, fact) for said in ("No, it isn't.", "The circle is red", "Yes", "a blue circle", "")]
    [True, True, False, False, False]
    """
    reading = read(answer, _nouns((fact,)), colors=_colors((fact,)))
    if _is_stated(fact, (fact,), reading):
        return False
    first = words_of(answer)[:1]
    if first in (["yes"], ["yeah"], ["no"], ["nope"], ["not"], ["none"]):
        return first[0].startswith("n")
    if fact.kind == "noun":
        return fact.words[0] in reading.denied
    if fact.kind == "relation":
        relation = _relation(fact)
        return bool(_against(relation) & _related(reading) or {relation, _turned(relation)} & reading.denied)
    said, denied = _said(fact, (fact,), reading)
    value = _value(fact)
    return value in denied or (bool(said) and value not in said)


def _is_stated(fact: Fact, facts: Sequence[Fact], reading: Reading) -> bool:
    if fact.kind == "noun":
        return fact.words[0] in reading.affirmed and fact.words[0] not in reading.denied
    if fact.kind == "relation":
        relation = _relation(fact)
        related = _related(reading)
        denied = {relation, _turned(relation)} & reading.denied
        return relation in related and not (_against(relation) & related) and not denied
    wanted = {_value(other) for other in facts if other.kind == fact.kind and other.about == fact.about}
    said, denied = _said(fact, facts, reading)
    return _value(fact) in said and said <= wanted and _value(fact) not in denied


def _said(fact: Fact, facts: Sequence[Fact], reading: Reading) -> tuple[frozenset[str], frozenset[str]]:
    """The numbers or colors that the fact's thing is said to have, and said not to have."""
    known = list(_nouns(facts))
    # A question about the color of "the object" leaves the noun to the answer.
    owners = {fact.about[0]} if fact.about else set(known)
    if len(known) < 2 or not fact.about:
        owners.add(BARE)
    if not fact.about and (not known or (fact.named and fact.named[0] not in reading.affirmed)):
        owners.add(UNKNOWN)
    said = frozenset[str]().union(*(reading.values(fact.kind, owner) for owner in owners))
    if fact.kind == "number" and not said:
        said = frozenset("1" for owner in owners if reading.values("article", owner))
    denied = (c for c in reading.denied if isinstance(c, Attribute) and c.kind == fact.kind)
    return said, frozenset(c.value for c in denied if c.owner in owners)


def _nouns(facts: Sequence[Fact]) -> dict[str, tuple[str, ...]]:
    named = [fact.words for fact in facts if fact.kind == "noun"]
    named += [names for fact in facts for names in (fact.about, fact.target, fact.named) if names]
    return {names[0]: names for names in named}


def _colors(facts: Sequence[Fact]) -> list[str]:
    return [word for fact in facts if fact.kind == "color" for word in fact.words]


def _value(fact: Fact) -> str:
    if fact.kind == "color":
        return COLORS.get(fact.words[0], fact.words[0])
    for word in fact.words:
        if word in NUMBERS or word.isdigit():
            return str(NUMBERS.get(word, word))
    raise ValueError(f"{fact.words} name no number; use digits or words up to twenty")


def _relation(fact: Fact) -> Relation:
    if not fact.about or not fact.target:
        raise ValueError(f"the relation {fact.words[0]!r} needs `about` and `target`")
    for word in fact.words:
        kind, name = PHRASES.get(tuple(words_of(word)), ("other", ""))
        if kind == "relation":
            return Relation(subject=fact.about[0], name=name, target=fact.target[0])
    raise ValueError(f"unknown relation {fact.words[0]!r}; use one of {', '.join(OPPOSITES)}")


def _turned(relation: Relation) -> Relation:
    """The same said from the other end."""
    return Relation(subject=relation.target, name=OPPOSITES[relation.name], target=relation.subject)


def _against(relation: Relation) -> set[Claim]:
    reverse = Relation(subject=relation.subject, name=OPPOSITES[relation.name], target=relation.target)
    return set() if reverse.name == relation.name else {reverse, _turned(reverse)}


def _related(reading: Reading) -> set[Claim]:
    """All relations that are said, from both ends; a place on one side is a relation to the other things."""
    things = [claim for claim in reading.affirmed if isinstance(claim, str)]
    found: set[Claim] = set()
    for claim in reading.affirmed:
        if isinstance(claim, Relation):
            targets = [claim.target] if claim.target else [name for name in things if name != claim.subject]
            for target in targets:
                relation = replace(claim, target=target)
                found |= {relation, _turned(relation)}
    return found


def points(stated: Sequence[bool]) -> float:
    """One point a fact, as in UniRL's figure."""
    return float(sum(stated))


def share(stated: Sequence[bool]) -> float:
    """Share of the facts, so that all categories have the same range."""
    return sum(stated) / len(stated)


def all_facts(stated: Sequence[bool]) -> float:
    """1 for an answer that tells every fact, else 0."""
    return float(all(stated))


@dataclass(frozen=True, kw_only=True)
class FactReward:
    """Judges the facts of each answer, on its last token."""

    grade: Callable[[Sequence[bool]], float] = points

    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """`grade` of the facts told.

        Raises:
            ValueError: a sample has no facts.
        """
        rows = zip(outcome.texts(), _facts_of(outcome), strict=True)
        return _placed([self.grade(facts_stated(answer, facts)) for answer, facts in rows], outcome)


@dataclass(frozen=True, kw_only=True)
class JudgedAnswer:
    """A language model's opinion of each answer, on its last token."""

    judge: TextJudge

    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """The judge's score.

        Raises:
            ValueError: the judge fails or says something that is not finite; the sample is named.
        """
        answers = outcome.texts()
        questions = outcome.questions or [""] * len(answers)
        scores: list[float] = []
        for row, (question, truth, answer) in enumerate(
            zip(questions, outcome.references, answers, strict=True)
        ):
            where = f"{_name(outcome, row)}, question {question!r}, answer {answer!r}"
            try:
                score = float(self.judge(question, truth, answer))
            except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
                raise ValueError(f"the judge failed on {where}: {error}") from error
            if not math.isfinite(score):
                raise ValueError(f"the judge says {score} about {where}")
            scores.append(score)
        return _placed(scores, outcome)


@dataclass(frozen=True, kw_only=True)
class SubtractBlindBaseline:
    """A reward minus what the answer about a blank image earns: what cannot be guessed from the question.

    The prior is the same for all samples of a prompt if blank answers are greedy. Then it cancels in
    advantages within a group, except where `floor` cuts, and counts only across prompts.
    """

    reward: Reward
    floor: float | None = None
    """Lowest value that is left."""

    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """The difference, on the last token."""
        left = self.reward(outcome).sum(1) - self.reward(_other(outcome, "blind")).sum(1)
        return on_last_token(left if self.floor is None else left.clamp(min=self.floor), outcome.tokens)


@dataclass(frozen=True, kw_only=True)
class NegativeAnswers:
    """1 if the question about an absent fact was denied, else 0: who says yes to everything earns nothing."""

    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """Whether each negative question was denied, on the last token of the answer."""
        negatives = _other(outcome, "negative")
        rows = zip(negatives.texts(), _facts_of(negatives), strict=True)
        return _placed([float(all(denies(answer, f) for f in facts)) for answer, facts in rows], outcome)


@dataclass(frozen=True, kw_only=True)
class ObjectIdentification:
    """1 if the thing that the quiz's own question leaves out is named too, or nothing was left out; else 0.

    A question about a color alone pays for any thing of that color.
    """

    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """Whether each further answer tells all its facts, on the last token of the answer."""
        asked = _other(outcome, "identification")
        rows = zip(asked.texts(), asked.facts, strict=True)
        return _placed(
            [float(all(facts_stated(answer, facts))) if facts else 1.0 for answer, facts in rows], outcome
        )


def _other(outcome: Outcome, name: OtherQuestion) -> Outcome:
    if name not in outcome.others:
        raise ValueError(f"the outcome has no {name!r} answers; let the collector ask for them")
    return outcome.others[name]


def _facts_of(outcome: Outcome) -> list[tuple[Fact, ...]]:
    rows = len(outcome.pieces)
    if len(outcome.facts) != rows:
        raise ValueError(f"the outcome has facts of {len(outcome.facts)} samples for {rows} answers")
    for row, facts in enumerate(outcome.facts):
        if not facts:
            raise ValueError(f"{_name(outcome, row)} has no facts to judge its answer by")
    return outcome.facts


def _name(outcome: Outcome, row: int) -> str:
    return outcome.sources[row] if outcome.sources else f"row {row}"


def _placed(values: list[float], outcome: Outcome) -> Float[Tensor, "B T"]:
    return on_last_token(torch.tensor(values), outcome.tokens)
