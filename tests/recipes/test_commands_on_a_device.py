"""Every command that runs a model, on a device that is not the CPU: it says and writes what the CPU does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.test_answer_matching import folder as text_model
from geneval.test_detection_mask2former import checkpoint as mask2former
from geneval.test_detection_zero_shot import hub as zero_shot
from image_runs import STARTS, made_run
from PIL import Image

from sightloop.cli import main
from sightloop.world.bundled import WEIGHTS

__all__ = ["mask2former", "text_model", "zero_shot"]
CLIP = str(WEIGHTS / "clip_retrieval")
TIMED = re.compile(r"[\d.e+-]+ (ms|MB|GB)\b|\d+ cores|report: .*|seconds")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three images of the embedded world's size, and captions of them."""
    rng, place = np.random.default_rng(0), tmp_path / "pictures"
    place.mkdir()
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / f"{name}.png")
    captions = [{"image": f"pictures/{name}.png", "caption": f"a {name} circle"} for name in "abc"]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in captions))
    return place


Both = Callable[..., dict[str, bytes]]


@pytest.fixture
def same(tmp_path: Path, emulated: torch.device, capsys: pytest.CaptureFixture[str]) -> Both:
    """Runs a command on both devices and compares; OUT in its words is a path of its own."""

    def run(*words: str, digits: int | None = None) -> dict[str, bytes]:
        found: list[tuple[str, dict[str, bytes]]] = []
        for device in ("cpu", str(emulated)):
            out = tmp_path / f"out-{device[:3]}"
            main([word.replace("OUT", str(out)) for word in (*words, "--device", device)])
            told = TIMED.sub("", capsys.readouterr().out.replace(str(out), "OUT"))
            files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
            written = {str(path.relative_to(out)): path.read_bytes() for path in files}
            found.append((told, {k: v.replace(str(out).encode(), b"OUT") for k, v in written.items()}))
        (told, written), (told_there, written_there) = found
        assert told == told_there and told
        assert written.keys() == written_there.keys()
        for name, content in written.items():
            assert _rounded(content, digits) == _rounded(written_there[name], digits), name
        return written

    return run


def _rounded(content: bytes, digits: int | None) -> bytes:
    """A text with fewer digits."""
    if digits is None:
        return content
    return re.sub(rb"\d+\.\d+", lambda number: b"%.*f" % (digits, float(number[0])), content)


def test_captions_are_written_by_beams(same: Both, pictures: Path) -> None:
    same("caption", str(pictures), "--beams", "3", "--max-tokens", "8", "--model", str(WEIGHTS / "captioner"))


@pytest.mark.parametrize("world_model", ["show-o", "janus"])
def test_images_are_drawn_and_asked_about(same: Both, pictures: Path, world_model: str) -> None:
    steps = ["--rounds", "4"] if world_model == "show-o" else []
    model = ["--world-model", world_model]
    drawn = same("draw", "a red circle", "--per-prompt", "2", "--output", "OUT", *steps, *model)
    # Two images, their sheet, and how they were drawn.
    assert len(drawn) == 4
    model = ["--model", str(WEIGHTS / ("show_o" if world_model == "show-o" else "janus"))]
    same("ask", str(pictures / "a.png"), "what is there?", "--max-tokens", "6", *model)


def test_clip_recall_and_clip_scores_are_the_same(same: Both, pictures: Path) -> None:
    captions = str(pictures.parent / "captions.jsonl")
    model = ["--model", str(WEIGHTS / "captioner"), "--clip", CLIP, "--max-tokens", "6"]
    same("evaluate", "clip-recall", "--images", str(pictures), *model)
    same("evaluate", "clip-recall", "--captions", captions, "--clip", CLIP)
    same("evaluate", "captions", captions, "--clip", CLIP)


def test_a_language_model_judges_answers_the_same(same: Both, tmp_path: Path, text_model: Path) -> None:
    rows = [{"question": "what?", "answer": "a red dog", "truth": "a dog"}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    same("evaluate", "answers", str(tmp_path / "answers.jsonl"), "--matching", str(text_model))


def test_geneval_draws_and_sees_the_same(
    same: Both, tmp_path: Path, mask2former: Path, zero_shot: Path
) -> None:
    draw = ["--model", "shapes", "--per-prompt", "1", "--rounds", "2", "--prompt-file", "shapes"]
    written = same("evaluate", "geneval", "--images", "OUT", "--detector", "shapes", *draw)
    assert len(written) > 24
    (place := tmp_path / "images" / "00000" / "samples").mkdir(parents=True)
    asked = {
        "tag": "colors",
        "include": [{"class": "dog", "count": 1, "color": "red"}],
        "prompt": "a red dog",
    }
    (place.parent / "metadata.jsonl").write_text(json.dumps(asked))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place / "0000.png")
    (tmp_path / "prompts.jsonl").write_text(json.dumps(asked) + "\n")
    files = ["--images", str(tmp_path / "images"), "--prompt-file", str(tmp_path / "prompts.jsonl")]
    for detector in (mask2former, zero_shot / "grounding-dino", zero_shot / "owlv2"):
        seen = ["--detector", str(detector), "--colors", CLIP, "--threshold", "0.01"]
        (tmp_path / "out-cpu").exists()
        # A matrix product of OWLv2's depends on where in memory its file put the weights.
        same("evaluate", "geneval", *files, *seen, "--output", f"OUT/{detector.name}.jsonl", digits=5)


def test_joint_of_a_run_are_the_same(same: Both, tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", STARTS["janus"])
    words = ["--per-category", "4", "--max-tokens", "6", "--output", "OUT/found.json", "--image-dir", "OUT"]
    same("evaluate", "joint", "--model", str(run), "--against", "none", *words)


@pytest.mark.parametrize("words", [[], ["--recipe", "vlrm"], ["--recipe", "unirl-grpo"]])
def test_the_doctor_finds_the_same(emulated: torch.device, tmp_path: Path, words: list[str]) -> None:
    found: list[dict[str, str]] = []
    for device in ("cpu", str(emulated)):
        main(["doctor", *words, "--output", str(tmp_path / "found.json"), "--device", device])
        findings = json.loads((tmp_path / "found.json").read_text())["findings"]
        assert any(finding["name"] == "gpu 0" for finding in findings)
        found.append({f"{f['part']}, {f['name']}": f["mark"] for f in findings})
    assert found[0] == found[1]
