"""The report of a model that draws and answers: before and after, both sides, groups of the training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report.parsed_page import Page, report, section
from report.run_files import begin, drawing, evaluate, gallery_sample, log, show, two_evaluations
from report.synthetic_drawing_run import DrawingStory, write_drawing_run

from sightloop.report.drawings import KINDS, drawings_of
from sightloop.report.page import write_report
from sightloop.report.run import read_run

STORY = DrawingStory(steps=40, planned=40, evaluate_every=20, gallery_every=20)
EVIL = """</script><script>alert(1)</script><img src=x onerror="alert('2')">"""


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three evaluations and two galleries."""
    return write_drawing_run(tmp_path_factory.mktemp("runs") / "drawn, seed 0", STORY)


def picture(folder: Path, name: str, side: int = 32) -> str:
    """A stored image, as a sample names it."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((side, side, 3), dtype=np.uint8)).save(folder / "images" / f"{name}.png")
    return f"images/{name}.png"


def titles(source: str) -> list[str]:
    """The prompts of the cards of a section that are shown at first."""
    return re.findall(r"<h4>(.*?)</h4>", re.sub(r"(?s)<template.*?</template>", "", source))


def test_the_sections_of_a_run_that_draws(full_run: Path) -> None:
    page = report(full_run)
    anchors = [section["id"] for section in page.all("section")]
    assert anchors == ["evaluation", "curves", "drawings", "sides", "credit", "learning", "setup"]
    assert [link["href"] for link in page.all("a")] == [f"#{anchor}" for anchor in anchors]
    assert "evaluated on 96 drawings of held-out prompts" in page.text
    assert "prompts per second" in page.text


def test_the_page_is_whole_and_readable_aloud(full_run: Path) -> None:
    page = report(full_run)
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#"))
    assert page.all("img") and all(len(image["alt"]) > 10 for image in page.all("img"))
    assert all("tiny" in image["class"] for image in page.all("img"))
    assert all(cell["scope"] in ("row", "col", "colgroup") for cell in page.all("th"))
    run = read_run(full_run)
    logged = {name for values in [*run.train.values(), *run.evals.values()] for name in values}
    assert {name["title"].split()[0] for name in page.all("span", "name")} == logged


def test_curves_of_each_side_stand_together_and_speak_of_answers(full_run: Path) -> None:
    curves = section(full_run, "learning")
    headings = [re.findall(r"<h3>(.*?)</h3>", each) for each in (section(full_run, "curves"), curves)]
    assert headings == [
        ["Reward", "Held-out evaluation"],
        ["Answers while training", "Drawing side", "Answering side", "Learning"],
    ]
    for title in ("Tokens per answer", "Drawing divergence", "Answering entropy", "Groups without signal"):
        assert f">{title}<" in curves
    assert "aption" not in curves.replace("figcaption", "")


def test_every_kind_of_change_is_counted_and_shown(full_run: Path) -> None:
    drawings = drawings_of(read_run(full_run))
    assert drawings is not None and drawings.later is not None
    first, later = drawings.both
    pairs = [
        (old["drawn"] == "right", new["drawn"] == "right")
        for old, new in zip(first.samples, later.samples, strict=True)
    ]
    shown = section(full_run, "drawings")
    for kind, title in KINDS.items():
        count = pairs.count(kind)
        assert count > 0
        assert f"{count} {title.lower()}" in shown
        assert f'<h3>{title} <span class="count">{min(count, 6)} of {count}</span></h3>' in shown
    assert len(titles(shown)) == sum(min(pairs.count(kind), 6) for kind in KINDS)


def test_categories_take_turns_and_prompts_come_before_their_further_seeds(tmp_path: Path) -> None:
    rows = [("a1", "counting")] * 3 + [("a2", "counting"), ("a3", "counting")] + [("b1", "colors")] * 2
    before = [drawing(prompt, False, category=category) for prompt, category in rows]
    after = [drawing(prompt, True, category=category) for prompt, category in rows]
    shown = titles(section(two_evaluations(tmp_path / "run", before, after), "drawings"))
    assert shown == ["a1", "a2", "a3", "a1", "b1", "b1"]


def test_only_drawings_whose_images_are_there_are_shown(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    samples = [drawing("gone", True, image="images/gone.png"), drawing("never", True), drawing("kept", True)]
    folder = two_evaluations(folder, samples, samples)
    kept = picture(folder, "kept")
    for path in (folder / "evaluations").iterdir():
        content = json.loads(path.read_text())
        content["samples"][2]["image"] = kept
        path.write_text(json.dumps(content))
    shown = section(folder, "drawings")
    assert titles(shown) == ["kept"]
    assert "Right before and after" in shown and "1 of 3" in shown
    assert shown.count("<img") == 2


def test_answers_are_marked_and_verdicts_told_in_words(tmp_path: Path) -> None:
    truth, question = "The cross is left of the square", "Where is it?"
    before = [drawing("p", False, False, answer="The circle is left of the square", truth=truth)]
    after = [drawing("p", True, True, answer="The square is right of the cross", truth=truth)]
    before[0]["question"] = after[0]["question"] = question
    shown = section(two_evaluations(tmp_path / "run", before, after), "drawings")
    assert f'<p class="question">{question}</p>' in shown
    # Wrong answers show what the truth does not hold; right ones may be in other words.
    assert shown.count('class="doubt" title=') == 1
    assert '<span class="doubt" title="not in the true description">circle</span>' in shown
    assert re.findall(r'<span class="(?:right|wrong)">(.*?)</span>', shown) == [
        "✗ wrong", "✓ right", "✗ wrong", "✓ right",
    ]  # fmt: skip
    assert f'<span class="truth">{truth}</span>' in shown


def test_the_images_of_other_evaluations_are_one_click_away(full_run: Path) -> None:
    shown = section(full_run, "drawings")
    assert "Step 20" in re.findall(r"<details>.*?</details>", shown, flags=re.DOTALL)[0]


def group_sample(reward: float, **more: Any) -> dict[str, Any]:
    """A drawing of a group with an answer of one word."""
    credit = [2 * reward - 1] * 2
    found = gallery_sample(["red", ""], [0.0, reward], credit)
    found |= {"source": "a photo of a blue cross", "question": "What color?", "truth": "blue"}
    found |= {"answer": "red", "group": 3, "group_size": 2, "reward": reward, "parts": {"facts": reward}}
    return found | {"drawing_credit": 2 * reward - 1, "drawing_log_prob": -2.5, "image": ""} | more


def test_a_group_stands_side_by_side_with_rewards_and_credit(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    show(folder, 10, [group_sample(0.0), group_sample(1.0)])
    source = section(folder, "credit")
    assert titles(source) == ["a photo of a blue cross"]
    assert "Right answer: <b>blue</b>." in source and "What color?" in source
    # The best rewarded first, its drawing and its words in the color of their credit.
    assert re.findall(r'<p class="earned token (\w+)" style="--a:1.00">(.*?)</p>', source) == [
        ("plus", "drawing +1.00"),
        ("minus", "drawing \N{MINUS SIGN}1.00"),
    ]
    assert re.findall(r'<p class="caption"><span class="token (\w+)"[^>]*>red</span>', source) == [
        "plus",
        "minus",
    ]
    rows = re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", source)
    assert rows[:3] == [("reward", "1.00"), ("facts", "1.00"), ("log-prob.", "\N{MINUS SIGN}2.50")]
    assert "Trained on" not in source


def test_groups_without_signal_come_last_and_say_so(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    silent = {"source": "silent", "group": 1, "drawing_credit": 0.0, "credit": [0.0, 0.0], "group_size": 9}
    show(
        folder,
        10,
        [group_sample(1.0, **silent), group_sample(1.0, **silent), group_sample(0.0), group_sample(1.0)],
    )
    source = section(folder, "credit")
    assert titles(source) == ["a photo of a blue cross", "silent"]
    assert source.count("All earned the same, so none was preferred.") == 1
    assert "2 of 9 drawings of the group." in source


def test_a_truth_that_was_trained_on_is_told_apart_from_the_answer(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    show(folder, 10, [group_sample(0.0, pieces=["blue", ""])])
    source = section(folder, "credit")
    assert '<p class="answer">red</p><p class="label">Trained on</p><p class="caption">' in source


def test_a_drawing_alone_has_no_words(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    bare = {"pieces": [], "rewards": [], "credit": [], "answer": "", "question": "", "truth": ""}
    show(folder, 10, [group_sample(0.0, **bare), group_sample(1.0, **bare)])
    log(folder, "train", {1: {"policy/loss": 0.1, "tokens/length": 16.0}})
    source = section(folder, "credit")
    assert "caption" not in source and "Right answer" not in source
    assert "drawing +1.00" in source
    assert "Tokens per drawing" in section(folder, "learning")


def test_large_images_are_shown_smoothly_and_wider(tmp_path: Path) -> None:
    for side, kind, cards in (
        (200, "picture", "cards drawings wide"),
        (32, "picture tiny", "cards drawings"),
    ):
        samples = [drawing("a", True, image="images/drawn.png")]
        folder = two_evaluations(tmp_path / str(side), samples, samples)
        image = picture(folder, "drawn", side=side)
        show(folder, 10, [group_sample(0.0, image=image)])
        page = report(folder)
        assert [image["class"] for image in page.all("img")] == [kind] * 3
        assert [attributes["class"] for attributes in page.all("div", "drawings")] == [cards]


def test_as_many_galleries_travel_as_the_page_can_carry(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    for step in range(1, 9):
        show(folder, step, [group_sample(float(member), group=1) for member in range(16)])
    page = report(folder)
    assert len(page.all("details", "step")) == 6
    assert "2 of 8 galleries are left out" in page.text


@pytest.mark.parametrize("steps", [0, 7])
def test_runs_that_have_just_begun_show_their_first_drawings(tmp_path: Path, steps: int) -> None:
    page = report(write_drawing_run(tmp_path / "run", DrawingStory(steps=steps)))
    assert "Share of prompts drawn right is .52 before training." in page.text
    assert "Drawn right" in page.text and "Became right" not in page.text
    assert "Step 200" not in page.text
    assert "No gallery of sampled drawings has been written yet." in page.text


def test_nothing_that_was_drawn_or_said_can_become_markup(tmp_path: Path) -> None:
    evil = {"category": EVIL, "question": EVIL, "answer": EVIL, "truth": EVIL}
    sample = drawing(EVIL, True, False, **evil)
    folder = two_evaluations(tmp_path / "run", [sample], [sample])
    spoken = {"source": EVIL, "question": EVIL, "truth": EVIL, "answer": EVIL, "pieces": [EVIL, ""]}
    show(folder, 3, [group_sample(1.0, **spoken, parts={EVIL: 1.0})])
    page = report(folder)
    assert len(page.all("script")) == 1
    assert page.all("img") == [] and not any("onerror" in attributes for _, attributes in page.elements)
    assert page.text.count("alert(1)") >= 10


def test_captions_and_drawings_of_one_run_have_a_section_each(tmp_path: Path) -> None:
    folder = two_evaluations(tmp_path / "run", [drawing("a", True)], [drawing("a", True)])
    evaluate(
        folder, "held_out", 0, per_sample={"length": [1.0]}, samples=[{"source": "0.png", "caption": "b"}]
    )
    source = write_report(folder).read_text(encoding="utf-8")
    anchors = [section["id"] for section in Page(source).all("section")]
    assert anchors == ["evaluation", "curves", "drawings", "sides", "captions", "credit", "setup"]
    assert "Captions before and after" in source
