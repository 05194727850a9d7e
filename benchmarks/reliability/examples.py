"""Whole files of every kind that the library reads, small and made on the spot."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.reliability.tiny_models import make_models
from benchmarks.reliability.tiny_runs import make_images, some_quizzes, train_words
from sightloop.cli.app import run_command
from sightloop.process.boundary import ended_in_one_sentence
from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import write_images

FORMS = {
    **{"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF"},
    **{"ppm": "PPM", "jp2": "JPEG2000", "avif": "AVIF"},
}
BRIEF = ("--beams", "1", "--no-repeat-ngram", "0", "--min-tokens", "1", "--max-tokens", "2")
_TEXTS = ("a small red circle top-left", "a large blue square", "a green cross on black", "a red triangle")
_DETECTOR = """
def detect(images):
    return [[{"class": "circle", "box": [0, 0, 9, 9], "score": 0.9, "color": "red"}] for _ in images]
"""
_REWARD = "def short(completions):\n    return [-len(text) / 10 for text in completions]\n"


def command(words: list[str]) -> None:
    """One command as the command line runs it."""
    with ended_in_one_sentence(words):
        run_command(words)


def make_examples(place: Path) -> None:
    """Everything, below `place`."""
    make_images(place)
    make_texts(place / "texts")
    _geneval(place / "geneval")
    _images(place / "formats")
    _shards(place / "shards", place / "formats")
    _runs(place)
    make_models(place / "models")
    _exported(place)
    # What these import need not be imported for each case again.
    written = ["--output", str(place / "texts" / "written.jsonl"), *BRIEF]
    model = ["--model", str(place / "models" / "captioner")]
    command(["caption", str(place / "texts" / "images"), *model, *written])
    command(
        ["evaluate", "captions", str(place / "texts" / "captions.jsonl"), "--clip", str(WEIGHTS / "clip")]
    )
    command(["report", str(place / "captions_run")])


def _lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_texts(folder: Path) -> Path:
    """Texts about four images: captions, what they are compared with, answers, quizzes, prompts."""
    write_images(folder / "images", number=4, seed=0)
    names = sorted(f"images/{file.name}" for file in (folder / "images").glob("*.png"))
    pairs = [{"image": name, "caption": text} for name, text in zip(names, _TEXTS, strict=True)]
    _lines(folder / "captions.jsonl", pairs)
    (folder / "captions.json").write_text(json.dumps(pairs))
    table = io.StringIO()
    writer = csv.DictWriter(table, ["image", "caption"])
    writer.writeheader()
    writer.writerows(pairs)
    (folder / "captions.csv").write_text(table.getvalue())
    (folder / "references.json").write_text(json.dumps(dict(zip(names, _TEXTS[::-1], strict=True))))
    _lines(folder / "references.jsonl", [*pairs, *pairs])
    _lines(folder / "objects.jsonl", [{"image": name, "objects": ["dog", "cat"]} for name in names])
    (folder / "objects.json").write_text(json.dumps({name: ["dog"] for name in names}))
    coco = {
        "images": [{"id": number, "file_name": Path(name).name} for number, name in enumerate(names)],
        "annotations": [{"image_id": number, "category_id": 18} for number in range(4)],
        "categories": [{"id": 18, "name": "dog"}],
    }
    (folder / "instances.json").write_text(json.dumps(coco))
    entries: list[dict[str, Any]] = [
        {"filename": name, "split": split, "sentences": [{"raw": text}]}
        for name, split, text in zip(names, ("train", "restval", "test", "val"), _TEXTS, strict=True)
    ]
    (folder / "dataset.json").write_text(json.dumps({"images": entries}))
    asked = [
        {"question_id": n, "question": "is it red?", "answer": "yes", "truth": "no", "image": name}
        for n, name in enumerate(names)
    ]
    _lines(folder / "answers.jsonl", asked)
    _lines(folder / "said.jsonl", [{"question_id": n, "text": "Yes, it is."} for n in range(4)])
    _lines(folder / "questions.jsonl", [{"question_id": n, "text": "red?", "label": "no"} for n in range(4)])
    (folder / "phrases.txt").write_text("a picture of\nan image of\n")
    (folder / "plain.txt").write_text("a red circle\nwhat is it?\n")
    (folder / "words.txt").write_text("dog: puppy, hound\ncat: kitten\n")
    (folder / "prompts.txt").write_text('a photo of a dog\n{"prompt": "two cats"}\n')
    (folder / "mine.py").write_text(_REWARD)
    (folder / "finds.py").write_text(_DETECTOR)
    _lines(folder / "quizzes.jsonl", some_quizzes(4))
    return folder


def _geneval(folder: Path) -> None:
    folder.mkdir()
    _lines(
        folder / "prompts.jsonl", [{k: q[k] for k in ("tag", "prompt", "include")} for q in some_quizzes(2)]
    )
    words = ["evaluate", "geneval", "--model", "shapes", "--per-prompt", "1", "--rounds", "1"]
    words += ["--images", str(folder / "images"), "--prompt-file", str(folder / "prompts.jsonl")]
    command([*words, "--detector", "shapes", "--output", str(folder / "results.jsonl")])
    for kind in ("jsonl", "protocol.json"):
        shutil.copy(folder / f"results.{kind}", folder / f"before.{kind}")


def _images(folder: Path) -> None:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for suffix, form in FORMS.items():
        image.save(folder / f"{form.lower()}.{suffix}", form)
    image.quantize(16).save(folder / "palette.png", transparency=3)
    image.convert("CMYK").save(folder / "cmyk.jpg", progressive=True)
    image.convert("I;16").save(folder / "deep.png")
    image.save(folder / "moving.gif", save_all=True, append_images=[image.rotate(90)])
    image.save(folder / "pages.tif", save_all=True, append_images=[image.rotate(90)], compression="tiff_lzw")
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(folder / "turned.jpg", exif=turned)
    image.save(folder / "drawn.eps", "EPS")
    (folder / "drawn.eps").rename(folder / "drawn.png")


def _shards(folder: Path, images: Path) -> None:
    folder.mkdir()
    files = sorted(images.iterdir())
    with tarfile.open(folder / "pictures.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            tar.add(file, file.name)
            for suffix, text in {"txt": "a dog", "json": '{"caption": "a dog"}'}.items():
                member = tarfile.TarInfo(f"{file.stem}.{suffix}")
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("../outside.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    pq.write_table(pa.table({"image": rows, "text": ["a dog"] * len(files)}), folder / "pictures.parquet")
    make_video(folder / "moving.mp4")
    raw = pa.table({"image": [file.read_bytes() for file in files]})
    pq.write_table(raw, folder / "raw.parquet", compression="zstd")


def make_video(file: Path) -> None:
    """Five frames."""
    image = Image.new("RGB", (32, 24), "red")
    with av.open(file, "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_image(image)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _runs(place: Path) -> None:
    """Finished runs of two steps: a captioner's, one that draws, and one with a reward of the user's."""
    few = ["--steps", "2", "--save-every", "1", "--sample-every", "1", "--eval-every", "1"]
    command([*train_words("a2c", place, place / "captions_run"), *few])
    command([*train_words("grpo show-o", place, place / "drawings_run"), *few])


def _exported(place: Path) -> None:
    """What the commands write for others, to be read again."""
    models = place / "models"
    command(
        ["convert", "show-o", str(models / "show_o"), str(models / "show_o_official"), "--to", "official"]
    )
    command(["convert", "janus", str(models / "janus"), str(models / "janus_official"), "--to", "official"])
    magvit = [str(models / "show_o" / "magvit2"), str(models / "magvit_official")]
    command(["convert", "magvit2", *magvit, "--to", "official"])
    words = train_words("a2c", place, place / "llava_run")
    words[words.index("--model") + 1] = str(models / "llava")
    command([*words, "--steps", "1", "--algorithm", "scst"])
    command(["export", str(place / "llava_run"), "--output", str(models / "adapters")])
