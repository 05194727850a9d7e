"""Files of the objects that images hold: COCO's annotations and plain lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightloop.evaluation.object_files import read_objects


def test_cocos_annotations_are_found_by_file_name(tmp_path: Path) -> None:
    document = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {"image_id": 7, "category_id": 18, "bbox": [0, 0, 1, 1]},
            {"image_id": 7, "category_id": 1},
            {"image_id": 7, "category_id": 18},
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    truth = read_objects(path)
    assert truth.of(["/elsewhere/b.jpg", "a.jpg"]) == [frozenset(), {"dog", "person"}]
    with pytest.raises(ValueError, match=r"says nothing about 1 images, the first is c.jpg"):
        truth.of(["a.jpg", "c.jpg"])
    document["annotations"].append({"image_id": 9, "category_id": 18})
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="not of the form of COCO's instances"):
        read_objects(path)


def test_lists_of_ones_own_are_found_by_path(tmp_path: Path) -> None:
    lines = tmp_path / "objects.jsonl"
    lines.write_text('{"image": "x/0.png", "objects": ["dog"]}\n{"image": "y/0.png", "objects": []}\n')
    assert read_objects(lines).of([str(tmp_path / "y/0.png"), str(tmp_path / "x/0.png")]) == [set(), {"dog"}]
    mapping = tmp_path / "objects.json"
    mapping.write_text('{"0.png": ["cat"]}')
    assert read_objects(mapping, image_root=tmp_path / "x").of([str(tmp_path / "x/0.png")]) == [{"cat"}]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("o.jsonl", '{"image": "a.png"}\n', "line 1 is no"),
        ("o.jsonl", '{"image": "a.png", "objects": "dog"}\n', "the objects of a.png are 'dog'; give a list"),
        ("o.jsonl", '{"image": "a.png", "objects": []}\n' * 2, "names a.png a second time"),
        ("o.json", "[1]", "neither COCO's annotations nor a mapping"),
        ("o.json", "{", "cannot be read"),
    ],
)
def test_another_form_is_refused(name: str, text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=told):
        read_objects(tmp_path / name)
