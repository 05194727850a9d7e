"""GenEval's rules worked out by hand: thresholds, caps, colors, relations, and both shaped rewards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightloop.geneval.prompts import CLASSES, GenEvalPrompt, parse_prompt, read_geneval_prompts
from sightloop.geneval.rules import (
    Detection,
    GenEvalRules,
    exact_reward,
    flow_grpo_reward,
    kept_objects,
    objects_to_color,
    relations_between,
    verdict_of,
)


def asking(*include: dict[str, Any], tag: str = "two_object", exclude: Any = ()) -> GenEvalPrompt:
    """A prompt with these clauses."""
    return parse_prompt({"tag": tag, "include": list(include), "exclude": list(exclude), "prompt": "a photo"})


def dogs(number: int, *, name: str = "dog", color: str | None = None, score: float = 0.95) -> list[Detection]:
    """Objects side by side, the first the most confident."""
    return [
        Detection(name=name, box=(20.0 * i, 0.0, 20.0 * i + 9, 9.0), score=score - i / 1000, color=color)
        for i in range(number)
    ]


ONE_DOG = {"class": "dog", "count": 1}


def test_a_score_must_be_above_the_threshold_in_float32() -> None:
    at = float(np.float32(0.3))
    assert at > 0.3
    assert not verdict_of(asking(ONE_DOG), dogs(1, score=at)).correct
    assert not verdict_of(asking(ONE_DOG), dogs(1, score=0.3)).correct
    above = float(np.nextafter(np.float32(0.3), np.float32(1)))
    assert verdict_of(asking(ONE_DOG), dogs(1, score=above)).correct


def test_the_tag_alone_decides_the_threshold() -> None:
    prompt = {"class": "dog", "count": 2}
    seen = dogs(2, score=0.8)
    assert verdict_of(asking(prompt), seen).correct
    assert verdict_of(asking(prompt, tag="counting"), seen).reason == "expected dog>=2, found 0"


def test_surplus_objects_are_right_unless_excluded() -> None:
    assert verdict_of(asking(ONE_DOG), dogs(20)).correct
    many = verdict_of(asking(ONE_DOG, exclude=[{"class": "dog", "count": 2}]), dogs(20))
    assert many.reason == "expected dog<2, found 16"
    assert len(many.kept["dog"]) == 16


def test_a_prompt_that_only_excludes_is_right_while_there_are_few_enough() -> None:
    prompt = parse_prompt({"tag": "none", "exclude": [{"class": "dog", "count": 1}], "prompt": "no dog"})
    assert verdict_of(prompt, []).correct and exact_reward(prompt, []).strict
    assert verdict_of(prompt, dogs(1)).reason == "expected dog<1, found 1"
    assert exact_reward(prompt, dogs(1)).reward == 0
    assert flow_grpo_reward(prompt, []).reward == 0


def test_the_cap_comes_before_the_overlap_filter() -> None:
    same = [Detection(name="dog", box=(0, 0, 9, 9), score=0.9 - i / 100) for i in range(3)]
    apart = Detection(name="dog", box=(50, 50, 60, 60), score=0.5)
    kept = kept_objects("two_object", [*same, apart], GenEvalRules(max_objects=3, max_overlap=0.9))
    assert [seen.score for seen in kept["dog"]] == [0.9]
    kept = kept_objects("two_object", [*same, apart], GenEvalRules(max_objects=4, max_overlap=0.9))
    assert [seen.score for seen in kept["dog"]] == [0.9, 0.5]


def test_overlap_counts_the_last_pixel_and_drops_at_the_limit() -> None:
    # 10 x 20 and 10 x 10 pixels inside of it: 100 / 200.
    pair = [
        Detection(name="dog", box=(0, 0, 9, 19), score=0.9),
        Detection(name="dog", box=(0, 0, 9, 9), score=0.8),
    ]
    assert len(kept_objects("colors", pair, GenEvalRules(max_overlap=0.5))["dog"]) == 1
    assert len(kept_objects("colors", pair, GenEvalRules(max_overlap=0.51))["dog"]) == 2


def test_the_reason_lists_the_colors_in_the_official_order() -> None:
    seen = [
        Detection(name="dog", box=(0, 0, 9, 9), score=0.9 - i / 100, color=color)
        for i, color in enumerate(["white", "red", "blue", "red"])
    ]
    found = verdict_of(asking({"class": "dog", "count": 4, "color": "blue"}), seen)
    assert found.reason == "expected blue dog>=4, found 1 blue; and 2 red, 1 blue, 1 white"


def test_only_the_objects_that_decide_are_colored() -> None:
    prompt = asking({"class": "dog", "count": 2, "color": "red"}, {"class": "cat", "count": 1})
    seen = [*dogs(3), *dogs(1, name="cat")]
    assert objects_to_color(prompt, kept_objects("colors", seen)) == seen[:2]
    assert objects_to_color(prompt, kept_objects("colors", seen[:1])) == []
    with pytest.raises(ValueError, match=r"the dog at .* has no color"):
        verdict_of(prompt, seen)


def test_every_pair_must_stand_in_the_relation_and_the_first_failure_is_told() -> None:
    prompt = asking({"class": "cat", "count": 1}, {"class": "dog", "count": 2, "position": ["right of", 0]})
    cat = Detection(name="cat", box=(100, 0, 109, 9), score=0.9)
    right = Detection(name="dog", box=(200, 0, 209, 9), score=0.9)
    above_left = Detection(name="dog", box=(30, -70, 39, -61), score=0.8)
    found = verdict_of(prompt, [cat, right, above_left])
    assert found.reason == "expected dog right of target, found above and left of target"
    assert verdict_of(prompt, [cat, right, Detection(name="dog", box=(300, 0, 309, 9), score=0.8)]).correct


def test_a_target_of_the_wrong_color_is_no_target() -> None:
    prompt = asking(
        {"class": "cat", "count": 1, "color": "red"}, {"class": "dog", "count": 1, "position": ["above", 0]}
    )
    cat = Detection(name="cat", box=(0, 100, 9, 109), score=0.9, color="blue")
    found = verdict_of(prompt, [cat, *dogs(1)])
    assert found.reason == "expected red cat>=1, found 0 red; and 1 blue\nno target for dog to be above"


def test_the_margin_shortens_the_offset_but_not_its_length() -> None:
    # Sizes 100 each: the dead zone is 20. Offset 60, 34: (40, 14) / 68.96 = 0.58, 0.20.
    assert relations_between((60, 34, 160, 134), (0, 0, 100, 100)) == {"right of"}
    # Offset 60, 40: 40 / 72.1 = 0.55; the shortened vector's own length would say 0.89 and 0.45.
    assert relations_between((60, 40, 160, 140), (0, 0, 100, 100)) == {"right of"}
    # Offset 60, 60: 40 / 84.9 = 0.47 both ways.
    assert relations_between((60, 60, 160, 160), (0, 0, 100, 100)) == set()
    assert relations_between((100, 100, 200, 200), (0, 0, 100, 100)) == {"right of", "below"}
    assert relations_between((20, 0, 120, 100), (0, 0, 100, 100)) == set()


def test_flow_grpos_reward_keeps_its_slips_and_the_exact_one_has_none() -> None:
    # Sixteen dogs instead of one.
    assert flow_grpo_reward(asking(ONE_DOG), dogs(20)).reward == -14
    assert exact_reward(asking(ONE_DOG), dogs(20)).reward == 0
    # A relation that fails: entries 1, 1, 0 and 1; exactly 1, 1 and 0.
    prompt = asking({"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]})
    seen = [*dogs(1, name="cat"), Detection(name="dog", box=(200, 0, 209, 9), score=0.9)]
    assert flow_grpo_reward(prompt, seen).reward == 0.75
    assert exact_reward(prompt, seen).reward == pytest.approx(2 / 3)
    # A relation that holds: 1, 1 and 1.
    assert (
        flow_grpo_reward(prompt, [seen[0], Detection(name="dog", box=(-200, 0, -190, 9), score=0.9)]).reward
        == 1
    )
    # `exclude` of another class: only the exact one sees the cat.
    no_cat = asking(ONE_DOG, exclude=[{"class": "cat", "count": 1}])
    both = [*dogs(1), *dogs(1, name="cat")]
    assert flow_grpo_reward(no_cat, both) == flow_grpo_reward(asking(ONE_DOG), both)
    assert exact_reward(no_cat, both).reward == 0.5 and not exact_reward(no_cat, both).strict


def test_the_exact_reward_gives_partial_credit_between_nothing_and_all() -> None:
    prompt = asking({"class": "dog", "count": 4, "color": "red"}, tag="colors")
    three_red = [*dogs(3, color="red"), Detection(name="dog", box=(0, 50, 9, 59), score=0.5, color="blue")]
    assert exact_reward(prompt, three_red).reward == pytest.approx((1 + 3 / 4) / 2)
    assert exact_reward(prompt, dogs(2, color="red")).reward == pytest.approx((1 / 2 + 0) / 2)
    right = exact_reward(prompt, dogs(4, color="red"))
    assert right.reward == 1 and right.strict
    assert exact_reward(prompt, []).reward == 0
    # One cat of two is left of the dog: half of the pairs.
    pairs = asking(ONE_DOG, {"class": "cat", "count": 2, "position": ["left of", 0]})
    cats = [Detection(name="cat", box=(x, 0, x + 9, 9), score=0.9) for x in (-100, 100)]
    assert exact_reward(pairs, [*dogs(1), *cats]).reward == pytest.approx((1 + 1 + 0.5) / 3)


def test_an_exact_reward_of_one_is_a_right_verdict() -> None:
    rng = np.random.default_rng(0)
    ones = 0
    for _ in range(2000):
        prompt = asking(
            {"class": "dog", "count": int(rng.integers(1, 3)), "color": "red"},
            {"class": "cat", "count": 1, "position": [["left of", "above"][rng.integers(2)], 0]},
        )
        seen = [
            Detection(
                name=["dog", "cat"][rng.integers(2)],
                box=(x := float(rng.integers(90)), y := float(rng.integers(90)), x + 10, y + 10),
                score=float(rng.uniform(0.2, 1)),
                color=["red", "blue"][int(rng.random() < 0.2)],
            )
            for _ in range(rng.integers(2, 5))
        ]
        exact = exact_reward(prompt, seen)
        assert 0 <= exact.reward <= 1
        assert exact.strict is flow_grpo_reward(prompt, seen).strict
        if exact.reward == 1:
            ones += 1
            assert exact.strict and verdict_of(prompt, seen).correct
    assert ones > 20


def test_the_classes_are_cocos_with_three_longer_names() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 80
    assert (CLASSES[0], CLASSES[9], CLASSES[79]) == ("person", "traffic light", "toothbrush")
    assert CLASSES[64:67] == ("computer mouse", "tv remote", "computer keyboard")


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"include": [ONE_DOG]}, 'needs texts "tag" and "prompt"'),
        ({"tag": "t", "prompt": "p", "include": []}, "asks for nothing"),
        ({"tag": "t", "prompt": "p", "include": [{"class": "dog"}]}, "has 'count' None"),
        ({"tag": "t", "prompt": "p", "include": [{"class": "dog", "count": 0}]}, "has 'count' 0"),
        ({"tag": "t", "prompt": "p", "include": ["dog"]}, "has no 'class'"),
        (
            {"tag": "t", "prompt": "p", "include": [{**ONE_DOG, "position": ["above", 0]}]},
            "use an earlier one",
        ),
        (
            {"tag": "t", "prompt": "p", "include": [ONE_DOG, {**ONE_DOG, "position": ["near", 0]}]},
            "use left of, right of, above, below",
        ),
    ],
)
def test_metadata_that_says_nothing_clear_is_refused(record: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_prompt(record)


def test_a_prompts_file_is_read_line_by_line(tmp_path: Path) -> None:
    record = {"tag": "single_object", "include": [ONE_DOG], "prompt": "a photo of a dog"}
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(record) + "\n\n" + json.dumps({**record, "prompt": "another"}))
    assert [prompt.text for prompt in read_geneval_prompts(file)] == ["a photo of a dog", "another"]
    file.write_text(json.dumps(record) + "\n{}")
    with pytest.raises(ValueError, match=r"prompts.jsonl line 2: metadata"):
        read_geneval_prompts(file)


@pytest.mark.parametrize(
    "changes",
    [{"threshold": 1.1}, {"max_overlap": -0.1}, {"max_objects": 0}, {"position_margin": float("nan")}],
)
def test_rules_outside_of_their_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is "):
        GenEvalRules(**changes)
