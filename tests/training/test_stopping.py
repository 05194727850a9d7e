"""A run that is asked to stop drops what is in flight whole, saves what was done, and says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from toy_run import SCHEDULE, Collector, experiment_of, held_out, run_in, traces

from sightloop.process.signals import Ended
from sightloop.training import checkpoint
from sightloop.training.loop import train
from sightloop.training.run_files import Run
from sightloop.types import Evaluation

Action = Callable[[], None]


def nothing() -> None:
    pass


def counted(at: int, act: Callable[[], object]) -> Callable[[], None]:
    """Acts at its so many-th call."""
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        if len(calls) == at:
            act()

    return call


def sends(*numbers: signal.Signals) -> Callable[[], None]:
    def send() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return send


def stopped_run(folder: Path, *, in_step: Action = nothing, in_evaluation: Action = nothing) -> Run:
    def evaluator(policy: object) -> Evaluation:
        in_evaluation()
        return held_out(policy)  # pyright: ignore[reportArgumentType]

    run = run_in(folder)
    run.stop_on_signals()
    experiment = replace(
        experiment_of(collector=Collector(watch=in_step)), evaluators={"held_out": evaluator}
    )
    try:
        train(experiment, run)
    finally:
        run.close()
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
@pytest.mark.parametrize("place", ["step", "evaluation", "last evaluation"])
def test_what_is_in_flight_is_dropped_and_done_again(
    number: signal.Signals, place: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Under nohup SIGHUP is ignored, and a run leaves it so.
    was = signal.signal(number, signal.SIG_DFL)
    train(experiment_of(), run_in(tmp_path / "undisturbed"))
    send = sends(number)
    # Evaluations are made before training and at every third step.
    in_step = counted(4, send) if place == "step" else nothing
    which = {"evaluation": 2, "last evaluation": 5}
    in_evaluation = counted(which[place], send) if place in which else nothing
    stopped_run(tmp_path / "run", in_step=in_step, in_evaluation=in_evaluation)

    signal.signal(number, was)
    done = checkpoint.finished_checkpoints(tmp_path / "run" / "checkpoints")[-1].step
    err = capfd.readouterr().err
    assert f"{number.name}: saving, without the {place.split()[-1]} in flight" in err
    assert f"stopped after step {done}; go on with: sightloop train --resume" in err
    train(experiment_of(), run_in(tmp_path / "run", resume=True))
    expected, found = traces(tmp_path / "undisturbed"), traces(tmp_path / "run")
    assert {name for name in expected if found.get(name) != expected[name]} <= {
        # The run-time check of annotations draws from Python's generator.
        name
        for name in expected
        if name.endswith("random.pt")
    }


@pytest.mark.parametrize("place", ["step", "evaluation"])
def test_what_fails_is_told_after_what_was_done_is_saved(place: str, tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyError("no such judge")

    train(experiment_of(), run_in(tmp_path / "undisturbed"))
    in_step = counted(7, fail) if place == "step" else nothing
    in_evaluation = counted(3, fail) if place == "evaluation" else nothing
    with pytest.raises(KeyError) as failed:
        stopped_run(tmp_path / "run", in_step=in_step, in_evaluation=in_evaluation)

    # The evaluation is that of step 6; checkpoints are due at steps 4 and 8.
    advice = f"step 6 is saved; go on with: sightloop train --resume {tmp_path / 'run'}"
    assert failed.value.__notes__ == [advice]
    train(experiment_of(), run_in(tmp_path / "run", resume=True))
    expected, found = traces(tmp_path / "undisturbed"), traces(tmp_path / "run")
    differing = {name for name in expected if found.get(name) != expected[name]}
    assert all(name.endswith("random.pt") for name in differing)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    experiment = experiment_of()

    def spoil() -> None:
        experiment.policy.table.data[0] = float("nan")
        raise KeyError("no such judge")

    broken = replace(experiment, collect=Collector(watch=counted(6, spoil)))
    with pytest.raises(KeyError) as failed:
        train(broken, run_in(tmp_path / "run"))
    assert "step 4 is saved, 1 more are lost" in failed.value.__notes__[0]


def test_nothing_is_saved_where_nothing_was_trained(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    send = sends(signal.SIGTERM)
    stopped_run(tmp_path / "run", in_evaluation=counted(1, send))

    assert checkpoint.finished_checkpoints(tmp_path / "run" / "checkpoints") == []
    assert "stopped before the first step; go on with" in capfd.readouterr().err
    train(experiment_of(), run_in(tmp_path / "run", resume=True))
    assert checkpoint.finished_checkpoints(tmp_path / "run" / "checkpoints")[-1].step == SCHEDULE.steps


def test_the_first_interrupt_says_what_happens_and_the_step_ends(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    act = sends(signal.SIGINT, signal.SIGINT)
    run = stopped_run(tmp_path / "run", in_step=counted(3, act))

    err = capfd.readouterr().err
    # torchrun hands an interrupt on: two within a second are one.
    assert err.count("stopping after this step, about 0 s; again to stop at once, losing steps 1-3") == 1
    assert "stopped after step 3; go on with" in err
    assert run.stop.by_interrupt
    assert checkpoint.finished_checkpoints(tmp_path / "run" / "checkpoints")[-1].step == 3


def test_the_second_interrupt_stops_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightloop.process.stopping._SAME_INTERRUPT_SECONDS", -1.0)
    act = sends(signal.SIGINT, signal.SIGINT)
    with pytest.raises(Ended) as ended:
        stopped_run(tmp_path / "run", in_step=counted(2, act))

    assert ended.value.code == 130
    assert "stopped at once, losing steps 1-2" in capfd.readouterr().err


def test_the_grace_that_is_needed_is_said_at_the_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(experiment_of(), run_in(tmp_path / "run"))
    assert "Slurm: --signal=USR1@11" in capfd.readouterr().err
