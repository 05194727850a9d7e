"""Memory given back between the phases of a step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from sightloop.training.heap import give_back


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or torch.cuda.is_available(), reason="glibc on a CPU"
)
def test_what_was_freed_goes_back_to_the_system() -> None:
    # Blocks of a size that the heap keeps, with one that lives above them.
    blocks = [torch.ones(2**14) for _ in range(2000)]
    keeper = torch.ones(2**10)
    del blocks
    before = _resident()
    give_back()
    assert keeper.sum() == 2**10
    assert _resident() <= before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])
