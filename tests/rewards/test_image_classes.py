from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ConvNextConfig, ConvNextForImageClassification
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

from sightloop.rewards.custom import load_rewards, read_names
from sightloop.rewards.image_classes import NamedClasses, named_in, phrases_of
from sightloop.rewards.loading import Loading
from sightloop.rewards.samples import outcome_of_texts, pil_images
from sightloop.types import Images

LABELS = ("tabby, tabby cat", "tiger cat", "crane", "espresso", "cup", "hot dog", "dog")
CHANCES: dict[str, float] = dict(zip(LABELS, (0.4, 0.2, 0.15, 0.1, 0.05, 0.06, 0.04), strict=True))


def scores(*texts: str, **settings: bool) -> list[float]:
    images = Images(pixels=torch.zeros(len(texts), 3, 8, 8, dtype=torch.uint8))
    judge = NamedClasses(classify=lambda pictures: [CHANCES] * len(pictures), **settings)
    return [round(value, 4) for value in judge.rewards(images, list(texts)).tolist()]


def test_the_probability_is_that_of_the_class_that_the_text_names() -> None:
    assert scores("a photo of a Tabby cat", "two tabbies and tabbys", "tiger cats") == [0.4, 0.4, 0.2]
    # The longest phrase counts: a hot dog is no dog.
    assert scores("a hot dog", "a dog", "hot dogs and a dog") == [0.06, 0.04, 0.05]


def test_several_classes_share_the_score_so_that_naming_all_earns_little() -> None:
    assert scores("an espresso in a cup") == [0.075]
    assert scores(" ".join(LABELS)) == [round(1 / len(LABELS), 4)]
    assert scores("espresso, espresso!") == [0.1]


def test_labels_that_share_a_word_go_together() -> None:
    phrases = phrases_of(("maillot", "maillot, tank suit"))
    assert phrases[("maillot",)] == ("maillot", "maillot, tank suit")
    assert named_in("a tank suit", phrases) == [("tank", "suit")]


def test_a_prompt_without_a_class_is_refused_and_a_caption_earns_nothing() -> None:
    with pytest.raises(
        ValueError, match="'a cat' names none of the 7 classes of the reward `class`; the nea"
    ):
        scores("a cat")
    assert scores("a cat", "a cup", must_name=False) == [0.0, 0.05]


def test_what_is_no_probability_is_refused() -> None:
    images = Images(pixels=torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"gives 'cup' the probability 7\.5"):
        NamedClasses(classify=lambda pictures: [{"cup": 7.5}]).rewards(images, ["a cup"])
    with pytest.raises(ValueError, match="the classifier gave 0 answers about 1 images"):
        NamedClasses(classify=lambda pictures: []).rewards(images, ["a cup"])
    unnamed: Any = lambda pictures: [0.5]  # noqa: E731
    with pytest.raises(ValueError, match=r"the classifier said 0\.5 about an image; give the probabilities"):
        NamedClasses(classify=unnamed).rewards(images, ["a cup"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classifier as the hub has it."""
    built: Any = ConvNextConfig
    config = built(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], image_size=32, num_labels=3,
        id2label={0: "cup", 1: "crane", 2: "crane"}, label2id={"cup": 0, "crane": 1},
    )  # fmt: skip
    model: Any = ConvNextForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(tmp_path / "model")
    ConvNextImageProcessorPil(size={"shortest_edge": 32}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_of_the_hub_gives_the_probabilities_of_transformers(folder: Path) -> None:
    pixels = torch.randint(256, (40, 3, 48, 40), dtype=torch.uint8)
    images = Images(pixels=pixels)
    model: Any = ConvNextForImageClassification.from_pretrained(folder).eval()
    prepared = ConvNextImageProcessorPil.from_pretrained(folder)(pil_images(images), return_tensors="pt")
    with torch.no_grad():
        wanted = model(**prepared).logits.softmax(1)
    rewards, _ = load_rewards([f"class:{folder}"], how=Loading(text="prompt"))
    drawn = outcome_of_texts(images, ["yes"] * 40, drawn_from=["a cup", "two cranes"] * 20)
    found = rewards["class"](drawn).sum(1)
    torch.testing.assert_close(found[::2], wanted[::2, 0])
    torch.testing.assert_close(found[1::2], wanted[1::2, 1:].sum(1))
    assert read_names([f"class:{folder}"])[0].models == (str(folder),)


def test_a_classifier_with_missing_weights_is_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["classifier.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of \d+ weights \(classifier.weight\)"):
        load_rewards([f"class:{folder}"])


def test_a_classifier_of_ones_own_is_named_behind_the_reward(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def see(images):\n    return [{'cat': 0.75, 'dog': 0.25} for image in images]\n"
    )
    name = f"class:{tmp_path / 'mine.py'}:see"
    rewards, _ = load_rewards([name])
    images = Images(pixels=torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert rewards["class"](outcome_of_texts(images, ["a cat", "a bird"])).sum(1).tolist() == [0.75, 0.0]
    assert read_names([name])[0].models == ()
