"""The page: complete, self-contained, escaped and accessible, whatever state the run is in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from report.parsed_page import Page, report
from report.run_files import begin, evaluate, gallery_sample, log, samples_of, show
from report.synthetic_run import Story, write_empty_run, write_run

from sightloop.report.cards import spread
from sightloop.report.page import page_file, write_report
from sightloop.report.run import GallerySample, read_run
from sightloop.report.tokens import credit_limit, tokens_of

EVIL = """</script><script>alert(1)</script><img src=x onerror="alert('2')"> & <b>bold</b>"""


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long run with alarms, galleries and a best step, at a path with spaces."""
    alarms = [{"step": 40, "name": "no end", "message": "7% of the captions did not end."}]
    folder = tmp_path_factory.mktemp("runs of today") / "shapes, seed 3"
    return write_run(folder, Story(steps=40, planned=40, evaluate_every=20, gallery_every=20, alarms=alarms))


def test_the_page_loads_nothing_from_outside(full_run: Path) -> None:
    page = report(full_run)
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#"))
    source = (full_run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://", source)
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")


def test_every_section_is_there_and_linked(full_run: Path) -> None:
    page = report(full_run)
    anchors = [section["id"] for section in page.all("section")]
    assert anchors == ["evaluation", "curves", "captions", "credit", "learning", "setup"]
    assert [link["href"] for link in page.all("a")] == [f"#{anchor}" for anchor in anchors]
    assert "R@1 rose from" in page.text
    assert "No end (step 40): 7% of the captions did not end." in page.text


def test_images_charts_and_tables_can_be_read_aloud(full_run: Path) -> None:
    page = report(full_run)
    assert page.all("img") and all(len(image["alt"]) > 10 for image in page.all("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_every_logged_metric_has_a_curve(full_run: Path) -> None:
    run = read_run(full_run)
    logged = {name for values in [*run.train.values(), *run.evals.values()] for name in values}
    titles = {name["title"].split()[0] for name in report(full_run).all("span", "name")}
    assert titles == logged


def test_tiny_images_keep_their_pixels(full_run: Path) -> None:
    assert all("tiny" in image["class"] for image in report(full_run).all("img"))


def test_nothing_that_was_written_can_become_markup(tmp_path: Path) -> None:
    folder = begin(tmp_path / "a & <b>")
    log(folder, "train", {1: {"reward/<i>": 1.0}})
    samples = [{"source": f"{EVIL}.png", "caption": EVIL, "truth": EVIL}]
    for step, value in ((0, 0.0), (1, 1.0)):
        evaluate(folder, "recall", step, per_sample={"mrr": [value]}, samples=samples, protocol={EVIL: EVIL})
    show(folder, 1, [gallery_sample([EVIL, EVIL], [1.0, 2.0, 0.0], [1.0, -1.0, 0.0])])
    (folder / "alarms.jsonl").write_text(json.dumps({"step": 1, "name": EVIL, "message": EVIL}) + "\n")
    (folder / "environment.json").write_text(json.dumps({EVIL: {EVIL: EVIL}}))
    page = report(folder)
    assert len(page.all("script")) == 1
    assert page.all("b") and not any("onerror" in attributes for _, attributes in page.elements)
    assert page.all("img") == []
    assert page.text.count("alert(1)") >= 8
    assert "a & <b>" in page.text


def test_changed_words_are_marked_beside_the_image(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    truth = "a small red cross"
    for step, caption in ((0, "a photo of a cross"), (30, "a large red cross")):
        evaluate(
            folder, "truth", step, per_sample={"told": [0.5]}, samples=samples_of([caption], truth=truth)
        )
    source = write_report(folder).read_text(encoding="utf-8")
    assert "<dd>a <del>photo of a</del> cross</dd>" in source
    assert (
        '<dd>a <ins><span class="doubt" title="not in the true description">large</span> red</ins> cross</dd>'
        in source
    )
    assert f'<span class="truth">{truth}</span>' in source


def test_tokens_carry_their_credit_and_reward(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    sample = gallery_sample([" tri", "angle", " red"], [0.0, -0.5, 0.0, 3.0], [2.0, -1.0, 0.0, 0.5])
    show(folder, 10, [sample])
    source = write_report(folder).read_text(encoding="utf-8")
    words = re.findall(
        r'<span class="token( plus| minus)?( mark)?" style="--a:([\d.]+)" title="([^"]*)">([^<]*)<', source
    )
    assert words == [
        (" plus", "", "1.00", "tri\nreward 0\ncredit +2.00", "tri"),
        (" minus", "", "0.50", "angle\nreward \N{MINUS SIGN}0.500\ncredit \N{MINUS SIGN}1.00", "angle"),
        ("", "", "0.00", "red\nreward 0\ncredit 0", "red"),
        (" plus", " mark", "0.25", "⟨end⟩\nreward +3.00\ncredit +0.500", "end"),
    ]
    page = Page(source)
    # Both pieces of one word touch; the caption reads as it was written.
    assert "triangle red end" in page.text
    assert "reward 2.50" in page.text and "similarity +3.10" in page.text


def sample_of(pieces: list[str], rewards: list[float], credit: list[float]) -> GallerySample:
    """One caption of a gallery that ended and has no critic."""
    return GallerySample(
        source="", image="", pieces=pieces, rewards=rewards, credit=credit, values=[], ended=True, parts={}
    )


def test_padding_behind_the_end_is_left_out() -> None:
    tokens = tokens_of(sample_of(["a", "b"], [0.0, 0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0]))
    assert [(token.text, token.is_mark) for token in tokens] == [("a", False), ("b", False), ("end", True)]


def test_a_caption_without_words_shows_its_end() -> None:
    tokens = tokens_of(sample_of([], [1.0], [0.5]))
    assert [(token.text, token.reward, token.credit) for token in tokens] == [("end", 1.0, 0.5)]


def test_one_outlier_does_not_dim_the_colors() -> None:
    sample = sample_of([], [], [*([-1.0, 1.0] * 45), *([80.0] * 10)])
    assert credit_limit([sample]) == 1.0
    assert credit_limit([]) == 1.0


def test_shown_samples_are_spread_evenly() -> None:
    assert spread(list(range(100)), 4) == [0, 33, 66, 99]
    assert spread([5, 6], 4) == [5, 6]
    assert spread([5, 6], 1) == [6]


@pytest.mark.parametrize("steps", [0, 7])
def test_runs_that_have_just_begun_have_a_page(tmp_path: Path, steps: int) -> None:
    page = report(write_run(tmp_path / "run", Story(steps=steps)))
    assert f"{steps} of 200 steps (unfinished)" in page.text
    assert "No alarm." in page.text
    assert "R@1 is .12 before training." in page.text
    assert "Change" not in page.text.split("Before and after")[0]


def test_a_run_without_any_record_has_a_page(tmp_path: Path) -> None:
    page = report(write_empty_run(tmp_path / "run"))
    for sentence in (
        "No evaluation yet.",
        "No step has been logged yet.",
        "No training step has been logged yet.",
    ):
        assert sentence in page.text


def test_very_long_captions_and_missing_images_have_a_place(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    words = " ".join(f"word{index}" for index in range(3000))
    samples = [{"source": "0.png", "caption": words, "image": "images/gone.png"}]
    evaluate(folder, "captions", 0, per_sample={"length": [3000.0]}, samples=samples)
    evaluate(folder, "captions", 5, per_sample={"length": [3000.0]}, samples=samples)
    page = report(folder)
    assert words in page.text
    assert "no image stored" in page.text


def test_evaluations_that_were_not_made_alike_are_called_out(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    for step, encoder in ((0, "small"), (5, "large")):
        evaluate(
            folder,
            "recall",
            step,
            per_sample={"mrr": [0.5]},
            samples=samples_of(["a"]),
            protocol={"encoder": encoder},
        )
    assert "recall: both evaluations were not made alike; they differ in encoder." in report(folder).text


def test_the_evaluation_table_holds_the_numbers(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    log(
        folder,
        "eval",
        {0: {"recall/recall@1": 0.25}, 5: {"recall/recall@1": 0.75}, 9: {"recall/recall@1": 0.5}},
    )
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best").write_text("step_000005")
    source = write_report(folder).read_text(encoding="utf-8")
    (row,) = re.findall(r"<tbody>(.*?)</tbody>", source)
    cells = [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
    assert cells == ["R@1", ".250", ".750", "+.500", "\N{EN DASH}", "\N{EN DASH}", ".500", ""]
    assert "Best, step 5" in source and "Last, step 9" in source


def test_the_page_says_what_was_trained_on_and_what_only_watched(full_run: Path) -> None:
    page = write_report(full_run).read_text(encoding="utf-8")
    assert "Trained on: similarity (weight 4), reference (weight 1)" in page
    assert "Only watched, never trained on: held out, whose figure “R@1”" in page


def test_the_same_folder_gives_the_same_page(full_run: Path) -> None:
    first = write_report(full_run).read_bytes()
    assert write_report(full_run).read_bytes() == first
    assert sorted(path.suffix for path in full_run.glob("report*")) == [".html"]


def test_every_class_of_the_page_has_its_look(full_run: Path) -> None:
    page = report(full_run)
    styles = page_file("page.css")
    used = {word for _, attributes in page.elements for word in attributes.get("class", "").split()}
    assert used - set(re.findall(r"\.([a-z]\w*)", styles)) <= {"top", "steps"}
    assert all(image["class"] in ("picture", "picture tiny") for image in page.all("img"))


def test_a_best_step_below_the_start_is_said_aloud(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", steps=10)
    for step, value in ((0, 0.5), (5, 0.25), (10, 0.0)):
        log(folder, "eval", {step: {"held_out/recall@1": value}})
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best").write_text("step_000005\n")
    assert "The best step is worse than the start" in report(folder).text
    (folder / "checkpoints" / "best").write_text("step_000000\n")
    assert "worse than the start" not in report(folder).text
