"""Words that quizzes are made of: things with their plurals and other names, colors, numbers, relations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

NUMBER_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
"""The relation that holds when the two things change places."""


@dataclass(frozen=True, kw_only=True)
class Noun:
    """A kind of thing."""

    name: str
    plural: str
    synonyms: tuple[str, ...] = ()
    """Other names that an answer may use."""
    takes_color: bool = True

    @property
    def forms(self) -> tuple[str, ...]:
        """Every spelling that names it in an answer: name, plural, synonyms and their plurals."""
        others = [form for name in self.synonyms for form in (name, plural_of(name))]
        return tuple(dict.fromkeys((self.name, self.plural, *others)))


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What quizzes may speak about."""

    nouns: tuple[Noun, ...]
    colors: tuple[str, ...]
    counts: tuple[int, ...] = (2, 3, 4)
    relations: tuple[str, ...] = tuple(OPPOSITES)

    def __post_init__(self) -> None:
        names = [noun.name for noun in self.nouns]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"nouns named twice: {', '.join(twice)}; name each once")
        if len(names) < 2 or len(set(self.colors)) < 2:
            raise ValueError(
                f"{len(names)} nouns and {len(set(self.colors))} colors; quizzes need at least two of each"
            )
        if not any(noun.takes_color for noun in self.nouns):
            raise ValueError("no noun takes a color; let at least one do so")
        if not self.counts or set(self.counts) - set(NUMBER_WORDS) or 1 in self.counts:
            raise ValueError(f"counts are {self.counts}; use numbers from 2 to {max(NUMBER_WORDS)}")
        if not self.relations or set(self.relations) - set(OPPOSITES):
            raise ValueError(f"relations are {self.relations}; use some of {', '.join(OPPOSITES)}")

    def noun(self, name: str) -> Noun:
        """The noun called `name`; one that is not listed has a regular plural and no synonyms."""
        for noun in self.nouns:
            if noun.name == name:
                return noun
        return Noun(name=name, plural=plural_of(name))

    @cached_property
    def singular(self) -> Mapping[str, str]:
        """From plurals to names: the right ones, and those of programs that only add s or es."""
        names = {noun.name for noun in self.nouns}
        naive = {f"{name}{ending}": name for name in names for ending in ("s", "es")}
        right = {noun.plural: noun.name for noun in self.nouns}
        return {plural: name for plural, name in (naive | right).items() if plural not in names}


_IRREGULAR = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "knife": "knives",
    "leaf": "leaves",
    "loaf": "loaves",
    "shelf": "shelves",
    "sheep": "sheep",
    "skis": "skis",
    "scissors": "scissors",
    "glasses": "glasses",
    "jeans": "jeans",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "goose": "geese",
    "wolf": "wolves",
}


def plural_of(name: str) -> str:
    """The plural of a name; only its last word changes.

    >>> plural_of("computer mouse"), plural_of("bench"), plural_of("toy")
    ('computer mice', 'benches', 'toys')
    """
    *first, last = name.split(" ")
    if last in _IRREGULAR:
        plural = _IRREGULAR[last]
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        plural = last[:-1] + "ies"
    elif last.endswith(("s", "x", "ch", "sh")):
        plural = last + "es"
    else:
        plural = last + "s"
    return " ".join([*first, plural])


def with_article(phrase: str) -> str:
    """The phrase after "a" or "an".

    >>> with_article("orange"), with_article("red apple")
    ('an orange', 'a red apple')
    """
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


_COCO = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
laptop, computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink,
refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""
_EVERYDAY = """
candle, lamp, pillow, blanket, curtain, mirror, basket, bucket, broom, ladder, hammer, screwdriver, wrench,
saw, nail, rope, lock, key, coin, wallet, watch, necklace, ring, hat, helmet, scarf, glove, sock, shoe, boot,
belt, button, shirt, dress, jacket, pencil, pen, notebook, envelope, stapler, camera, radio, guitar, violin,
piano, drum, trumpet, balloon, drone, telescope, teapot, kettle, plate, jar, spatula, pan, candy, cookie,
lemon, strawberry, pear, peach, cherry, pineapple, watermelon, tomato, potato, onion, mushroom, pumpkin,
duck, rabbit, squirrel, fox, penguin, turtle, frog, butterfly, snail, goose
"""
_SYNONYMS = {
    "person": ("man", "woman", "human"),
    "bicycle": ("bike",),
    "car": ("automobile",),
    "motorcycle": ("motorbike",),
    "airplane": ("plane", "aeroplane"),
    "traffic light": ("stoplight",),
    "fire hydrant": ("hydrant",),
    "backpack": ("rucksack",),
    "handbag": ("purse",),
    "tie": ("necktie",),
    "suitcase": ("luggage",),
    "sports ball": ("ball",),
    "tennis racket": ("racket", "racquet"),
    "wine glass": ("wineglass",),
    "cup": ("mug",),
    "donut": ("doughnut",),
    "couch": ("sofa",),
    "potted plant": ("plant", "houseplant"),
    "dining table": ("table",),
    "tv": ("television",),
    "laptop": ("notebook computer",),
    "computer mouse": ("mouse",),
    "tv remote": ("remote", "remote control"),
    "computer keyboard": ("keyboard",),
    "cell phone": ("phone", "cellphone", "smartphone", "mobile phone"),
    "refrigerator": ("fridge",),
    "hair drier": ("hair dryer", "blow dryer"),
    "teddy bear": ("teddy",),
    "cookie": ("biscuit",),
    "rabbit": ("bunny",),
}


def _nouns(text: str) -> tuple[Noun, ...]:
    names = [" ".join(name.split()) for name in text.split(",")]
    return tuple(
        Noun(
            name=name,
            plural=plural_of(name),
            synonyms=_SYNONYMS.get(name, ()),
            takes_color=name != "person",
        )
        for name in names
    )


COCO_NOUNS = _nouns(_COCO)
"""COCO's 80 classes in its order, three of them by GenEval's names."""

REAL = Vocabulary(
    nouns=COCO_NOUNS + _nouns(_EVERYDAY),
    colors=("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"),
)
"""COCO's classes and 80 further everyday things, GenEval's colors, counts and relations."""
