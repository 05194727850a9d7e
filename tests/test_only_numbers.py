"""Models of finite weights whose sums overflow: refused by name wherever logits become samples or scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from geneval.test_detection_mask2former import SMALL, tiny_config
from geneval.test_detection_zero_shot import grounding_dino, owlv2
from geneval.test_detection_zero_shot import picture as looked_at
from models import tiny_captioners
from models.damaged_folders import change_tensors, copy_of, pictures, refusal
from PIL import Image
from rewards.test_yes_no_judge import knows_yes_and_no
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

from sightloop.geneval.colors import ClipColors
from sightloop.geneval.mask2former import Mask2FormerDetector, Segmenter
from sightloop.geneval.rules import Detection
from sightloop.geneval.zero_shot import ZeroShotDetector
from sightloop.models.captioners.generic import CaptionerSettings, GenericCaptioner
from sightloop.models.clip import ClipEncoder
from sightloop.rewards.clip_family import ClipSimilarity
from sightloop.rewards.fluency import LanguageModelFluency
from sightloop.rewards.image_classes import ImageClassifier
from sightloop.rewards.similarity import ItmSimilarity
from sightloop.rewards.yes_no import YesNoJudge
from sightloop.types import Images, Prompt, Sampling
from sightloop.world.bundled import WEIGHTS

TOLD = "computes values that are not numbers"
TEXTS = ["a red circle", "a blue square"]


def overflowing(folder: Path, *parts: str) -> Path:
    """The folder, its matrices (those whose names hold one of `parts`) as large as float32 just holds."""

    def enlarged(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        named = {k for k in tensors if not parts or any(part in k for part in parts)}
        large = {
            k for k in named if tensors[k].is_floating_point() and tensors[k].ndim > 1 and tensors[k].any()
        }
        return {
            k: value.float() * (1e37 / value.float().abs().amax()) if k in large else value
            for k, value in tensors.items()
        }

    return change_tensors(folder, enlarged)


def images() -> Images:
    """Two of noise."""
    generator = torch.Generator().manual_seed(0)
    return Images(pixels=torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator))


# -- what draws and answers, through the command line


@pytest.mark.parametrize("temperature", ["1", "0"])
@pytest.mark.parametrize("family", ["show_o", "janus"])
def test_drawings_and_answers_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, temperature: str
) -> None:
    folder = copy_of(family, tmp_path)
    overflowing(folder / "language_model" if family == "show_o" else folder, "layers.")
    output = tmp_path / "drawn"
    words = ["draw", "a red circle", "--per-prompt", "2", "--model", str(folder), "--output", str(output)]
    told = refusal(capsys, *words, "--temperature", temperature)
    assert TOLD in told and str(folder) in told and "float32" in told
    assert not list(output.glob("*.png"))
    if temperature == "0":
        asked = refusal(
            capsys, "ask", str(pictures(tmp_path) / "0.png"), "What color is the circle?",
            "--model", str(folder),
        )  # fmt: skip
        assert TOLD in asked and str(folder) in asked


@pytest.mark.parametrize(("family", "part"), [("show_o", "decoder.conv_out"), ("janus", "decoder.conv_out")])
def test_images_of_overflowing_pixels_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, part: str
) -> None:
    folder = copy_of(family, tmp_path)
    overflowing(folder / "magvit2" if family == "show_o" else folder, part)
    change_tensors(
        folder / "magvit2" if family == "show_o" else folder,
        lambda tensors: {k: v * 30 if part in k and v.ndim > 1 else v for k, v in tensors.items()},
    )
    told = refusal(
        capsys, "draw", "a red circle", "--per-prompt", "1", "--model", str(folder),
        "--output", str(tmp_path / "drawn"),
    )  # fmt: skip
    assert TOLD in told and str(folder) in told


def test_a_policy_that_overflows_is_refused_in_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, shown = overflowing(copy_of("captioner", tmp_path), "decoder.layers"), pictures(tmp_path)
    told = refusal(
        capsys, "train", "vlrm", "--model", str(folder), "--run", str(tmp_path / "run"), "--steps", "1",
        "--data.images", str(shown), "--held-out.images", str(shown),
        "--held-out.clip", str(WEIGHTS / "clip"),
        "--judge.model", str(WEIGHTS / "judge"), "--batch", "4",
    )  # fmt: skip
    assert TOLD in told and str(folder) in told


@pytest.mark.parametrize("reuse_features", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_texts_of_other_captioners_are_refused(
    tmp_path: Path, reuse_features: bool, temperature: float
) -> None:
    folder = overflowing(tiny_captioners.llava(tmp_path / "llava"), "layers.")
    settings = CaptionerSettings(reuse_features=reuse_features)
    captioner = GenericCaptioner.from_pretrained(folder, settings=settings)
    prompt = Prompt(texts=["a red"] * 2, images=captioner.encode_images(images()), seeds=[1, 2])
    tokens = captioner.sample(prompt, Sampling(max_tokens=3, temperature=temperature))
    with pytest.raises(ValueError, match=TOLD) as told:
        captioner.decode(tokens)
    assert str(folder) in str(told.value)


# -- what judges


def language_model(folder: Path) -> Path:
    """A random one as the hub has it."""
    words = tiny_captioners.tokenizer()
    words.save_pretrained(folder)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **tiny_captioners.SIZES)).save_pretrained(folder)
    return folder


def classifier(folder: Path) -> Path:
    """A random one as the hub has it."""
    built: Any = ConvNextConfig
    config = built(hidden_sizes=[8] * 4, depths=[1] * 4, image_size=32, num_labels=2)
    model: Any = ConvNextForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 32}).save_pretrained(folder)
    return folder


def looked_for(detector: Any) -> object:
    """What it sees in an image of noise."""
    return detector.detect([looked_at("unicorn", width=96, height=64)])


def mask2former(folder: Path) -> Path:
    """A random one as the hub has it."""
    model: Any = Segmenter(tiny_config())
    model.save_pretrained(folder)
    return folder


def zero_shot(make: Callable[[Path], None]) -> Callable[[Path], Path]:
    """A folder of one."""

    def made(folder: Path) -> Path:
        make(folder)
        return folder

    return made


def colors(folder: Path) -> object:
    """The color of an object, by CLIP."""
    image = Image.new("RGB", (32, 32), "red")
    seen = Detection(name="dog", box=(0.0, 0.0, 32.0, 32.0), score=1.0)
    return ClipColors(ClipEncoder.from_pretrained(folder)).colors(image, [seen])


JUDGES: dict[str, tuple[Callable[[Path], Path], tuple[str, ...], Callable[[Path], object]]] = {
    "matcher": (
        lambda place: copy_of("judge", place),
        ("qformer.",),
        lambda folder: ItmSimilarity.from_pretrained(folder).rewards(images(), TEXTS),
    ),
    "CLIP as a judge": (
        lambda place: copy_of("clip", place),
        ("vision_model.encoder",),
        lambda folder: ClipSimilarity.from_pretrained(folder).rewards(images(), TEXTS),
    ),
    "CLIP as a judge, texts": (
        lambda place: copy_of("clip", place),
        ("text_projection",),
        lambda folder: ClipSimilarity.from_pretrained(folder).rewards(images(), TEXTS),
    ),
    "CLIP as a measure": (
        lambda place: copy_of("clip", place),
        ("visual_projection",),
        lambda folder: ClipEncoder.from_pretrained(folder).images(images().pixels),
    ),
    "CLIP of colors": (lambda place: copy_of("clip", place), ("visual_projection",), colors),
    "yes or no": (
        lambda place: knows_yes_and_no(tiny_captioners.llava(place / "llava")),
        ("layers.",),
        lambda folder: YesNoJudge.from_pretrained(folder).rewards(images(), TEXTS),
    ),
    "reference": (
        lambda place: language_model(place / "words"),
        ("layers.",),
        lambda folder: LanguageModelFluency.from_pretrained(folder).of_texts(TEXTS, [True, True]),
    ),
    "classifier": (
        lambda place: classifier(place / "classes"),
        ("classifier", "stages"),
        lambda folder: ImageClassifier.from_pretrained(folder)([Image.new("RGB", (32, 32), "red")]),
    ),
    "Mask2Former": (
        lambda place: mask2former(place / "detector"),
        ("pixel_decoder", "transformer_module"),
        lambda folder: looked_for(Mask2FormerDetector.from_pretrained(folder, resizing=SMALL)),
    ),
    "OWLv2": (
        lambda place: zero_shot(owlv2)(place / "detector"),
        ("vision_model.encoder",),
        lambda folder: looked_for(ZeroShotDetector.from_pretrained(folder)),
    ),
    "Grounding DINO": (
        lambda place: zero_shot(grounding_dino)(place / "detector"),
        ("encoder.layers",),
        lambda folder: looked_for(ZeroShotDetector.from_pretrained(folder, resizing=SMALL)),
    ),
}


@pytest.mark.parametrize("kind", JUDGES)
def test_judges_that_overflow_are_refused(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    make, parts, ask = JUDGES[kind]
    folder = make(tmp_path)
    ask(folder)
    overflowing(folder, *parts)
    with pytest.raises(ValueError, match=TOLD) as told:
        ask(folder)
    assert folder.name in str(told.value)


def test_a_text_model_that_overflows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    folder = overflowing(language_model(tmp_path / "words"), "layers.")
    row = {"question": "What is it?", "answer": "a dog", "truth": "a cat"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(row) + "\n")
    told = refusal(capsys, "evaluate", "answers", str(tmp_path / "answers.jsonl"), "--matching", str(folder))
    assert TOLD in told and str(folder) in told


def test_an_overflowing_fluency_of_the_policy_itself_is_refused(tmp_path: Path) -> None:
    folder = overflowing(tiny_captioners.llava(tmp_path / "llava"), "layers.")
    captioner = GenericCaptioner.from_pretrained(folder)
    with pytest.raises(ValueError, match=TOLD):
        captioner.reference_log_probs(captioner.encode(["a red"]))
