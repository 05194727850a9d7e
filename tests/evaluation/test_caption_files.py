"""Captions read from files, and what is wrong with files said in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightloop.cli import main
from sightloop.evaluation.pairs import caption_set, read_captions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with images a.png, b.png and sub/c.png (only their presence is looked at)."""
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "sub/c.png"):
        (tmp_path / name).touch()
    return tmp_path


def written(folder: Path, name: str, text: str) -> Path:
    """The file with this text."""
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


PAIRS = [("a.png", "a cat, \u201cred\u201d"), ("sub/c.png", "")]
RECORDS = [{"image": image, "caption": caption} for image, caption in PAIRS]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.jsonl", "\n".join(json.dumps(record) for record in RECORDS) + "\n\n"),
        ("x.jsonl", "\ufeff" + "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)),
        ("x.json", json.dumps(RECORDS)),
        ("x.json", json.dumps(dict(PAIRS))),
        (
            "x.json",
            json.dumps(
                {
                    "step": 1,
                    "samples": [{"source": i, "caption": c, "image": "images/0.png"} for i, c in PAIRS],
                }
            ),
        ),
        ("x.csv", 'image,caption\na.png,"a cat, \u201cred\u201d"\r\nsub/c.png,\n'),
        ("x.csv", 'caption,note,image\n"a cat, \u201cred\u201d",-,a.png\n,-,sub/c.png\n'),
    ],
)
def test_all_forms_of_a_captions_file_say_the_same(folder: Path, name: str, text: str) -> None:
    found = read_captions(written(folder, name, text))
    assert found.images == [folder / "a.png", folder / "sub/c.png"]
    assert found.captions == ["a cat, \u201cred\u201d", ""]
    assert found.target == [0, 1]
    assert found.sources == [str(folder / "a.png"), str(folder / "sub/c.png")]


def test_line_separators_inside_of_a_caption_do_not_end_the_line(folder: Path) -> None:
    text = '{"image": "a.png", "caption": "a\u2028b"}\n{"image": "b.png", "caption": "c\u0085d"}\n'
    assert read_captions(written(folder, "x.jsonl", text)).captions == ["a\u2028b", "c\u0085d"]
    table = 'image,caption\na.png,"two\nlines"\nb.png,one\u2028two\n'
    assert read_captions(written(folder, "x.csv", table)).captions == ["two\nlines", "one\u2028two"]


def test_relative_paths_can_start_elsewhere(folder: Path) -> None:
    file = written(folder, "x.json", '{"c.png": "a dog"}')
    assert read_captions(file, image_root=folder / "sub").images == [folder / "sub" / "c.png"]
    absolute = written(folder, "y.json", json.dumps({str(folder / "b.png"): "a dog"}))
    assert read_captions(absolute, image_root=folder / "sub").images == [folder / "b.png"]


def test_several_captions_of_an_image_must_be_asked_for(folder: Path) -> None:
    pairs = [(folder / "b.png", "one"), (folder / "a.png", "two"), (folder / "sub" / ".." / "b.png", "three")]
    with pytest.raises(ValueError, match="captioned twice"):
        caption_set(pairs)
    found = caption_set(pairs, several=True)
    assert found.images == [folder / "b.png", folder / "a.png"]
    assert found.target == [0, 1, 0]
    assert found.captions == ["one", "two", "three"]


def test_missing_images_are_named(folder: Path) -> None:
    pairs = [(folder / f"{index}.png", "a") for index in range(5)] + [(folder / "a.png", "a")]
    with pytest.raises(ValueError, match=r"0.png, .*1.png, .*2.png and 2 more are missing"):
        caption_set(pairs)
    with pytest.raises(ValueError, match=r"sub is missing"):
        caption_set([(folder / "sub", "a folder")])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", '{"image": "a.png", "caption": "a"}\n{oops}\n', "x.jsonl line 2 is not JSON"),
        ("x.jsonl", '{"image": "a.png"}', "line 1 has no caption"),
        ("x.jsonl", '{"image": "a.png", "caption": null}', "line 1 has no caption"),
        ("x.jsonl", '{"caption": "a"}', "line 1 has no image"),
        ("x.jsonl", '["a.png", "a"]', "line 1 is"),
        ("x.jsonl", "", "no captions"),
        ("x.json", '"a.png"', "neither a list"),
        ("x.json", "[", "x.json is not JSON"),
        ("x.csv", "a.png,a cat\n", "no captions"),
        ("x.csv", "file,caption\na.png,a cat\n", "row 2 has no image"),
        ("x.txt", "a.png a cat", "ends in '.txt'; use one of .jsonl, .json, .csv"),
    ],
)
def test_files_of_another_form_are_refused(folder: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_captions(written(folder, name, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_captions(tmp_path / "none.json")


COCO = [(391895, "a man on a motorcycle", "COCO_val2014_000000391895.jpg"), (42, "a cat", "000000000042.jpg")]
CANDIDATES = {
    "results": [{"image_id": number, "caption": text} for number, text, _ in COCO],
    "clipscore": {Path(name).stem: text for _, text, name in COCO},
}
REFERENCES = {
    "coco": {
        "images": [{"id": number, "file_name": name} for number, _, name in COCO],
        "annotations": [{"image_id": number, "caption": f"{text}."} for number, text, _ in COCO] * 2,
    },
    "karpathy": {
        "images": [
            {"filepath": "val2014", "filename": name, "sentences": [{"raw": text}, {"raw": f"{text} here"}]}
            for _, text, name in COCO
        ]
    },
    "clipscore": {Path(name).stem: [text, f"{text} there"] for _, text, name in COCO},
}


@pytest.mark.parametrize("candidates", CANDIDATES)
@pytest.mark.parametrize("references", REFERENCES)
def test_files_of_others_are_measured_without_their_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], candidates: str, references: str
) -> None:
    captions = written(tmp_path, "captions.json", json.dumps(CANDIDATES[candidates]))
    truth = written(tmp_path, "references.json", json.dumps(REFERENCES[references]))
    main(["evaluate", "captions", str(captions), "--references", str(truth)])
    assert "cider" in capsys.readouterr().out.lower()


@pytest.mark.parametrize("form", CANDIDATES)
def test_images_of_such_files_are_found_below_their_folder(tmp_path: Path, form: str) -> None:
    (tmp_path / "coco" / "val2014").mkdir(parents=True)
    for _, _, name in COCO:
        (tmp_path / "coco" / "val2014" / name).touch()
    file = written(tmp_path, "captions.json", json.dumps(CANDIDATES[form]))
    found = read_captions(file, image_root=tmp_path / "coco")
    assert [path.name for path in found.images] == [name for _, _, name in COCO]
    with pytest.raises(ValueError, match="are missing; paths in a captions file start at"):
        read_captions(file, image_root=tmp_path / "elsewhere")
