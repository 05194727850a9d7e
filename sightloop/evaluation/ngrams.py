"""CIDEr-D, BLEU and ROUGE-L against reference captions, BLEU of captions against each other.

The first three equal pycocoevalcap's figures on the same tokens. Sources: CIDEr-D (arXiv 1411.5726, section
6), BLEU (Papineni et al. 2002) and ROUGE-L (C.-Y. Lin 2004, section 3) as the COCO caption evaluation
computes them; self-BLEU (arXiv 1802.01886).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from sightloop.evaluation.words import treebank_tokens

Gram = tuple[str, ...]

_MAX_N = 4
_SIGMA = 6.0
_RECALL_WEIGHT = 1.2
# The official code adds these to counts, so that nothing divides by zero.
_TINY, _SMALL = 1e-15, 1e-9


@dataclass(frozen=True, kw_only=True)
class _Weighted:
    """The n-grams of a text by length, weighted by how rare they are."""

    weights: list[dict[Gram, float]]
    norms: list[float]
    num_pairs: int


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption, 0 to 10; how rare an n-gram is comes from all the references given.

    With a single image every n-gram is in all references, so the figure is 0.

    Raises:
        ValueError: not one list of references a caption, or an empty one.
    """
    _require_references(captions, references)
    answers = [[_grams(treebank_tokens(text)) for text in texts] for texts in references]
    documents: Counter[Gram] = Counter()
    for texts in answers:
        documents.update({gram for text in texts for grams in text for gram in grams})
    log_size = math.log(len(references))
    rarity = {gram: log_size - math.log(count) for gram, count in documents.items()}
    scores: list[float] = []
    for caption, texts in zip(captions, answers, strict=True):
        candidate = _weighted(_grams(treebank_tokens(caption)), rarity, log_size)
        scores.append(10 * fmean(_similarity(candidate, _weighted(text, rarity, log_size)) for text in texts))
    return scores


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Corpus BLEU-1 to BLEU-4, each in [0, 1], with the closest reference length.

    Raises:
        ValueError: not one list of references a caption, or an empty one.
    """
    _require_references(captions, references)
    right, num_candidates = [0] * _MAX_N, [0] * _MAX_N
    length, wanted_length = 0, 0
    for caption, texts in zip(captions, references, strict=True):
        words, answers = treebank_tokens(caption), [treebank_tokens(text) for text in texts]
        length += len(words)
        wanted_length += _closest((len(answer) for answer in answers), len(words))
        allowed = [_grams(answer) for answer in answers]
        for n, grams in enumerate(_grams(words)):
            num_candidates[n] += grams.total()
            right[n] += sum(
                min(count, max(answer[n][gram] for answer in allowed)) for gram, count in grams.items()
            )
    return _bleu_scores(right, num_candidates, length, wanted_length)


def rouge_l(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """ROUGE-L of each caption, 0 to 1: the longest common subsequence of words with its references.

    Precision and recall are each the best over the references, as the COCO evaluation takes them, and recall
    weighs 1.2 squared.

    Raises:
        ValueError: not one list of references a caption, or an empty one.
    """
    _require_references(captions, references)
    scores: list[float] = []
    for caption, texts in zip(captions, references, strict=True):
        words, answers = treebank_tokens(caption), [treebank_tokens(text) for text in texts]
        common = [_common_length(words, answer) for answer in answers]
        precision = max(common) / max(len(words), 1)
        recall = max(length / max(len(answer), 1) for length, answer in zip(common, answers, strict=True))
        weight = _RECALL_WEIGHT**2
        both = recall + weight * precision
        scores.append((1 + weight) * precision * recall / both if both else 0.0)
    return scores


def self_bleu(captions: Sequence[str]) -> float:
    """BLEU-4 of each caption with all others as references, averaged: 1 if every caption comes up twice.

    Raises:
        ValueError: fewer than two captions.
    """
    if len(captions) < 2:
        raise ValueError(f"{len(captions)} captions; self-BLEU compares at least 2")
    texts = [treebank_tokens(caption) for caption in captions]
    rows = [_grams(words) for words in texts]
    lengths = Counter(map(len, texts))
    tops = [_largest_counts([row[n] for row in rows]) for n in range(_MAX_N)]
    scores: list[float] = []
    for index, (words, row) in enumerate(zip(texts, rows, strict=True)):
        right = [
            sum(min(count, tops[n][gram].without(index)) for gram, count in grams.items())
            for n, grams in enumerate(row)
        ]
        others = lengths - Counter([len(words)])
        num_candidates = [grams.total() for grams in row]
        scores.append(_bleu_scores(right, num_candidates, len(words), _closest(others, len(words)))[-1])
    return fmean(scores)


@dataclass(frozen=True, kw_only=True)
class _Largest:
    """How often an n-gram comes up at most in one caption, in which, and at most in another."""

    first: int
    owner: int
    second: int

    def without(self, index: int) -> int:
        """The largest count outside of caption `index`."""
        return self.second if index == self.owner else self.first


def _largest_counts(rows: list[Counter[Gram]]) -> dict[Gram, _Largest]:
    found: dict[Gram, _Largest] = {}
    for index, row in enumerate(rows):
        for gram, count in row.items():
            top = found.get(gram, _Largest(first=0, owner=-1, second=0))
            if count > top.first:
                found[gram] = _Largest(first=count, owner=index, second=top.first)
            elif count > top.second:
                found[gram] = _Largest(first=top.first, owner=top.owner, second=count)
    return found


def _common_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    longest = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for place, answer in enumerate(other, 1):
            before, longest[place] = (
                longest[place],
                before + 1 if word == answer else max(longest[place], longest[place - 1]),
            )
    return longest[-1]


def _grams(words: list[str]) -> list[Counter[Gram]]:
    """How often each run of 1, 2, 3 and 4 words comes up."""
    return [Counter(zip(*(words[start:] for start in range(n)), strict=False)) for n in range(1, _MAX_N + 1)]


def _weighted(text: list[Counter[Gram]], rarity: dict[Gram, float], rarest: float) -> _Weighted:
    weights = [{gram: count * rarity.get(gram, rarest) for gram, count in grams.items()} for grams in text]
    norms = [math.sqrt(sum(value * value for value in row.values())) for row in weights]
    return _Weighted(weights=weights, norms=norms, num_pairs=text[1].total())


def _similarity(candidate: _Weighted, wanted: _Weighted) -> float:
    # The official code takes the number of word pairs for the length of a text.
    closeness = math.exp(-((candidate.num_pairs - wanted.num_pairs) ** 2) / (2 * _SIGMA**2))
    total = 0.0
    for n in range(_MAX_N):
        ours, theirs = candidate.weights[n], wanted.weights[n]
        norm = candidate.norms[n] * wanted.norms[n]
        if norm:
            total += sum(min(ours[gram], theirs[gram]) * theirs[gram] for gram in ours.keys() & theirs) / norm
    return total * closeness / _MAX_N


def _closest(lengths: Iterable[int], wanted: int) -> int:
    """The length next to `wanted`, the shorter of two."""
    return min(lengths, key=lambda length: (abs(length - wanted), length))


def _bleu_scores(right: list[int], num_candidates: list[int], length: int, wanted_length: int) -> list[float]:
    ratio = (length + _TINY) / (wanted_length + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(_MAX_N):
        product *= (right[n] + _TINY) / (num_candidates[n] + _SMALL)
        scores.append(product ** (1 / (n + 1)) * brevity)
    return scores


def _require_references(captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not captions:
        raise ValueError("no captions to evaluate")
    if len(captions) != len(references):
        raise ValueError(
            f"{len(captions)} captions and {len(references)} lists of references; give one a caption"
        )
    for index, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"references {index} are {texts!r}; give a list of at least one text")
