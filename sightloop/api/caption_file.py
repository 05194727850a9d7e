"""The file that `caption` writes line by line, and goes on with after it was stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightloop.text_files import form_of, parse_json, read_json, read_lines, read_whole
from sightloop.training import distributed


@dataclass(frozen=True, kw_only=True)
class CaptionFile:
    """Captions as JSON lines; beside them, in `NAME.settings.json`, how they were written."""

    path: Path
    settings: Mapping[str, Any]
    done: frozenset[str]
    """Images that have a caption already, as whole paths."""
    size: int
    """Bytes of whole lines: what a killed command has left of another one is written over."""

    @staticmethod
    def opened(path: Path, settings: Mapping[str, Any]) -> CaptionFile:
        """The file as it stands; nothing is written yet.

        Raises:
            ValueError: it holds something else, or captions that were written in another way.
        """
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file")
        beside = _beside(path)
        if not path.is_file() or not path.stat().st_size:
            return CaptionFile(path=path, settings=settings, done=frozenset(), size=0)
        if not beside.is_file():
            raise ValueError(f"{path} is there, and nothing says how it was written; choose another --output")
        known = read_json(beside)
        for name, value in settings.items():
            if known.get(name) != value:
                raise ValueError(
                    f"{path} was written with {name} {known.get(name)!r}, not {value!r}; give the same, or "
                    "choose another --output"
                )
        done: set[str] = set()
        for line in read_lines(path):
            if line.is_ended:
                with form_of(line.place):
                    done.add(str(parse_json(line.text, line.place)["image"]))
        size = read_whole(path).rfind(b"\n") + 1
        return CaptionFile(path=path, settings=settings, done=frozenset(done), size=size)

    def write(self, pairs: Iterator[tuple[str, str]]) -> int:
        """Write each caption when it is there, behind those that are; how many. Nothing is touched before the
        first one. Of several ranks, which all have the captions, the first writes."""
        number = 0
        for path, caption in pairs:
            number += 1
            if distributed.rank():
                continue
            if number == 1:
                self._begin()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"image": os.path.abspath(path), "caption": caption}) + "\n")
        return number

    def _begin(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _beside(self.path).write_text(json.dumps(dict(self.settings), indent=1) + "\n", encoding="utf-8")
        self.path.touch()
        os.truncate(self.path, self.size)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.settings.json")
