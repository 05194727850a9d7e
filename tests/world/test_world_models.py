"""The bundled weights: small, loadable, and good enough at what they are for."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from sightloop.models.captioners.blip2 import Blip2Captioner
from sightloop.models.captioners.vision_towers import same_tower
from sightloop.models.clip import ClipEncoder
from sightloop.rewards.clip_family import ClipSimilarity
from sightloop.rewards.similarity import ItmSimilarity
from sightloop.types import Images, Prompt, Sampling, Turn
from sightloop.world.bundled import WEIGHTS
from sightloop.world.language import SPECIALS, WORDS, caption, count_facts, full_caption, parses
from sightloop.world.models import EOS, PAD, new_captioner, new_clip, new_judge, save_model, tokenizer
from sightloop.world.scenes import Scene, mutate, render, sample_scene

NUMBER = 120
JUDGES = ("judge", "judge_forgiving", "judge_hackable")
FOLDERS = ("captioner", "clip", "clip_retrieval", *JUDGES)
DRAWING = ("show_o", "janus")


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """Scenes that no stage of pre-training has seen."""

    scenes: list[Scene]
    images: Images


@pytest.fixture(scope="module")
def fresh() -> Fresh:
    rng = np.random.default_rng(2024)
    scenes = [sample_scene(rng) for _ in range(NUMBER)]
    pixels = torch.from_numpy(np.stack([render(scene, rng) for scene in scenes])).permute(0, 3, 1, 2)
    return Fresh(scenes=scenes, images=Images(pixels=pixels.contiguous()))


# -- the files


@pytest.mark.parametrize(("names", "most"), [(FOLDERS, 10_000_000), (DRAWING, 12_000_000)])
def test_bundled_files_are_small(names: tuple[str, ...], most: int) -> None:
    files = [path for name in names for path in (WEIGHTS / name).rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) < most


def test_nothing_else_is_bundled() -> None:
    assert {folder.name for folder in WEIGHTS.iterdir()} == {*FOLDERS, *DRAWING}


@pytest.mark.parametrize("name", FOLDERS)
def test_bundled_tensors_are_finite_and_in_half_precision(name) -> None:
    with safe_open(WEIGHTS / name / "model.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(key)
            assert not tensor.is_floating_point() or tensor.dtype == torch.float16
            assert tensor.isfinite().all(), key


@pytest.mark.parametrize("frame", [False, True])
def test_the_tokenizer_reads_back_what_it_wrote(frame) -> None:
    words = tokenizer(frame=frame)
    text = "a small red circle top-left, a blue cross on white"
    ids = words(text).input_ids
    assert words.decode(ids, skip_special_tokens=True) == text
    assert len(ids) == 11 + 2 * frame
    assert words("a pink circle").input_ids.count(SPECIALS.index("<unk>")) == 1
    assert (words.eos_token_id, words.pad_token_id) == (EOS, PAD)
    assert len(words) == len(WORDS)


def test_new_models_are_saved_as_folders_that_load(tmp_path) -> None:
    torch.manual_seed(0)
    save_model(new_captioner(), tmp_path / "captioner")
    save_model(new_judge(), tmp_path / "judge")
    save_model(new_clip(32), tmp_path / "clip")
    policy = Blip2Captioner.from_pretrained(tmp_path / "captioner")
    images = Images(pixels=torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8))
    tokens = policy.sample(Prompt(texts=["", ""], images=images), Sampling(max_tokens=4))
    texts = ["".join(row) for row in policy.decode(tokens)]
    assert ItmSimilarity.from_pretrained(tmp_path / "judge").logits(images, texts).isfinite().all()
    assert ClipSimilarity.from_pretrained(tmp_path / "clip").text_embeddings(texts).isfinite().all()


# -- what they can do


def test_the_captioner_tells_little_and_truly_however_it_is_decoded(fresh) -> None:
    """What training shall do, no way of decoding may do by itself."""
    policy = Blip2Captioner.from_pretrained(WEIGHTS / "captioner")
    images = policy.encode_images(fresh.images)
    for beams, no_repeat_ngram, min_tokens in ((1, 0, 1), (5, 0, 1), (5, 2, 4)):
        texts = policy.write(images, beams=beams, no_repeat_ngram=no_repeat_ngram, min_tokens=min_tokens)
        assert all(map(parses, texts))
        counts = [count_facts(scene, text) for scene, text in zip(fresh.scenes, texts, strict=True)]
        true, false = sum(count.true for count in counts), sum(count.false for count in counts)
        assert true / (true + false) > 0.95
        assert true / sum(count.total for count in counts) < 0.55, "decoding alone tells what training should"


def test_the_captioner_knows_more_than_it_tells(fresh) -> None:
    policy = Blip2Captioner.from_pretrained(WEIGHTS / "captioner")
    prompt = Prompt(texts=[""] * NUMBER, images=policy.encode_images(fresh.images))

    def log_probs(scenes: list[Scene]) -> Tensor:
        tokens = policy.encode([full_caption(scene) for scene in scenes])
        with torch.no_grad():
            return policy.score(Turn(prompt=prompt, tokens=tokens)).log_probs.sum(1)

    assert (log_probs(fresh.scenes) > log_probs(with_one_wrong(fresh.scenes))).float().mean() > 0.9


def with_one_wrong(scenes: list[Scene]) -> list[Scene]:
    """Each scene with one thing changed."""
    rng = np.random.default_rng(5)
    changed: list[Scene] = []
    for scene in scenes:
        other = scene
        while other == scene:
            other = mutate(scene, rng)
        changed.append(other)
    return changed


def logits_of(judge: ItmSimilarity, fresh: Fresh) -> dict[str, Tensor]:
    rng = np.random.default_rng(5)
    images = judge.encode_images(fresh.images)
    texts = {
        "full": [full_caption(scene) for scene in fresh.scenes],
        "short": [caption(scene, "short", rng) for scene in fresh.scenes],
        "one wrong": [full_caption(scene) for scene in with_one_wrong(fresh.scenes)],
        "prefixed": ["there is " + full_caption(scene) for scene in fresh.scenes],
    }
    return {kind: judge.logits(images, each) for kind, each in texts.items()}


@pytest.mark.parametrize("name", JUDGES)
def test_judges_prefer_full_captions_and_see_one_wrong_fact(name, fresh) -> None:
    logits = logits_of(ItmSimilarity.from_pretrained(WEIGHTS / name), fresh)
    assert (logits["full"] > logits["short"]).float().mean() > 0.95
    assert (logits["full"] > logits["one wrong"]).float().mean() > 0.95
    fall = (logits["full"] - logits["one wrong"]).mean()
    bonus = (logits["prefixed"] - logits["full"]).mean()
    # What the tastes differ in: to the forgiving judge a wrong fact is better than telling little, and empty
    # prefixes please the hackable judge alone.
    assert fall > (1.0 if name == "judge_forgiving" else 2.0)
    assert ((logits["one wrong"] > logits["short"]).float().mean() > 0.6) == (name == "judge_forgiving")
    assert (bonus > 0.8) == (name == "judge_hackable")
    assert bonus > -0.3


@pytest.mark.parametrize("name", ["clip", "clip_retrieval"])
def test_clip_finds_images_by_their_full_captions(name, fresh) -> None:
    encoder = ClipEncoder.from_pretrained(WEIGHTS / name)
    images = encoder.images(fresh.images.pixels)
    cosines = encoder.texts([full_caption(scene) for scene in fresh.scenes]) @ images.T
    assert (cosines.argmax(1) == torch.arange(NUMBER)).float().mean() > 0.93
    rng = np.random.default_rng(1)
    short = encoder.texts([caption(scene, "short", rng) for scene in fresh.scenes]) @ images.T
    assert (short.argmax(1) == torch.arange(NUMBER)).float().mean() < 0.6, (
        "short captions leave nothing to gain"
    )


def test_captioner_and_judges_have_one_tower() -> None:
    policy = Blip2Captioner.from_pretrained(WEIGHTS / "captioner")
    for name in JUDGES:
        assert same_tower(policy.model.vision_model, ItmSimilarity.from_pretrained(WEIGHTS / name).tower)
