"""GenEval's summary, its intervals, its files and the comparison of two results, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sightloop.evaluation.intervals import bootstrap_interval, interval_of_strata
from sightloop.geneval.folder import read_folder
from sightloop.geneval.prompts import GenEvalPrompt, parse_prompt
from sightloop.geneval.scores import (
    TASKS,
    Result,
    check_complete,
    protocol_warning,
    rate_changes,
    read_results,
    summarize,
    write_results,
)


def result(tag: str, prompt: str, correct: bool, number: int = 0) -> Result:
    """A line about one image."""
    metadata = json.dumps({"tag": tag, "include": [{"class": "dog", "count": 1}], "prompt": prompt})
    return Result(
        file=f"{prompt}/{number}.png",
        tag=tag,
        text=prompt,
        correct=correct,
        reason="",
        metadata=metadata,
        details={},
    )


def prompt(tag: str, text: str) -> GenEvalPrompt:
    """A prompt of a task."""
    return parse_prompt({"tag": tag, "include": [{"class": "dog", "count": 1}], "prompt": text})


def official_like() -> list[GenEvalPrompt]:
    """As many prompts of each task as in the official file."""
    return [prompt(tag, f"{tag} {i}") for tag, number in TASKS.items() for i in range(number)]


def test_overall_is_the_mean_of_the_tasks_and_not_of_the_images() -> None:
    results = [
        result("a", "p", True),
        result("a", "p", True),
        result("a", "q", False),
        result("b", "r", False),
    ]
    found = summarize(results, resamples=100)
    assert found.overall.value == pytest.approx((2 / 3 + 0) / 2)
    assert (found.image_rate, found.prompt_rate) == (0.5, pytest.approx(1 / 3))
    assert (found.images, found.prompts) == (4, 3)
    assert (found.tasks["a"].right, found.tasks["a"].images) == (2, 3)


def test_the_same_words_under_two_tasks_are_two_prompts() -> None:
    assert summarize([result("a", "p", True), result("b", "p", False)], resamples=10).prompts == 2


def test_images_of_one_prompt_are_drawn_together() -> None:
    # Four equal images a prompt: the interval is that of 100 prompts, not of 400 images.
    results = [result("a", str(i), i < 50, k) for i in range(100) for k in range(4)]
    found = summarize(results).tasks["a"].rate
    alone = bootstrap_interval([float(i < 50) for i in range(100)])
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=0.011)
    assert found.high - found.low > 0.15


def test_the_interval_of_the_overall_adds_the_variances_of_the_tasks() -> None:
    # Two tasks of 400 prompts at 1/2 and 1/5: variance (0.25 + 0.16) / 400 / 4, sd 0.01601.
    values = [float(i % 2 == 0) for i in range(400)] + [float(i % 5 == 0) for i in range(400)]
    found = interval_of_strata(values, strata=["a"] * 400 + ["b"] * 400, resamples=40_000)
    assert found.value == pytest.approx(0.35)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * 0.01601, rel=0.04)


def test_strata_of_one_value_have_no_interval_and_wrong_lengths_are_refused() -> None:
    assert np.isnan(interval_of_strata([1.0, 0.0, 1.0], strata=["a", "a", "b"]).low)
    with pytest.raises(ValueError, match="2 strata for 3 values"):
        interval_of_strata([1.0, 0.0, 1.0], strata=["a", "a"])


def test_a_change_is_paired_by_prompt() -> None:
    # Every prompt of task a gains one of its two images: no doubt about it, whatever the prompts were.
    before = [result("a", str(i), i < 3 and k == 0, k) for i in range(6) for k in range(2)]
    before = [result("a", str(i), False, k) for i in range(6) for k in range(2)]
    after = [result("a", str(i), k == 0, k) for i in range(6) for k in range(2)]
    before += [
        result("b", "x", True),
        result("b", "x", False, 1),
        result("b", "y", False),
        result("b", "y", False, 1),
    ]
    after += [
        result("b", "x", False),
        result("b", "x", False, 1),
        result("b", "y", True),
        result("b", "y", True, 1),
    ]
    found = rate_changes(before, after)
    assert (found.tasks["a"].value, found.tasks["a"].low, found.tasks["a"].high) == (0.5, 0.5, 0.5)
    assert (found.tasks["b"].value, found.tasks["b"].low, found.tasks["b"].high) == (0.25, -0.5, 1.0)
    assert found.overall.value == pytest.approx(0.375)


def test_results_that_do_not_pair_are_refused() -> None:
    some = [result("a", "p", True), result("a", "q", True)]
    with pytest.raises(ValueError, match="1 prompts are in only one of the results"):
        rate_changes(some, some[:1])
    with pytest.raises(ValueError, match="prompts have from 1 to 2 images"):
        rate_changes([*some, result("a", "p", False, 1)], some)


def test_an_official_file_is_read_and_a_broken_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    results = [result("a", "p", True), result("b", "q", False)]
    write_results(results, file)
    assert read_results(file) == results
    # As pandas writes it, and older files without details.
    line = json.loads(file.read_text().splitlines()[0])
    del line["details"]
    file.write_text(json.dumps(line, separators=(",", ":")))
    assert read_results(file) == results[:1]
    for text, told in (
        ('{"tag": 1}', "line 1 is no result"),
        ("", "holds no results"),
        ("[", "line 1 is no result"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=told):
            read_results(file)


def test_protocols_that_differ_are_named() -> None:
    one = {"detector": "a", "threshold": "0.3"}
    assert protocol_warning(one, dict(one)) == ""
    assert "no protocol record" in protocol_warning(one, None)
    told = protocol_warning(one, {"detector": "a", "threshold": "0.5", "crop": "x"})
    assert "crop unknown and x; threshold 0.3 and 0.5; the figures do not compare" in told


def test_only_the_whole_official_set_passes_without_a_prompts_file() -> None:
    prompts = official_like()
    assert len(prompts) == 553
    check_complete(prompts)
    with pytest.raises(ValueError, match="color_attr has 99 prompts instead of 100"):
        check_complete(prompts[:-1])
    with pytest.raises(ValueError, match="counting has 0 prompts instead of 80"):
        check_complete([each for each in prompts if each.tag != "counting"])
    with pytest.raises(ValueError, match="style has 1 prompts instead of 0"):
        check_complete([*prompts, prompt("style", "s")])
    with pytest.raises(ValueError, match="more than once"):
        check_complete([*prompts[:-1], prompts[0]])
    check_complete(prompts[:3], expected=prompts[:3])


def a_folder(root: Path, names: list[str], *, per_prompt: int = 1) -> list[GenEvalPrompt]:
    """A folder of empty files with the official names."""
    prompts = [prompt("a", name) for name in names]
    for name, each in zip(names, prompts, strict=True):
        (root / name / "samples").mkdir(parents=True)
        (root / name / "metadata.jsonl").write_text(json.dumps(each.metadata))
        for number in range(per_prompt):
            (root / name / "samples" / f"{number:05}.png").touch()
    return prompts


def test_prompts_and_images_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    # Twelve folders without leading zeros: as texts, 10 would come before 2.
    prompts = a_folder(tmp_path, [str(i) for i in range(12)], per_prompt=11)
    (tmp_path / "notes").mkdir()
    (tmp_path / "0" / "grid.png").touch()
    drawn = read_folder(tmp_path, expected=prompts)
    assert [each.prompt.text for each in drawn] == [str(i) for i in range(12)]
    assert drawn[2].files == tuple(f"2/samples/{i:05}.png" for i in range(11))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: (root / "00001" / "metadata.jsonl").unlink(), "00001/metadata.jsonl does not exist"),
        (
            lambda root: (root / "00001" / "metadata.jsonl").write_text("{"),
            "is not one line of the prompts file",
        ),
        (lambda root: (root / "00001" / "samples" / "00000.png").unlink(), "samples holds no images"),
        (lambda root: (root / "00001" / "samples" / "x.png").touch(), "x.png is not named as an image"),
        (lambda root: (root / "00001" / "samples" / "1.png").touch(), "00000 has 1 images, others have 2"),
        (lambda root: (root / "00001").rename(root / "00003"), "has no folder 00001 but 00002"),
        (lambda root: (root / "00001").rename(root / "0"), "has the number 0 twice"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(tmp_path: Path, spoil, told: str) -> None:
    prompts = a_folder(tmp_path, ["00000", "00001", "00002"])
    spoil(tmp_path)
    with pytest.raises(ValueError, match=told):
        read_folder(tmp_path, expected=prompts)


def test_a_place_without_numbered_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no numbered folders"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        read_folder(tmp_path / "none")
