"""Captioners and judges from folders as the hub has them, where the libraries for videos are missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.damaged_folders import change_json, pictures, refusal
from models.hub_folders import FOLDERS
from models.tiny_captioners import EOS, LAW, PAD, SIDE, noise, prompt, random_weights
from PIL import Image
from transformers import AutoModelForImageTextToText, GenerationConfig

from sightloop.cli import main
from sightloop.models.captioners.generic import CaptionerSettings, GenericCaptioner
from sightloop.models.open import open_config, open_processor
from sightloop.rewards.yes_no import YesNoJudge
from sightloop.types import Images, Sampling, Turn

SETTINGS = {name: CaptionerSettings(image_size=SIDE) if "qwen" in name else None for name in FOLDERS}
"""Qwen-VL takes images of any size, by default far larger than these."""
WHOLE = {"gemma3", "qwen3_5"}
"""Images look ahead; some layers keep no keys."""
GREEDY = Sampling(max_tokens=10, temperature=0)


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FOLDERS[request.param](tmp_path_factory.mktemp("hub") / request.param)


def by_transformers(folder: Path, text: str, **options: Any) -> list[list[int]]:
    """Tokens about three images by transformers' own loop, up to the end; greedy unless the options say
    otherwise.
    """
    processor = open_processor(folder, open_config(folder))
    images = [[Image.fromarray(picture.permute(1, 2, 0).numpy())] for picture in noise(3)]
    inputs = processor(
        text=[text] * 3, images=images, add_special_tokens=False, padding=True, return_tensors="pt"
    )
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    model.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD)
    options = {"max_new_tokens": 10} | options
    ids = model.generate(**inputs, do_sample=False, **options)[:, inputs["input_ids"].shape[1] :]
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in ids.tolist()]


@pytest.mark.parametrize("folder", FOLDERS, indirect=True)
def test_a_folder_of_the_hub_writes_and_is_scored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captioner = GenericCaptioner.from_pretrained(folder, lora_rank=2, settings=SETTINGS[folder.name])
    asked = prompt(captioner, ["describe"] * 3)
    greedy = captioner.sample(asked, GREEDY)
    written = [ids[mask].tolist() for ids, mask in zip(greedy.ids, greedy.mask, strict=True)]
    assert written == by_transformers(folder, captioner.prompt_text("describe"))
    # Of random weights, those of Qwen2-VL look at their images least.
    assert folder.name == "qwen2_vl" or len(set(map(tuple, written))) > 1

    random_weights(captioner.adapters, seed=5)
    asked = prompt(captioner)
    tokens = captioner.sample(asked, LAW)
    scores = captioner.score(Turn(prompt=asked, tokens=tokens), under=LAW)
    torch.testing.assert_close(scores.log_probs, tokens.log_probs, atol=1e-5, rtol=1e-5)
    assert captioner.image_size == SIDE
    said = capsys.readouterr().err
    assert said.count("runs whole in every pass") == (folder.name in WHOLE)


RULES = [(5, 2, 4, 20), (3, 0, 0, 12), (4, 1, 6, 12), (1, 2, 3, 12), (1, 0, 5, 17)]
"""Beams, n-gram rule, fewest and most tokens."""


@pytest.mark.parametrize("folder", FOLDERS, indirect=True)
def test_captions_are_transformers_own_under_every_rule(folder: Path) -> None:
    captioner = GenericCaptioner.from_pretrained(folder, lora_rank=2, settings=SETTINGS[folder.name])
    images, text = captioner.encode_images(Images(pixels=noise(3))), captioner.prompt_text("describe")
    for beams, ngram, fewest, most in RULES:
        written = captioner.write(
            images,
            prompt="describe",
            beams=beams,
            no_repeat_ngram=ngram,
            min_tokens=fewest,
            max_tokens=most,
        )
        theirs = by_transformers(
            folder,
            text,
            num_beams=beams,
            no_repeat_ngram_size=ngram,
            min_new_tokens=fewest,
            max_new_tokens=most,
            suppress_tokens=[captioner.image_token],
        )
        words = captioner.tokenizer.batch_decode(theirs, skip_special_tokens=True)
        assert written == [text.strip() for text in words]


@pytest.mark.parametrize("folder", ["qwen3_vl"], indirect=True)
def test_images_that_enter_at_several_layers_are_looked_at_once(folder: Path) -> None:
    def opened(reuse_features: bool) -> GenericCaptioner:
        settings = CaptionerSettings(image_size=SIDE, reuse_features=reuse_features)
        made = GenericCaptioner.from_pretrained(folder, lora_rank=2, settings=settings)
        random_weights(made.adapters, seed=5)
        return made

    parts, whole = opened(True), opened(False)
    asked = prompt(parts)
    # The first prompt compares both ways; afterwards the tower is left alone.
    parts.sample(asked, LAW)
    looks: list[object] = []
    parts.model.base_model.visual.register_forward_hook(lambda *given: looks.append(given))
    seen = replace(asked, images=parts.encode_images(Images(pixels=noise(len(asked)))))
    own = replace(asked, images=Images(pixels=noise(len(asked))))
    tokens = parts.sample(seen, LAW)
    turn, plain = Turn(prompt=seen, tokens=tokens), Turn(prompt=own, tokens=tokens)
    pairs = [(parts.score(turn).log_probs, whole.score(plain).log_probs)]
    pairs += [(parts.hidden_states(turn, at), whole.hidden_states(plain, at)) for at in ("pre", "post")]
    parts.enable_gradient_checkpointing()
    pairs += [(parts.score(turn).log_probs, whole.score(plain).log_probs)]
    for found, wanted in pairs:
        mask = tokens.mask
        torch.testing.assert_close(found[mask], wanted[mask], atol=1e-5, rtol=1e-5)
    assert len(looks) == 1
    grads: list[list[Any]] = []
    for captioner, given in ((parts, turn), (whole, plain)):
        captioner.score(given).log_probs.sum().backward()
        grads.append([parameter.grad for parameter in captioner.adapters.parameters()])
    for found, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["smolvlm", "qwen2_5_vl"], indirect=True)
def test_a_folder_of_the_hub_is_trained(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--preset", "shapes", "--steps", "1", "--batch", "4", "--held-out.limit", "4"]
    words += ["--captioner.image-size", str(SIDE), "--run", str(tmp_path / "run"), "--model", str(folder)]

    main(["train", "vlrm", *words])
    assert "finished 1 steps" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["qwen2_5_vl", "smolvlm", "gemma3"], indirect=True)
def test_a_folder_of_the_hub_judges(folder: Path) -> None:
    judge = YesNoJudge.from_pretrained(folder)
    images, texts = Images(pixels=noise(3)), ["a cat", "two", "a red dog"]
    together = judge.rewards(images, texts)
    judge.batch = 1

    torch.testing.assert_close(judge.rewards(images, texts), together, atol=1e-5, rtol=1e-4)
    assert len(set(together.tolist())) == 3


def test_a_processor_that_does_not_go_without_a_library_names_its_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = FOLDERS["qwen2_5_vl"](tmp_path / "model")
    only_there = {"image_processor_type": "PerceptionLMImageProcessorFast"}
    change_json(folder / "preprocessor_config.json", lambda given: given.update(only_there))

    told = refusal(capsys, "caption", str(pictures(tmp_path)), "--model", str(folder))
    assert "Torchvision" in told and 'pip install "sightloop[processors]"' in told
