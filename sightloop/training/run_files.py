"""The folder of a run: configuration, environment, figures, galleries, evaluations, checkpoints."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from sightloop import accelerator
from sightloop.former_names import current_metric
from sightloop.process.stopping import Stop
from sightloop.training import checkpoint, distributed, run_folder
from sightloop.training.alarms import Alarm, History, Record, Watch
from sightloop.training.gallery import copy_image, gallery_samples
from sightloop.training.progress import Progress
from sightloop.training.randomness import seed_everything
from sightloop.training.run_folder import PARTIAL, json_values, replace_text, write_run_json
from sightloop.training.schedule import Schedule
from sightloop.training.tracking import Log, Tracker, start_trackers
from sightloop.types import Credit, Evaluation, Rollout

_BYTES_A_SECOND = 50e6
"""That even slow disks take."""
NUM_EVALUATION_IMAGES = 64
"""Images of an evaluation that are copied into the run folder, for the report."""
_PACKAGES = ("sightloop", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pillow")


class Run:
    """Writes a run folder; only rank 0 touches the disk."""

    def __init__(
        self, folder: Path, config: dict[str, Any], schedule: Schedule, track: Sequence[Tracker]
    ) -> None:
        self.folder = folder
        self.schedule = schedule
        self.improved = False
        """True from an evaluation that is the best so far until the next checkpoint; on rank 0 only."""
        self._resumed = False
        self._writes = distributed.rank() == 0
        self._watch = Watch()
        self._records: dict[str, list[Record]] = {"train": [], "eval": []}
        self._trackers: list[Log] = start_trackers(track, folder, config) if self._writes else []
        self._progress: Progress | None = None
        self.saved_step = 0
        """Of the newest checkpoint; 0 = there is none."""
        self.stop = Stop(
            alone=distributed.num_ranks() == 1, speaks=self._writes, after_interrupt=self._after_interrupt
        )
        self._listening = ExitStack()

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
        """Start a run in a new or empty folder; with `overwrite` in place of an older run, of which the
        images stay and the rest is removed once the first checkpoint is written.

        Raises:
            ValueError: the folder holds something and `overwrite` is off, or something that is no run.
        """
        run_folder.reserve(
            folder, recipe=recipe, config=config, environment=run_environment(), overwrite=overwrite
        )
        return Run(folder, config, schedule, track)

    @staticmethod
    def resume(
        folder: Path, *, config: dict[str, Any], schedule: Schedule, track: Sequence[Tracker] = ()
    ) -> Run:
        """Go on with a run from its newest checkpoint, or from the start if it has none.

        Raises:
            ValueError: the folder holds no run.
        """
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} holds no config.json: there is no run to go on with")
        run = Run(folder, config, schedule, track)
        run._resumed = True
        return run

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.folder / "checkpoints"

    def restore(self, into: checkpoint.Saveable) -> int:
        """Put everything where the newest checkpoint left it; the number of the first step to do."""
        saved = checkpoint.finished_checkpoints(self.checkpoints)
        step = saved[-1].step if saved else -1
        if saved:
            checkpoint.read_checkpoint(saved[-1], into)
        else:
            seed_everything(self.schedule.seed + distributed.rank())
        # All ranks have read before rank 0 tidies up.
        distributed.barrier()
        if self._writes:
            self._forget_after(step)
            if self._resumed:
                self._note_resume(max(step, 0))
        distributed.barrier()
        self.saved_step = max(step, 0)
        first = self.saved_step + 1
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
            tracker.write(dict(metrics), step)
        if kind == "train":
            self._bar.step(dict(metrics))
        for alarm in self._watch.look(step, self._history()):
            self.alarm(alarm)

    def alarm(self, alarm: Alarm) -> None:
        """A plain sentence to the terminal and to alarms.jsonl."""
        if self._writes:
            self._append("alarms.jsonl", asdict(alarm))
            self.say(f"alarm at step {alarm.step}: {alarm.message}")

    def log_evaluation(self, step: int, name: str, evaluation: Evaluation) -> None:
        """The figures, and everything behind them in evaluations/."""
        self.log(step, "eval", {f"{name}/{metric}": value for metric, value in evaluation.metrics.items()})
        if not self._writes:
            return
        samples = []
        for index, sample in enumerate(evaluation.samples):
            wanted = index < NUM_EVALUATION_IMAGES and "image" not in sample
            image = copy_image(self.folder, sample.get("source", "")) if wanted else None
            samples.append(sample if image is None else {**sample, "image": image})
        record = {
            "name": name,
            "step": step,
            "metrics": evaluation.metrics,
            "per_sample": evaluation.per_sample,
            "samples": samples,
            "protocol": evaluation.protocol,
        }
        write_run_json(self.folder / "evaluations" / f"{name}_step_{step:06d}.json", record)
        self._require_watched(name, evaluation)
        self.improved = self.improved or (step > 0 and self._best_step({step}) == step)
        self._bar.evaluation(step, evaluation.metrics)

    def save_gallery(self, step: int, rollout: Rollout, credit: Credit) -> None:
        """What the first samples of the batch said, earned and were credited, token by token."""
        if self._writes:
            samples = gallery_samples(self.folder, rollout, credit)
            write_run_json(
                self.folder / "samples" / f"step_{step:06d}.json", {"step": step, "samples": samples}
            )

    def save(self, step: int, what: checkpoint.Saveable) -> None:
        """A checkpoint; the newest few and the best are kept."""
        for name in ("metrics.jsonl", "alarms.jsonl"):
            # On disk before the checkpoint that a resume takes them to be complete for.
            if self._writes and (self.folder / name).exists():
                checkpoint.flush_to_disk(self.folder / name)
        checkpoint.write_checkpoint(self.checkpoints, step, what)
        self.improved = False
        self.saved_step = step
        if self._writes:
            self._tidy_checkpoints()
            run_folder.remove_replaced(self.folder)

    def stop_on_signals(self) -> None:
        """Until the run is closed, the first interrupt ends it after the current step, the second at once;
        SIGTERM, SIGUSR1 and SIGHUP end it after what was finished before.
        """
        self._listening.enter_context(self.stop.listening())

    def _after_interrupt(self) -> tuple[str, str]:
        last = self._bar.done + (self.stop.work == "step")
        seconds = self._bar.seconds_a_step
        when = f"about {seconds:.0f} s" if seconds else "when it is done"
        if last <= self.saved_step:
            return when, ""
        first = self.saved_step + 1
        return when, f"step {last}" if first == last else f"steps {first}-{last}"

    def say_how_to_stop(self, what: checkpoint.Saveable) -> None:
        """Which signals stop the run, and how long before the end they are needed."""
        numbers = sum(
            p.numel() for module in what.trainable.values() for p in module.parameters() if p.requires_grad
        )
        seconds = math.ceil(10 + 12 * numbers / _BYTES_A_SECOND)
        self.say(
            "Ctrl-C stops after the step in flight; SIGTERM, SIGUSR1 and SIGHUP drop it and save what was "
            f"done. Schedulers should send them {seconds} s before the end (Slurm: --signal=USR1@{seconds})"
        )

    def not_evaluated(self, step: int, names: Iterable[str]) -> list[str]:
        """Evaluators of which no figure of this step is known."""
        known = {
            figure.partition("/")[0]
            for record in self._records["eval"]
            if record["step"] == step
            for figure in record
        }
        return distributed.gather([name for name in names if name not in known])[0]

    def say(self, message: str) -> None:
        """A line to the terminal."""
        self._bar.say(message)

    def say_how_to_resume(self, step: int) -> None:
        """The sentence of a run that was asked to stop."""
        done = f"stopped after step {step}" if step else "stopped before the first step"
        if not step and self.stop.by_interrupt:
            return self.say(done)
        self.say(f"{done}; go on with: sightloop train --resume {self.folder}")

    def close(self) -> None:
        """Leave the progress bar as it stands, let trackers finish, and hear no more signals."""
        self._listening.close()
        self._bar.close()
        for tracker in self._trackers:
            tracker.close()

    @property
    def _bar(self) -> Progress:
        if self._progress is None:
            self._progress = Progress(first=1, steps=self.schedule.steps, visible=self._writes)
        return self._progress

    def _require_watched(self, name: str, evaluation: Evaluation) -> None:
        evaluator, _, metric = (self.schedule.best_metric or "").partition("/")
        if evaluator == name and metric not in evaluation.metrics:
            known = ", ".join(evaluation.metrics)
            raise ValueError(f"best_metric is {evaluator}/{metric}, but {name!r} measures {known}")

    def _best_step(self, candidates: set[int]) -> int | None:
        """The step after training began with the best figure so far; None if it is not among `candidates`."""
        wanted = self.schedule.best_metric or ""
        known = [
            (record[wanted], record["step"])
            for record in self._records["eval"]
            if record["step"] > 0 and math.isfinite(record.get(wanted, math.nan))
        ]
        best = int(max(known)[1]) if known else None
        return best if best in candidates else None

    def _tidy_checkpoints(self) -> None:
        kept = {saved.step for saved in checkpoint.finished_checkpoints(self.checkpoints)}
        if self.checkpoints.is_dir():
            checkpoint.name_best(self.checkpoints, self._best_step(kept))
        checkpoint.prune(self.checkpoints, keep=self.schedule.keep_checkpoints)

    def _history(self) -> History:
        return History(
            train=self._records["train"], evals=self._records["eval"], watched=self.schedule.best_metric
        )

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    def _forget_after(self, step: int) -> None:
        # What a killed run wrote beyond its last checkpoint is written again, and must not be there twice.
        for name in ("metrics.jsonl", "alarms.jsonl"):
            path = self.folder / name
            if path.exists():
                kept = [record for record in _lines(path) if record["step"] <= step]
                replace_text(path, "".join(json.dumps(json_values(record)) + "\n" for record in kept))
        for path in [*self.folder.glob("samples/*.json"), *self.folder.glob("evaluations/*.json")]:
            if int(path.stem.rsplit("step_", 1)[1]) > step:
                path.unlink()
        for pattern in (
            f"*{PARTIAL}",
            f"samples/*{PARTIAL}",
            f"evaluations/*{PARTIAL}",
            f"images/*{PARTIAL}",
        ):
            for path in self.folder.glob(pattern):
                path.unlink()
        records = _lines(self.folder / "metrics.jsonl")
        self._watch.relive(records, self.schedule.best_metric)
        for record in records:
            figures = {name: value for name, value in record.items() if name != "kind"}
            self._records[record["kind"]].append(figures)
        self._tidy_checkpoints()

    def _note_resume(self, step: int) -> None:
        path = self.folder / "environment.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        known["resumed"] = [*known.get("resumed", []), {"step": step, **run_environment()}]
        write_run_json(path, known)


def run_environment() -> dict[str, Any]:
    """Versions, hardware and command of this process."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed as a package"
    # Its own number also names its build.
    versions["torch"] = str(torch.__version__)
    devices = [accelerator.described(device).name for device in accelerator.found()]
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
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        # Installed somewhere: the repository around it, if any, is another one.
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    # A killed process can leave half a last line.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    records = [json.loads(line) for line in lines]
    return [
        {current_metric(name): math.nan if value is None else value for name, value in one.items()}
        for one in records
    ]


def is_run(name: str | Path) -> bool:
    """Whether this is a run folder."""
    return (Path(name) / "metrics.jsonl").is_file()
