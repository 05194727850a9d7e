"""The words by which an answer names numbers, colors and places, and denies."""

from __future__ import annotations

from typing import Literal

Kind = Literal[
    "noun", "other", "color", "number", "article", "determiner", "relation", "place", "its_place",
    "not", "is", "are", "and", "or", "but", "stop", "pronoun", "plain",
    "bound", "bound_before", "partitive", "like", "missing", "on", "order", "scenery",
]  # fmt: skip
"""What a word does in a sentence: `other` names a thing that no fact knows, `plain` does nothing. A `bound`
("at least") makes the number behind it another number, a `partitive` ("of them") takes it from a part,
`like` compares, `order` ("from left to right") places the things that follow, `scenery` is behind things."""
Item = tuple[Kind, str]
"""A word or phrase with what it stands for."""

NUMBERS: dict[str, int] = {
    word: number
    for number, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        ]
    )
} | {"single": 1, "pair": 2, "couple": 2, "both": 2, "trio": 3, "dozen": 12}
COLORS: dict[str, str] = {
    word: word
    for word in [
        "amber",
        "aqua",
        "beige",
        "black",
        "blue",
        "bronze",
        "brown",
        "cream",
        "crimson",
        "cyan",
        "gold",
        "gray",
        "green",
        "indigo",
        "ivory",
        "khaki",
        "lavender",
        "lilac",
        "lime",
        "magenta",
        "maroon",
        "mauve",
        "navy",
        "olive",
        "orange",
        "peach",
        "pink",
        "purple",
        "red",
        "salmon",
        "scarlet",
        "silver",
        "tan",
        "teal",
        "turquoise",
        "violet",
        "white",
        "yellow",
    ]
} | {"grey": "gray", "golden": "gold"}
OPPOSITES: dict[str, str] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "in front of": "behind",
    "behind": "in front of",
    "next to": "next to",
}
"""The relation that holds when the two things change places."""


def _side_phrases() -> dict[tuple[str, ...], Item]:
    found: dict[tuple[str, ...], Item] = {}
    for side in ("left", "right"):
        relation = f"{side} of"
        for start in ("", "to the ", "on the ", "at the ", "in the ", "to ", "on "):
            found[tuple(f"{start}{side} of".split())] = ("relation", relation)
            found[tuple(f"{start}{side} side of".split())] = ("relation", relation)
            if start:
                found[tuple(f"{start}{side}".split())] = ("place", relation)
                found[tuple(f"{start}{side} side".split())] = ("place", relation)
        for start in ("to its ", "on its ", "at its "):
            found[tuple(f"{start}{side}".split())] = ("its_place", relation)
            found[tuple(f"{start}{side} side".split())] = ("its_place", relation)
        found[side, "to"] = ("relation", relation)
        found[(side,)] = ("place", relation)
    return found


_RELATIONS = {
    "above": "above over atop|on top of|higher than|at the top of",
    "below": "below under beneath underneath|lower than|at the bottom of",
    "in front of": "|in front of",
    "behind": "behind|in back of",
    "next to": "beside|next to|close to",
}
PHRASES: dict[tuple[str, ...], Item] = _side_phrases()
for _name, _given in _RELATIONS.items():
    _words, *_longer = _given.split("|")
    for _phrase in (*_words.split(), *_longer):
        PHRASES[tuple(_phrase.split())] = ("relation", _name)
for _place, _name in (("top", "above"), ("upper", "above"), ("bottom", "below"), ("lower", "below")):
    for _start in ("at the", "on the", "in the", "on", "at", "in"):
        PHRASES[*_start.split(), _place] = ("place", _name)

_KINDS: dict[Kind, str] = {
    "not": "not no never without neither nor none cannot",
    "is": "is was has looks appears seems remains be being 's :",
    "are": "are were have look appear seem",
    "and": "and plus &",
    "or": "or",
    "but": "but , while whereas though although instead with however yet then",
    "stop": ". ; ! ?",
    "pronoun": "it its they them which that who this these those",
    "determiner": "the another other each every his her their some any several many",
    "article": "a an",
    "plain": (
        "there of in at to into from for by very only just also too exactly about around total "
        "color color colors colors colored colored hue shade object objects thing things item items "
        "picture pictures image images photo photos scene painted entirely all so both what how yes here "
        "answer shown shows show see seen i you we can visible present depicted pictured featured placed "
        "located positioned situated sitting "
        "standing lying laying side directly immediately slightly light dark bright pale deep vivid small "
        "large big little tiny huge round group set bunch arranged main body exterior coat fur paint skin "
        "part portion half corner section area edge"
    ),
    "missing": "missing absent gone lacking lacks nowhere invisible",
    "like": "like resembles resemble resembling",
    "on": "on",
    "scenery": (
        "sky background backdrop foreground ground floor grass wall road street field lawn sand snow water "
        "surroundings surface room ceiling scenery"
    ),
    "bound": "almost nearly",
}
for _kind, _text in _KINDS.items():
    for _word in _text.split():
        PHRASES.setdefault((_word,), (_kind, _word))
for _word, _number in NUMBERS.items():
    PHRASES[(_word,)] = ("number", str(_number))
for _word, _color in COLORS.items():
    PHRASES[(_word,)] = ("color", _color)
_MARKS: dict[Kind, str] = {
    "bound": (
        "more than|less than|fewer than|greater than|at least|at most|up to|no more than|no less than|"
        "no fewer than|not more than|not less than|not fewer than|as many as|minimum of|maximum of|"
        "upwards of|in excess of|exceeding|beyond|than"
    ),
    "bound_before": "or more|or fewer|or less|and more|or so|minimum|maximum",
    "not": "instead of|rather than",
    "partitive": "of them|of these|of those|of which|of the|of its",
    "like": "looks like|look like|looking like|similar to|shaped like|in the shape of|reminds of",
    "missing": "not there",
}
for _kind, _text in _MARKS.items():
    for _phrase in _text.split("|"):
        PHRASES[tuple(_phrase.split())] = (_kind, _phrase)
for _phrase, _name in {"left to right": "left of", "right to left": "right of"}.items():
    PHRASES[tuple(_phrase.split())] = PHRASES["from", *_phrase.split()] = ("order", _name)
PHRASES["from", "top", "to", "bottom"] = PHRASES["top", "to", "bottom"] = ("order", "above")
PHRASES["from", "bottom", "to", "top"] = PHRASES["bottom", "to", "top"] = ("order", "below")
for _side, _name in {"left": "left of", "right": "right of", "top": "above", "bottom": "below"}.items():
    PHRASES[_side, ":"] = ("place", _name)
# Names that end or begin with another thing's name.
for _name in (
    "baseball glove", "baseball mitt", "bean bag", "bow tie", "corn dog", "gummy bear", "hot dog", 
    "prairie dog", "rocking horse", "sea horse", "teddy bear", "tv remote",
):  # fmt: skip
    PHRASES[tuple(_name.split())] = PHRASES[tuple(f"{_name}s".split())] = ("other", _name)
FRUITS = frozenset(("orange", "peach", "lime", "olive", "salmon"))
"""Colors that are things, too: "an orange" is a fruit, "an orange cat" a color."""
HEADS = frozenset(
    """
    bed bedding bus building claws dress ears field fur glass gloves handles harness houses keys mattress
    mitts pads parts ring room shaped shed shoes sled string tracks toys wheels wing wings
    """.split()  # noqa: SIM905
)
"""Words that make of the name before them another thing, as any unknown one does: "a dog house" holds no
dog."""
BEHIND_A_NAME = frozenset(
    """
    about across after against alone along alongside am amid among apart around as asleep away awake back
    because before between can clearly could do does doing down during each ever everywhere far first
    forward had having here if indoors inside last like made may maybe might mid middle most much must near
    nearby next off often once onto opposite out outdoors outside past per perhaps please quite rather right
    since so somewhere still through throughout today together too toward twice under until up upon upright
    via when where whose why will within would animal bit bunch calf chunk creature cub floret foal half
    kitten lamb loaf piece puppy slice vehicle wedge ate bent broken built caught cut drawn drove eat eaten
    flew flown graze grown held hidden hit hung kept laid lain lay led left lie lit met put ran ridden rode
    sat saw seen set shown shut sit sleep spread stand stood stuck sunk swam taken thrown took torn walk
    went wore worn
    """.split()  # noqa: SIM905
)
"""Words behind a name that leave the thing what it is, besides those in -s, -ing, -ed, -ly and -ward: "a dog
near a tree"."""
_STARTS = {phrase[0] for phrase in PHRASES}
_ENDINGS = ("s", "ing", "ed", "ly", "ward")


def is_head(word: str = ".", following: str = ".") -> bool:
    """Whether a word makes of the name before it another thing; "larger", before "than", does not."""
    if word in HEADS:
        return True
    known = word in _STARTS or word in BEHIND_A_NAME or not word.isalpha() or following == "than"
    return not known and not word.endswith(_ENDINGS)


LONGEST = max(map(len, PHRASES))
