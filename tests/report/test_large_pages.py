"""Pages of runs with a thousand large images: short at first, more on demand, never too large to send."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report import synthetic_drawing_run, synthetic_run

from sightloop.image_files import reduced_copy
from sightloop.report.cards import more_cards
from sightloop.report.markup import Markup
from sightloop.report.page import write_report

MOST = 30_000_000


def replaced_images(folder: Path) -> None:
    """Noise of photographs' size instead of every image, which no format makes small."""
    noise = np.random.default_rng(0).integers(256, size=(512, 512, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    for image in folder.rglob("*.png"):
        image.write_bytes(out.getvalue())


def test_a_page_of_a_thousand_large_images_can_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic_run, "EVALUATED", 1000)
    monkeypatch.setattr(synthetic_run, "PICTURED", 1000)
    story = synthetic_run.Story(steps=8, planned=8, evaluate_every=8, gallery_every=1)
    run = synthetic_run.write_run(tmp_path / "run", story)
    replaced_images(run)
    text = write_report(run).read_text(encoding="utf-8")
    assert len(text) < MOST
    first, template, rest = text.partition("<template>")
    assert template and rest.count("<article") > 20
    told = re.search(r"Show ([\d,]+) more; ([\d,]+) others are in", first)
    # 12 at first, up to 4 losses, the rest on demand or in the live page.
    assert told
    assert 1000 - 16 <= int(told[1]) + int(told[2].replace(",", "")) <= 1000 - 12


def test_a_page_of_large_drawings_can_be_sent(tmp_path: Path) -> None:
    run = synthetic_drawing_run.write_drawing_run(
        tmp_path / "run", synthetic_drawing_run.DrawingStory(steps=20, planned=20)
    )
    replaced_images(run)
    text = write_report(run).read_text(encoding="utf-8")
    assert len(text) < MOST and "<template>" in text


def test_cards_are_taken_while_there_is_room() -> None:
    cards = [Markup("x" * 10)] * 5
    assert more_cards(iter(cards), 5, room=9) == ""
    assert "Show 2 more; 3 others are in `sightloop view`" in more_cards(iter(cards), 5, room=25)
    assert "Show 5 more<" in more_cards(iter(cards), 5)


def test_a_reduced_copy_is_small_and_what_cannot_be_read_stays() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (800, 400), (255, 0, 0, 128)).save(out, "PNG")
    with Image.open(io.BytesIO(reduced_copy(out.getvalue(), 100))) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (100, 50), "RGB")
    assert reduced_copy(b"\x89PNG\r\n\x1a\n broken", 100) == b"\x89PNG\r\n\x1a\n broken"
