"""A run's model before and after training, which answer what a user tries on the live page."""

from __future__ import annotations

import base64
import binascii
import io
import threading
from pathlib import Path
from typing import Any

from PIL import Image

from sightloop.image_files import open_encoded
from sightloop.late import late

_NUM_DRAWN, _MAX_TEXT, _MAX_SEED = 2, 2000, 2**31 - 1
# Loads networks, which looking at a run does not need.
_load = late("sightloop.api.model:load")


class TryModels:
    """Loads a run's two models when they are first asked; one question at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[Path, dict[str, Any]] | None = None

    def answers(self, run: Path, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """What each model makes of it: its name with a text, or with images as data addresses.

        `asked` holds the task ("caption", "ask" or "draw"), and what that needs: `image` (in base64),
        `question`, `prompt`, `seed`.

        Raises:
            ValueError: something is missing or no image, or the run has no checkpoint yet.
        """
        task, words = asked.get("task"), {name: _text(asked, name) for name in ("question", "prompt")}
        image = _image(asked.get("image")) if task in ("caption", "ask") else None
        if task not in ("caption", "ask", "draw"):
            raise ValueError(f"the task is {task!r}; use caption, ask or draw")
        seed = _seed(asked.get("seed", 0))
        with self._lock:
            found: list[dict[str, Any]] = []
            for name, model in self._models(run).items():
                if task == "draw":
                    drawn = model.generate(words["prompt"], number=_NUM_DRAWN, seed=seed)
                    found.append({"name": name, "images": [_address(each) for each in drawn]})
                elif task == "caption":
                    found.append({"name": name, "text": model.caption([image])[0]})
                else:
                    found.append({"name": name, "text": model.answer(image, words["question"])})
        return found

    def _models(self, run: Path) -> dict[str, Any]:
        if self._loaded is None or self._loaded[0] != run:
            self._loaded = None
            models = {"before training": _load(run, step="start"), "trained": _load(run)}
            self._loaded = run, models
        return self._loaded[1]


def _text(asked: dict[str, Any], name: str) -> str:
    found = asked.get(name, "")
    if not isinstance(found, str) or len(found) > _MAX_TEXT:
        raise ValueError(f"the {name} is no text of at most {_MAX_TEXT} letters")
    return found


def _seed(given: Any) -> int:
    if not isinstance(given, int) or not 0 <= given <= _MAX_SEED:
        raise ValueError(f"the seed is {given!r}; use a whole number from 0 to {_MAX_SEED}")
    return given


def _image(given: Any) -> Image.Image:
    if not isinstance(given, str) or not given:
        raise ValueError("there is no image; drop or choose one first")
    try:
        content = base64.b64decode(given, validate=True)
    except binascii.Error as error:
        raise ValueError("the image did not arrive whole; drop it again") from error
    return open_encoded(content)


def _address(image: Image.Image) -> str:
    written = io.BytesIO()
    image.save(written, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode('ascii')}"
