"""What every file of the package leaves to one place: opening images."""

from __future__ import annotations

import ast

import pytest
from test_architecture import PACKAGE, Source, imports


def opened_elsewhere(source: Source) -> list[str]:
    """Images opened in another way than by image_files, which refuses what would run a program or hang."""
    if source.module == "image_files":
        return []
    wrong = [
        f"{source.path}:{node.lineno} opens images with {ast.unparse(node)}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
        and (node.attr in {"imread", "load_image"} or ast.unparse(node).endswith("Image.open"))
    ]
    return wrong + [
        f"{source.path}:{found.line} imports {found.target}.{found.name}"
        for found in imports(source)
        if (found.target.split(".")[0], found.name) in {("PIL", "open"), ("PIL", "EpsImagePlugin")}
        or found.name in {"imread", "load_image"}
    ]


def test_images_are_opened_in_one_place() -> None:
    assert [line for source in PACKAGE for line in opened_elsewhere(source)] == []


@pytest.mark.parametrize(
    "text",
    [
        "from PIL import Image\nImage.open('x.png')",
        "import PIL\nPIL.Image.open('x.png')",
        "from PIL.Image import open as read",
        "from transformers.image_utils import load_image",
        "import cv2\ncv2.imread('x.png')",
    ],
)
def test_another_way_to_open_an_image_is_seen(text: str) -> None:
    assert len(opened_elsewhere(Source(path="x.py", module="training.x", text=text))) == 1
