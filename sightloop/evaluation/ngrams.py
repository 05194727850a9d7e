"""CIDEr-D and BLEU against reference captions.

Figures equal those of pycocoevalcap on the same tokens. Sources: CIDEr-D (arXiv 1411.5726, section 6), BLEU
(Papineni et al. 2002), as the COCO caption evaluation computes them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

Grams = Counter[tuple[str, ...]]

_MAX_N = 4
_SIGMA = 6.0
_TINY, _SMALL = 1e-15, 1e-9
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W_]+(?:[-'][^\W_]+)*|'[^\W\d_]+")
_CLITIC = re.compile(r"(?<=[^\W_])('(?:s|m|d|re|ve|ll)|n't)$")


def tokenize(caption: str) -> list[str]:
    """Lower-case words without punctuation, clitics split off, as the Penn Treebank tokeniser does.

    >>> tokenize("The dog's ball, isn't red.")
    ['the', 'dog', "'s", 'ball', 'is', "n't", 'red']
    """
    tokens: list[str] = []
    for word in _TOKEN.findall(caption.lower().replace("\u2019", "'")):
        clitic = _CLITIC.search(word)
        tokens += [word[: clitic.start()], clitic.group()] if clitic else [word]
    return [token for token in tokens if token]


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption, 0 to 10; document frequencies come from all the references given.

    Raises:
        ValueError: not one list of references a caption, or an empty one.
    """
    _require_references(captions, references)
    hypotheses = [_grams(tokenize(caption)) for caption in captions]
    answers = [[_grams(tokenize(text)) for text in texts] for texts in references]
    documents: Counter[tuple[str, ...]] = Counter()
    for texts in answers:
        documents.update({gram for text in texts for n in text for gram in n})
    log_size = math.log(len(captions))
    return [
        sum(_similarity(hypothesis, text, documents, log_size) for text in texts) / len(texts) * 10
        for hypothesis, texts in zip(hypotheses, answers, strict=True)
    ]


def _grams(words: list[str]) -> list[Grams]:
    return [
        Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for n in range(1, _MAX_N + 1)
    ]


def _similarity(
    hypothesis: list[Grams], reference: list[Grams], documents: Grams, log_size: float
) -> float:
    # The official code takes the number of bigrams for the length.
    gap = sum(hypothesis[1].values()) - sum(reference[1].values())
    closeness = math.exp(-(gap**2) / (2 * _SIGMA**2))
    total = 0.0
    for theirs, ours in zip(hypothesis, reference, strict=True):
        weights = {gram: log_size - math.log(max(1, documents[gram])) for gram in theirs.keys() | ours.keys()}
        dot = sum(min(theirs[g], ours[g]) * ours[g] * weights[g] ** 2 for g in theirs if g in ours)
        norm = math.sqrt(sum((count * weights[g]) ** 2 for g, count in theirs.items()))
        norm *= math.sqrt(sum((count * weights[g]) ** 2 for g, count in ours.items()))
        total += dot / norm if norm else dot
    return total * closeness / _MAX_N


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Corpus BLEU-1 to BLEU-4, each in [0, 1], with the closest reference length.

    Raises:
        ValueError: not one list of references a caption, or an empty one.
    """
    _require_references(captions, references)
    right, told = [0] * _MAX_N, [0] * _MAX_N
    length, wanted_length = 0, 0
    for caption, texts in zip(captions, references, strict=True):
        words, answers = tokenize(caption), [tokenize(text) for text in texts]
        length += len(words)
        wanted_length += min((len(answer) for answer in answers), key=lambda n: (abs(n - len(words)), n))
        allowed = [_grams(answer) for answer in answers]
        for n, grams in enumerate(_grams(words)):
            told[n] += max(0, len(words) - n)
            most = {gram: max(answer[n][gram] for answer in allowed) for gram in grams}
            right[n] += sum(min(count, most[gram]) for gram, count in grams.items())
    ratio = (length + _TINY) / (wanted_length + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(_MAX_N):
        product *= (right[n] + _TINY) / (told[n] + _SMALL)
        scores.append(product ** (1 / (n + 1)) * brevity)
    return scores


def _require_references(captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not captions:
        raise ValueError("no captions to evaluate")
    if len(captions) != len(references):
        raise ValueError(f"{len(captions)} captions and {len(references)} lists of references; give one a caption")
    for index, texts in enumerate(references):
        if not texts:
            raise ValueError(f"caption {index} has no reference; CIDEr-D and BLEU need at least one")
