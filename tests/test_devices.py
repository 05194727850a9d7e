"""Which device a command takes, and that one file alone knows their kinds."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import sightloop
from sightloop import accelerator
from sightloop.cli import main
from sightloop.recipes.vlrm import build as vlrm
from sightloop.training.metrics import peak_memory_gib
from sightloop.training.randomness import random_state, set_random_state

PACKAGE = Path(sightloop.__path__[0])
KINDS = ("cuda", "xpu", "mps")


@pytest.fixture(autouse=True)
def device_as_before() -> Iterator[None]:
    """What a test chose is forgotten."""
    before = list(accelerator._chosen)
    yield
    accelerator._chosen[:] = before


def kinds_named(source: str) -> list[str]:
    """Where a file asks for a kind of device: torch's modules of them, `is_cuda`, their names as strings."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            module = ast.unparse(node) in {f"torch.{kind}" for kind in (*KINDS, "accelerator", "backends")}
            if module or node.attr in {f"is_{kind}" for kind in KINDS} | {"get_device_module"}:
                found.append(f"{node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Constant) and str(node.value).partition(":")[0] in KINDS:
            found.append(f"{node.lineno}: {node.value!r}")
        if isinstance(node, ast.ImportFrom | ast.Import):
            above = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names = [f"{above}{alias.name}" for alias in node.names]
            found += [f"{node.lineno}: {name}" for name in names if set(name.split(".")) & set(KINDS)]
    return found


def test_kinds_of_devices_are_known_to_one_file() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "accelerator.py"]
    found = [
        f"{path.relative_to(PACKAGE)}:{line}" for path in files for line in kinds_named(path.read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    ["torch.cuda.synchronize()", "x.is_cuda", "x.to('cuda:0')", "d.type != 'cuda'", "import torch.cuda.amp",
     "from torch import xpu", "torch.accelerator.current_accelerator()"],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(text: str) -> None:
    assert kinds_named(text)


def test_auto_takes_what_torch_finds_and_the_cpu_where_there_is_nothing(emulated: torch.device) -> None:
    assert accelerator.choose("auto") == accelerator.choose("emu") == emulated
    assert not accelerator.is_cpu()
    assert accelerator.choose("cpu") == torch.device("cpu")
    assert accelerator.is_cpu() and peak_memory_gib() > 0


def test_without_an_accelerator_auto_is_the_cpu() -> None:
    if accelerator.found():
        pytest.skip("this computer has an accelerator")
    assert accelerator.choose("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cuda", "torch finds none of that kind here; use auto, emu:0, cpu"),
        ("meta", "torch finds none of that kind here; use auto, emu:0, cpu"),
        ("nonsense", "which torch does not know; use auto, emu:0, cpu"),
        ("emu:7", "torch finds 1 of that kind here; use auto, emu:0, cpu"),
    ],
)
def test_a_device_that_is_not_there_is_one_sentence(
    emulated: torch.device, name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["draw", "a red circle", "--device", name])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error == f"sightloop: device is {name!r}, {says}" or error.endswith(says)
    assert "\n" not in error


def test_ranks_without_a_device_of_their_own_are_refused(
    emulated: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match=r"rank 1 needs emu:1"):
        accelerator.choose("auto")


def test_the_device_s_random_state_is_kept_under_its_kind(emulated: torch.device) -> None:
    accelerator.choose("auto")
    state = random_state()
    assert state["emu"] is not None
    accelerator.choose("cpu")
    set_random_state(state)
    assert random_state()["cuda"] is None


def test_an_accelerator_is_described_without_what_it_does_not_say(emulated: torch.device) -> None:
    assert accelerator.described(emulated).memory is None
    assert accelerator.collective_backend() == "gloo"
    assert not accelerator.can_record(emulated)


@pytest.mark.parametrize(("words", "kept"), [([], "tf32"), (["--no-tf32"], "ieee")])
def test_a_run_says_its_precisions_and_switches_tf32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], kept: str
) -> None:
    monkeypatch.setattr(vlrm, "NUM_SCENES", 16)
    before = torch.backends.cuda.matmul.fp32_precision
    small = ["--batch", "4", "--micro-batch", "4", "--steps", "1", "--held-out.limit", "4"]
    main(["train", "vlrm", "--run", str(tmp_path / "run"), *small, *words])
    now, torch.backends.cuda.matmul.fp32_precision = torch.backends.cuda.matmul.fp32_precision, before
    assert now == kept
    said = json.loads((tmp_path / "run" / "environment.json").read_text())["precision"]
    assert "frozen tower and language model: float32; judge: tower: float32" in said
    assert said.endswith("TF32" if kept == "tf32" else ": float32")
