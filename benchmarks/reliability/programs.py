"""Ways in that are no command: the Python interface with wrong values, requests to the live page."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

import sightloop
from benchmarks.reliability.examples import BRIEF
from benchmarks.reliability.mutations import ODD_VALUES, ODD_WORDS, damaged_json
from sightloop.process.boundary import ended_in_one_sentence
from sightloop.terminal import say
from sightloop.view.board import Board
from sightloop.view.server import application

_ODD: tuple[Any, ...] = (
    *(*ODD_VALUES, b"bytes", object(), len, lambda: 1, range(3), np.nan, np.zeros(2), torch.zeros(2)),
    *(Path("/nowhere"), {"x": object()}, [object()], {1, 2}, complex(1, 1), type, iter("ab")),
)
_WRITING = dict(zip(("beams", "no_repeat_ngram", "min_tokens", "max_tokens"), (1, 0, 1, 2), strict=True))
assert len(BRIEF) == 2 * len(_WRITING)
_PATHS = (
    *("/", "/run/0", "/state/0", "/part/0/top", "/part/-1/top", "/found/0/pairs", "/found/0/credit"),
    *("/image/0/images/held_out/00000.png", "/try/0", "/page.js", "/view.css", "/found/-1/same"),
)
_FIELDS = ("step", "text", "category", "sort", "page", "gain", "before", "after", "x")


def called(examples: Path, place: Path, chance: random.Random) -> tuple[str, Callable[[], object]]:
    """A call of the Python interface in which one or two values are wrong, in words and to be made."""
    images, models = str(examples / "texts" / "images"), examples / "models"
    name = chance.choice(("train", "load", "caption", "generate", "answer", "evaluate"))
    given: dict[str, Any] = {
        "train": {
            "recipe": "vlrm",
            "preset": "shapes",
            "images": images,
            "model": str(models / "captioner"),
            "judge": str(models / "judge"),
            "rewards": {"similarity": 1},
            "held_out": images,
            "run": str(place / "run"),
            "batch": 2,
            "draw": {"max_tokens": 2},
            "learning_rate": 1e-4,
            "eval_every": 9,
            "device": "cpu",
            "overwrite": False,
        },
        "load": {"source": str(models / "captioner"), "step": "best", "device": "cpu", "dtype": None},
        "caption": {"images": images, "batch_size": 2, **_WRITING},
        "generate": {"prompt": "a red circle", "number": 1, "seed": 0, "rounds": 1, "guidance": 1.0},
        "answer": {"image": f"{images}/00000.png", "question": "what?", "max_tokens": 2},
        "evaluate": {
            "model": ["a dog"] * 4,
            "images": images,
            "clip": str(models / "clip"),
            "device": "cpu",
        },
    }[name]
    for wrong in chance.sample(sorted(given), chance.choice((1, 1, 2))):
        given[wrong] = chance.choice(_ODD)
    # Nothing else may make it long.
    given |= {"steps": 1} if name == "train" else {}

    def work() -> None:
        with ended_in_one_sentence(["python"]):
            _call(name, given, models)

    return f"{name} {given!r}", work


def _call(name: str, given: dict[str, Any], models: Path) -> None:
    if name == "train":
        sightloop.train(given.pop("recipe"), **given)
    elif name == "load":
        sightloop.load(given.pop("source"), **given)
    elif name == "evaluate":
        sightloop.evaluate.clip_recall(given.pop("model"), given.pop("images"), **given)
    elif name == "caption":
        sightloop.load(str(models / "captioner"), device="cpu").caption(given.pop("images"), **given)
    else:
        model = sightloop.load(str(models / "show_o"), device="cpu")
        (model.generate if name == "generate" else model.answer)(**given)


def requested(examples: Path, chance: random.Random) -> tuple[str, Callable[[], object]]:
    """A request to the live page of two runs with something odd in it, in words and to be made."""
    path, body, query = chance.choice(_PATHS), b"", ""
    if chance.random() < 0.5:
        parts = path.split("/")
        parts[chance.randrange(len(parts))] = quote(chance.choice(ODD_WORDS), errors="surrogateescape")
        path = "/".join(parts)
    if chance.random() < 0.6:
        fields = [f"{chance.choice(_FIELDS)}={quote(chance.choice(ODD_WORDS), errors='replace')}"]
        query = "&".join(fields * chance.randint(1, 2))
    asked = {"image": "data:image/png;base64,AAAA", "prompt": "a dog", "question": "what?", "seed": 0}
    if path.startswith("/try"):
        body = damaged_json(json.dumps(asked), chance)
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    headers = headers[: chance.choice((1, 2, 2, 2))]
    scope = {
        "type": "http",
        "method": "POST" if body else chance.choice(("GET", "GET", "GET", "POST", "HEAD", "\x1b")),
        "path": "/" + path.lstrip("/"),
        "raw_path": path.encode(errors="replace"),
        "query_string": query.encode(errors="replace"),
        "headers": headers,
        "http_version": "1.1",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "root_path": "",
    }
    told = f"{scope['method']!a} {path!a}?{query} {body[:200]!r}"
    return told, lambda: asyncio.run(_ask(examples, scope, body))


async def _ask(examples: Path, scope: dict[str, Any], body: bytes) -> None:
    """Raises what the page raises; a page of an error, which it writes itself, would be no better."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    board = Board([examples / "captions_run", examples / "drawings_run"])
    await application(board)(scope, receive, send)  # pyright: ignore[reportArgumentType]
    say(f"status {sent[0]['status']}")
    if sent[0]["status"] >= 500:
        raise RuntimeError(f"status {sent[0]['status']}")
