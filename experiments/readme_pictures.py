"""The pictures of the README, made by the library from a run of its demonstration.

python -m experiments.readme_pictures --run runs/demo-vlrm --browser chromium
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sightloop.cli import main
from sightloop.image_files import open_image
from sightloop.report.captions import records_with_captions, shown_rows
from sightloop.report.page import write_report
from sightloop.report.run import RunRecords, read_run
from sightloop.report.tables import evaluated_steps

PLACE = Path(__file__).resolve().parent.parent / "docs" / "pictures"
PROMPTS = (
    "a photo of a red circle and a blue cross",
    "a photo of three green triangles",
    "a photo of a yellow square above a purple circle",
)
_ROWS, _SIDE, _GAP, _WIDTH = 5, 96, 10, 860
_INK, _MUTED, _PAPER = (25, 28, 32), (110, 118, 126), (255, 255, 255)
_PAGE = (1180, 860)


def captions_sheet(run: RunRecords, rows: int = _ROWS) -> Image.Image:
    """Images of a run, evenly spaced over its evaluation, with their captions before and after training."""
    records, steps = records_with_captions(run), evaluated_steps(run)
    if steps is None or steps[0] == steps[1]:
        raise ValueError(f"{run.path} was not evaluated before and after training")
    first, later = records[steps[0]], records[steps[1]]
    known = shown_rows(first)
    chosen = known[:: max(1, len(known) // rows)][:rows]
    sheet = Image.new("RGB", (_WIDTH, (_SIDE + _GAP) * len(chosen) + _GAP), _PAPER)
    pen, small, font = ImageDraw.Draw(sheet), ImageFont.load_default(13), ImageFont.load_default(15)
    for place, row in enumerate(chosen):
        top, left = _GAP + place * (_SIDE + _GAP), _SIDE + 3 * _GAP
        image = open_image(run.path / first.samples[row]["image"])
        sheet.paste(image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (_GAP, top))
        told = (("before", first), (f"after {later.step} steps", later))
        for line, (when, record) in enumerate(told):
            pen.text((left, top + 46 * line), when, _MUTED, small)
            pen.text((left, top + 46 * line + 17), record.samples[row]["caption"], _INK, font)
    return sheet


def drawings_sheet() -> Image.Image:
    """What the bundled Show-o draws, as the command `draw` lays it out."""
    with tempfile.TemporaryDirectory() as place:
        prompts, drawn = Path(place) / "prompts.txt", Path(place) / "drawn"
        prompts.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
        main(["draw", "--prompt-file", str(prompts), "--per-prompt", "4", "--output", str(drawn)])
        (sheet,) = drawn.glob("sheet*.png")
        return open_image(sheet)


def page_picture(run: Path, browser: str) -> Image.Image:
    """The upper part of a run's page in a browser without a window."""
    page = write_report(run).resolve()
    with tempfile.TemporaryDirectory() as place:
        shot = Path(place) / "page.png"
        size = f"--window-size={_PAGE[0]},{_PAGE[1]}"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", size, f"--screenshot={shot}"]
        subprocess.run([browser, *options, page.as_uri()], check=True, capture_output=True, cwd=place)
        return open_image(shot)


def write_pictures(run: Path, browser: str, place: Path = PLACE) -> None:
    """Write captions.png and drawings.png, with a browser also page.png."""
    place.mkdir(parents=True, exist_ok=True)
    made = {"captions": captions_sheet(read_run(run)), "drawings": drawings_sheet()}
    if browser:
        made["page"] = page_picture(run, browser)
    for name, image in made.items():
        # A few colors are enough for flat shapes and text, and keep the repository small.
        image.quantize(64, dither=Image.Dither.NONE).save(place / f"{name}.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--browser", default="", help="a Chromium, for the picture of the page")
    given = parser.parse_args()
    write_pictures(given.run, given.browser)
