"""Reads a run folder: what was logged, drawn and evaluated, while the run goes on or after it ended."""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sightloop.former_names import current_metric, current_settings
from sightloop.image_files import reduced_copy
from sightloop.text_files import (
    MAX_BYTES,
    Line,
    form_of,
    parse_json,
    read_json,
    read_lines,
    read_text_file,
    read_whole,
)

_STEP = re.compile(r"step_(\d+)")
_EVALUATION = re.compile(r"^(?P<name>.+)_step_(?P<step>\d+)$")
TINY_SIDE = 64
"""Largest side of an image that is enlarged without blurring, in pixels."""
_HELD_BYTES, _HELD_SIDE = 60_000, 384
"""Larger images are held by a page as JPEG with such sides, so that hundreds of them can be sent by mail."""
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


@dataclass(frozen=True, kw_only=True)
class RunAlarm:
    """One sentence the run raised about itself."""

    step: int
    name: str
    message: str


@dataclass(frozen=True, kw_only=True)
class GallerySample:
    """One caption, or drawing and answer, of a training batch: what its tokens earned and were credited."""

    source: str
    """Where the image came from; the prompt of a drawing."""
    image: str
    """Path relative to the run folder; "" if there is none."""
    pieces: list[str]
    rewards: list[float]
    credit: list[float]
    values: list[float]
    """What the critic expected; empty if there is no critic."""
    ended: bool
    parts: dict[str, float]
    question: str = ""
    truth: str = ""
    answer: str = ""
    """The judged answer about a drawing."""
    group: int | None = None
    """Drawings of one prompt share a group; None: this is a caption."""
    group_size: int = 0
    """Drawings of the group in the batch, of which the gallery may hold fewer."""
    reward: float = math.nan
    """All that a drawing earned."""
    drawing_credit: float = math.nan
    """Mean over the codes of the drawing that count."""
    drawing_log_prob: float = math.nan
    """Mean over the codes of the drawing; NaN if it was not recorded."""


@dataclass(frozen=True, kw_only=True)
class RunImage:
    """An image of a run, inside the page or at an address of the program that serves it."""

    uri: str
    is_tiny: bool
    """True if its pixels should stay visible squares when it is enlarged."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """What one evaluator found at one step."""

    name: str
    step: int
    metrics: dict[str, float]
    per_sample: dict[str, list[float]]
    samples: list[dict[str, str]]
    protocol: dict[str, str]

    @property
    def of_drawings(self) -> bool:
        """True if its samples are drawings that were judged."""
        return bool(self.samples) and "drawn" in self.samples[0]


@dataclass(frozen=True, kw_only=True)
class RunRecords:
    """All that a run folder tells. Metrics are keyed by step; step 0 is before training."""

    path: Path
    recipe: str
    config: dict[str, Any]
    environment: dict[str, Any]
    train: dict[int, dict[str, float]] = field(default_factory=dict)
    evals: dict[int, dict[str, float]] = field(default_factory=dict)
    alarms: list[RunAlarm] = field(default_factory=list)
    galleries: dict[int, list[GallerySample]] = field(default_factory=dict)
    evaluations: dict[str, dict[int, EvaluationRecord]] = field(default_factory=dict)
    """By evaluator, then by step."""
    best_step: int | None = None
    image_url: str = ""
    """Address below which the run's images are served; "" = they travel inside the page."""

    @property
    def name(self) -> str:
        """The name of the run: its folder's."""
        return self.path.name

    @property
    def draws(self) -> bool:
        """True if the model draws: its drawings were evaluated or stand in a gallery."""
        return any(
            record.of_drawings for by_step in self.evaluations.values() for record in by_step.values()
        ) or any(sample.group is not None for samples in self.galleries.values() for sample in samples)

    @property
    def last_step(self) -> int:
        """The number of finished optimizer steps that were logged."""
        return max([0, *self.train, *self.evals])

    @property
    def planned_steps(self) -> int | None:
        """The number of steps the configuration asks for; None if it does not say."""
        schedule = self.config.get("schedule")
        for place in (self.config, schedule if isinstance(schedule, dict) else {}):
            steps = place.get("steps")
            if isinstance(steps, int):
                return steps
        return None

    @property
    def finished(self) -> bool:
        """True unless the configuration asks for more steps than were logged."""
        return self.planned_steps is None or self.last_step >= self.planned_steps


class KeptParts:
    """What was made of a run's files, so that a run which is read again and again is parsed once."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What stands under the key; made if it is not there."""
        if key not in self._found:
            self._found[key] = make()
        return self._found[key]

    def of_file(self, path: Path, make: Callable[[], Any]) -> Any:
        """What was made of this file as it is now."""
        now = path.stat()
        return self.get((path, now.st_mtime_ns, now.st_size), make)


def read_run(run_folder: Path, *, kept: KeptParts | None = None, image_url: str = "") -> RunRecords:
    """Everything in a run folder; parts that do not exist yet are empty.

    Raises:
        ValueError: if the folder is missing, is no run folder, or holds a damaged file.
    """
    folder = Path(os.path.realpath(run_folder))
    if not folder.is_dir():
        raise ValueError(f"no run folder at {run_folder}; give the folder that holds config.json")
    if not (folder / "config.json").is_file() and not (folder / "metrics.jsonl").is_file():
        raise ValueError(
            f"{run_folder} holds neither config.json nor metrics.jsonl; give the folder of one run, "
            "as in runs/NAME"
        )
    config = _object(folder / "config.json")
    with form_of(str(folder / "config.json")):
        settings = current_settings(config.get("config") or {})
    kept = kept or KeptParts()
    records = _records(folder / "metrics.jsonl", kept)
    evaluations = _evaluations(folder, kept)
    return RunRecords(
        path=folder,
        recipe=str(config.get("recipe", "")),
        config=settings,
        environment=_object(folder / "environment.json"),
        train=_by_step(records, "train"),
        evals=_with_files(_by_step(records, "eval"), evaluations),
        alarms=[_alarm(place, line) for place, line in _lines(folder / "alarms.jsonl")],
        galleries=_galleries(folder, kept),
        evaluations=evaluations,
        best_step=_best_step(folder / "checkpoints" / "best"),
        image_url=image_url,
    )


def run_image(run: RunRecords, image: str) -> RunImage | None:
    """The image at `image` below the run's folder; None if it is missing, no image, or lies elsewhere."""
    path = image_file(run.path, image)
    if path is None:
        return None
    content = _head(path) if run.image_url else read_whole(path)
    # A PNG tells its width and height, four bytes each, from byte 16 on.
    sides = (int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big"))
    kind = _kind(content)
    uri = f"{run.image_url}{quote(image)}"
    if not run.image_url:
        held = reduced_copy(content, _HELD_SIDE) if len(content) > _HELD_BYTES else content
        uri = f"data:{_kind(held)};base64,{base64.b64encode(held).decode('ascii')}"
    return RunImage(uri=uri, is_tiny=kind == "image/png" and max(sides) <= TINY_SIDE)


def image_file(folder: Path, image: str) -> Path | None:
    """The file of the image at `image` below `folder`; None if it is missing, no image, or lies elsewhere."""
    path = Path(os.path.realpath(folder / image))
    if not image or not path.is_relative_to(os.path.realpath(folder)) or not path.is_file():
        return None
    return path if _kind(_head(path)) and path.stat().st_size <= MAX_BYTES else None


def _head(path: Path) -> bytes:
    with path.open("rb") as opened:
        return opened.read(24)


def _kind(content: bytes) -> str:
    return next((kind for signature, kind in _SIGNATURES.items() if content.startswith(signature)), "")


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {current_metric(name): _number(value) for name, value in values.items()}


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return read_json(path, fix="delete it or write it again")


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        return []
    # A run that is still writing may have got halfway through its last line.
    whole = [line for line in read_lines(path) if line.is_ended or not line.is_last]
    return [(line.place, parse_json(line.text, line.place, fix="delete that line")) for line in whole]


def _records(path: Path, kept: KeptParts) -> list[tuple[str, int, dict[str, float]]]:
    """Kind, step and numbers of each line."""
    if not path.is_file():
        return []
    # A run that is still writing may have got halfway through its last line.
    whole = [line for line in read_lines(path) if line.is_ended or not line.is_last]
    return [kept.get(line.text, partial(_record, line)) for line in whole]


def _record(line: Line) -> tuple[str, int, dict[str, float]]:
    record = parse_json(line.text, line.place, fix="delete that line")
    kind = str(record.get("kind"))
    if kind not in ("train", "eval"):
        return kind, 0, {}
    values = {name: value for name, value in record.items() if name not in ("step", "kind")}
    with form_of(line.place):
        return kind, int(record["step"]), _numbers(values)


def _alarm(place: str, line: dict[str, Any]) -> RunAlarm:
    with form_of(place):
        return RunAlarm(step=int(line["step"]), name=str(line["name"]), message=str(line["message"]))


def _by_step(records: list[tuple[str, int, dict[str, float]]], kind: str) -> dict[int, dict[str, float]]:
    merged: dict[int, dict[str, float]] = {}
    for its_kind, step, numbers in records:
        if its_kind == kind:
            # A resumed run repeats steps; what it wrote later is what the weights have seen.
            merged.setdefault(step, {}).update(numbers)
    return dict(sorted(merged.items()))


def _with_files(
    evals: dict[int, dict[str, float]], evaluations: dict[str, dict[int, EvaluationRecord]]
) -> dict[int, dict[str, float]]:
    merged: dict[int, dict[str, float]] = {}
    for name, by_step in evaluations.items():
        for step, record in by_step.items():
            found = {f"{name}/{metric}": value for metric, value in record.metrics.items()}
            merged.setdefault(step, {}).update(found)
    for step, values in evals.items():
        merged.setdefault(step, {}).update(values)
    return dict(sorted(merged.items()))


def _evaluations(folder: Path, kept: KeptParts) -> dict[str, dict[int, EvaluationRecord]]:
    found: dict[str, dict[int, EvaluationRecord]] = {}
    for path in sorted((folder / "evaluations").glob("*.json")):
        match = _EVALUATION.match(path.stem)
        if match is None:
            raise ValueError(f"{path} is not named EVALUATOR_step_NUMBER.json; move it elsewhere")
        with form_of(str(path)):
            record = kept.of_file(path, partial(_evaluation, path, match))
        found.setdefault(record.name, {})[record.step] = record
    return {name: dict(sorted(by_step.items())) for name, by_step in sorted(found.items())}


def _evaluation(path: Path, match: re.Match[str]) -> EvaluationRecord:
    content = _object(path)
    return EvaluationRecord(
        name=current_metric(str(content.get("name", match["name"]))),
        step=int(content.get("step", match["step"])),
        metrics=_numbers(content.get("metrics") or {}),
        per_sample={
            current_metric(metric): [_number(value) for value in values]
            for metric, values in (content.get("per_sample") or {}).items()
        },
        samples=[
            {key: str(value) for key, value in sample.items() if value is not None}
            for sample in content.get("samples") or []
        ],
        protocol={key: str(value) for key, value in (content.get("protocol") or {}).items()},
    )


def _galleries(folder: Path, kept: KeptParts) -> dict[int, list[GallerySample]]:
    paths = sorted((folder / "samples").glob("step_*.json"))
    return dict(sorted((kept.of_file(path, partial(_gallery, path)) for path in paths), key=itemgetter(0)))


def _gallery(path: Path) -> tuple[int, list[GallerySample]]:
    content = _object(path)
    match = _STEP.search(path.stem)
    with form_of(str(path)):
        step = int(content["step"]) if "step" in content else int(match[1]) if match else 0
        return step, [_gallery_sample(sample) for sample in content.get("samples") or []]


def _gallery_sample(sample: dict[str, Any]) -> GallerySample:
    return GallerySample(
        source=str(sample.get("source") or ""),
        image=str(sample.get("image") or ""),
        pieces=[str(piece) for piece in sample.get("pieces") or []],
        rewards=[_number(value) for value in sample.get("rewards") or []],
        credit=[_number(value) for value in sample.get("credit") or []],
        values=[_number(value) for value in sample.get("values") or []],
        ended=bool(sample.get("ended", True)),
        parts=_numbers(sample.get("parts") or {}),
        question=str(sample.get("question") or ""),
        truth=str(sample.get("truth") or ""),
        answer=str(sample.get("answer") or ""),
        group=None if sample.get("group") is None else int(sample["group"]),
        group_size=int(sample.get("group_size") or 0),
        reward=_number(sample.get("reward")),
        drawing_credit=_number(sample.get("drawing_credit")),
        drawing_log_prob=_number(sample.get("drawing_log_prob")),
    )


def _best_step(path: Path) -> int | None:
    """`best` may be a text file that names a step, or a link to that step's checkpoint."""
    if path.is_symlink() or path.is_dir():
        text = os.path.basename(os.path.realpath(path))
    elif path.is_file():
        text = read_text_file(path)
    else:
        return None
    match = re.search(r"\d+", text)
    if match is None:
        raise ValueError(f"{path} names no step but {text[:60]!r}; write a name such as step_000100")
    return int(match[0])
