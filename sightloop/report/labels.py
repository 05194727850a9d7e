"""How metrics are called, which direction is better, and how their numbers are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, kw_only=True)
class Label:
    """The plain name of a metric; `better` is 1 where higher is better, -1 where lower is, else 0."""

    text: str
    better: int = 0
    meaning: str = ""


_UP, _DOWN = 1, -1
LABELS: dict[str, Label] = {
    "recall/mrr": Label(
        text="mean reciprocal rank", better=_UP, meaning="1 / rank of the right picture, averaged"
    ),
    "recall/median_rank": Label(
        text="median rank", better=_DOWN, meaning="rank of the right picture; 1 is first"
    ),
    "recall/mean_rank": Label(
        text="mean rank", better=_DOWN, meaning="rank of the right picture; 1 is first"
    ),
    "truth/precision": Label(
        text="precision of told facts", better=_UP, meaning="share of the told facts that are true"
    ),
    "truth/recall": Label(
        text="facts told", better=_UP, meaning="share of the picture's facts that are told"
    ),
    "truth/coverage": Label(
        text="facts told", better=_UP, meaning="share of the picture's facts that are told"
    ),
    "truth/f1": Label(text="F1 of facts", better=_UP),
    "captions/length": Label(text="words per caption"),
    "captions/colours": Label(text="colour words per caption"),
    "captions/repeats": Label(text="repeated words", better=_DOWN),
    "captions/repetition": Label(text="repeated words", better=_DOWN),
    "captions/bad_phrases": Label(text="captions with a bad phrase", better=_DOWN),
    "captions/hallucination": Label(text="captions naming absent things", better=_DOWN),
    "captions/ended": Label(text="captions that end", better=_UP),
    "captions/cider_d": Label(text="CIDEr-D", better=_UP),
    "captions/cider": Label(text="CIDEr-D", better=_UP),
    "captions/clip_score": Label(text="CLIPScore", better=_UP),
    "captions/clipscore": Label(text="CLIPScore", better=_UP),
    "captions/perplexity": Label(
        text="perplexity", better=_DOWN, meaning="under the reference language model"
    ),
    "geneval/overall": Label(text="GenEval, mean of the tasks", better=_UP),
    "understanding/accuracy": Label(text="answers that are right", better=_UP),
    "reward/total": Label(text="total reward", meaning="what the policy is trained to raise"),
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
    "advantage/std": Label(text="spread of advantages", meaning="standard deviation before standardising"),
    "policy/loss": Label(text="policy loss"),
    "policy/probability": Label(
        text="probability of drawn tokens", meaning="mean under the policy's own law"
    ),
    "policy/entropy": Label(text="entropy", meaning="nats per token"),
    "policy/kl": Label(text="divergence from the reference", meaning="nats per token"),
    "learning_rate": Label(text="learning rate"),
    "speed/images_per_second": Label(text="images per second", better=_UP),
    "memory/peak_gib": Label(text="peak memory", meaning="GiB"),
}
HEADLINES = ("recall/recall@1", "geneval/overall", "truth/recall", "truth/coverage", "captions/cider_d")
"""What the verdict leads with, first found first."""
GUARDS = ("truth/precision", "captions/hallucination", "understanding/accuracy")
"""What must not be paid for the headline: the verdict names the first found."""
FAMILIES = ("recall", "geneval", "truth", "understanding", "captions")
"""The order of evaluators in tables; others follow."""
_PATTERNS = {
    "reward/": "{}",
    "gradient/norm_": "gradient norm, {}",
    "seconds/": "seconds to {}",
}


def label_of(metric: str) -> Label:
    """The label of a metric by its full name (`evaluator/metric`); unknown names speak for themselves."""
    if metric in LABELS:
        return LABELS[metric]
    family, _, rest = metric.partition("/")
    if rest.startswith("recall@"):
        count = rest.removeprefix("recall@")
        told = "first" if count == "1" else f"among the first {count}"
        return Label(
            text=f"R@{count}", better=_UP, meaning=f"share of captions that find their picture {told}"
        )
    for prefix, pattern in _PATTERNS.items():
        if metric.startswith(prefix):
            return Label(text=pattern.format(plain(metric.removeprefix(prefix))))
    return Label(text=f"{plain(family)}: {plain(rest)}" if rest else plain(metric))


def rank_of(metric: str) -> tuple[int, int, str]:
    """A key that sorts metrics for reading: the headline, what guards it, then family by family."""
    family, _, rest = metric.partition("/")
    for place, names in enumerate((HEADLINES[:1], GUARDS)):
        if metric in names:
            return place, names.index(metric), ""
    count = rest.removeprefix("recall@")
    order = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
    return 2 + order, int(count) if count.isdigit() else 0, metric


def capital(text: str) -> str:
    """The text with its first letter large."""
    return text[:1].upper() + text[1:]


def plain(name: str) -> str:
    """A name from code as words."""
    return name.replace("_", " ").replace("/", " ")


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
