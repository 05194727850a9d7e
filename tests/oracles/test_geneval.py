"""GenEval's rules on the golden cases: verdicts, reasons, kept objects, relations, crops, summaries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightloop.geneval.colors import crop_of
from sightloop.geneval.prompts import parse_prompt
from sightloop.geneval.results import Result, summarize
from sightloop.geneval.rules import (
    Detection,
    GenEvalRules,
    flow_grpo_reward,
    relations_between,
    verdict_of,
)

OPTIONS = {
    "threshold": "threshold",
    "counting_threshold": "counting_threshold",
    "max_objects": "max_objects",
    "max_overlap": "max_overlap",
    "position_threshold": "position_margin",
}


def read(oracles: Path, name: str) -> list[dict[str, Any]]:
    """One file of the golden cases."""
    return json.loads((oracles / "geneval" / name).read_text())


def seen_in(case: dict[str, Any]) -> list[Detection]:
    """What the recorded detector and color classifier said."""
    return [
        Detection(name=seen["class"], box=tuple(seen["box"]), score=seen["score"], color=seen["color"])
        for seen in case["detections"]
    ]


def test_every_verdict_reason_and_kept_object(oracles: Path) -> None:
    cases = read(oracles, "cases.json")
    assert {True, False} == {case["expected"]["correct"] for case in cases}
    for case in cases:
        rules = GenEvalRules(**{OPTIONS[name]: value for name, value in case.get("options", {}).items()})
        found = verdict_of(parse_prompt(case["metadata"]), seen_in(case), rules=rules)
        wanted = case["expected"]
        assert (found.correct, found.reason) == (wanted["correct"], wanted["reason"]), case["id"]
        assert set(found.kept) == set(wanted["kept"]), case["id"]
        for name, objects in found.kept.items():
            rows = [[*each.box, each.score] for each in objects]
            assert rows == [pytest.approx(row, abs=1e-6) for row in wanted["kept"][name]], case["id"]


def test_every_shaped_reward(oracles: Path) -> None:
    cases = [case for case in read(oracles, "cases.json") if case.get("shaped")]
    assert len(cases) > 50
    for case in cases:
        found = flow_grpo_reward(parse_prompt(case["metadata"]), seen_in(case))
        assert found.strict is case["shaped"]["strict"], case["id"]
        assert found.reward == pytest.approx(case["shaped"]["reward"], abs=1e-9), case["id"]


def test_every_relation(oracles: Path) -> None:
    cases = read(oracles, "position.json")
    assert {len(case["relations"]) for case in cases} == {0, 1, 2}
    for case in cases:
        found = relations_between(tuple(case["a"]), tuple(case["b"]), margin=case["margin"])
        assert sorted(found) == case["relations"], case


def test_every_crop(oracles: Path) -> None:
    cases = read(oracles, "crops.json")
    with np.load(oracles / "geneval" / "crops.npz") as arrays:
        for case in cases:
            image, mask, wanted = (arrays[f"{name}_{case['i']}"] for name in ("image", "mask", "crop"))
            ground = case["options"].get("bgcolor", "#999")
            crop = crop_of(
                Image.fromarray(image),
                None if case["options"].get("crop") == "0" else tuple(case["box"]),
                mask=mask,
                ground=None if ground == "original" else ground,
            )
            assert np.array_equal(np.asarray(crop).reshape(wanted.shape), wanted), case["i"]


def test_every_summary(oracles: Path) -> None:
    for case in read(oracles, "aggregate.json"):
        results = [
            Result(
                file=f"{place}.png",
                tag=result["tag"],
                text=result["prompt"],
                correct=result["correct"],
                reason="",
                metadata=json.dumps(result.get("metadata", result["prompt"])),
                details={},
            )
            for place, result in enumerate(case["results"])
        ]
        found, wanted = summarize(results, resamples=10), case["expected"]
        tasks = {tag: [score.right, score.images] for tag, score in found.tasks.items()}
        assert list(tasks.items()) == list(wanted["tasks"].items())
        assert (found.images, found.prompts) == (wanted["images"], wanted["prompts"])
        assert round(100 * found.image_rate, 2) == wanted["image_rate_pct"]
        assert round(100 * found.prompt_rate, 2) == wanted["prompt_rate_pct"]
        assert round(found.overall.value, 5) == wanted["overall"]
