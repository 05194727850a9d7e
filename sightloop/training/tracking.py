"""Optional trackers: they get the figures of metrics.jsonl, and as tables what else a run folder holds."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from sightloop.late import late
from sightloop.storage.files import object_or_empty, replace_text

Tracker = Literal["wandb", "tensorboard", "trackio"]
Row = Mapping[str, str | float | Path]
"""A line of a table; a path is an image."""
MAX_ROWS = 16
"""Samples of an evaluation that a tracker gets."""
_RESAMPLES = 1000
_TOLERANCE = 1e-3
# Neither it nor the types of evaluations are loaded where a command only reads its options.
_bootstrap_interval = late("sightloop.evaluation.intervals:bootstrap_interval")
_FILE = "tracking.json"
_SIDE = 128
"""Of the images of a sheet, in pixels."""


@dataclass(frozen=True, kw_only=True)
class TrackedAs:
    """Under which names trackers keep a run."""

    project: str = "sightloop"
    group: str = ""
    name: str = ""
    """Default: the run folder's."""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Log:
    """Where figures, tables and alarms of a step go, and the page once it is written."""

    write: Callable[[dict[str, float], int], object]
    table: Callable[[str, Sequence[Row], int], object]
    alarm: Callable[[str, str, int], object]
    page: Callable[[Path], object]
    close: Callable[[], object]


_USUAL = TrackedAs()
_AS: ContextVar[TrackedAs] = ContextVar("names under which trackers keep a run", default=_USUAL)


@contextmanager
def tracked_as(names: TrackedAs) -> Iterator[None]:
    """Inside, runs that start are kept under these names."""
    token = _AS.set(names)
    try:
        yield
    finally:
        _AS.reset(token)


def start_trackers(names: Sequence[Tracker], folder: Path, config: dict[str, Any]) -> list[Log]:
    """One log a tracker. A resumed run goes on under the names and the id that it began with.

    Raises:
        ValueError: a tracker is not installed, or a resumed run is called otherwise.
    """
    if not names:
        return []
    kept, number = _identity(folder)
    return [_START[name](folder, config, kept, number) for name in names]


def require_trackers(names: Sequence[Tracker]) -> None:
    """Look whether the trackers can be imported, without opening them.

    Raises:
        ValueError: one is not installed, or names are given for none.
    """
    for name in names:
        _module(name, _MODULES[name])
    given = [field for field, value in asdict(_AS.get()).items() if value != getattr(_USUAL, field)]
    if given and not names:
        raise ValueError(f"--track-{given[0]} has no effect without --track; leave it out")


def _identity(folder: Path) -> tuple[TrackedAs, str]:
    """The names of a run and its id, which stay in its folder."""
    path, given = folder / _FILE, _AS.get()
    # Folders of one name are common, so the id holds the whole path.
    code = hashlib.sha1(os.path.realpath(folder).encode()).hexdigest()[:8]
    saved = object_or_empty(path)
    if not saved:
        names = replace(given, name=given.name or folder.name)
        saved = {**asdict(names), "id": f"{folder.name}-{code}"}
        replace_text(path, json.dumps(saved, indent=1) + "\n")
    for field, value in asdict(given).items():
        was = tuple(saved["tags"]) if field == "tags" else saved[field]
        if value not in (was, asdict(_USUAL)[field]):
            raise ValueError(
                f"--track-{field} is {value!r}, but this run is tracked as {was!r}; leave it out"
            )
    names = {field: saved[field] for field in ("project", "group", "name")}
    return TrackedAs(**names, tags=tuple(saved["tags"])), str(saved["id"])


def _module(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"--track {name}: {error}; pip install 'sightloop[track]'") from error


def _wandb(folder: Path, config: dict[str, Any], names: TrackedAs, number: str) -> Log:
    wandb = _module("wandb", _MODULES["wandb"])
    run = wandb.init(
        project=names.project,
        group=names.group or None,
        name=names.name,
        tags=list(names.tags) or None,
        id=number,
        dir=folder,
        config=config,
        resume="allow",
    )
    # wandb's own step cannot go back, as a resume after a crash does.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")

    def page(path: Path) -> None:
        artifact = wandb.Artifact(f"report-{number}", type="report")
        artifact.add_file(str(path))
        run.log_artifact(artifact)

    return Log(
        write=lambda metrics, step: run.log({**metrics, "step": step}),
        table=lambda name, rows, step: run.log({name: _table(wandb, rows), "step": step}),
        alarm=lambda name, text, step: run.alert(title=name, text=f"step {step}: {text}"),
        page=page,
        close=run.finish,
    )


def _trackio(folder: Path, config: dict[str, Any], names: TrackedAs, number: str) -> Log:
    trackio = _module("trackio", _MODULES["trackio"])
    about = {**config, "tags": list(names.tags)} if names.tags else config
    trackio.init(
        project=names.project, name=names.name, group=names.group or None, config=about, resume="allow"
    )
    return Log(
        write=lambda metrics, step: trackio.log(metrics, step=step),
        table=lambda name, rows, step: trackio.log({name: _table(trackio, rows)}, step=step),
        alarm=lambda name, text, step: trackio.alert(title=name, text=f"step {step}: {text}"),
        page=lambda path: trackio.log_artifact(path, name=f"report-{number}", type="report"),
        close=trackio.finish,
    )


def _table(library: Any, rows: Sequence[Row]) -> Any:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    data = [[_cell(library, row.get(name)) for name in columns] for row in rows]
    return library.Table(columns=columns, data=data)


def _cell(library: Any, value: str | float | Path | None) -> Any:
    return library.Image(str(value)) if isinstance(value, Path) else value


def _tensorboard(folder: Path, config: dict[str, Any], names: TrackedAs, _number: str) -> Log:
    writer = _module("tensorboard", _MODULES["tensorboard"]).SummaryWriter(folder / "tensorboard")
    writer.add_text("config", f"    {json.dumps(config, indent=1, default=str)}".replace("\n", "\n    "))
    if names.group or names.tags:
        writer.add_text("names", ", ".join([names.project, names.group, names.name, *names.tags]))

    def write(metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def table(name: str, rows: Sequence[Row], step: int) -> None:
        images = [value for row in rows for value in row.values() if isinstance(value, Path)]
        if images:
            writer.add_images(name, _sheet(images), step, dataformats="NHWC")
        writer.add_text(name, _markdown(rows), step)

    return Log(
        write=write,
        table=table,
        alarm=lambda name, text, step: writer.add_text(f"alarms/{name}", text, step),
        page=lambda path: writer.add_text("report", str(path)),
        close=writer.close,
    )


def _sheet(images: Sequence[Path]) -> Any:
    # Loaded for tensorboard alone; this file is read before each command.
    numpy, pillow = importlib.import_module("numpy"), importlib.import_module("PIL.Image")
    shown = [pillow.open(path).convert("RGB").resize((_SIDE, _SIDE)) for path in images]
    return numpy.stack([numpy.asarray(each) for each in shown])


def _markdown(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        cells = [row.get(name, "") for name in columns]
        lines.append([f"{c:.4g}" if isinstance(c, float) else str(c).replace("|", "\\|") for c in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_MODULES: dict[Tracker, str] = {
    "wandb": "wandb",
    "tensorboard": "torch.utils.tensorboard",
    "trackio": "trackio",
}
_START: dict[Tracker, Callable[[Path, dict[str, Any], TrackedAs, str], Log]] = {
    "wandb": _wandb,
    "tensorboard": _tensorboard,
    "trackio": _trackio,
}


class Trackers:
    """All trackers of a run, which may be none."""

    def __init__(self, logs: Sequence[Log], folder: Path) -> None:
        self._logs = logs
        self._folder = folder

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Figures of a step."""
        for log in self._logs:
            log.write(dict(metrics), step)

    def gallery(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Samples of a batch."""
        for log in self._logs:
            log.table("samples", gallery_rows(self._folder, samples), step)

    def evaluation(self, name: str, step: int, samples: Sequence[Mapping[str, Any]], found: Any) -> None:
        """Figures with intervals, and the first samples that have an image."""
        for log in self._logs:
            log.table(f"{name}/figures", evaluation_rows(found), step)
            if rows := sample_rows(self._folder, samples, found):
                log.table(f"{name}/samples", rows, step)

    def alarm(self, name: str, message: str, step: int) -> None:
        """What looks wrong."""
        for log in self._logs:
            log.alarm(name, message, step)

    def publish(self, write_page: Callable[[Path], Path]) -> None:
        """The run's page, written where somebody gets it."""
        if self._logs:
            page = write_page(self._folder)
            for log in self._logs:
                log.page(page)

    def close(self) -> None:
        """Let all of them finish."""
        for log in self._logs:
            log.close()


def gallery_rows(folder: Path, samples: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row a sample: image, text, its words with their credit, total reward and its parts."""
    rows: list[Row] = []
    for sample in samples:
        row: dict[str, str | float | Path] = {
            **_image(folder, sample),
            "source": str(sample.get("source", "")),
        }
        row |= {name: str(sample[name]) for name in ("question", "truth", "answer") if sample.get(name)}
        words = list(zip(sample.get("pieces") or [], sample.get("credit") or [], strict=False))
        row["text"] = "".join(piece for piece, _ in words)
        row["credit"] = " ".join(
            f"{piece.strip()}({value or 0:+.2f})" for piece, value in words if piece.strip()
        )
        total = sample.get("reward")
        row["reward"] = float(sum(filter(None, sample.get("rewards") or [])) if total is None else total)
        row |= {name: _number(value) for name, value in (sample.get("parts") or {}).items()}
        rows.append(row)
    return rows


def evaluation_rows(evaluation: Any) -> list[Row]:
    """A row a figure, with the 95% interval of its mean over the samples where it is one."""
    rows: list[Row] = []
    for name, value in evaluation.metrics.items():
        row: dict[str, str | float | Path] = {"metric": name, "value": float(value)}
        values = list(evaluation.per_sample.get(name, ()))
        if len(values) > 1 and all(map(math.isfinite, values)) and abs(fmean(values) - value) < _TOLERANCE:
            interval = _bootstrap_interval(values, resamples=_RESAMPLES)
            row |= {"low": interval.low, "high": interval.high}
        else:
            row |= {"low": math.nan, "high": math.nan}
        rows.append(row)
    return rows


def sample_rows(folder: Path, samples: Sequence[Mapping[str, Any]], evaluation: Any) -> list[Row]:
    """The first samples of an evaluation with an image: what was written or drawn, and each figure of it."""
    rows: list[Row] = []
    for place, sample in enumerate(samples):
        if not sample.get("image") or len(rows) == MAX_ROWS:
            continue
        texts = {name: str(value) for name, value in sample.items() if name != "image" and value is not None}
        figures = {
            name: _number(values[place])
            for name, values in evaluation.per_sample.items()
            if len(values) == len(samples)
        }
        rows.append({**_image(folder, sample), **texts, **figures})
    return rows


def _image(folder: Path, sample: Mapping[str, Any]) -> dict[str, Path]:
    path = folder / str(sample.get("image") or "")
    return {"image": path} if path.is_file() else {}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
