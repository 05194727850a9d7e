"""Every command on a device that is not the CPU: the same numbers as on the CPU, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recipes.unirl_runs import figures

from sightloop.cli import main
from sightloop.recipes import vlrm

SMALL = ("--batch", "4", "--micro-batch", "2", "--steps", "1", "--held-out.limit", "8")


def test_vlrm_trains_and_is_evaluated_as_on_the_cpu(
    tmp_path: Path, emulated: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlrm, "NUM_SCENES", 8)
    for device in ("cpu", str(emulated)):
        run = tmp_path / device.partition(":")[0]
        main(["train", "vlrm", *SMALL, "--run", str(run), "--device", device])
    assert figures(tmp_path / "emu") == figures(tmp_path / "cpu")
