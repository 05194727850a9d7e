"""What every file of the package leaves to one place: opening images and models, reading texts of others."""

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


TOKENIZERS = {"words", "tokenizer"}
READING = {"apply_chat_template", "batch_encode_plus", "encode", "encode_plus", "tokenize"}
# A chat template's place holds a text that was spelled out; the embedded world asks which words it knows.
SPELLED_OUT = {"rewards.yes_no", "evaluation.text_model", "models.captioners.prompt_reader"}
# They ask a folder for its own strings, or whether its tokenizer reads at all, not for those of a text.
READERS = {"models.open", "models.written_text", "models.janus.conversation", "world.boundary"}


def read_elsewhere(source: Source) -> list[str]:
    """Texts given to a tokenizer in another way than by written_text, which keeps special tokens text."""
    wrong: list[str] = []
    for node in ast.walk(source.tree):
        if source.module in READERS or not isinstance(node, ast.Call):
            continue
        called, told = node.func, ast.unparse(node.func)
        # A model's `body.words` are embeddings.
        by_name = told.split(".")[-1] in TOKENIZERS and not told.endswith("body.words")
        by_method = (
            isinstance(called, ast.Attribute)
            and called.attr in READING
            and (called.attr != "encode" or ast.unparse(called.value).split(".")[-1] in TOKENIZERS)
        )
        by_processor = told.split(".")[-1] == "processor" and any(
            each.arg == "text" for each in node.keywords
        )
        if by_name or by_method or by_processor:
            wrong.append(f"{source.path}:{node.lineno} reads text with {told}")
    if source.module in SPELLED_OUT and "spelled_out(" in source.text:
        return [line for line in wrong if "apply_chat_template" not in line and "processor" not in line]
    return wrong


def test_texts_of_others_are_read_in_one_place() -> None:
    # The embedded world's models are made from texts of its own.
    found = [line for s in PACKAGE if s.unit != "world" for line in read_elsewhere(s)]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "ids = self.words(texts, padding=True)",
        "ids = processor.tokenizer(text)",
        "words.encode(text)",
        "self.words.tokenize(text)",
        "self.processor(text=texts, images=images)",
        "self.processor.apply_chat_template(chat, tokenize=False)",
    ],
)
def test_another_way_to_read_texts_is_seen(text: str) -> None:
    assert len(read_elsewhere(Source(path="x.py", module="rewards.x", text=text))) == 1


FILES = {"models.downloads", "training.checkpoint"}
READS = {"torch.load", "load_file", "safe_open", "safetensors.torch.load_file", "safetensors.safe_open"}


def models_opened_elsewhere(source: Source) -> list[str]:
    """Models, tokenizers and tensors that are opened without the checks of models.open and its files."""
    # Classes of ours have a way of that name too, which ends in models.open.
    own = {found.name for found in imports(source) if found.target.split(".")[0] == "sightloop"}
    own |= {node.name for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef) and not node.bases}
    wrong: list[str] = []
    for node in ast.walk(source.tree):
        told = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
        opens = isinstance(node, ast.Attribute) and (
            (node.attr == "from_pretrained" and source.module != "models.open")
            # The plan counts networks without weights.
            or (node.attr == "from_config" and source.unit != "planning")
        )
        opens = isinstance(node, ast.Attribute) and opens and ast.unparse(node.value) not in own
        if opens or (told in READS and source.module not in FILES):
            wrong.append(f"{source.path}:{getattr(node, 'lineno', 0)} opens a model with {told}")
    return wrong


def test_models_are_opened_in_one_place() -> None:
    assert [line for source in PACKAGE for line in models_opened_elsewhere(source)] == []


@pytest.mark.parametrize(
    "text",
    [
        "from transformers import CLIPModel\nCLIPModel.from_pretrained('x')",
        "import transformers\ntransformers.AutoTokenizer.from_pretrained('x')",
        "from typing import Any, cast\ncast('Any', kind).from_pretrained('x')",
        "from transformers import CLIPModel\nclass Mine(CLIPModel): pass\nMine.from_pretrained('x')",
        "import torch\nread = torch.load",
        "from safetensors.torch import load_file\nload_file('x')",
        "from safetensors import safe_open\nsafe_open('x', framework='pt')",
        "from transformers import AutoModel\nAutoModel.from_config(config)",
    ],
)
def test_another_way_to_open_a_model_is_seen(text: str) -> None:
    assert len(models_opened_elsewhere(Source(path="x.py", module="rewards.x", text=text))) == 1


# These read files of the package's own, or code that Python has read already.
OWN_FILES = {"doctor.environment", "doctor.models", "quizzes.prompt_guard", "report.page"}
OWN_FILES |= {"rewards.user_functions", "runs.push", "view.live_page"}


def files_read_elsewhere(source: Source) -> list[str]:
    """Files read whole without a look at whether they are pipes, devices or larger than memory."""
    return [
        f"{source.path}:{node.lineno} reads a file with {ast.unparse(node)}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
        and node.attr in {"read_text", "read_bytes"}
        and source.module not in OWN_FILES
    ]


def test_files_are_read_whole_in_one_place() -> None:
    assert [line for source in PACKAGE for line in files_read_elsewhere(source)] == []


@pytest.mark.parametrize("text", ["path.read_text()", "Path('x').read_bytes()[:3]"])
def test_another_way_to_read_a_file_is_seen(text: str) -> None:
    assert len(files_read_elsewhere(Source(path="x.py", module="training.x", text=text))) == 1
