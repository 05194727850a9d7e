"""Yes-or-no questions scored in the manner of POPE (arXiv 2305.10355): "yes" is the class that is found.

Differences from the paper:
1. An answer that says neither yes nor no is wrong, is no "yes", and is counted as `unparsable`. POPE's own
   reading, which takes everything without "no" or "not" for a yes, is `reading="pope"`.
2. Precision without any yes is 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluation.shares import ratio_of_sums
from sightloop.types import Evaluation

YesNoReading = Literal["strict", "pope"]
_UNSURE = re.compile(
    r"\b(?:not (?:sure|certain|clear|possible)|unsure|uncertain|unclear|maybe|perhaps|possibly|"
    r"(?:can ?not|could not|difficult to|hard to|impossible to) (?:tell|say|determine|see clearly))\b"
)
_YES = frozenset(
    ("yes", "yeah", "yep", "yup", "true", "correct", "right", "certainly", "definitely", "indeed", "sure")
)
_NO = frozenset(("no", "nope", "false", "incorrect", "wrong", "not", "none", "never", "neither", "nothing"))
_DENIES = re.compile(r"\b(?:no|not|none|never|neither|nothing|nobody|without|absent|false|incorrect)\b")
_AFFIRMS = re.compile(
    r"\b(?:yes|there (?:is|are|does|do)|there's|(?:it|he|she|they|i) (?:is|are|does|do|has|have|can|am|see)|"
    r"(?:image|picture|photo) (?:shows?|contains?|has|features?|includes?)|visible|present|true|correct)\b"
)


def read_yes_no(answer: str) -> bool | None:
    """What a free text answers; None if it says neither.

    >>> [read_yes_no(said) for said in ("Yes, a dog.", "There is no dog.", "I'm not sure.", "A dog")]
    [True, False, None, None]
    """
    plain = answer.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    plain = plain.replace("can't", "can not").replace("n't", " not")
    words = re.findall(r"[a-z']+", plain)
    if not words or _UNSURE.search(plain):
        return None
    if words[0] in _YES | _NO:
        return words[0] in _YES
    first = re.split(r"[.!?;\n]", plain.strip())[0]
    if _DENIES.search(first):
        return False
    return True if _AFFIRMS.search(first) else None


def read_as_pope(answer: str) -> bool:
    """What POPE's evaluation takes an answer for: no if its first sentence has the word "no" or "not".

    >>> read_as_pope("No, there is none."), read_as_pope("There isn't a dog.")
    (False, True)
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"} & set(words)


def yes_no_measures(
    answers: Sequence[str], truth: Sequence[bool], *, reading: YesNoReading = "strict"
) -> Evaluation:
    """`accuracy`, `precision`, `recall`, `f1`, `yes_share` and share `unparsable` of free-text answers.

    Raises:
        ValueError: no answers, not one truth an answer, or an unknown reading.
    """
    if not answers:
        raise ValueError("no answers to evaluate")
    if len(answers) != len(truth):
        raise ValueError(f"{len(truth)} truths for {len(answers)} answers; give one an answer")
    if reading not in ("strict", "pope"):
        raise ValueError(f"reading is {reading!r}; use 'strict' or 'pope'")
    read = read_as_pope if reading == "pope" else read_yes_no
    said = [read(answer) for answer in answers]
    yes = [int(each is True) for each in said]
    hits = [int(each is True and right) for each, right in zip(said, truth, strict=True)]
    precision, precision_values = ratio_of_sums(hits, yes, empty=0.0)
    recall, recall_values = ratio_of_sums(hits, [int(right) for right in truth], empty=0.0)
    per_sample = {
        "accuracy": [float(each is right) for each, right in zip(said, truth, strict=True)],
        "precision": precision_values,
        "recall": recall_values,
        "yes_share": [float(each) for each in yes],
        "unparsable": [float(each is None) for each in said],
    }
    both = precision + recall
    metrics = {name: fmean(values) for name, values in per_sample.items()}
    metrics |= {"precision": precision, "recall": recall}
    metrics["f1"] = 2 * precision * recall / both if both else 0.0
    protocol = {
        "manner": "POPE",
        "reading": reading,
        "answers": str(len(answers)),
        "truth_yes": f"{fmean(truth):.4f}",
    }
    names = {True: "yes", False: "no", None: "unparsable"}
    samples = [
        {"answer": answer, "read": names[each], "truth": names[right]}
        for answer, each, right in zip(answers, said, truth, strict=True)
    ]
    return Evaluation(
        metrics=metrics,
        per_sample=per_sample,
        samples=samples,
        protocol=protocol | {"hash": protocol_hash(protocol)},
    )
