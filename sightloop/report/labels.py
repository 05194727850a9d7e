"""How metrics are called, which direction is better, and how their numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, kw_only=True)
class Label:
    """The plain name of a metric; `better` is 1 where higher is better, -1 where lower is, else 0."""

    text: str
    better: int = 0
    meaning: str = ""


_UP, _DOWN = 1, -1
_TRAINING = {
    "reward/total": Label(text="total reward", meaning="what the policy is trained to raise"),
    "reward/points": Label(text="points", meaning="facts told in an answer"),
    "reward/share": Label(text="share of facts", meaning="told in an answer"),
    "reward/all_facts": Label(text="all facts", meaning="share of answers that tell every fact"),
    "reward/negative_questions": Label(
        text="negative questions", meaning="share of traps that were seen through"
    ),
    "reward/picture": Label(text="picture", meaning="what the check says about the drawing alone"),
    "tokens/length": Label(text="tokens per caption"),
    "tokens/ended": Label(
        text="captions that end", better=_UP, meaning="share that drew their end token in time"
    ),
    "tokens/distinct": Label(
        text="distinct words", better=_UP, meaning="distinct words / all words of the batch"
    ),
    "critic/explained_variance": Label(
        text="explained variance",
        better=_UP,
        meaning="share of the returns' variance the critic foresees; 0 is no better than their mean",
    ),
    "critic/loss": Label(text="critic loss", better=_DOWN),
    "advantage/std": Label(text="spread of advantages", meaning="standard deviation"),
    "policy/loss": Label(text="policy loss"),
    "policy/probability": Label(
        text="probability of drawn tokens", meaning="mean under the distribution that is trained"
    ),
    "policy/entropy": Label(text="entropy", meaning="nats per token"),
    "policy/kl": Label(text="divergence from the reference", meaning="nats per token"),
    "groups/all": Label(text="groups of a batch", meaning="prompts with several drawings each"),
    "groups/zero_variance": Label(
        text="groups without signal", better=_DOWN, meaning="all their drawings earned the same"
    ),
    "filter/kept": Label(text="drawings that the filter keeps", meaning="share of the batch"),
    "update/skipped": Label(
        text="steps without an update", better=_DOWN, meaning="no sample had a weight in the loss"
    ),
    "gradient/cosine": Label(
        text="cosine of both sides' gradients", meaning="below 0 drawing and answering pull apart"
    ),
    "learning_rate": Label(text="learning rate"),
    "speed/images_per_second": Label(text="images per second", better=_UP),
    "memory/peak_gib": Label(text="peak memory", meaning="GiB"),
}
"""Training metrics by full name."""
_PATTERNS = {"reward/": "{}", "gradient/norm_": "gradient norm, {}", "seconds/": "seconds to {}"}
_SIDES = ("drawing", "answering", "policy")
"""Families of training metrics that a side of a model logs, and a policy with one side."""
_OF_A_SIDE = {
    "loss": Label(text="loss"),
    "log_prob": Label(
        text="log-probability", meaning="nats per token, under the distribution that is trained"
    ),
    "probability": Label(
        text="probability", meaning="mean over the tokens, under the distribution that is trained"
    ),
    "entropy": Label(text="entropy", meaning="nats per token"),
    "kl": Label(text="divergence", meaning="from the reference, nats per token"),
    "ratio": Label(text="ratio", meaning="to the distribution that drew; 1 before the first update"),
    "clipped": Label(text="clipped tokens", meaning="share whose ratio left the trust region"),
}

_MAIN = {
    "mrr": Label(text="mean reciprocal rank", better=_UP, meaning="1 / rank of the right image, averaged"),
    "told": Label(text="facts told", better=_UP, meaning="share of an image's facts that its caption tells"),
    "precision": Label(
        text="precision of told facts", better=_UP, meaning="share of all told facts that are true"
    ),
    "hallucinates": Label(text="captions with a wrong fact", better=_DOWN),
    "drawn": Label(
        text="share of prompts drawn right", better=_UP, meaning="drawings that show what was asked for"
    ),
    "answered_fixed": Label(
        text="right answers about fixed images", better=_UP, meaning="images that are not its own"
    ),
    "answered": Label(
        text="right answers about own drawings", meaning="what the prompt asked for, whatever was drawn"
    ),
    "both": Label(text="drawn and answered right", better=_UP),
    "answered_if_drawn": Label(
        text="answered right where drawn right", better=_UP, meaning="UniRL's understanding"
    ),
    "drawn_if_answered": Label(text="drawn right where answered right", better=_UP),
    "accuracy": Label(text="right answers", better=_UP),
    "overall": Label(text="GenEval", better=_UP, meaning="mean over the tasks"),
    "imbalance": Label(
        text="right on one side alone", better=_DOWN, meaning="drawn right or answered right, not both"
    ),
    "only_drawn": Label(text="drawn right, answered wrong", better=_DOWN),
    "only_answered": Label(text="answered right, drawn wrong", better=_DOWN),
    "gap": Label(text="answered right minus drawn right"),
    "cider_d": Label(text="CIDEr-D", better=_UP),
    "rouge_l": Label(text="ROUGE-L", better=_UP),
    "bleu_4": Label(text="BLEU-4", better=_UP),
    "clip_score": Label(
        text="CLIPScore", better=_UP, meaning="2.5 x cosine of caption and image, 0 where negative"
    ),
    "ref_clip_score": Label(
        text="RefCLIPScore",
        better=_UP,
        meaning="harmonic mean of CLIPScore and the caption's cosine to its nearest reference",
    ),
    "length": Label(text="words per caption"),
    "colors": Label(text="color words per caption"),
    "names_colors": Label(text="captions that name a color"),
    "color_coverage": Label(
        text="colors named", better=_UP, meaning="share of the references' colors that captions name"
    ),
    "distinct_1": Label(text="distinct words", meaning="distinct words / all words of the set"),
    "distinct_2": Label(text="distinct word pairs", meaning="distinct pairs / all pairs of the set"),
    "repeats": Label(
        text="repeated words",
        better=_DOWN,
        meaning="share of a caption's words that it used before; small words and colors may return",
    ),
    "repeated_pairs": Label(
        text="repeated word pairs",
        better=_DOWN,
        meaning="share of a caption's word pairs that it used before",
    ),
    "self_bleu": Label(
        text="sameness of captions",
        better=_DOWN,
        meaning="self-BLEU: how much of a caption the others say too",
    ),
    "bad_phrases": Label(text="captions with a bad phrase", better=_DOWN),
    "no_end": Label(text="captions cut off", better=_DOWN, meaning="share without an end token"),
    "grammatical": Label(text="grammatical captions", better=_UP),
    "perplexity": Label(text="perplexity", better=_DOWN, meaning="under the reference language model"),
}
"""Evaluated metrics by the name behind the evaluator's, in the order of reading."""
_FURTHER = {
    "mean_rank": Label(text="mean rank", better=_DOWN, meaning="of the right image; 1 is first"),
    "median_rank": Label(text="median rank", better=_DOWN, meaning="of the right image; 1 is first"),
    "told_pooled": Label(
        text="facts told, pooled", better=_UP, meaning="all told facts / all facts of the set"
    ),
    "bleu_1": Label(text="BLEU-1", better=_UP),
    "bleu_2": Label(text="BLEU-2", better=_UP),
    "bleu_3": Label(text="BLEU-3", better=_UP),
    "cut_by_characters": Label(text="captions cut by characters", meaning="before the encoder read them"),
    "cut_by_tokens": Label(text="captions cut by tokens", meaning="before the encoder read them"),
    "share_of_ties": Label(text="share of ties", meaning="captions with another image exactly as near"),
}
"""Evaluated metrics that few readers need."""
POOLED = ("precision", "told_pooled")
"""Shares of sums over the set: their values per sample make intervals and say little about the sample."""
HEADLINES = ("recall@1", "overall", "drawn", "told", "cider_d", "accuracy")
"""What the verdict leads with, first found first."""
GUARDS = ("precision", "answered_fixed", "hallucinates", "accuracy", "repeats")
"""What must not be paid for the headline: the verdict names the first found."""
COMPANIONS = ("length", "imbalance")
"""What explains a headline: the verdict ends with the first found."""
_FIRST = ("recall@1", "drawn")
_SECOND = ("precision", "answered_fixed")
_CATEGORIES = {
    "colors": "colors",
    "color_attr": "colors of two",
    "two_object": "two objects",
    "single_object": "single object",
}
"""GenEval's tags, where they do not read as words."""
_BY_CATEGORY = {
    "drawn_": ("drawn right", _UP),
    "answered_fixed_": ("right about fixed images", _UP),
    "answered_": ("answered right", 0),
}
"""Figures of one category of prompts, by the start of their names."""


def bare(metric: str) -> str:
    """The metric's name without its evaluator or family."""
    return metric.partition("/")[2] or metric


def label_of(metric: str) -> Label:
    """The label of a metric by its full name (`evaluator/metric`); unknown names speak for themselves."""
    if metric in _TRAINING:
        return _TRAINING[metric]
    family, _, name = metric.partition("/")
    if family in _SIDES and name in _OF_A_SIDE:
        found = _OF_A_SIDE[name]
        return replace(found, text=found.text if family == "policy" else f"{family} {found.text}")
    for prefix, pattern in _PATTERNS.items():
        if metric.startswith(prefix):
            return Label(text=pattern.format(plain(metric.removeprefix(prefix))))
    name = bare(metric)
    if name in _MAIN or name in _FURTHER:
        return _MAIN.get(name) or _FURTHER[name]
    if name.startswith("image_"):
        found = label_of(f"/{name.removeprefix('image_')}")
        return Label(text=f"{found.text}, image to caption", better=found.better)
    if (prefix := _category_prefix(name)) is not None:
        text, better = _BY_CATEGORY[prefix]
        return Label(text=f"{text}: {category_name(name.removeprefix(prefix))}", better=better)
    if name.startswith("recall@"):
        count = name.removeprefix("recall@")
        place = "first" if count == "1" else f"among the first {count}"
        meaning = f"share of captions that find their image {place}"
        return Label(text=f"R@{count}", better=_UP, meaning=meaning)
    return Label(text=plain(metric))


def is_further(metric: str) -> bool:
    """True if few readers need this evaluated metric."""
    name = bare(metric)
    return name in _FURTHER or name.startswith("image_") or _category_prefix(name) is not None


def rank_of(metric: str) -> tuple[int, int, str]:
    """A key that sorts evaluated metrics for reading: headline, what guards it, then from main to further."""
    name = bare(metric)
    if name in _FIRST or name in _SECOND:
        return 0, int(name in _SECOND), metric
    count = name.removeprefix("recall@")
    if count.isdigit():
        return 1, int(count), metric
    order = [*_MAIN, *_FURTHER]
    if name in order:
        return (3 if name in _FURTHER else 2), order.index(name), metric
    if (prefix := _category_prefix(name)) is not None:
        return 4, len(order) + list(_BY_CATEGORY).index(prefix), metric
    return (4 if is_further(metric) else 2), len(order), metric


def first_of(names: Sequence[str], metrics: Iterable[str]) -> str | None:
    """The full name among `metrics` that has the earliest of the bare `names`; None if none has."""
    full = {bare(metric): metric for metric in metrics}
    return next((full[name] for name in names if name in full), None)


def category_name(tag: str) -> str:
    """A category of prompts as words.

    >>> category_name("color_attr"), category_name("counting")
    ('colors of two', 'counting')
    """
    return _CATEGORIES.get(tag, plain(tag))


def _category_prefix(name: str) -> str | None:
    if name in _MAIN:
        return None
    return next((prefix for prefix in _BY_CATEGORY if name.startswith(prefix)), None)


def capital(text: str) -> str:
    """The text with its first letter large."""
    return text[:1].upper() + text[1:]


def plain(name: str) -> str:
    """A name from code as words."""
    return "drawings and answers" if name == "joint" else name.replace("_", " ").replace("/", " ")


def is_share(*values: float) -> bool:
    """True if all values lie between 0 and 1, as rates do."""
    return all(0 <= value <= 1 for value in values if not math.isnan(value))


def number(value: float, *, share: bool = False, decimals: int | None = None) -> str:
    """A number for reading: shares as `.471`, others with three significant digits or the given `decimals`.

    >>> number(0.4711, share=True), number(12.345), number(0.00021), number(45678.9)
    ('.471', '12.3', '2.1e-4', '45,679')
    """
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else ("∞" if value > 0 else f"{MINUS}∞")
    if decimals is None and not share:
        text = _significant(abs(value))
    else:
        text = f"{abs(value):,.{3 if decimals is None else decimals}f}".removeprefix("0" * share)
    return f"{MINUS}{text}" if value < 0 and not _is_zero(text) else text


def decimals_for(*values: float) -> int:
    """Decimal places that show the largest of the values with three significant digits.

    >>> decimals_for(3.65, 17.0), decimals_for(0.05, 0.021), decimals_for(12345)
    (1, 4, 0)
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 2 if largest == 0 else max(0, 2 - math.floor(math.log10(largest)))


def signed(value: float, *, share: bool = False, decimals: int | None = None) -> str:
    """A change for reading: like `number`, with a plus sign if it is positive."""
    text = number(value, share=share, decimals=decimals)
    return f"+{text}" if value > 0 and not _is_zero(text) else text


def _is_zero(text: str) -> bool:
    return not any(digit in "123456789∞" for digit in text)


def _significant(size: float) -> str:
    if size == 0:
        return "0"
    if size < 1e-3:
        mantissa, exponent = f"{size:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{size:,.{decimals_for(size)}f}"
