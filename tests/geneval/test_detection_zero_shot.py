"""Detectors of free vocabulary: preparation and reading by hand, checkpoints of the hub's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    Owlv2Config,
    Owlv2ForObjectDetection,
    PreTrainedTokenizerFast,
    SwinConfig,
)

from sightloop.geneval.detectors import DetectorImage
from sightloop.geneval.mask2former import Resizing
from sightloop.geneval.zero_shot import ZeroShotDetector, detector_text, squared, surest

SMALL = Resizing(short=64, long=90, divisor=1)
WORDS = ["unicorn", "tv", "remote", "red", "a", "photo", "of"]


def words_of_bert(path: Path) -> None:
    """A tokenizer with the ids of BERT's special tokens, which Grounding DINO knows by number."""
    vocabulary = {"[PAD]": 0, "[CLS]": 101, "[SEP]": 102, ".": 1012, "[UNK]": 5}
    vocabulary |= {word: 10 + place for place, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(path)


def words_of_clip(path: Path) -> None:
    """A tokenizer whose texts begin with a token that is not 0 and are padded with 0."""
    vocabulary = {"!": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    vocabulary |= {word: 4 + place for place, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    special = {"unk_token": "<unk>", "pad_token": "!", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(path)


def grounding_dino(path: Path) -> None:
    """Every part of Grounding DINO, each as small as it goes, with random weights."""
    windows: dict[str, Any] = {"depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
    swin = SwinConfig(embed_dim=8, image_size=64, **windows, out_indices=[2, 3, 4])  # pyright: ignore[reportCallIssue]
    bert = BertConfig(
        vocab_size=1040, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64,
    )  # fmt: skip
    sizes: dict[str, Any] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 30}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_text_len": 24}
    sizes |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "backbone_config": swin, "text_config": bert}
    GroundingDinoForObjectDetection(GroundingDinoConfig(**sizes)).save_pretrained(path)
    words_of_bert(path)


def owlv2(path: Path) -> None:
    """The same of OWLv2."""
    tower: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    }  # fmt: skip
    text = tower | {"vocab_size": 16, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    vision = tower | {"image_size": 64, "patch_size": 16}
    config = Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    model = Owlv2ForObjectDetection(config)
    # Boxes near the model's own grid, as a trained one starts from; random ones are thinner than a pixel.
    model.box_head.dense2.weight.data.mul_(0.01)
    model.save_pretrained(path)
    words_of_clip(path)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random checkpoints of both families in the hub's format."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hub")
    grounding_dino(folder / "grounding-dino")
    owlv2(folder / "owlv2")
    return folder


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth random colors."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def picture(*names: str, width: int = 60, height: int = 40, seed: int = 0) -> DetectorImage:
    """An image in which these are looked for."""
    return DetectorImage(file=f"{seed}.png", image=noise(width, height, seed), names=names)


@pytest.mark.parametrize("family", ["grounding-dino", "owlv2"])
def test_a_checkpoint_finds_boxes_of_the_names_it_is_asked_for(hub: Path, family: str) -> None:
    detector = ZeroShotDetector.from_pretrained(hub / family, floor=0.0, resizing=SMALL)
    assert detector.vocabulary is None
    assert detector.protocol["detector"] == f"zero-shot {family}"
    assert detector.protocol["detector_checkpoint"] == family and detector.protocol["floor"] == "0.0"
    asked = [
        picture("unicorn", "tv remote"),
        picture("red unicorn", seed=1, width=50),
        picture("unicorn", "tv remote", seed=2),
    ]
    together = detector.detect(asked)
    for each, found in zip(asked, together, strict=True):
        assert found and {seen.name for seen in found} <= set(each.names)
        for seen in found:
            left, top, right, bottom = seen.box
            assert 0 <= left < right <= each.image.width and 0 <= top < bottom <= each.image.height
            assert 0 < seen.score <= 1 and seen.mask is None and seen.color is None
        # What an image holds does not depend on its neighbors in the batch.
        (alone,) = detector.detect([each])
        assert [seen.name for seen in alone] == [seen.name for seen in found]
        assert [seen.box for seen in alone] == [pytest.approx(seen.box, abs=1e-3) for seen in found]
    stricter = ZeroShotDetector.from_pretrained(hub / family, floor=together[0][0].score, resizing=SMALL)
    assert len(stricter.detect(asked[:1])[0]) < len(together[0])


def test_grounding_dino_scores_a_name_by_the_mean_of_its_own_tokens(hub: Path) -> None:
    detector = ZeroShotDetector.from_pretrained(hub / "grounding-dino", floor=0.0, resizing=SMALL)
    seen: dict[str, Any] = {}
    forward = detector.model.forward

    def watched(**given: Any) -> Any:
        seen.update(given, out=forward(**given))
        return seen["out"]

    detector.model.forward = watched
    (found,) = detector.detect([picture("unicorn", "tv remote")])
    # [CLS] unicorn . tv remote . [SEP]
    assert seen["input_ids"].tolist() == [[101, 10, 1012, 11, 12, 1012, 102]]
    # 64 / 40 = 1.6 would make the longer side 96, which may be 90 at most.
    assert seen["pixel_values"].shape == (1, 3, 60, 90)
    chances = seen["out"].logits[0].sigmoid()
    scores = torch.stack([chances[:, 1], (chances[:, 3] + chances[:, 4]) / 2], 1)
    best, label = scores.max(1)
    surest_query = int(best.argmax())
    top = max(found, key=lambda each: each.score)
    assert top.score == pytest.approx(float(best[surest_query]))
    assert top.name == ["unicorn", "tv remote"][int(label[surest_query])]
    x, y, width, height = seen["out"].pred_boxes[0, surest_query].tolist()
    wanted = [(x - width / 2) * 60, (y - height / 2) * 40, (x + width / 2) * 60, (y + height / 2) * 40]
    limits = [60, 40, 60, 40]
    assert top.box == pytest.approx(
        [min(max(w, 0), m) for w, m in zip(wanted, limits, strict=True)], abs=1e-3
    )


def test_owlv2_sees_a_square_with_grey_beyond_the_image() -> None:
    pixels = squared(Image.new("RGB", (40, 20), (255, 0, 128)), 8)
    mean, spread = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    colors = pixels * spread[:, None, None] + mean[:, None, None]
    assert torch.allclose(colors[:, 0, 0], torch.tensor([1, 0, 128 / 255]), atol=1e-5)
    assert torch.allclose(colors[:, 3, 7], colors[:, 0, 0], atol=0.15)
    assert torch.allclose(colors[:, 7], torch.full((3, 8), 128 / 255), atol=1e-5)
    assert torch.allclose(
        squared(Image.new("RGB", (8, 8), (9, 9, 9)), 8), squared(Image.new("RGB", (16, 16), (9, 9, 9)), 8)
    )


def test_owlv2s_boxes_count_from_the_square(hub: Path) -> None:
    detector = ZeroShotDetector.from_pretrained(hub / "owlv2", floor=0.0)
    tall = picture("unicorn", width=30, height=60)
    (found,) = detector.detect([tall])
    seen = detector.model(
        **detector.tokenizer(
            "a photo of a unicorn", return_tensors="pt", padding="max_length", max_length=8
        ).to("cpu"),
        pixel_values=squared(tall.image, 64)[None],
    )
    scores = seen.logits[0, :, 0].sigmoid()
    x, y, width, height = (seen.pred_boxes[0] * 60).T
    boxes = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1).clamp(min=0)
    boxes = boxes.minimum(torch.tensor([30.0, 60, 30, 60]))
    # The grey right half of the square is no part of the image.
    inside = ((boxes[:, 2:].round() - boxes[:, :2].round()) > 0).all(1)
    assert 0 < int(inside.sum()) < len(inside)
    top = max(found, key=lambda each: each.score)
    assert top.score == pytest.approx(float(scores[inside].max()))
    assert top.box == pytest.approx(boxes[inside][int(scores[inside].argmax())].tolist(), abs=1e-3)


def test_of_boxes_that_overlap_by_half_the_surest_stays() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 4], [20, 0, 30, 10]]).float()
    # Overlaps with the first: 60 of 100, 40 of 100.
    assert surest(boxes, torch.tensor([0.9, 0.8, 0.7, 0.95])) == [3, 0, 2]
    assert surest(boxes[:2], torch.tensor([0.5, 0.6])) == [1]
    assert surest(boxes[:0], torch.zeros(0)) == []


def test_names_stand_in_one_text_with_full_stops() -> None:
    text, spans = detector_text(["tv remote", "Unicorn", "cat"])
    assert text == "tv remote. unicorn. cat."
    assert [text[start:end] for start, end in spans] == ["tv remote", "unicorn", "cat"]


def test_what_cannot_detect_is_refused(hub: Path, tmp_path: Path) -> None:
    detector = ZeroShotDetector.from_pretrained(hub / "owlv2")
    with pytest.raises(ValueError, match=r"0.png has no names to look for"):
        detector.detect([picture()])
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not a Grounding DINO or an OWLv2"):
        ZeroShotDetector.from_pretrained(tmp_path)
