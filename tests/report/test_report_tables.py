"""The evaluation's numbers, intervals and verdict against values worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from report.run_files import begin, evaluate, log, samples_of

from sightloop.report.labels import decimals_for, label_of, number, rank_of, signed
from sightloop.report.run import read_run
from sightloop.report.tables import Change, before_after_table, changes, evaluated_steps, headline, verdict

MISSES = [0.0, 0.0, 0.0, 1.0]
HITS = [1.0, 1.0, 1.0, 1.0]
PICTURES = samples_of(["a", "b", "c", "d"])


def two_evaluations(folder: Path, *, steps: int = 50) -> Path:
    """A run whose R@1 went from 1/4 to 1, whose captions all grew by two words, whose precision fell."""
    begin(folder, steps=steps)
    evaluate(folder, "recall", 0, per_sample={"recall@1": MISSES}, samples=PICTURES)
    evaluate(folder, "recall", 50, per_sample={"recall@1": HITS}, samples=PICTURES)
    evaluate(folder, "captions", 0, per_sample={"length": [4.0, 5.0, 6.0, 5.0]}, samples=PICTURES)
    evaluate(folder, "captions", 50, per_sample={"length": [6.0, 7.0, 8.0, 7.0]}, samples=PICTURES)
    log(folder, "eval", {0: {"truth/precision": 0.99}, 50: {"truth/precision": 0.97}})
    return folder


def test_numbers_are_written_for_reading() -> None:
    assert [number(value) for value in (0, 1.5, 12.345, 123.4, 45678.9, -0.00021, 0.05)] == [
        "0", "1.50", "12.3", "123", "45,679", "\N{MINUS SIGN}2.1e-4", "0.0500",
    ]  # fmt: skip
    assert [number(value, share=True) for value in (0.4711, 1.0, 0.0, -0.0001)] == [
        ".471",
        "1.000",
        ".000",
        ".000",
    ]
    assert [number(value) for value in (math.nan, math.inf)] == ["n/a", "∞"]
    assert [signed(value, share=True) for value in (0.5, -0.5, 0.0, 0.0001)] == [
        "+.500",
        "\N{MINUS SIGN}.500",
        ".000",
        ".000",
    ]
    assert decimals_for(3.65, 17.0) == 1


def test_metrics_have_plain_names_and_directions() -> None:
    assert (label_of("recall/recall@5").text, label_of("recall/recall@5").better) == ("R@5", 1)
    assert label_of("held_out/repeats").better == -1
    assert label_of("gradient/norm_policy").text == "gradient norm, policy"
    assert label_of("held_out/image_mrr").text == "mean reciprocal rank, image to caption"
    assert label_of("my_judge/odd_thing").text == "my judge odd thing"


def test_metrics_are_sorted_for_reading() -> None:
    names = [
        "share_of_ties",
        "length",
        "image_recall@1",
        "recall@10",
        "odd",
        "mrr",
        "precision",
        "recall@5",
        "recall@1",
    ]
    ordered = sorted((f"held_out/{name}" for name in names), key=rank_of)
    assert [name.removeprefix("held_out/") for name in ordered] == [
        "recall@1", "precision", "recall@5", "recall@10", "mrr", "length", "odd", "share_of_ties",
        "image_recall@1",
    ]  # fmt: skip


def test_the_headline_is_the_configured_metric_if_it_was_measured(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    run = read_run(folder)
    assert headline(run, ["held_out/odd", "held_out/told"]) == "held_out/told"
    assert headline(run, ["held_out/odd"]) == "held_out/odd"
    config = {"recipe": "vlrm", "config": {"schedule": {"best_metric": "held_out/odd"}}}
    (folder / "config.json").write_text(json.dumps(config))
    assert headline(read_run(folder), ["held_out/told", "held_out/odd"]) == "held_out/odd"
    assert headline(read_run(folder), ["held_out/told"]) == "held_out/told"


def test_changes_pair_the_samples(tmp_path: Path) -> None:
    found = {change.metric: change for change in changes(read_run(two_evaluations(tmp_path / "run")))}
    assert list(found) == ["recall/recall@1", "truth/precision", "captions/length"]
    length = found["captions/length"]
    # Every caption grew by exactly two words: no resampling of pairs can say anything else.
    assert (length.before, length.after, length.low, length.high) == (5.0, 7.0, 2.0, 2.0)
    assert (length.num_samples, length.verdict) == (4, "higher")
    recall = found["recall/recall@1"]
    assert (recall.before, recall.after, recall.difference) == (0.25, 1.0, 0.75)
    assert 0 <= recall.low < 0.75 <= recall.high <= 1
    # A figure without per-sample values has no interval.
    assert not found["truth/precision"].has_interval
    assert found["truth/precision"].verdict == ""


def test_other_images_and_other_figures_are_not_paired(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    evaluate(folder, "recall", 0, per_sample={"mrr": MISSES, "odd": MISSES}, samples=PICTURES)
    evaluate(folder, "recall", 9, per_sample={"mrr": HITS, "odd": HITS}, samples=PICTURES[::-1])
    evaluate(folder, "truth", 0, per_sample={"told": MISSES}, samples=PICTURES)
    evaluate(folder, "truth", 9, per_sample={"told": HITS}, samples=PICTURES)
    # The log says that this figure is not the mean of the values.
    log(folder, "eval", {9: {"truth/told": 0.8}})
    assert [change.has_interval for change in changes(read_run(folder))] == [False, False, False]


@pytest.mark.parametrize(
    ("metric", "low", "high", "verdict_word"),
    [
        ("recall/recall@1", 0.1, 0.2, "better"),
        ("recall/recall@1", -0.2, -0.1, "worse"),
        ("held_out/repeats", 0.1, 0.2, "worse"),
        ("held_out/repeats", -0.2, -0.1, "better"),
        ("held_out/length", -0.2, -0.1, "lower"),
        ("recall/recall@1", -0.1, 0.2, "unclear"),
        ("recall/recall@1", 0.0, 0.2, "unclear"),
    ],
)
def test_readings_follow_the_interval_and_the_direction(
    metric: str, low: float, high: float, verdict_word: str
) -> None:
    change = Change(metric=metric, before=0.4, after=0.5, low=low, high=high)
    assert change.verdict == verdict_word


def test_the_best_step_is_compared_if_it_is_a_later_one(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    log(folder, "eval", {0: {"a": 0.1}, 10: {"a": 0.9}, 20: {"a": 0.5}})
    (folder / "checkpoints").mkdir()
    best = folder / "checkpoints" / "best"
    assert evaluated_steps(read_run(folder)) == (0, 20)
    best.write_text("step_000010")
    assert evaluated_steps(read_run(folder)) == (0, 10)
    # Where nothing beat the start, the reader wants to see what training did to it.
    best.write_text("step_000000")
    assert evaluated_steps(read_run(folder)) == (0, 20)
    best.write_text("step_000015")
    assert evaluated_steps(read_run(folder)) == (0, 20)


def test_the_verdict_is_one_plain_sentence(tmp_path: Path) -> None:
    run = read_run(two_evaluations(tmp_path / "run"))
    recall = changes(run)[0]
    interval = (
        f"[{number(recall.low, share=True, decimals=2)}, {number(recall.high, share=True, decimals=2)}]"
    )
    assert verdict(run) == (
        f"R@1 rose from .25 to 1.00 (+.75 {interval}) in 50 steps; "
        "precision of told facts .99 → .97; words per caption 5.00 → 7.00."
    )


def test_the_verdict_of_a_running_run_says_so(tmp_path: Path) -> None:
    assert verdict(read_run(two_evaluations(tmp_path / "run", steps=80))).endswith(
        "The run is at step 50 of 80."
    )


def test_an_unclear_change_is_called_unclear(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    evaluate(folder, "recall", 0, per_sample={"recall@1": [0.0, 1.0, 0.0, 1.0]}, samples=PICTURES)
    evaluate(folder, "recall", 9, per_sample={"recall@1": [1.0, 0.0, 0.0, 1.0]}, samples=PICTURES)
    assert verdict(read_run(folder)).startswith("R@1 did not change clearly: .50 to .50 (.00 [")


def test_verdicts_of_runs_that_have_just_begun(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", steps=9)
    assert verdict(read_run(folder)) == "No training step has been logged yet."
    log(folder, "train", {1: {"reward/total": 0.5}, 2: {"reward/total": 1.5}})
    told = "the total reward of a training batch went from 0.500 at step 1 to 1.50 at step 2."
    assert verdict(read_run(folder)) == f"No evaluation after training yet; {told}"
    log(folder, "eval", {0: {"recall/recall@1": 0.114}})
    assert (
        verdict(read_run(folder)) == f"R@1 is .11 before training. No evaluation after training yet; {told}"
    )


def test_the_terminal_table_is_aligned_and_right(tmp_path: Path) -> None:
    lines = before_after_table(two_evaluations(tmp_path / "run")).splitlines()
    assert lines[0].split() == ["metric", "before", "step", "50", "change", "95%", "interval"]
    assert set(lines[1]) == {"-"}
    assert lines[2].split()[:4] == ["recall/recall@1", ".250", "1.000", "+.750"]
    assert lines[3].split() == ["truth/precision", ".990", ".970", "-.020", "-"]
    assert lines[4].split() == ["captions/length", "5.00", "7.00", "+2.00", "[+2.00,", "+2.00]", "higher"]
    ends = {
        line.index(cell) + len(cell) for line, cell in zip(lines[2:], ("1.000", ".970", "7.00"), strict=True)
    }
    assert len(ends) == 1


def test_the_terminal_table_of_an_unfinished_run(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    assert before_after_table(folder) == "run: no evaluation yet"
    log(folder, "eval", {0: {"recall/recall@1": 0.114}})
    assert before_after_table(folder).splitlines()[2].split() == ["recall/recall@1", ".114"]


def test_samples_of_one_image_are_drawn_together(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    # Two images of each of two prompts; within a prompt the changes cancel, so every resample says 0.
    samples = [{"source": f"prompt {index // 2}", "caption": "a"} for index in range(4)]
    evaluate(folder, "geneval", 0, per_sample={"overall": [0.0, 1.0, 0.0, 1.0]}, samples=samples)
    evaluate(folder, "geneval", 5, per_sample={"overall": [1.0, 0.0, 1.0, 0.0]}, samples=samples)
    (change,) = changes(read_run(folder))
    assert (change.low, change.high, change.verdict) == (0.0, 0.0, "same")


def test_what_did_not_move_at_all_stayed(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    for step in (0, 3):
        evaluate(folder, "held_out", step, per_sample={"recall@1": MISSES}, samples=PICTURES)
    assert verdict(read_run(folder)) == "R@1 stayed at .25 in 3 steps."
