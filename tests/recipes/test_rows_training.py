"""Rows of one's own through the command line: a chat model learns from them by any rewards, and resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sightloop.cli import main
from sightloop.messages import MessagePrompt
from sightloop.models.named_models import load_captioner
from sightloop.models.protocols import Captioner
from sightloop.types import Images, Prompt, Sampling, Turn
from sightloop.world.bundled import WEIGHTS

JANUS = str(WEIGHTS / "janus")
OFTEN = ["--save-every", "1", "--sample-every", "1", "--eval-every", "1", "--warmup-steps", "0"]
REWARDS = '''
def right(prompts, completions, answer, **columns):
    """As for TRL: messages come as lists."""
    assert columns["level"] and "image" in columns
    texts = [completion[0]["content"] for completion in completions]
    assert all(prompt[0]["content"][-1]["text"].startswith("Which") for prompt in prompts)
    return [float(told == true) for told, true in zip(texts, answer)]


def short(completions, answer=None):
    return [-len(completion[0]["content"]) / 100 for completion in completions]
'''


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Eight rows that ask a conversation each, and two rewards."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(8):
        Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        asked = [{"role": "user", "content": "Which object do you see?"}]
        row = {"image": f"{number}.png", "prompt": asked, "answer": "circle", "level": number + 1}
        lines.append(json.dumps(row))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "mine.py").write_text(REWARDS, encoding="utf-8")
    return tmp_path / "rows.jsonl"


def words_of(rows: Path, run: Path, *more: str) -> list[str]:
    mine = rows.parent / "mine.py"
    return [
        *("train", "grpo", "--model", JANUS, "--rows", str(rows), "--held-out.rows", str(rows)),
        *("--custom-rewards", f"{mine}:right", f"{mine}:short=0.5", "--run", str(run), "--batch", "2"),
        *("--group", "3", "--draw.max-tokens", "6", "--dtype", "float32", *OFTEN, *more),
    ]


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def plain(row: dict[str, Any]) -> dict[str, Any]:
    timed = ("seconds/", "speed/", "memory/")
    return {name: value for name, value in row.items() if not name.startswith(timed)}


@pytest.mark.parametrize("method", ["grpo", "gdpo"])
def test_a_run_on_rows_goes_on_where_it_was(rows: Path, tmp_path: Path, method: str) -> None:
    main(words_of(rows, tmp_path / "whole", "--algorithm", method, "--steps", "2", "--kl-weight", "0.1"))
    main(words_of(rows, tmp_path / "parts", "--algorithm", method, "--steps", "1", "--kl-weight", "0.1"))
    main(["train", "--resume", str(tmp_path / "parts"), "--trust-rewards", "--steps", "2"])
    whole, parts = (logged(tmp_path / name) for name in ("whole", "parts"))
    assert [plain(row) for row in whole] == [plain(row) for row in parts]
    steps = [row for row in whole if row["kind"] == "train"]
    # What drew is what is scored: the ratio is 1 up to rounding.
    assert all(abs(row["policy/ratio"] - 1) < 1e-5 for row in steps)
    assert {"reward/right", "reward/short", "policy/kl"} <= steps[0].keys()
    found = json.loads((tmp_path / "whole" / "evaluations" / "held_out_step_000002.json").read_text())
    assert found["samples"][0]["question"] == "Which object do you see?"
    assert {"reward", "right", "short", "length", "ended"} <= found["metrics"].keys()
    main(["report", str(tmp_path / "whole")])
    main(["export", str(tmp_path / "whole"), "--output", str(tmp_path / "exported")])
    main(["caption", str(rows.parent / "0.png"), "--model", str(tmp_path / "exported")])


def asked(counts: list[int]) -> Prompt:
    """Prompts with so many images each, as texts and as conversations."""
    pixels = torch.randint(256, (len(counts), 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images = Images(
        pixels=pixels.to(torch.uint8), more=(Images(pixels=pixels.flip(0).to(torch.uint8)),), counts=counts
    )
    told = [{"role": "user", "content": "Which object do you see?"}]
    texts = [MessagePrompt.of(told) if row % 2 else "Which object?" for row in range(len(counts))]
    return Prompt(texts=texts, images=images, seeds=list(range(len(counts))))


@pytest.mark.parametrize("counts", [[1, 2, 2, 1], [2, 2, 2, 2]])
def test_what_is_drawn_is_what_is_scored_of_several_images(counts: list[int]) -> None:
    policy: Captioner = load_captioner(JANUS, dtype=torch.float32, device=torch.device("cpu"))
    prompt, sampling = asked(counts), Sampling(max_tokens=5, temperature=1.5, top_k=7)
    tokens = policy.sample(prompt, sampling)
    assert tokens.log_probs is not None
    scored = policy.score(Turn(prompt=prompt, tokens=tokens), sampling).log_probs
    assert torch.allclose(scored, tokens.log_probs, atol=1e-5)
    # The second image is read.
    assert isinstance(prompt.images, Images)
    fewer = Prompt(texts=prompt.texts, images=Images(pixels=prompt.images.pixels), seeds=prompt.seeds)
    assert not torch.allclose(policy.score(Turn(prompt=fewer, tokens=tokens), sampling).log_probs, scored)


def test_a_model_without_conversations_refuses_them(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blip2 = str(WEIGHTS / "captioner")
    with pytest.raises(SystemExit):
        main(words_of(rows, tmp_path / "run", "--steps", "1", "--model", blip2))
    assert "give each row one text and one image" in capsys.readouterr().err


def test_a_bridge_learns_from_rows_of_plain_texts(tmp_path: Path, rows: Path) -> None:
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    texts = [json.dumps(row | {"prompt": "a", "reference": "a small circle"}) for row in lines]
    (tmp_path / "texts.jsonl").write_text("\n".join(texts), encoding="utf-8")
    blip2 = str(WEIGHTS / "captioner")
    main(
        [
            *("train", "grpo", "--model", blip2, "--rows", str(tmp_path / "texts.jsonl"), "--batch", "2"),
            *("--group", "4", "--draw.max-tokens", "12", "--dtype", "float32", "--steps", "2", *OFTEN),
            *("--custom-rewards", "length", "exact", "--run", str(tmp_path / "run"), "--kl-weight", "0.1"),
            *("--learning-rate", "0.01"),
        ]
    )
    first, second = (row for row in logged(tmp_path / "run") if row["kind"] == "train")
    assert first["policy/kl"] == 0 < second["policy/kl"]


def test_what_a_run_needs_is_said_before_anything_is_loaded(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = rows.parent / "mine.py"
    mine.write_text("def right(completions, solution):\n    return [0.0 for _ in completions]\n")
    for words, said in (
        (
            words_of(rows, tmp_path / "run", "--custom-rewards", f"{mine}:right"),
            "their columns are answer, level",
        ),
        (["train", "grpo", "--rows", str(rows)], "name a model with --model"),
        (["train", "grpo", "--group", "1"], "use at least 2"),
        (["train", "grpo", "--data.frames", "3"], "belongs to rows of your own"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_the_plan_counts_answers_and_the_model_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "grpo", "--plan", "--kl-weight", "0.1"])
    told = capsys.readouterr().out
    assert "32 rows, 8 answers each" in told and "the same before training" in told
