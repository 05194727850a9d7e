"""The folder of a run: configuration, environment, figures, galleries, evaluations, checkpoints."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from sightloop.training import checkpoint, distributed
from sightloop.training.alarms import Alarm, History, Record, Watch
from sightloop.training.progress import Progress
from sightloop.training.schedule import Schedule
from sightloop.training.tracking import Log, Tracker, start_trackers
from sightloop.types import Credit, Evaluation, Images, Rollout

GALLERY_SIZE = 16
NUM_EVALUATION_PICTURES = 64
"""Pictures of an evaluation that are copied into the run folder, for the report."""
_PICTURE_SIDE = 256
_PACKAGES = ("sightloop", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pillow")


class Run:
    """Writes a run folder; only rank 0 touches the disk."""

    def __init__(self, folder: Path, config: dict[str, Any], schedule: Schedule, track: Sequence[Tracker]) -> None:
        self.folder = folder
        self.schedule = schedule
        self.stop_requested = False
        self._writes = distributed.rank() == 0
        self._watch = Watch()
        self._records: dict[str, list[Record]] = {"train": [], "eval": []}
        self._trackers: list[Log] = start_trackers(track, folder, config) if self._writes else []
        self._progress: Progress | None = None

    @staticmethod
    def create(
        folder: Path,
        *,
        recipe: str,
        config: dict[str, Any],
        schedule: Schedule,
        overwrite: bool = False,
        track: Sequence[Tracker] = (),
    ) -> Run:
        """Start a run in a new or empty folder; `overwrite` empties an older run first (its pictures stay).

        Raises:
            ValueError: the folder holds something and `overwrite` is off.
        """
        if distributed.rank() == 0:
            _make_room(folder, overwrite)
            folder.mkdir(parents=True, exist_ok=True)
            _write_json(folder / "config.json", {"recipe": recipe, "config": config})
            _write_json(folder / "environment.json", environment())
        distributed.barrier()
        return Run(folder, config, schedule, track)

    @staticmethod
    def resume(folder: Path, *, config: dict[str, Any], schedule: Schedule, track: Sequence[Tracker] = ()) -> Run:
        """Go on with a run from its newest checkpoint, or from the start if it has none."""
        return Run(folder, config, schedule, track)

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.folder / "checkpoints"

    def restore(
        self, trainable: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, batches: Any
    ) -> int:
        """Put everything where the newest checkpoint left it; the number of the first step to do."""
        saved = checkpoint.finished_checkpoints(self.checkpoints)
        step = saved[-1].step if saved else -1
        if saved:
            batches.load_state_dict(checkpoint.read_checkpoint(saved[-1], trainable=trainable, optimizer=optimizer))
        if self._writes:
            self._forget_after(step)
            for record in _lines(self.folder / "metrics.jsonl"):
                self._records[record["kind"]].append(record)
            self._watch.look(step, self._history())
        distributed.barrier()
        first = max(step, 0) + 1
        self._progress = Progress(first=first, steps=self.schedule.steps, visible=self._writes)
        return first

    def due(self, step: int, every: int) -> bool:
        """Every so many steps, and at the last one."""
        return step % every == 0 or step == self.schedule.steps

    def log(self, step: int, kind: str, metrics: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, the trackers, the bar, and the alarms."""
        if not self._writes:
            return
        figures = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._append("metrics.jsonl", {"step": step, "kind": kind, **figures})
        self._records[kind].append({"step": step, **metrics})
        for tracker in self._trackers:
            tracker(dict(metrics), step)
        if kind == "train":
            self._bar.step(dict(metrics))
        for alarm in self._watch.look(step, self._history()):
            self.alarm(alarm)

    def alarm(self, alarm: Alarm) -> None:
        """A plain sentence to the terminal and to alarms.jsonl."""
        if self._writes:
            self._append("alarms.jsonl", asdict(alarm))
            self._bar.say(f"alarm at step {alarm.step}: {alarm.message}")

    def log_evaluation(self, step: int, name: str, evaluation: Evaluation) -> None:
        """The figures, and everything behind them in evaluations/."""
        self.log(step, "eval", {f"{name}/{metric}": value for metric, value in evaluation.metrics.items()})
        if not self._writes:
            return
        samples = []
        for index, sample in enumerate(evaluation.samples):
            copy = index < NUM_EVALUATION_PICTURES and Path(sample["source"]).is_file()
            picture = {"image": self._copy_picture(Path(sample["source"]))} if copy else {}
            samples.append({**sample, **picture})
        record = {
            "name": name,
            "step": step,
            "metrics": evaluation.metrics,
            "per_sample": evaluation.per_sample,
            "samples": samples,
            "protocol": evaluation.protocol,
        }
        _write_json(self.folder / "evaluations" / f"{name}_step_{step:06d}.json", record)
        self._note_best(step, name, evaluation)
        self._bar.evaluation(evaluation.metrics)

    def save_gallery(self, step: int, rollout: Rollout, credit: Credit) -> None:
        """What the first samples of the batch said, earned and were credited, token by token."""
        if not self._writes:
            return
        tokens = rollout.turns[-1].tokens
        pictures = rollout.turns[0].prompt.images
        samples = []
        for row in range(min(GALLERY_SIZE, len(rollout))):
            length = int(tokens.mask[row].sum())
            pieces = rollout.pieces[row]
            samples.append(
                {
                    "source": rollout.sources[row],
                    "image": self._save_picture(pictures.pixels[row]) if isinstance(pictures, Images) else "",
                    "pieces": pieces + [""] * (length - len(pieces)),
                    "rewards": _numbers(rollout.rewards[row, :length]),
                    "credit": _numbers(credit.advantages[row, :length]),
                    "values": None if credit.values is None else _numbers(credit.values[row, :length]),
                    "ended": len(pieces) < length,
                    "parts": {name: float(part[row]) for name, part in rollout.reward_parts.items()},
                }
            )
        _write_json(self.folder / "samples" / f"step_{step:06d}.json", {"step": step, "samples": samples})

    def save(
        self, step: int, trainable: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, batches: Any
    ) -> None:
        """A checkpoint; the newest few and the best are kept."""
        checkpoint.write_checkpoint(
            self.checkpoints, step, trainable=trainable, optimizer=optimizer, batches_state=batches.state_dict()
        )
        if self._writes:
            checkpoint.prune(self.checkpoints, keep=self.schedule.keep_checkpoints)

    def stop_on_signals(self) -> None:
        """SIGTERM and the first interrupt end the run after the current step; the second one at once."""

        def stop(number: int, _frame: FrameType | None) -> None:
            if self.stop_requested and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop_requested = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)

    def say(self, message: str) -> None:
        """A line to the terminal."""
        if self._writes:
            self._bar.say(message)

    def say_how_to_resume(self, step: int) -> None:
        """The sentence of a run that was asked to stop."""
        self.say(f"stopped after step {step}; go on with: sightloop train --resume {self.folder}")

    def close(self) -> None:
        """Leave the progress bar as it stands."""
        self._bar.close()

    @property
    def _bar(self) -> Progress:
        if self._progress is None:
            self._progress = Progress(first=1, steps=self.schedule.steps, visible=self._writes)
        return self._progress

    def _note_best(self, step: int, name: str, evaluation: Evaluation) -> None:
        wanted = self.schedule.best_metric
        if wanted is None or not wanted.startswith(f"{name}/"):
            return
        metric = wanted.removeprefix(f"{name}/")
        if metric not in evaluation.metrics:
            known = ", ".join(evaluation.metrics)
            raise ValueError(f"best_metric is {wanted!r}; evaluator {name!r} measures {known}")
        past = [record[wanted] for record in self._records["eval"] if wanted in record]
        if evaluation.metrics[metric] >= max(past) and step > 0:
            checkpoint.name_best(self.checkpoints, step)

    def _history(self) -> History:
        return History(
            train=self._records["train"], evals=self._records["eval"], watched=self.schedule.best_metric
        )

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _forget_after(self, step: int) -> None:
        # What a killed run wrote beyond its last checkpoint is written again, and must not be there twice.
        for name in ("metrics.jsonl", "alarms.jsonl"):
            path = self.folder / name
            if path.exists():
                kept = [record for record in _lines(path) if record["step"] <= step]
                _replace_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        for path in [*self.folder.glob("samples/*.json"), *self.folder.glob("evaluations/*.json")]:
            if int(path.stem.rsplit("step_", 1)[1]) > step:
                path.unlink()
        best = checkpoint.best_step(self.checkpoints)
        if best is not None and best > step:
            (self.checkpoints / "best").unlink()
        checkpoint.prune(self.checkpoints, keep=self.schedule.keep_checkpoints)

    def _save_picture(self, pixels: Tensor) -> str:
        return self._keep(Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()))

    def _copy_picture(self, path: Path) -> str:
        with Image.open(path) as picture:
            return self._keep(picture.convert("RGB"))

    def _keep(self, picture: Image.Image) -> str:
        picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
        name = f"images/{hashlib.sha1(picture.tobytes()).hexdigest()}.png"
        path = self.folder / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            picture.save(path)
        return name


def environment() -> dict[str, Any]:
    """Versions, hardware and command of this process."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed as a package"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "devices": devices or [platform.processor() or platform.machine()],
        "ranks": distributed.num_ranks(),
        "threads": torch.get_num_threads(),
        "command": sys.argv,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


def _make_room(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"{folder} is not empty; go on with --resume {folder}, replace it with --overwrite, or choose another --run")
    if not (folder / "config.json").exists() and any(item.name != "pictures" for item in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and not a run; --overwrite only replaces runs")
    for item in folder.iterdir():
        if item.name == "pictures":
            continue
        shutil.rmtree(item) if item.is_dir() else item.unlink()


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    # A killed process can leave half a last line.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace_text(path, json.dumps(data, indent=1) + "\n")


def _numbers(values: Tensor) -> list[float]:
    return [float(value) for value in values]
