"""Hours on GPUs: worked cases of the roofline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sightloop.planning.gpus import Gpu, time_lines
from sightloop.planning.resources import GIB, Part, Plan, Work, disk_lines
from sightloop.training.schedule import Schedule

GPU = Gpu(name="one", half=100, tf32=50, float32=25, bandwidth=1.0, gib=10)


def test_a_work_takes_what_takes_longer() -> None:
    # 40 of 100 tera a second, and 0.6 of 1 TB.
    learned = Work(phase="policy", name="", flops=8e13)
    assert GPU.seconds(learned, precision="half", num_ranks=1) == pytest.approx(2)
    assert GPU.seconds(learned, precision="half", num_ranks=4) == pytest.approx(0.5)
    assert GPU.seconds(learned, precision="tf32", num_ranks=1) == pytest.approx(4)
    assert GPU.seconds(learned, precision="float32", num_ranks=1) == pytest.approx(8)
    # What is read is each rank's own.
    written = replace(learned, reads=1.8e12)
    assert GPU.seconds(written, precision="half", num_ranks=1) == pytest.approx(3)
    assert GPU.seconds(written, precision="half", num_ranks=4) == pytest.approx(3)


def plan(size: float) -> Plan:
    return Plan(
        title="",
        parameters={},
        parts=(Part(name="all", size=size * GIB),),
        works=(
            Work(phase="policy", name="learned", flops=1.248e15),
            Work(phase="evaluate", name="looked at", flops=1.248e15),
        ),
        step="",
        saved=2e9,
        downloads={"a/model": 3e9},
    )


def test_a_run_is_its_steps_and_its_evaluations_where_it_fits() -> None:
    schedule = Schedule(steps=100, eval_every=50)
    lines = time_lines({1: plan(30), 8: plan(23)}, schedule, dtype="bfloat16", tf32=True)
    (small,) = (line for line in lines if "4090" in line)
    assert "does not fit (30 of 24 GiB)" in small and "a step" in small
    (a100,) = (line for line in lines if "A100" in line)
    # 10 s a step at 40% of 312 tera: 100 of them and 3 evaluations on one, an eighth of it on eight.
    assert "10 s a step, 17 min in all" in a100 and "1.2 s a step, 2 min in all" in a100
    assert "100 steps and 3 evaluations" in lines[1]
    assert "TF32" in time_lines({1: plan(1)}, schedule, dtype="float32", tf32=True)[0]


def test_the_disk_holds_what_is_fetched_and_what_is_kept() -> None:
    lines = disk_lines(plan(1), kept=2)
    assert lines[1].split() == ["download", "a/model", "3.00", "GB"]
    assert lines[2].split() == ["4", "checkpoints", "of", "2.00", "GB", "at", "most", "8.00", "GB"]
