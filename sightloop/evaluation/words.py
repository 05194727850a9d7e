"""Words of captions: as people count them, and as the COCO caption evaluation splits them.

That evaluation runs Stanford's Penn Treebank tokeniser (CoreNLP 3.4.1), lower-cases and drops punctuation.
Its habits are kept where captions meet them: clitics stand alone (`dog 's`, `is n't`), `mr.`, `p.m.` and a
single letter keep their full stop, hyphens and slashes hold words together, brackets become `-lrb-` and
`-rrb-`. Not kept are rarer ones: signed numbers, `AT&T`, smileys, emoji, markup.
"""

from __future__ import annotations

import re

_ABBREVIATION = (
    "mr|mrs|ms|dr|drs|prof|sen|rep|gov|gen|lt|col|capt|maj|sgt|rev|pres|ste?|ave|blvd|rd|mt|ft|jr|sr|bros|cos?|"
    "corp|inc|ltd|dept|bldg|est|etc|vs|al|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|"
    r"fri|no(?=\.\s*\d)"
)
_LETTER = r"[^\W\d_]"
_UNIT = r"(?:\d+(?:[.,]\d+)+|(?:(?!n't\b)[^\W_])+)"
_TOKEN = re.compile(
    rf"""
      (?:https?://|www\.)[^\s<>]+
    | (?<!\w)(?:(?:{_ABBREVIATION})\.|{_LETTER}(?:\.{_LETTER})+\b\.?|{_LETTER}\.)(?!\w)
    | n't\b | '(?:s|m|d|re|ve|ll|em|n'?|\d0s|\d\d)(?!\w)
    | \b[a-hj-xz]'{_LETTER}{{2,}} | \by'(?=all\b) | {_LETTER}*[aeiouy]'[aeiou]{_LETTER}*
    | \d+(?::\d+)+ | {_UNIT}(?:[-_/@]{_UNIT})* (?:(?<={_LETTER})\.{_LETTER}\w*)*
    | (?<!\w)[\#@]{_LETTER}\w* | [?!]+ | \S
    """,
    re.VERBOSE,
)
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "`": "'"})
_DROPPED = frozenset("'\".,:;?!-\u201c\u201d\u00ab\u00bb\u2013\u2014\u2026")
_SPLIT = {
    "cannot": ["can", "not"],
    "gimme": ["gim", "me"],
    "gonna": ["gon", "na"],
    "gotta": ["got", "ta"],
    "lemme": ["lem", "me"],
    "wanna": ["wan", "na"],
    "(": ["-lrb-"],
    ")": ["-rrb-"],
    "[": ["-lsb-"],
    "]": ["-rsb-"],
    "{": ["-lcb-"],
    "}": ["-rcb-"],
}


def caption_words(caption: str) -> list[str]:
    """Lower-case words, as people count them.

    >>> caption_words("The dog's ball isn't red, it's off-white.")
    ['the', "dog's", 'ball', "isn't", 'red', "it's", 'off-white']
    """
    return _WORD.findall(caption.lower().translate(_PLAIN))


def treebank_tokens(caption: str) -> list[str]:
    """Lower-case tokens without punctuation, as the COCO caption evaluation compares them.

    >>> treebank_tokens("The dog's ball isn't off-white, at 10:30 p.m.")
    ['the', 'dog', "'s", 'ball', 'is', "n't", 'off-white', 'at', '10:30', 'p.m.']
    """
    found = [token for token in _TOKEN.findall(caption.lower().translate(_PLAIN)) if token not in _DROPPED]
    return [part for token in found for part in _SPLIT.get(token, (token,))]
