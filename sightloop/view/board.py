"""The runs of a live page: read when they are opened, and again whenever their files have changed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

from sightloop.report.comparison import comparison_heading, comparison_sections, run_names
from sightloop.report.drawings import drawings_of
from sightloop.report.joint import joint
from sightloop.report.page import figures_of, further_of, heading, in_section
from sightloop.report.run import KeptParts, RunRecords, read_run

_FILES = ("config.json", "metrics.jsonl", "alarms.jsonl", "checkpoints/best")
_FOLDERS = ("evaluations", "samples")


class ViewedRun:
    """A run folder, its records as they were when they were last read."""

    def __init__(self, folder: Path, place: int) -> None:
        self.folder = folder
        self._url = f"/image/{place}/"
        self._kept = KeptParts()
        self._seen = self._stamp()
        self.records = self._read()

    def refresh(self) -> bool:
        """Read again what has changed; whether anything has."""
        now = self._stamp()
        if now == self._seen:
            return False
        self.records = self._read()
        self._seen = now
        return True

    def _read(self) -> RunRecords:
        return read_run(self.folder, kept=self._kept, image_url=self._url)

    def _stamp(self) -> list[tuple[str, int, int]]:
        paths = [self.folder / name for name in _FILES]
        paths += [path for name in _FOLDERS for path in sorted((self.folder / name).glob("*.json"))]
        stats = [(path, path.stat()) for path in paths if path.is_file()]
        return [(str(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats]


class Board:
    """Several runs and the parts of their pages, made once for each state of the files.

    Part `-1` of several runs is their comparison.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.runs = [ViewedRun(folder, place) for place, folder in enumerate(folders)]
        self._parts: dict[int, dict[str, str]] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The runs' names."""
        return run_names(self.records)

    @property
    def records(self) -> list[RunRecords]:
        """What the runs tell."""
        return [run.records for run in self.runs]

    def sections(self, place: int) -> dict[str, str]:
        """The parts of a page that are whole for each state of the files, by anchor; "top" is above them.

        Whoever comes while they are made anew is given the older ones.
        """
        known = self._parts.get(place)
        if not self._lock.acquire(blocking=known is None):
            return known or {}
        try:
            changed = [run.refresh() for run in self.runs]
            if any(changed):
                self._parts = {}
            if place not in self._parts:
                self._parts = {**self._parts, place: self._made(place)}
            return self._parts[place]
        finally:
            self._lock.release()

    def state(self, place: int) -> dict[str, str]:
        """A digest of each part; and one of the samples, as "samples"."""
        digests = {anchor: _digest(text) for anchor, text in self.sections(place).items()}
        shown = self.records if place < 0 else [self.runs[place].records]
        steps = [
            (sorted(run.galleries), [sorted(by) for by in run.evaluations.values()], run.best_step)
            for run in shown
        ]
        return {**digests, "samples": _digest(str(steps))}

    def _made(self, place: int) -> dict[str, str]:
        if place < 0:
            top = comparison_heading(self.records)
            sections = [each for each in comparison_sections(self.records) if each[0] != "same"]
        else:
            run = self.runs[place].records
            top = heading(run)
            drawings = drawings_of(run)
            both = [("sides", "Drawing and answering", joint(drawings))] if drawings else []
            sections = [*figures_of(run), *both, *further_of(run)]
        return {"top": top, **{each[0]: in_section(*each) for each in sections}}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
