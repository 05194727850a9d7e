"""Figures of both sides: names, intervals, the verdict, tables of what was drawn and answered right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from report.parsed_page import report, section
from report.run_files import begin, drawing, evaluate, log, two_evaluations

from sightloop.report.drawings import drawings_of
from sightloop.report.joint import outcome_counts
from sightloop.report.labels import label_of, rank_of
from sightloop.report.run import read_run
from sightloop.report.tables import before_after_table, changes, verdict


def test_the_verdict_names_the_drawings_the_guard_and_the_imbalance(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", steps=30)
    figures = {
        0: {"drawn": 0.59, "answered_fixed": 0.91, "imbalance": 0.34, "answered": 0.7},
        30: {"drawn": 0.78, "answered_fixed": 0.93, "imbalance": 0.21, "answered": 0.8},
    }
    log(folder, "eval", {s: {f"joint/{n}": v for n, v in f.items()} for s, f in figures.items()})
    assert verdict(read_run(folder)) == (
        "Share of prompts drawn right rose from .59 to .78 (+.19) in 30 steps; right answers about fixed "
        "images .91 → .93; right on one side alone .34 → .21."
    )
    lines = before_after_table(folder).splitlines()
    assert [line.split()[0] for line in lines[2:]] == [
        "joint/drawn", "joint/answered_fixed", "joint/answered", "joint/imbalance",
    ]  # fmt: skip


def test_metrics_of_joint_have_names_directions_and_places() -> None:
    assert label_of("joint/drawn_color_attr").text == "drawn right: colors of two"
    assert label_of("joint/answered_counting").text == "answered right: counting"
    assert (label_of("joint/answered_fixed").better, label_of("joint/imbalance").better) == (1, -1)
    assert label_of("joint/answered_if_drawn").text == "answered right where drawn right"
    assert label_of("joint/answered").better == 0
    assert label_of("drawing/kl").text == "drawing divergence"
    assert label_of("policy/clipped").text == "clipped tokens"
    names = ["drawn_counting", "gap", "imbalance", "answered", "answered_fixed", "drawn"]
    ordered = sorted((f"joint/{name}" for name in names), key=rank_of)
    assert [name.removeprefix("joint/") for name in ordered] == [
        "drawn", "answered_fixed", "answered", "imbalance", "gap", "drawn_counting",
    ]  # fmt: skip


def test_drawings_pair_by_prompt_and_figures_of_other_images_by_place(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    for step, drawn, fixed in ((0, 0.0, [0.0, 1.0, 0.0]), (30, 1.0, [1.0, 1.0, 1.0])):
        # The image of a prompt is another one every time.
        samples = [drawing(prompt, bool(drawn), True, image=f"images/{step}.png") for prompt in "aabb"]
        values = {"drawn": [drawn] * 4, "answered_fixed": fixed, "only_drawn": [0.0] * 4}
        values |= {"only_answered": [1 - drawn] * 4, "imbalance": [1 - drawn] * 4}
        evaluate(folder, "joint", step, per_sample=values, samples=samples)
    path = folder / "evaluations" / "joint_step_000030.json"
    content = json.loads(path.read_text())
    del content["per_sample"]["imbalance"]
    path.write_text(json.dumps(content))
    found = {change.metric.partition("/")[2]: change for change in changes(read_run(folder))}
    assert (found["drawn"].low, found["drawn"].high, found["drawn"].num_samples) == (1.0, 1.0, 4)
    assert found["answered_fixed"].num_samples == 3
    # The sum has no values of its own at one step: they follow from its terms.
    assert (found["imbalance"].low, found["imbalance"].high) == (-1.0, -1.0)
    assert "Right answers about fixed images" in report(folder).text


def test_rates_of_one_side_given_the_other_have_intervals(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    # Of each prompt both drawings are alike: drawn right are 2 of 3, then all; of them answered right 1 of 2,
    # then 2 of 3, the third prompt in vain.
    for step, drawn, answered in ((0, [1, 1, 0], [1, 0, 0]), (30, [1, 1, 1], [1, 1, 0])):
        samples = [
            drawing(prompt, bool(d), bool(a)) for prompt, d, a in zip("abc", drawn, answered, strict=True)
        ]
        values = {"drawn": drawn, "answered": answered, "both": answered}
        doubled = {name: [float(value) for value in row for _ in range(2)] for name, row in values.items()}
        rows = [sample for sample in samples for _ in range(2)]
        evaluate(folder, "joint", step, per_sample=doubled, samples=rows)
        log(folder, "eval", {step: {"joint/answered_if_drawn": sum(answered) / sum(drawn)}})
    found = {change.metric.partition("/")[2]: change for change in changes(read_run(folder))}
    change = found["answered_if_drawn"]
    assert (change.before, change.after) == (0.5, 2 / 3)
    # Linearised, prompt a moves from 1.25 to 1, b from -.25 to 1, c from .5 to 0. One resample in 27 draws b
    # thrice, one c: more than the 2.5% that an interval leaves out at each end.
    assert change.num_samples == 6
    assert (change.low, change.high) == pytest.approx((-0.5, 1.25))


def test_other_prompts_are_not_paired(tmp_path: Path) -> None:
    before, after = [drawing("a", True), drawing("b", False)], [drawing("b", True), drawing("a", False)]
    folder = two_evaluations(tmp_path / "run", before, after)
    assert [change.has_interval for change in changes(read_run(folder))] == [False]
    drawings = drawings_of(read_run(folder))
    assert drawings is not None and drawings.later is None


def test_the_four_outcomes_are_counted(tmp_path: Path) -> None:
    before = [drawing("a", True, True), drawing("b", True, False), drawing("c", False, True)]
    after = [drawing("a", True, True), drawing("b", True, True), drawing("c", False, False)]
    folder = two_evaluations(tmp_path / "run", before, after)
    (old, new) = read_run(folder).evaluations["joint"].values()
    assert list(outcome_counts(old).values()) == [1, 1, 1, 0]
    assert list(outcome_counts(new).values()) == [2, 0, 0, 1]
    tables = re.findall(r'<table class="outcome">(.*?)</table>', section(folder, "sides"))
    cells = [re.findall(r"<td [^>]*><b>(.*?)</b><small>(.*?)</small>", table) for table in tables]
    assert cells[0] == [(".33", "1 of 3"), (".33", "1 of 3"), (".33", "1 of 3"), (".00", "0 of 3")]
    assert [told for _, told in cells[1]] == [
        "2 of 3, +.33", "0 of 3, \N{MINUS SIGN}.33", "0 of 3, \N{MINUS SIGN}.33", "1 of 3, +.33",
    ]  # fmt: skip


def rows_of_categories(folder: Path) -> list[list[str]]:
    """The table by category as text."""
    (body,) = re.findall(r'categories">.*?<tbody>(.*?)</tbody>', section(folder, "sides"))
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", body)
    ]


def test_categories_are_compared_side_by_side(tmp_path: Path) -> None:
    counting = [f"count {index}" for index in range(12)]
    before = [drawing(p, False, True, category="counting") for p in counting]
    after = [drawing(p, True, True, category="counting") for p in counting]
    before.append(drawing("red", True, False, category="colors"))
    after.append(drawing("red", False, True, category="colors"))
    rows = rows_of_categories(two_evaluations(tmp_path / "run", before, after))
    assert rows == [
        ["Counting", "12", ".00", "1.00", "▲ +1.00", "[+1.00, +1.00]", "1.00", "1.00", ".00", "[.00, .00]"],
        # One prompt: no interval, and nothing is called clear.
        [
            "Colors",
            "1",
            "1.00",
            ".00",
            "\N{MINUS SIGN}1.00",
            "\N{EN DASH}",
            ".00",
            "1.00",
            "+1.00",
            "\N{EN DASH}",
        ],
    ]


def test_drawings_that_nobody_was_asked_about_have_one_side(tmp_path: Path) -> None:
    samples = [drawing("a", True, category="counting"), drawing("b", False, category="counting")]
    folder = two_evaluations(tmp_path / "run", samples, samples)
    assert "answered" not in section(folder, "sides").lower()
    assert rows_of_categories(folder) == [["Counting", "2", ".50", ".50", ".00", "[.00, .00]"]]
    assert "<dl>" not in section(folder, "drawings")
