"""The strings around texts: what a model's authors write before and behind a prompt or a question.

Loads no large library: the command line reads the options here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from sightloop.late import late

# It loads transformers, which options do not need.
_text_ids = late("sightloop.models.written_text:text_ids")
PROMPT_PLACE, QUESTION_PLACE, IMAGE_PLACE = "{prompt}", "{question}", "{image}"
_LAST_WORD = re.compile(r"\S+\s*$")
_TEXT = re.compile(r"\{(?:prompt|question)\}")


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    r"""Strings around prompts and questions; left out = the checkpoint's own. `\n` breaks a line."""

    roles: tuple[str, str] | None = None
    """Who asks and who answers: User Assistant (Janus-1.3B), "<|User|>" "<|Assistant|>" (Janus-Pro)."""
    system: str | None = None
    """System prompt of questions; "" = none. Prompts for images have none."""
    template: str | None = None
    """The whole string of a question, with {question}; Janus: also {image}, before it."""
    drawing: str | None = None
    """The whole string of a prompt for an image, with {prompt}; Janus only."""

    def __post_init__(self) -> None:
        if self.roles is not None and self.template is not None:
            raise ValueError(
                "--prompts.template is the whole string of a question; write the roles into it and leave "
                "--prompts.roles out"
            )

    def text(self, name: Literal["system", "template", "drawing"]) -> str | None:
        r"""An option with its line breaks, which a shell hands over as the two characters `\n`."""
        given = {"system": self.system, "template": self.template, "drawing": self.drawing}[name]
        return None if given is None else given.replace("\\n", "\n")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What stands around one text."""

    before: str = ""
    after: str = ""
    strip: Literal["", "end", "ends"] = ""
    """Where the text loses blanks and line breaks."""
    empty: str | None = None
    """The whole string where nothing is left of the text; None = it has no special form."""

    @staticmethod
    def of_template(template: str, *, name: str, image: str | None = None) -> Frame:
        """A template with a place for the text; `image` stands where `{image}` does, before the text.

        Raises:
            ValueError: a place is missing, comes twice or in the wrong order; `name` says in which template.
        """
        texts = _TEXT.findall(template)
        if len(texts) != 1:
            raise ValueError(f"{name} is {template!r}; it must hold {{prompt}} or {{question}} exactly once")
        before, after = _TEXT.split(template)
        if image is None:
            return Frame(before=before, after=after)
        if template.count(IMAGE_PLACE) != 1:
            raise ValueError(f"{name} is {template!r}; it must hold {IMAGE_PLACE} exactly once")
        if IMAGE_PLACE in after:
            raise ValueError(f"{name} is {template!r}; the image comes before the question")
        return Frame(before=before.replace(IMAGE_PLACE, image), after=after)

    def parts(self, text: str) -> tuple[str, str, str]:
        """What is before the text, the text itself, and what is behind it."""
        text = {"": text, "end": text.rstrip(), "ends": text.strip()}[self.strip]
        if not text and self.empty is not None:
            return self.empty, "", ""
        return self.before, text, self.after

    def whole(self, text: str) -> str:
        """The string that is tokenized."""
        return "".join(self.parts(text))

    def around(self, place: str) -> str:
        """The frame as a template."""
        return f"{self.before}{place}{self.after}"


def answer_ids(tokenizer: Any, text: str, *, behind: str) -> list[int]:
    """Ids of a given answer behind the string that ends a question, as in the authors' training.

    One blank stands between them, which many tokenizers make part of the answer's first token. The answer is
    tokenized behind that string: alone, a blank at its beginning may be doubled or dropped.
    """

    said, mark = text.strip(), _LAST_WORD.search(behind)
    before = ":" if mark is None else mark.group()
    blank = " " if said and not before[-1].isspace() else ""
    alone, both = _text_ids(tokenizer, before), _text_ids(tokenizer, f"{before}{blank}{said}")
    # A tokenizer that joins what is before with the blank leaves the answer to itself.
    return both[len(alone) :] if both[: len(alone)] == alone else _text_ids(tokenizer, f"{blank}{said}")
