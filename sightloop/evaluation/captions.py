"""What can be said about captions without a network: length, variety, repeats, colors, truth, agreement."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Protocol

from sightloop.evaluation.ngrams import bleu, cider_d, rouge_l, self_bleu
from sightloop.evaluation.shares import ratio_of_sums
from sightloop.evaluation.words import caption_words
from sightloop.rewards.phrases import COLORS, EXEMPT_WORDS, repeated, share_repeated
from sightloop.types import Evaluation

_SPELLINGS = {"grey": "gray", "golden": "gold"}


class CheckedFacts(Protocol):
    """Facts of a caption, right and wrong, and how many its image holds."""

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
    exempt: frozenset[str] = EXEMPT_WORDS,
) -> Evaluation:
    """Figures of a set of captions; those that are means over captions come per caption as well.

    - `length`: words; `colors`: color words; `names_colors`: share of captions with any.
    - `repeats`: share of a caption's words that it used before, `exempt` words never counting as such, by
      default those of the reward;
      `repeated_pairs`: share of its word pairs that it used before, all words counting.
    - `distinct_1`, `distinct_2`: distinct words and word pairs per word and pair of the whole set;
      `self_bleu`: how much of a caption others say too (two captions or more).
    - `bad_phrases`: share that `flag` is true for; `no_end`: share that did not end.
    - `cider_d`, `rouge_l`, `bleu_1` to `bleu_4`: agreement with the references; `color_coverage`: share of
      the colors named in an image's references that its caption names, over all images (left out if
      there are none).

    Raises:
        ValueError: no captions, or lists of different lengths.
    """
    if not captions:
        raise ValueError("no captions to evaluate")
    if ended is not None and len(ended) != len(captions):
        raise ValueError(f"{len(ended)} end flags for {len(captions)} captions; give one a caption")
    words = [caption_words(caption) for caption in captions]
    colors = [_colors(row) for row in words]
    per_sample = {
        "length": [float(len(row)) for row in words],
        "repeats": [share_repeated(caption, exempt) for caption in captions],
        "repeated_pairs": [_share(repeated(list(itertools.pairwise(row)))) for row in words],
        "colors": [float(len(row)) for row in colors],
        "names_colors": [float(bool(row)) for row in colors],
    }
    if flag is not None:
        per_sample["bad_phrases"] = [float(flag(caption)) for caption in captions]
    if ended is not None:
        per_sample["no_end"] = [float(not end) for end in ended]
    extra = {f"distinct_{n}": distinct_ngrams(words, n) for n in (1, 2)}
    if len(captions) > 1:
        extra["self_bleu"] = self_bleu(captions)
    if references is not None:
        per_sample["cider_d"] = cider_d(captions, references)
        per_sample["rouge_l"] = rouge_l(captions, references)
        extra |= {f"bleu_{n}": score for n, score in enumerate(bleu(captions, references), 1)}
        extra |= _color_coverage(colors, references)
    metrics = {name: fmean(values) for name, values in per_sample.items()}
    return Evaluation(metrics=metrics | extra, per_sample=per_sample)


def distinct_ngrams(words: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams per n-gram of all captions; 0 if there is none.

    >>> distinct_ngrams([["a", "cat"], ["a", "dog"]], 1)
    0.75
    """
    grams = [tuple(row[i : i + n]) for row in words for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def truth_measures(counts: Sequence[CheckedFacts]) -> Evaluation:
    """How much of the truth captions tell, and how much of what they tell is true.

    `told`: share of an image's facts that its caption tells, `hallucinates`: share of captions with a wrong
    fact. `precision` and `told_pooled` are shares of all facts told and of all there are; a set that tells
    nothing has precision 1. All come per caption as well; the last two as values whose mean is the share and
    whose interval is its interval, which say little about the caption alone.

    Raises:
        ValueError: no captions, or an image without facts.
    """
    if not counts:
        raise ValueError("no captions to evaluate")
    for index, count in enumerate(counts):
        if count.total < 1:
            raise ValueError(f"image {index} has {count.total} facts; leave out images of unknown truth")
    true, stated = [count.true for count in counts], [count.true + count.false for count in counts]
    pooled = {
        "precision": ratio_of_sums(true, stated, empty=1.0),
        "told_pooled": ratio_of_sums(true, [count.total for count in counts], empty=0.0),
    }
    per_sample = {
        "told": [count.true / count.total for count in counts],
        "hallucinates": [float(count.false > 0) for count in counts],
    }
    metrics = {name: share for name, (share, _) in pooled.items()}
    metrics |= {name: fmean(values) for name, values in per_sample.items()}
    return Evaluation(
        metrics=metrics, per_sample=per_sample | {name: values for name, (_, values) in pooled.items()}
    )


def _colors(words: Sequence[str]) -> list[str]:
    """The color words, also those inside of `black-and-white`, in one spelling."""
    parts = [part for word in words for part in word.split("-")]
    return [_SPELLINGS.get(part, part) for part in parts if part in COLORS]


def _color_coverage(colors: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, float]:
    wanted = [{color for text in texts for color in _colors(caption_words(text))} for texts in references]
    num_wanted = sum(map(len, wanted))
    found = sum(len(names & set(row)) for names, row in zip(wanted, colors, strict=True))
    return {"color_coverage": found / num_wanted} if num_wanted else {}


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
