"""Texts that others wrote, read by a tokenizer as nothing but text.

A caption, a question or an answer may hold `</s>` or `<|endoftext|>`. A tokenizer makes the token of it,
which would end the text for whoever reads on, stand for an image, or please a judge. Here such strings are
letters like all others, and texts without them are read as ever.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from transformers import ProcessorMixin

from sightloop.process.time_limit import limited

_TEMPLATE_SECONDS = 20.0
"""A template is a program; one that a model was trained with takes milliseconds."""
_TEMPLATE_ERRORS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_LOOKS_LIKE_A_MARK = re.compile(r"\s*[<\[].+[>\]]\s*")
"""Other added tokens, such as runs of blanks, belong to what people write."""


@dataclass(frozen=True, kw_only=True)
class _Marks:
    names: dict[int, str]
    """Tokens that nobody can write, by their ids."""
    unknown: int | None
    """One of them may also stand for words that a tokenizer does not know."""


_MARKS: WeakKeyDictionary[Any, _Marks] = WeakKeyDictionary()


def read_texts(tokenizer: Any, texts: Sequence[str], **options: Any) -> Any:
    """What the tokenizer `words`, called with `options`, makes of texts in which special tokens are text."""
    return tokenizer(
        [_spelled(tokenizer, text, split=True) for text in texts], split_special_tokens=True, **options
    )


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of one text, without a begin or end token."""
    return read_texts(tokenizer, [text], add_special_tokens=False).input_ids[0] if text else []


def template_ids(tokenizer: Any, filled: str) -> list[int]:
    """The ids of a template whose special tokens count and whose places hold texts `spelled_out`."""
    return tokenizer(filled, add_special_tokens=False).input_ids


def template_batch(tokenizer: Any, filled: Sequence[str]) -> Any:
    """The same of several, padded on the right, with a mask and what the tokenizer adds."""
    return tokenizer(list(filled), padding=True, padding_side="right", return_tensors="pt")


def in_template(
    reader: Any, chat: list[Any], *, source: str = "", fix: str = "download it again", **options: Any
) -> Any:
    """A chat as the template of a tokenizer or processor writes it, with the place for the answer.

    Raises:
        ValueError: the template is damaged, or comes to no end; `source` or the model's name is said.
    """
    words = reader.tokenizer if isinstance(reader, ProcessorMixin) else reader
    name = source or f"the chat template of {words.name_or_path!r}"
    with limited(name, at_most=_TEMPLATE_SECONDS):
        try:
            return reader.apply_chat_template(chat, add_generation_prompt=True, **options)
        except (TemplateError, *_TEMPLATE_ERRORS) as error:
            raise ValueError(f"{name} cannot be read ({type(error).__name__}: {error}); {fix}") from error


def spelled_out(tokenizer: Any, text: str) -> str:
    """The text with a blank in each string that would become a special token: for a place in a template.

    A template has special tokens of its own, so it has to be read in the usual way.
    """
    return _spelled(tokenizer, text, split=False)


def _spelled(tokenizer: Any, text: str, *, split: bool) -> str:
    """The text with a blank in each string that the tokenizer still makes a special token of.

    Raises:
        ValueError: it holds half a character, which no tokenizer reads.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text {text[:80]!a} holds half a character; write it as UTF-8") from error
    while places := _places(tokenizer, text, split=split):
        for start, end in reversed(places):
            # A single letter has no inside.
            kept = start + (end - start > 1)
            text = f"{text[:kept]} {text[start + 1 :]}"
    return text


def _places(tokenizer: Any, text: str, *, split: bool) -> list[tuple[int, int]]:
    """Where special tokens stand in the text, in order."""
    marks = _marks_of(tokenizer)
    if not tokenizer.is_fast:
        found = re.finditer(
            "|".join(map(re.escape, sorted(marks.names.values(), key=len, reverse=True))), text
        )
        return [match.span() for match in found if not split or _stubborn(tokenizer, match[0], marks)]
    read = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        split_special_tokens=split,
        verbose=False,
    )
    return [
        (start, end)
        for number, (start, end) in zip(read["input_ids"], read["offset_mapping"], strict=True)
        if number in marks.names
        and end > start
        and (number != marks.unknown or _same(text[start:end], marks.names[number]))
    ]


def _stubborn(tokenizer: Any, name: str, marks: _Marks) -> bool:
    """Whether a tokenizer in Python makes the token of its name although it is told not to."""
    read = tokenizer(name, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return any(marks.names.get(number) == name for number in read)


def _same(written: str, name: str) -> bool:
    one, other = (unicodedata.normalize("NFKC", text).casefold().strip() for text in (written, name))
    return one == other


def _marks_of(tokenizer: Any) -> _Marks:
    if tokenizer not in _MARKS:
        names = {
            number: str(token)
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or _LOOKS_LIKE_A_MARK.fullmatch(str(token))
        }
        names |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        _MARKS[tokenizer] = _Marks(names=names, unknown=tokenizer.unk_token_id)
    return _MARKS[tokenizer]
