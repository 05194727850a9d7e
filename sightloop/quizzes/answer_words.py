"""An answer as words and phrases with what each does in its sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from sightloop.quizzes.lexicon import FRUITS, LONGEST, PHRASES, Item, is_head

_WORD = re.compile(r"[a-z]+|[0-9]+|'s|[.,;:!?&]")


def words_of(text: str) -> list[str]:
    """Lower-case words, numbers and punctuation marks; "isn't" is two words.

    >>> words_of("There isn't a wine-glass.")
    ['there', 'is', 'not', 'a', 'wine', 'glass', '.']
    """
    plain = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    plain = re.sub(r"([0-9])\s*\+|-plus\b", r"\1 or more ", plain)
    # "A dog-like creature" is no dog, as a dog statue is none; British colors are colors.
    plain = re.sub(r"-(?:like|themed|print|style)\b", " copy", plain).replace("olour", "olor")
    return _WORD.findall(plain.replace("can't", "can not").replace("n't", " not"))


def plural_word(name: str) -> str:
    """The regular plural of a name's last word.

    >>> plural_word("bench"), plural_word("wine glass"), plural_word("cherry"), plural_word("toy")
    ('benches', 'wine glasses', 'cherries', 'toys')
    """
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


def items_of(
    words: list[str], spelled: Mapping[tuple[str, ...], Item], singular: AbstractSet[tuple[str, ...]]
) -> list[Item]:
    """What each word or phrase does; `spelled` are those that the facts know, `singular` their names."""
    longest = max([LONGEST, *map(len, spelled)])
    items: list[Item] = []
    place = 0
    while place < len(words):
        for size in range(min(longest, len(words) - place), 0, -1):
            phrase = tuple(words[place : place + size])
            item = spelled.get(phrase) or PHRASES.get(phrase)
            if item is None and size == 1:
                item = ("number", phrase[0]) if phrase[0].isdigit() else ("other", phrase[0])
            if item is None:
                continue
            behind = [word for word in words[place + size : place + size + 3] if word != "'s"][:2]
            if phrase[0] in FRUITS and size == 1:
                item = _color_or_fruit(words, place, item)
            elif phrase in singular and tuple(behind[:1]) not in spelled and is_head(*behind):
                # "A dog house": the last word says what it is.
                item = ("other", " ".join(phrase))
            items.append(item)
            place += size
            break
    return items


def _color_or_fruit(words: list[str], place: int, item: Item) -> Item:
    # "An orange" is a fruit, "is orange" and "an orange cat" are colors.
    before = PHRASES.get((words[place - 1],), ("other", ""))[0] if place else "stop"
    behind = PHRASES.get((words[place + 1],), ("other", ""))[0] if place + 1 < len(words) else "stop"
    if behind in ("other", "noun", "color", "number") or before in ("is", "are"):
        return PHRASES[(words[place],)]
    if item[0] == "noun":
        return item
    # A fruit that no fact knows needs its article; a lone color word is the answer to "which color?".
    return ("other", item[1]) if before == "article" else item
