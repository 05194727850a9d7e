"""What Janus reads: conversations in its own template, with a place for an image, and blank ones."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import cast

from transformers import PreTrainedTokenizerBase

from sightloop.models.janus.conversation import IMAGE, JanusStrings
from sightloop.models.written_text import spelled_out, template_ids

_REMEMBERED_PROMPTS = 4096


class JanusPrompts:
    """Turns texts into rows of ids; what a text looks like in ids is remembered."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        image: int,
        num_places: int,
        frame: tuple[str, str],
        strings: JanusStrings,
    ) -> None:
        """`image` is the id of an image's place, `num_places` how many an image takes, `frame` the tokens
        around them.

        Raises:
            ValueError: the tokenizer lacks a special token.
        """
        self.tokenizer = tokenizer
        self.picture = image
        self.num_places = num_places
        self.strings = strings
        place = cast("str", tokenizer.convert_ids_to_tokens(image))
        self._asking = replace(strings.asking, before=strings.asking.before.replace(IMAGE, place))
        if strings.asking.empty is not None:
            self._asking = replace(self._asking, empty=strings.asking.empty.replace(IMAGE, place))
        self.begin, self.pad = (
            self.id("bos_token", tokenizer.bos_token),
            self.id("pad_token", tokenizer.pad_token),
        )
        self.start, self.stop = (self.id("image frame", token) for token in frame)
        self.drawing_row = lru_cache(_REMEMBERED_PROMPTS)(self._drawing_row)
        self.question_row = lru_cache(_REMEMBERED_PROMPTS)(self._question_row)

    def id(self, name: str, token: object) -> int:
        """The id of a special token.

        Raises:
            ValueError: there is none.
        """
        if not isinstance(token, str) or token not in self.tokenizer.get_vocab():
            raise ValueError(
                f"the tokenizer has no {name} {token!r}; use the tokenizer of a Janus checkpoint"
            )
        return int(self.tokenizer.get_vocab()[token])

    def _ids(self, text: str) -> list[int]:
        return [int(token) for token in template_ids(self.tokenizer, text)]

    def _written(self, text: str) -> str:
        """A text with its special tokens spelled out; an image's place is left to be refused."""
        place = str(self.tokenizer.convert_ids_to_tokens(self.picture))
        return text if place in text else spelled_out(self.tokenizer, text)

    def _drawing_row(self, text: str) -> tuple[int, ...]:
        """The prompt for an image, up to the token that begins it."""
        text = self._written(text)
        tokenizer = self._ids(self.strings.drawing.whole(text))
        return (self.begin, *self._no_image(tokenizer, text), self.start)

    def blank(self, row: tuple[int, ...]) -> tuple[int, ...]:
        """The prompt without its content: as long, pads between its first and its last token."""
        return (row[0], *[self.pad] * (len(row) - 2), row[-1])

    def _question_row(self, text: str, about_image: bool) -> tuple[int, ...]:
        """The conversation up to where the answer begins, places for its image included."""
        text = self._written(text)
        if not about_image:
            if not text.strip():
                raise ValueError(f"the prompt {text!r} is empty and there is no image; give one of them")
            return (self.begin, *self._no_image(self._ids(self.strings.plain.whole(text)), text))
        # One text from end to end, because a word may be cut differently at the seam of two.
        ids = self._ids(self._asking.whole(text))
        if ids.count(self.picture) != 1:
            place = self.tokenizer.convert_ids_to_tokens(self.picture)
            raise ValueError(
                f"the question {text!r} names {place!r}, which stands for the image; leave it out"
            )
        at = ids.index(self.picture)
        framed = (self.start, *[self.picture] * self.num_places, self.stop)
        if at + 1 == len(ids):
            raise ValueError(f"nothing follows the image in the question {text!r} and its template")
        return (self.begin, *ids[:at], *framed, *ids[at + 1 :])

    def _no_image(self, ids: list[int], text: str) -> list[int]:
        if self.picture in ids:
            raise ValueError(f"the prompt {text!r} holds an image's place; it may hold words only")
        return ids
