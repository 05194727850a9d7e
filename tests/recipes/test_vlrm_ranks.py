"""What the retrieval term contrasts follows from the configuration, so it is looked at before all else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from models.damaged_folders import refusal

from sightloop.recipes.vlrm.config import PAPER_RS, SHAPES_RS


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["--batch", "25", "--draw-batch", "24"], "contrast 1 of"),
        (["--batch", "24", "--draw-batch", "1"], "contrast 1 of"),
        (["--batch", "30", "--draw-batch", "24"], "contrast 6 of"),
        (["--batch", "24", "--judge.contrast", "7"], "contrast 24 of"),
        (["--batch", "30", "--draw-batch", "24", "--judge.contrast", "8"], "contrast 6 of"),
    ],
)
def test_a_retrieval_term_that_cannot_be_made_is_refused_before_a_model_is_loaded(
    words: list[str], number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(capsys, "train", "vlrm", "--preset", "shapes-rs", "--run", str(tmp_path / "run"), *words)
    assert "the retrieval term would" in told and number in told and "draw_batch" in told
    assert not (tmp_path / "run" / "pictures").exists()


def test_ranks_share_a_batch_and_what_is_left_over_counts() -> None:
    for ranks in (1, 2, 8, 16):
        PAPER_RS.require_ranks(ranks)
    small = replace(SHAPES_RS, batch=24, draw_batch=None)
    small.require_ranks(12)
    # All ranks' captions are contrasted, as one rank alone would.
    assert [small.contrast_over_ranks(ranks) for ranks in (1, 2, 24)] == [None, 24, 24]
    small.require_ranks(24)
    assert [PAPER_RS.contrast_over_ranks(ranks) for ranks in (1, 16, 32)] == [None, None, 256]
    with pytest.raises(ValueError, match="contrast 24 of"):
        replace(small, judge=replace(small.judge, contrast=7)).require_ranks(8)
    with pytest.raises(ValueError, match="batch is 24, for 5 ranks; use a multiple"):
        small.require_ranks(5)
    replace(small, draw=replace(small.draw, per_image=2)).require_ranks(24)
    pairs = replace(small, judge=replace(small.judge, contrast=4))
    pairs.require_ranks(6)
    assert [pairs.contrast_over_ranks(ranks) for ranks in (6, 8)] == [None, 4]
    pairs.require_ranks(8)
