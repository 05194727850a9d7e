"""CHAIR (arXiv 1809.02156): which objects captions mention that are not in their images.

Differences from the paper:
1. The words are a list of our own (`coco_objects.txt`), by COCO's 80 classes. Plurals are made from it, where
   the paper makes words singular.
2. The longest phrase counts: a hot dog is no dog, a bus stop no bus, and "orange" before another word is a
   color.
3. Beside CHAIR-s and CHAIR-i there is the recall of objects, as silence hallucinates nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluation.shares import ratio_of_sums
from sightloop.evaluation.words import caption_words
from sightloop.text_files import read_text_file
from sightloop.types import Evaluation

WORDS = Path(__file__).parent / "coco_objects.txt"
_ORANGE = "orange"
_LONGER_NAMES = {"computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard"}
"""What GenEval calls three of the classes."""
_LISTED = """
    a an the and or but with without of in on at to by for from into onto over under above below
    behind beside between near next through across along around against up down off out as is are
    be being it its that this there his her their while
"""
_FUNCTION_WORDS = frozenset(_LISTED.split())
"""Words behind an object's name that are no part of it."""


@dataclass(frozen=True, kw_only=True)
class ObjectWords:
    """Which phrases name which class."""

    classes: tuple[str, ...]
    phrases: Mapping[tuple[str, ...], str]
    """Words to a class; "" where they name none."""
    digest: str
    """Tells two lists apart."""

    @property
    def longest(self) -> int:
        """Words of the longest phrase."""
        return max(map(len, self.phrases))

    def mentions(self, caption: str) -> list[str]:
        """The class of each object that a caption names, in order, as often as it is named.

        >>> coco_words().mentions("Two men and a puppy near a hot dog stand; an orange cat eats an orange.")
        ['person', 'dog', 'cat', 'orange']
        """
        words = [word.removesuffix("'s") for word in caption_words(caption)]
        found: list[str] = []
        longest, place = self.longest, 0
        while place < len(words):
            for size in range(min(longest, len(words) - place), 0, -1):
                name = self._named(tuple(words[place : place + size]), words[place + size : place + size + 2])
                if name is not None:
                    found += [name] * bool(name)
                    place += size
                    break
            else:
                place += 1
        return found

    def _named(self, phrase: tuple[str, ...], behind: Sequence[str]) -> str | None:
        name = self.phrases.get(phrase)
        if name is None and len(phrase) == 1 and "-" in phrase[0]:
            name = self.phrases.get(tuple(phrase[0].split("-")))
        return None if phrase == (_ORANGE,) and _is_color(behind) else name


def _is_color(behind: Sequence[str]) -> bool:
    """True if what follows "orange" makes it a color: "an orange cat", "orange and white"."""
    if not behind:
        return False
    if behind[0] in ("and", "or") and len(behind) > 1:
        return behind[1] in ("white", "black", "blue", "green", "red", "yellow", "brown", "gray", "grey")
    return behind[0] not in _FUNCTION_WORDS


def read_object_words(path: str | Path) -> ObjectWords:
    """The words of a file: `class: word, singular/plural, ...` a line, `! phrase, ...` for what names none.

    Raises:
        ValueError: the file is missing, a line has another form, or a word names two classes.
    """
    text = read_text_file(path)
    phrases: dict[tuple[str, ...], str] = {}
    classes: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        head, colon, listed = line.partition(":")
        name, listed = ("", line[1:]) if line.startswith("!") else (head.strip(), f"{head}, {listed}")
        if not line.startswith("!"):
            if not colon or not name or name in classes:
                raise ValueError(f"{path} line {number} is no new `class: word, word`: {line[:60]!r}")
            classes.append(name)
        for form in _forms(listed):
            if phrases.setdefault(form, name) != name:
                raise ValueError(
                    f"{path} line {number}: {' '.join(form)!r} already names {phrases[form] or 'nothing'!r}"
                )
    if not classes:
        raise ValueError(f"{path} names no class")
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return ObjectWords(classes=tuple(classes), phrases=phrases, digest=digest)


@cache
def coco_words() -> ObjectWords:
    """The list that comes along: COCO's 80 classes."""
    return read_object_words(WORDS)


def chair(
    captions: Sequence[str],
    objects: Sequence[Iterable[str]],
    *,
    references: Sequence[Sequence[str]] | None = None,
    words: ObjectWords | None = None,
) -> Evaluation:
    """`chair_s`, `chair_i` and `object_recall` of captions of images that hold `objects`.

    `chair_s`: share of captions that mention an object which is not there; `chair_i`: share of all mentions;
    `object_recall`: share of all objects of the images that their captions mention. Objects that the
    references mention are there too, as in the paper. A set that mentions nothing has `chair_i` 0.

    Raises:
        ValueError: no captions, not one set of objects and references a caption, or an unknown class.
    """
    words = coco_words() if words is None else words
    truth = _truth(captions, objects, references, words)
    mentioned = [words.mentions(caption) for caption in captions]
    wrong = [sum(name not in there for name in named) for named, there in zip(mentioned, truth, strict=True)]
    found = [len(there & set(named)) for named, there in zip(mentioned, truth, strict=True)]
    shares = {
        "chair_i": ratio_of_sums(wrong, [len(named) for named in mentioned], empty=0.0),
        "object_recall": ratio_of_sums(found, [len(there) for there in truth], empty=0.0),
    }
    per_sample = {"chair_s": [float(count > 0) for count in wrong]}
    metrics = {"chair_s": fmean(per_sample["chair_s"])} | {name: share for name, (share, _) in shares.items()}
    metrics["mentions"] = fmean(len(named) for named in mentioned)
    protocol = {
        "objects": str(len(words.classes)),
        "object_words": words.digest,
        "object_truth": "given objects" if references is None else "given objects and references",
        "captions": str(len(captions)),
    }
    samples = [
        {"caption": caption, "hallucinated": ", ".join(dict.fromkeys(n for n in named if n not in there))}
        for caption, named, there in zip(captions, mentioned, truth, strict=True)
    ]
    return Evaluation(
        metrics=metrics,
        per_sample=per_sample | {name: values for name, (_, values) in shares.items()},
        samples=samples,
        protocol=protocol | {"hash": protocol_hash(protocol)},
    )


def _truth(
    captions: Sequence[str],
    objects: Sequence[Iterable[str]],
    references: Sequence[Sequence[str]] | None,
    words: ObjectWords,
) -> list[set[str]]:
    if not captions:
        raise ValueError("no captions to evaluate")
    for name, given in (("sets of objects", objects), ("lists of references", references)):
        if given is not None and len(given) != len(captions):
            raise ValueError(f"{len(given)} {name} for {len(captions)} captions; give one a caption")
    truth = [{_LONGER_NAMES.get(name, name) for name in names} for names in objects]
    for row, there in enumerate(truth):
        if unknown := sorted(there - set(words.classes)):
            raise ValueError(
                f"image {row} holds {unknown[0]!r}, which is none of the {len(words.classes)} classes; use "
                "COCO's names"
            )
    if references is None:
        return truth
    named = [{name for text in texts for name in words.mentions(text)} for texts in references]
    return [there | more for there, more in zip(truth, named, strict=True)]


def _forms(listed: str) -> Iterable[tuple[str, ...]]:
    for entry in listed.split(","):
        one, _, many = entry.strip().partition("/")
        if one:
            yield tuple(caption_words(one))
            yield tuple(caption_words(many or _plural(one)))


def _plural(word: str) -> str:
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")
