"""Captions of the embedded world: grammar, truth, and the gates its bundled models must pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sightloop.models.blip2 import Blip2Captioner
from sightloop.rewards.similarity import ClipSimilarity, ItmSimilarity
from sightloop.shapes.language import caption, count_facts, full_caption, parses
from sightloop.shapes.models import WEIGHTS
from sightloop.shapes.pictures import read_scenes, write_pictures
from sightloop.shapes.scenes import Scene, Thing, mutate, render, sample_scene
from sightloop.types import Images, Prompt, Sampling

SCENE = Scene(
    ground="white",
    things=(
        Thing(size="small", colour="red", shape="circle", corner="top-left"),
        Thing(size="large", colour="blue", shape="cross", corner="bottom-right"),
    ),
)


@pytest.mark.parametrize(
    ("text", "true", "false"),
    [
        ("a small red circle top-left, a large blue cross bottom-right on white", 9, 0),
        ("a red circle", 2, 0),
        ("a large red circle", 2, 1),
        ("a green triangle top-left", 0, 3),
        ("a blue circle on black", 1, 2),
        ("there is a blue cross", 2, 0),
        ("", 0, 0),
    ],
)
def test_facts_are_checked_one_by_one(text: str, true: int, false: int) -> None:
    counted = count_facts(SCENE, text)
    assert (counted.true, counted.false, counted.total) == (true, false, 9)


@pytest.mark.parametrize(
    "text", ["a circle red", "a small red circle a blue cross", "on white", "a red circle on"]
)
def test_the_grammar_refuses(text: str) -> None:
    assert not parses(text)


def test_every_caption_of_the_world_parses_and_is_true() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = sample_scene(rng)
        for style in ("short", "medium", "full"):
            text = caption(scene, style, rng)
            assert parses(text)
            assert count_facts(scene, text).false == 0
        whole = count_facts(scene, full_caption(scene))
        assert whole.true == whole.total


def test_pictures_are_the_same_for_the_same_seed_and_tell_their_scene(tmp_path: Path) -> None:
    one, other = (write_pictures(tmp_path / side / "set", number=3, seed=4) for side in "ab")
    assert (one / "00002.png").read_bytes() == (other / "00002.png").read_bytes()
    assert read_scenes(one) == read_scenes(other)
    with pytest.raises(ValueError, match="holds 3 scenes, not 5"):
        write_pictures(one, number=5, seed=4)


def test_the_bundled_weights_are_small() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) < 10_000_000


def scenes_and_pictures(number: int) -> tuple[list[Scene], Images]:
    """Scenes that no model was trained on, and their pictures."""
    rng = np.random.default_rng(987)
    scenes = [sample_scene(rng) for _ in range(number)]
    pixels = np.stack([render(scene, rng) for scene in scenes])
    return scenes, Images(pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())


def test_the_captioner_is_right_where_it_goes_into_detail() -> None:
    scenes, images = scenes_and_pictures(300)
    captioner = Blip2Captioner.from_pretrained(WEIGHTS / "captioner")
    prompt = Prompt(texts=[""] * 300, images=captioner.look(images), seeds=list(range(300)))
    tokens = captioner.sample(prompt, Sampling(max_tokens=36, temperature=0.0))
    texts = ["".join(pieces) for pieces in captioner.decode(tokens)]
    counts = [count_facts(s, t) for s, t in zip(scenes, texts, strict=True) if len(t.split()) > 8]
    true, false = sum(c.true for c in counts), sum(c.false for c in counts)
    assert len(counts) > 20
    assert true / (true + false) > 0.98


@pytest.mark.parametrize("name", ["judge", "judge_forgiving"])
def test_a_judge_prefers_the_full_caption_and_sees_one_wrong_word(name: str) -> None:
    scenes, images = scenes_and_pictures(300)
    rng = np.random.default_rng(1)
    judge = ItmSimilarity.from_pretrained(WEIGHTS / name)
    images = judge.look(images)
    full = judge.logits(images, [full_caption(scene) for scene in scenes])
    short = judge.logits(images, [caption(scene, "short", rng) for scene in scenes])
    wrong = judge.logits(images, [full_caption(mutate(scene, rng)) for scene in scenes])
    assert (full > short).float().mean() > 0.95
    assert wrong.mean() < full.mean() - 1


@pytest.mark.parametrize("name", ["clip", "clip_retrieval"])
def test_a_clip_finds_pictures_by_their_full_captions(name: str) -> None:
    scenes, images = scenes_and_pictures(500)
    clip = ClipSimilarity.from_pretrained(WEIGHTS / name)
    cosine = clip.text_embeddings([full_caption(scene) for scene in scenes]) @ clip.image_embeddings(images).T
    assert (cosine.argmax(1) == torch.arange(500)).float().mean() > 0.93
