"""The folder of a run: configuration, environment, figures, galleries, evaluations, checkpoints."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sightloop.former_names import current_metric
from sightloop.process.stopping import Stop
from sightloop.storage.environment import run_environment
from sightloop.storage.files import (
    PARTIAL,
    flush_to_disk,
    object_or_empty,
    replace_text,
    write_run_json,
)
from sightloop.storage.lines import (
    Lines,
    line_checksums,
    lines_of_checkpoint,
    lines_until,
    missing_steps,
)
from sightloop.training import checkpoint, distributed, run_folder
from sightloop.training.alarms import Alarm, History, Record, Watch
from sightloop.training.gallery import NUM_EVALUATION_IMAGES, copy_image, gallery_samples
from sightloop.training.progress import Progress
from sightloop.training.randomness import seed_everything
from sightloop.training.schedule import Schedule
from sightloop.training.tracking import Tracker, Trackers, start_trackers
from sightloop.types import Credit, Evaluation, Rollout

_BYTES_A_SECOND = 50e6
"""That even slow disks take."""
_LOGS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "metrics.jsonl": lambda record: record.get("kind") in {"train", "eval"},
    "alarms.jsonl": lambda record: "name" in record and "message" in record,
}
"""Files that a line is appended to at a time, and what each of their lines is like."""
_OF_STEP = re.compile(r"(?:^|_)step_(\d+)$")


class Run:
    """Writes a run folder; only rank 0 touches the disk."""

    def __init__(
        self, folder: Path, config: dict[str, Any], schedule: Schedule, track: Sequence[Tracker]
    ) -> None:
        self.folder = folder
        self.schedule = schedule
        self.improved = False
        """True from an evaluation that is the best so far until the next checkpoint; on rank 0 only."""
        self._resumed: tuple[dict[str, Any], dict[str, Any]] | None = None
        self._writes = distributed.rank() == 0
        self._watch = Watch()
        self._records: dict[str, list[Record]] = {"train": [], "eval": []}
        self.trackers = Trackers(start_trackers(track, folder, config) if self._writes else (), folder)
        self._progress: Progress | None = None
        self.saved_step = 0
        """Of the newest checkpoint; 0 = there is none."""
        self.stop = Stop(speaks=self._writes, after_interrupt=self._after_interrupt)
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
            folder,
            recipe=recipe,
            config=config,
            environment=run_environment(ranks=distributed.num_ranks()),
            overwrite=overwrite,
        )
        return Run(folder, config, schedule, track)

    @staticmethod
    def resume(
        folder: Path,
        *,
        config: dict[str, Any],
        schedule: Schedule,
        track: Sequence[Tracker] = (),
        changes: Mapping[str, Any] | None = None,
    ) -> Run:
        """Go on with a run from its newest checkpoint, or from the start if it has none.

        `changes` are settings of `config` that the run did not have before; they are kept from now on.

        Raises:
            ValueError: the folder holds no run.
        """
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} holds no config.json: there is no run to go on with")
        run = Run(folder, config, schedule, track)
        run._resumed = (config, dict(changes or {}))
        return run

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.folder / "checkpoints"

    def restore(self, into: checkpoint.Saveable) -> int:
        """Put everything where the newest checkpoint left it; the number of the first step to do."""
        found = checkpoint.newest_intact(self.checkpoints) if self._writes else None
        # One rank looks, so that all take the same.
        saved, problems = distributed.gather(found)[0] or (None, [])
        step = saved.step if saved else -1
        if step > self.schedule.steps:
            raise ValueError(f"steps is {self.schedule.steps}, and {self.folder} is at step {step} already")
        if saved:
            checkpoint.read_checkpoint(saved, into)
        else:
            seed_everything(self.schedule.seed + distributed.rank())
        # All ranks have read before rank 0 tidies up.
        distributed.barrier()
        if self._writes:
            for problem in problems:
                self.say(f"{problem}: the run goes on from the checkpoint before it, of step {step}")
            self._forget_after(saved)
            if self._resumed is not None:
                self._note_resume(max(step, 0), *self._resumed)
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
        self.trackers.write(metrics, step)
        if kind == "train":
            self._bar.step(dict(metrics))
        for alarm in self._watch.look(step, self._history()):
            self.alarm(alarm)

    def alarm(self, alarm: Alarm) -> None:
        """A plain sentence to the terminal and to alarms.jsonl."""
        if self._writes:
            self._append("alarms.jsonl", asdict(alarm))
            self.trackers.alarm(alarm.name, alarm.message, alarm.step)
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
        self.trackers.evaluation(name, step, samples, evaluation)
        self._require_watched(name, evaluation)
        figures = self._figures()
        self.improved = self.improved or (step in figures and figures[step] == max(figures.values()))
        self._bar.evaluation(step, evaluation.metrics)

    def save_gallery(self, step: int, rollout: Rollout, credit: Credit) -> None:
        """What the first samples of the batch said, earned and were credited, token by token."""
        if self._writes:
            samples = gallery_samples(self.folder, rollout, credit)
            write_run_json(
                self.folder / "samples" / f"step_{step:06d}.json", {"step": step, "samples": samples}
            )
            self.trackers.gallery(step, samples)

    def save(self, step: int, what: checkpoint.Saveable) -> None:
        """A checkpoint; the newest few and the best are kept."""
        lines: dict[str, list[int]] = {}
        for name in _LOGS:
            # On disk before the checkpoint that a resume takes them to be complete for.
            if self._writes and (self.folder / name).exists():
                flush_to_disk(self.folder / name)
                lines[name] = line_checksums(self.folder / name)
        checkpoint.write_checkpoint(self.checkpoints, step, what, lines=lines)
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

    def working(self, what: str) -> None:
        """What the run does from now on, on all ranks; told where it takes long, or goes wrong."""
        self._bar.working(what)
        distributed.doing(what, shared=True)

    def close(self) -> None:
        """Leave the progress bar as it stands, let trackers finish, and hear no more signals."""
        self._listening.close()
        self._bar.close()
        self.trackers.close()

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

    def _figures(self) -> dict[int, float]:
        """The watched figure of each evaluation after training began."""
        wanted = self.schedule.best_metric or ""
        return {
            int(record["step"]): record[wanted]
            for record in self._records["eval"]
            if record["step"] > 0 and math.isfinite(record.get(wanted, math.nan))
        }

    def _best_on_disk(self) -> int | None:
        """The checkpoint with the best figure; the one that was the best so far if its figure is lost."""
        kept = {saved.step for saved in checkpoint.finished_checkpoints(self.checkpoints)}
        named = checkpoint.best_step(self.checkpoints)
        figures = self._figures()
        if named in kept and named not in figures:
            figure = self._figure_in_evaluations(named)
            if figure is None:
                return named
            figures[named] = figure
        return max(kept & figures.keys(), key=lambda step: (figures[step], step), default=None)

    def _figure_in_evaluations(self, step: int) -> float | None:
        evaluator, _, metric = (self.schedule.best_metric or "").partition("/")
        record = object_or_empty(self.folder / "evaluations" / f"{evaluator}_step_{step:06d}.json")
        metrics = record.get("metrics")
        figure = metrics.get(metric) if isinstance(metrics, dict) else None
        return float(figure) if isinstance(figure, int | float) else None

    def _tidy_checkpoints(self) -> None:
        if self.checkpoints.is_dir():
            checkpoint.name_best(self.checkpoints, self._best_on_disk())
        checkpoint.prune(self.checkpoints, keep=self.schedule.keep_checkpoints)

    def _history(self) -> History:
        return History(
            train=self._records["train"], evals=self._records["eval"], watched=self.schedule.best_metric
        )

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    def _forget_after(self, saved: checkpoint.Saved | None) -> None:
        # What a killed run wrote beyond its last checkpoint is written again, and must not be there twice.
        step = saved.step if saved else -1
        checkpoint.set_damaged_aside(self.checkpoints, after=step)
        checksums = checkpoint.lines_belonging_to(saved) if saved else None
        for name in _LOGS:
            path = self.folder / name
            if checksums is None:
                kept = lines_until(path, step, _LOGS[name])
            else:
                kept = lines_of_checkpoint(path, checksums.get(name, []))
            for problem in kept.problems:
                self.say(f"{problem}; curves, alarms and the choice of the best step go on without it")
            if path.exists() or kept.texts:
                replace_text(path, "".join(f"{text}\n" for text in kept.texts))
            if name == "metrics.jsonl":
                self._remember(kept, step, all_known=checksums is not None)
        for path in [*self.folder.glob("samples/*.json"), *self.folder.glob("evaluations/*.json")]:
            written = _OF_STEP.search(path.stem)
            if written and int(written[1]) > step:
                path.unlink()
        for pattern in (
            f"*{PARTIAL}",
            f"samples/*{PARTIAL}",
            f"evaluations/*{PARTIAL}",
            f"images/*{PARTIAL}",
        ):
            for path in self.folder.glob(pattern):
                path.unlink()
        self._tidy_checkpoints()

    def _remember(self, kept: Lines, step: int, *, all_known: bool) -> None:
        records = [
            {current_metric(name): math.nan if value is None else value for name, value in one.items()}
            for one in kept.records
        ]
        trained = (int(record["step"]) for record in records if record["kind"] == "train")
        if not all_known and (missing := missing_steps(trained, step)):
            self.say(
                f"{self.folder / 'metrics.jsonl'}: the lines of the steps {missing} are lost; curves, alarms "
                "and the choice of the best step go on without them"
            )
        self._watch.relive(records, self.schedule.best_metric)
        for record in records:
            figures = {name: value for name, value in record.items() if name != "kind"}
            self._records[str(record["kind"])].append(figures)

    def _note_resume(self, step: int, config: dict[str, Any], changes: dict[str, Any]) -> None:
        path = self.folder / "environment.json"
        known = object_or_empty(path)
        around = {"step": step, **run_environment(ranks=distributed.num_ranks())}
        if changes:
            around["changed"] = changes
            saved = object_or_empty(self.folder / "config.json")
            about = {"recipe": saved.get("recipe"), "format": run_folder.CONFIG_FORMAT, "config": config}
            write_run_json(self.folder / "config.json", about)
        known["resumed"] = [*known.get("resumed", []), around]
        write_run_json(path, known)


def is_run(name: str | Path) -> bool:
    """Whether this is a run folder."""
    folder = Path(name)
    recipe = object_or_empty(folder / "config.json").get("recipe")
    return (folder / "metrics.jsonl").is_file() or isinstance(recipe, str)
