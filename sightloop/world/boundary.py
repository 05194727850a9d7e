"""What belongs to the embedded world: its tiny models are used on its own images and words only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from sightloop.image_files import BrokenImageError, texts_in
from sightloop.world.bundled import MANIFEST
from sightloop.world.image_folder import read_scenes
from sightloop.world.quizzes import SHAPES_VOCABULARY

_KNOWN = (
    f"{', '.join(noun.name for noun in SHAPES_VOCABULARY.nouns)} in {', '.join(SHAPES_VOCABULARY.colors)}, "
    "one to four of them, and where they are"
)
MODEL_KEY = "model"
"""The text chunk of a drawn PNG file that says who drew it."""


def drawn_by(world_model: str) -> str:
    """What images drawn by one of the embedded world's models say about it."""
    return f"{world_model} of the embedded world"


def require_world_images(sources: Iterable[str], *, what: str, option: str) -> None:
    """Refuse images that the embedded world did not draw; `what` is the model that they would go to.

    Raises:
        ValueError: one is not the embedded world's, with the option that names a model for it.
    """
    scenes = cache(_scenes_of)
    for source in sources:
        if not _is_world_image(Path(source), scenes):
            raise ValueError(
                f"no {option}: the bundled tiny {what} knows only the embedded world's own images of colored "
                f"shapes, which {source} is not; name a {what} with {option}"
            )


def require_world_words(texts: Iterable[str], world_model: Path, *, option: str) -> None:
    """Refuse texts with words that one of the embedded world's models does not know.

    Raises:
        ValueError: the first text with such a word, and what is known.
    """
    tokenizer = _tokenizer(world_model)
    special = tokenizer.get_added_tokens_decoder()
    for text in texts:
        found = tokenizer.encode(text, add_special_tokens=False)
        for number, (start, end) in zip(found.ids, found.offsets, strict=True):
            if number in special:
                raise ValueError(
                    f"no {option}: the bundled tiny model does not know {text[start:end]!r} in "
                    f"{text[:80]!r}, only {_KNOWN}; name a model with {option}"
                )


def _scenes_of(folder: Path) -> frozenset[str]:
    return frozenset(read_scenes(folder)) if (folder / MANIFEST).is_file() else frozenset()


def _is_world_image(path: Path, scenes: Callable[[Path], frozenset[str]]) -> bool:
    if path.name in scenes(path.parent):
        return True
    if path.suffix.lower() != ".png":
        return False
    try:
        author = texts_in(path).get(MODEL_KEY, "")
    except BrokenImageError:
        return False
    return drawn_by("") in author


def _tokenizer(world_model: Path) -> Tokenizer:
    folder = world_model / "tokenizer" if (world_model / "tokenizer").is_dir() else world_model
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
