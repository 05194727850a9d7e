"""Mask2Former as a detector: preparation and reading against written-out arrays, a hub-like checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Mask2FormerConfig, SwinConfig

from sightloop.geneval.detectors import DetectorImage
from sightloop.geneval.mask2former import (
    Mask2FormerDetector,
    Resizing,
    Segmenter,
    boxes_of,
    instances,
    prepared,
)
from sightloop.geneval.prompts import CLASSES

SMALL = Resizing(short=64, long=96, divisor=32)


def tiny_config(num_labels: int = 80) -> Mask2FormerConfig:
    """Every part of Mask2Former, each as small as it goes."""
    swin: dict[str, Any] = {
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
        "image_size": 64,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    sizes: dict[str, Any] = {
        "feature_size": 32,
        "mask_feature_size": 32,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 16,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "dim_feedforward": 16,
        "num_attention_heads": 2,
        "num_queries": 12,
        "num_labels": num_labels,
    }
    return Mask2FormerConfig(backbone_config=SwinConfig(**swin), **sizes)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint as the hub holds them: the class with the loss, whose buffer is there."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hub") / "mask2former"
    model: Any = Segmenter(tiny_config())
    torch.nn.init.normal_(model.class_predictor.weight, std=3.0)
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["criterion.empty_weight"] = torch.ones(81)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["Mask2FormerForUniversalSegmentation"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth random colors."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def enlarged(row: list[float], size: int) -> list[float]:
    """A row of values at another length: bilinear, pixel centers at halves, ends repeated."""
    values = []
    for place in range(size):
        at = min(max((place + 0.5) * len(row) / size - 0.5, 0.0), len(row) - 1.0)
        low = min(int(at), len(row) - 1)
        high = min(low + 1, len(row) - 1)
        values.append(row[low] * (1 - (at - low)) + row[high] * (at - low))
    return values


def sure_of(*labels: int, num_labels: int = 80) -> Tensor:
    """Class logits of queries that are nearly certain."""
    logits = torch.zeros(len(labels), num_labels + 1)
    for query, label in enumerate(labels):
        logits[query, label] = 20.0
    return logits


def test_sizes_are_those_of_the_official_configuration() -> None:
    usual = Resizing()
    # Height and width. 800 / 512; 1333 / 768; 800 / 480; short side 800 already.
    assert usual.resized((512, 512)) == (800, 800)
    assert usual.resized((432, 768)) == (750, 1333)
    assert usual.resized((480, 640)) == (800, 1067)
    assert usual.resized((512, 700)) == (800, 1094)
    assert usual.resized((1024, 1024)) == (800, 800)
    assert usual.padded((800, 1094)) == (800, 1120)
    assert usual.padded((750, 1333)) == (768, 1344)
    assert usual.padded((800, 800)) == (800, 800)


def test_an_image_is_resized_normalized_and_then_padded_with_zeros() -> None:
    flat = Image.new("RGB", (30, 20), (255, 0, 127))
    pixels = prepared(flat, SMALL)
    # 64 / 20 = 3.2: 96 wide, 64 high; no border needed.
    assert pixels.shape == (3, 64, 96)
    wanted = [(255 - 123.675) / 58.395, -116.28 / 57.12, (127 - 103.53) / 57.375]
    assert torch.allclose(pixels, torch.tensor(wanted)[:, None, None].expand(3, 64, 96))
    tall = prepared(Image.new("RGB", (40, 44), (255, 0, 127)), SMALL)
    # 64 / 40 = 1.6: 64 wide, 70.4 + 0.5 -> 70 high, then 96.
    assert tall.shape == (3, 96, 64)
    assert torch.allclose(tall[:, :70], torch.tensor(wanted)[:, None, None].expand(3, 70, 64))
    assert (tall[:, 70:] == 0).all()


def test_a_square_mask_becomes_the_box_and_score_of_its_own_pixels() -> None:
    # 16 x 16 logits of a 64 x 64 image: the left half, four wide columns each, +4 and -4.
    row = [4.0] * 8 + [-4.0] * 8
    masks = torch.tensor(row).expand(1, 16, 16)
    seen = instances(sure_of(3), masks, size=(64, 64), resizing=SMALL)
    wide = torch.tensor(enlarged(row, 64))
    inside = wide > 0
    assert inside.tolist() == [True] * 32 + [False] * 32
    assert seen.boxes.tolist()[0] == [0, 0, 32, 64]
    assert torch.equal(seen.masks[0], inside.expand(64, 64))
    assert seen.labels[0] == 3
    chance = sure_of(3).softmax(1)[0, 3]
    assert float(seen.scores[0]) == pytest.approx(float(chance * wide[inside].sigmoid().mean()), abs=1e-5)


def test_the_padding_of_a_tall_image_is_cut_off_before_its_own_size() -> None:
    # 40 x 44 pixels -> 64 x 70 in 64 x 96; logits 16 x 24, a quarter of it. Rows 0 to 11 are the object.
    column = [3.0] * 12 + [-3.0] * 12
    masks = torch.tensor(column)[:, None].expand(1, 24, 16)
    seen = instances(sure_of(7), masks, size=(44, 40), resizing=SMALL)
    whole = enlarged(column, 96)
    own = torch.tensor(enlarged(whole[:70], 44))
    # The edge lies at row 48 of 70, at 30.17 of 44. Without the cut it would be row 22.
    assert int((own > 0).sum()) == 30
    assert seen.boxes.tolist()[0] == [0, 0, 40, 30]
    assert float(seen.scores[0]) == pytest.approx(float(own[own > 0].sigmoid().mean()), abs=1e-4)


def test_a_wide_image_keeps_its_aspect() -> None:
    # 150 x 50 -> 96 x 32 (the long side binds); logits 8 x 24. Columns 6 to 11, rows 2 to 5.
    masks = torch.full((1, 8, 24), -5.0)
    masks[0, 2:6, 6:12] = 5.0
    seen = instances(sure_of(0), masks, size=(50, 150), resizing=SMALL)
    assert SMALL.resized((50, 150)) == (32, 96)
    left, top, right, bottom = seen.boxes.tolist()[0]
    # In the image: columns 37.5 to 75, rows 12.5 to 37.5.
    assert (left, right, top, bottom) == (38, 75, 13, 37) or (left, right, top, bottom) == (37, 75, 12, 38)


def test_a_query_may_come_up_under_two_classes_and_overlaps_stay() -> None:
    logits = torch.full((2, 81), -20.0)
    logits[0, 5], logits[0, 9] = 1.0, 0.8
    logits[1, 5] = 1.0
    masks = torch.full((2, 16, 16), 6.0)
    seen = instances(logits, masks, size=(64, 64), resizing=SMALL, floor=0.3)
    assert sorted(seen.labels.tolist()) == [5, 5, 9]
    assert seen.boxes.tolist() == [[0, 0, 64, 64]] * 3


def test_at_most_a_hundred_pairs_of_query_and_class_are_looked_at() -> None:
    logits = torch.zeros(3, 81)
    seen = instances(logits, torch.full((3, 16, 16), 1.0), size=(64, 64), resizing=SMALL)
    assert len(seen.labels) == 100


def test_the_floor_leaves_out_exactly_what_cannot_exceed_it() -> None:
    torch.manual_seed(1)
    logits, masks = 3 * torch.randn(20, 81), 2 * torch.randn(20, 16, 24)
    resizing = Resizing(short=64, long=96)
    everything = instances(logits, masks, size=(40, 60), resizing=resizing)
    likely = instances(logits, masks, size=(40, 60), resizing=resizing, floor=0.3)
    kept = everything.scores > 0.3
    assert 0 < int(kept.sum()) < len(kept)
    assert torch.equal(likely.scores, everything.scores[kept])
    assert torch.equal(likely.masks, everything.masks[kept])
    none = instances(logits, masks, size=(40, 60), resizing=resizing, floor=0.999999)
    assert len(none.labels) == 0 and none.masks.shape == (0, 40, 60) and none.boxes.shape == (0, 4)


def test_the_null_class_and_empty_masks_are_no_objects() -> None:
    nothing = torch.zeros(1, 81)
    nothing[0, 80] = 20.0
    full = torch.full((1, 16, 16), 5.0)
    assert len(instances(nothing, full, size=(64, 64), resizing=SMALL, floor=0.3).labels) == 0
    empty = instances(sure_of(1), -full, size=(64, 64), resizing=SMALL)
    assert len(empty.labels) == 0


def test_boxes_go_one_pixel_beyond_and_are_zero_around_nothing() -> None:
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1, 2] = True
    masks[1, 0, 0] = masks[1, 4, 6] = True
    assert boxes_of(masks).tolist() == [[2, 1, 3, 2], [0, 0, 7, 5], [0, 0, 0, 0]]


def test_a_checkpoint_of_the_hubs_form_detects_in_batches_and_alone(checkpoint: Path) -> None:
    detector = Mask2FormerDetector.from_pretrained(checkpoint, floor=0.01, resizing=SMALL)
    images = [noise(60, 60, 0), noise(90, 60, 1), noise(60, 60, 2), noise(50, 75, 3)]
    pictures = [DetectorImage(file=f"{place}.png", image=image) for place, image in enumerate(images)]
    together = detector.detect(pictures)
    assert all(together)
    for picture, found in zip(pictures, together, strict=True):
        alone = detector.detect([picture])[0]
        assert [seen.name for seen in alone] == [seen.name for seen in found]
        for one, other in zip(alone, found, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-5)
            assert other.name in CLASSES and other.score > 0.01
            assert other.mask is not None and other.mask.shape == (picture.image.height, picture.image.width)
            left, top, right, bottom = map(int, other.box)
            assert other.mask[top:bottom, left:right].sum() == other.mask.sum() > 0
    assert detector.protocol["detector"] == "hf-mask2former"
    assert detector.protocol["detector_checkpoint"] == "mask2former"


def test_the_network_gets_what_was_prepared(checkpoint: Path) -> None:
    detector = Mask2FormerDetector.from_pretrained(checkpoint, floor=0.01, resizing=SMALL)
    image = noise(75, 50, 3)
    with torch.no_grad():
        classes, masks = detector.model(prepared(image, SMALL)[None])
    assert classes.shape == (1, 12, 81) and masks.shape == (1, 12, 16, 24)
    best = classes[0].softmax(1)[:, :80].flatten().topk(1)
    query, label = divmod(int(best.indices[0]), 80)
    logits = F.interpolate(masks[:, query : query + 1], (64, 96), mode="bilinear", align_corners=False)
    logits = F.interpolate(logits[..., :64, :96], (50, 75), mode="bilinear", align_corners=False)[0, 0]
    score = float(best.values[0] * logits[logits > 0].sigmoid().mean())
    found = detector.detect([DetectorImage(file="a.png", image=image)])[0]
    assert (CLASSES[label], pytest.approx(score, abs=1e-5)) in [(seen.name, seen.score) for seen in found]


def test_other_classes_and_missing_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    Segmenter(tiny_config(num_labels=5)).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="other knows 5 classes; GenEval needs a checkpoint of COCO's 80"):
        Mask2FormerDetector.from_pretrained(tmp_path / "other")
    weights = load_file(checkpoint / "model.safetensors")
    del weights["class_predictor.bias"]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text((checkpoint / "config.json").read_text())
    save_file(weights, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of \d+ weights \(class_predictor.bias\)"):
        Mask2FormerDetector.from_pretrained(tmp_path / "broken")
