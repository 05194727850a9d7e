"""A run that does not fit ends in one message: phase, sizes, what would help by how much, what is saved."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from recipes.unirl_runs import small

from sightloop.cli import main
from sightloop.models.captioners.blip2 import Blip2Captioner
from sightloop.models.show_o.policy import ShowO
from sightloop.recipes.vlrm import build as vlrm
from sightloop.training.memory import is_out_of_memory

SMALL = ["--batch", "8", "--micro-batch", "4", "--steps", "2", "--save-every", "1", "--held-out.limit", "8"]
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1 GiB "
    "is free. Of the allocated memory 70 GiB is allocated by PyTorch. If reserved but unallocated memory is "
    "large try setting PYTORCH_ALLOC_CONF=expandable_segments:True"
)


def full(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError(CUDA)


def the_line(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("sightloop: ")]
    return line


def test_a_caption_run_says_phase_sizes_and_what_would_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlrm, "NUM_SCENES", 16)
    real, calls = Blip2Captioner.score, iter(range(100))
    # Two micro-batches of the first step fit.
    monkeypatch.setattr(Blip2Captioner, "score", lambda *a, **k: real(*a, **k) if next(calls) < 2 else full())
    line = the_line(capsys, ["train", "vlrm", "--run", str(tmp_path / "run"), *SMALL])
    assert "out of memory in step 2 while the weights were updated: CUDA out of memory. Tried" in line
    assert "PYTORCH_ALLOC_CONF" not in line
    counted = re.search(r"The plan counts ([\d.]+) GiB", line)
    smaller = re.findall(r"with (--[a-z.-]+(?: \d+)?) ([\d.]+)", line)
    assert counted and {"--micro-batch 2", "--gradient-checkpointing", "--no-keep-features"} <= {
        option for option, _ in smaller
    }
    assert all(float(size) <= float(counted[1]) for _, size in smaller)
    assert f"The checkpoint of step 1 in {tmp_path / 'run'} is whole" in line


def test_a_drawing_run_says_it_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShowO, "sample", full)
    options = ["--run", str(tmp_path / "run"), *small("unirl-grpo", "--joint.per-category", "0")]
    line = the_line(capsys, ["train", "unirl-grpo", *options])
    assert "out of memory in step 1 while samples were drawn and judged" in line
    assert (
        "--draw-batch" in line
        and "--dtype bfloat16" in line
        and "--micro-batch" not in line
        and "is whole" not in line
    )


def test_only_an_allocators_words_count() -> None:
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert not is_out_of_memory(ValueError("out of memory"))
