"""What can be said about captions without a network: length, variety, repeats, colours, truth, CIDEr-D, BLEU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Protocol

from sightloop.evaluation.ngrams import bleu, cider_d, tokenize
from sightloop.types import Evaluation

COLOUR_WORDS = frozenset(
    "red green blue yellow purple orange white gray grey black brown pink gold golden silver beige tan teal".split()
)


class FactCount(Protocol):
    """Facts of a caption, right and wrong, and how many its picture holds."""

    @property
    def true(self) -> int: ...

    @property
    def false(self) -> int: ...

    @property
    def total(self) -> int: ...


def caption_measures(
    captions: Sequence[str],
    *,
    references: Sequence[Sequence[str]] | None = None,
    flag: Callable[[str], bool] | None = None,
    ended: Sequence[bool] | None = None,
) -> Evaluation:
    """Figures of a set of captions; those that are means over captions come per caption as well.

    `length` words; `distinct_1`, `distinct_2` distinct words and pairs per word and pair of the whole set;
    `repeats` share of a caption's words that it used before; `colours` colour words a caption; with `flag`
    `bad_phrases` the share it flags; with `ended` `no_end` the share cut off; with references `colour_coverage`,
    `cider_d` and `bleu_1` to `bleu_4`.

    Raises:
        ValueError: no captions, or lists of different lengths.
    """
    if not captions:
        raise ValueError("no captions to evaluate")
    words = [tokenize(caption) for caption in captions]
    per_sample = {
        "length": [float(len(row)) for row in words],
        "repeats": [1 - len(set(row)) / len(row) if row else 0.0 for row in words],
        "colours": [float(sum(word in COLOUR_WORDS for word in row)) for row in words],
    }
    if flag is not None:
        per_sample["bad_phrases"] = [float(flag(caption)) for caption in captions]
    if ended is not None:
        if len(ended) != len(captions):
            raise ValueError(f"{len(ended)} end flags for {len(captions)} captions; give one a caption")
        per_sample["no_end"] = [float(not end) for end in ended]
    extra = {f"distinct_{n}": distinct(words, n) for n in (1, 2)}
    if references is not None:
        per_sample["cider_d"] = cider_d(captions, references)
        extra |= {f"bleu_{n}": score for n, score in enumerate(bleu(captions, references), 1)}
        extra["colour_coverage"] = colour_coverage(words, references)
    metrics = {name: mean(values) for name, values in per_sample.items()}
    return Evaluation(metrics=metrics | extra, per_sample=per_sample)


def distinct(words: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams per n-gram of all captions; 0 if there is none.

    >>> distinct([["a", "cat"], ["a", "dog"]], 1)
    0.75
    """
    grams = [tuple(row[i : i + n]) for row in words for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def colour_coverage(words: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> float:
    """Share of the colours named in a picture's references that its caption names, over all pictures."""
    named, found = 0, 0
    for row, texts in zip(words, references, strict=True):
        wanted = {word for text in texts for word in tokenize(text)} & COLOUR_WORDS
        named += len(wanted)
        found += len(wanted & set(row))
    return found / named if named else 0.0


def truth_measures(counts: Sequence[FactCount]) -> Evaluation:
    """How much of the truth captions tell (`told`), and how much of what they tell is true (`precision`).

    Both are pooled over all captions; `told` and `hallucinates` (a wrong fact in it) come per caption as well.
    """
    if not counts:
        raise ValueError("no captions to evaluate")
    true, false = sum(c.true for c in counts), sum(c.false for c in counts)
    told = [c.true / c.total for c in counts]
    hallucinates = [float(c.false > 0) for c in counts]
    metrics = {
        "precision": true / (true + false) if true + false else 1.0,
        "told_pooled": true / sum(c.total for c in counts),
        "told": mean(told),
        "hallucinates": mean(hallucinates),
    }
    return Evaluation(metrics=metrics, per_sample={"told": told, "hallucinates": hallucinates})
