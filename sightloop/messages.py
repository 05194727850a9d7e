"""Prompts of several messages, as chat templates read them."""

from __future__ import annotations

import json
from typing import Any


class MessagePrompt(str):
    """A prompt of several messages, as chat templates read them; as a string, their JSON."""

    messages: list[dict[str, Any]]
    """`role` and `content` each; a content is a text, or parts of the types `text` and `image`."""

    @staticmethod
    def of(messages: list[dict[str, Any]]) -> MessagePrompt:
        """The prompt of these messages."""
        made = MessagePrompt(json.dumps(messages, ensure_ascii=False))
        made.messages = messages
        return made


def user_message(text: str) -> dict[str, Any]:
    """A message that asks this; nothing but its images where there is no text."""
    return {"role": "user", "content": [{"type": "text", "text": text}] if text else []}


def with_images(messages: list[dict[str, Any]], images: int) -> list[dict[str, Any]]:
    """The messages with contents in parts and so many images: where they name them, else in front of the
    first question.

    Raises:
        ValueError: they name another number of images, or ask nothing.

    >>> with_images([{"role": "user", "content": "why?"}], 1)[0]["content"]
    [{'type': 'image'}, {'type': 'text', 'text': 'why?'}]
    """
    parted: list[dict[str, Any]] = [
        {**message, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}
        for message in messages
        for content in (message["content"],)
    ]
    named = sum(part.get("type") == "image" for message in parted for part in message["content"])
    first = next((place for place, message in enumerate(parted) if message["role"] == "user"), None)
    if first is None or named not in (0, images):
        has = "no message of the user" if first is None else f"{named} places for {images} images"
        raise ValueError(f"the conversation has {has}; name each image once, or none of them")
    if not named:
        images_first = [{"type": "image"}] * images + parted[first]["content"]
        parted[first] = {**parted[first], "content": images_first}
    return parted
