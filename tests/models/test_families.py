"""Every family of captioners from a folder as the hub has it: one law in drawing and scoring, the texts of
transformers' own `generate`; trained, resumed, captioning, exported and loaded again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.classic_folders import CLASSIC
from models.tiny_captioners import LAW, noise, random_weights
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
)

from sightloop.cli import main
from sightloop.models.captioners.encoder_decoder import EncoderDecoderCaptioner
from sightloop.models.families import CaptionerChoices
from sightloop.models.named_models import load_captioner
from sightloop.recipes.vlrm.config import PAPER, settled
from sightloop.types import Images, Prompt, Sampling, Turn
from sightloop.world.bundled import WEIGHTS

AROUND = torch.tensor([1, 2, 0])
PROMPTS = ["", "a cat", "what is it"]
RULES = [(3, 2, 3, 12), (2, 0, 0, 9), (1, 2, 3, 9), (1, 0, 0, 9)]
"""Beams, n-gram rule, fewest and most tokens."""
QUICK = {"vit_gpt2", "blip2_t5"}
"""Trained in the quick set too: adapters, and a Q-Former."""
BRIDGED = {"blip2_t5", "instructblip_t5", "instructblip"}
"""What is trained is a Q-Former."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of this module's families, made when they are asked for."""
    root, made = tmp_path_factory.mktemp("classic"), dict[str, Path]()

    class Made(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            made[name] = CLASSIC[name](root / name)
            self[name] = made[name]
            return made[name]

    return Made()


def opened(folder: Path) -> EncoderDecoderCaptioner:
    captioner: Any = load_captioner(str(folder), dtype=torch.float32, device=torch.device("cpu"))
    return captioner


def by_transformers(name: str, model: Any, folder: Path, prompt: str, **options: Any) -> list[str]:
    """Texts about three images as transformers' documentation has it, under these options and no others."""
    pictures = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in noise(3)]
    words: Any = AutoTokenizer.from_pretrained(folder)
    told = json.loads((folder / "generation_config.json").read_text())
    tokens = {key: told[key] for key in told if key.endswith("token_id") and not key.startswith("forced")}
    model.generation_config = GenerationConfig(**tokens)
    behind = 1
    if name in ("blip", "blip2_t5", "instructblip_t5", "instructblip", "florence2", "kosmos2"):
        processor: Any = AutoProcessor.from_pretrained(folder)
        # What the authors ask for a caption, which an empty prompt stands for.
        asked = prompt or {"florence2": "<CAPTION>", "kosmos2": "An image of"}.get(name, "")
        inputs = dict(processor(images=pictures, text=[asked] * 3, return_tensors="pt", padding=True))
        if name == "florence2":
            inputs["decoder_input_ids"] = torch.tensor(
                [[told["decoder_start_token_id"], told["bos_token_id"]]] * 3
            )
            behind = 2
        elif name in ("blip", "instructblip", "kosmos2"):
            behind = inputs["input_ids"].shape[1] - (name == "blip")
    else:
        images: Any = AutoImageProcessor.from_pretrained(folder)
        start = told["bos_token_id"] if name == "git" else told["decoder_start_token_id"]
        ids = [start, *words(prompt, add_special_tokens=False).input_ids]
        inputs = {
            "pixel_values": images(images=pictures, return_tensors="pt")["pixel_values"],
            "input_ids" if name == "git" else "decoder_input_ids": torch.tensor([ids] * 3),
        }
        behind = len(ids)
    made = model.generate(**inputs, do_sample=False, **options)[:, behind:]
    return [text.strip() for text in words.batch_decode(made, skip_special_tokens=True)]


@pytest.mark.parametrize("name", CLASSIC)
def test_what_is_drawn_is_scored_and_what_is_written_is_transformers_own(
    name: str, folders: dict[str, Path]
) -> None:
    captioner = opened(folders[name])
    images = captioner.encode_images(Images(pixels=noise(3)))
    model: Any = AutoModelForImageTextToText.from_pretrained(folders[name])
    for prompt in ("", "a cat"):
        for beams, ngram, fewest, most in RULES:
            written = captioner.write(
                images,
                prompt=prompt,
                beams=beams,
                no_repeat_ngram=ngram,
                min_tokens=fewest,
                max_tokens=most,
            )
            options = {"num_beams": beams, "no_repeat_ngram_size": ngram}
            options |= {"min_new_tokens": fewest, "max_new_tokens": most}
            assert written == by_transformers(name, model, folders[name], prompt, **options)
    greedy = captioner.sample(Prompt(texts=[""] * 3, images=images), Sampling(max_tokens=9, temperature=0))
    decoded = captioner.tokenizer.batch_decode(greedy.ids * greedy.mask, skip_special_tokens=True)
    assert [text.strip() for text in decoded] == captioner.write(
        images, beams=1, no_repeat_ngram=0, min_tokens=0, max_tokens=9
    )
    random_weights(captioner.trainable_module(), seed=5)
    before = captioner.reference_log_probs(greedy)
    for texts in ([""] * 3, PROMPTS):
        asked = Prompt(texts=texts, images=images, seeds=[1, 2, 3])
        tokens = captioner.sample(asked, LAW)
        turn = Turn(prompt=asked, tokens=tokens)
        scores = captioner.score(turn, under=LAW)
        torch.testing.assert_close(scores.log_probs, tokens.log_probs, atol=1e-5, rtol=1e-5)
        other = captioner.score(Turn(prompt=replace(asked, images=images.rows(AROUND)), tokens=tokens))
        assert (other.log_probs - captioner.score(turn).log_probs).abs().max() > 1e-3
        states = captioner.hidden_states(turn)
        assert states.shape == (*tokens.ids.shape, captioner.hidden_size)
    torch.testing.assert_close(captioner.reference_log_probs(greedy), before)


def test_a_text_may_begin_with_the_first_token_of_the_vocabulary(tmp_path: Path) -> None:
    folder = CLASSIC["vit_bert"](tmp_path / "vit_bert")
    for name in ("config.json", "generation_config.json"):
        told = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(told | {"decoder_start_token_id": 0, "bos_token_id": 2}))
    captioner = opened(folder)
    rules: dict[str, Any] = {"no_repeat_ngram": 0, "min_tokens": 0, "max_tokens": 9}
    written = captioner.write(Images(pixels=noise(3)), beams=3, **rules)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    assert written == by_transformers("vit_bert", model, folder, "", num_beams=3, max_new_tokens=9)


def pictures(folder: Path) -> Path:
    """Four images on disk."""
    folder.mkdir()
    for number, pixels in enumerate(noise(4)):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return folder


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # asked by peft
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CLASSIC]
)
def test_a_family_is_trained_resumed_captions_and_is_exported(
    name: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, images = tmp_path / "run", tmp_path / "out", pictures(tmp_path / "images")
    words = f"--preset shapes --judge {WEIGHTS / 'judge'} --images {images} --model {folders[name]}"
    words += f" --batch 4 --steps 2 --warmup-steps 0 --draw.max-tokens 8 --run {run} --learning-rate None"
    main(["train", "vlrm", *words.split()])
    told = json.loads((run / "config.json").read_text())["config"]["schedule"]
    assert told["learning_rate"] == (1e-5 if name in BRIDGED else 1e-4)
    main(["train", "--resume", str(run), "--steps", "3"])
    assert "finished 3 steps" in capsys.readouterr().err

    def caption(model: Path, options: str = "") -> str:
        main(["caption", str(images / "0.png"), "--model", str(model), *options.split()])
        return capsys.readouterr().out.partition("\t")[2].strip()

    rules = "--beams 1 --no-repeat-ngram 0 --min-tokens 1 --max-tokens 36"
    trained = caption(run, rules)
    main(["export", str(run), "--output", str(out), "--dtype", "float32"])
    capsys.readouterr()
    assert caption(out, rules) == trained
    # The model card's own lines, without sightloop; those of whole models write as the paper does.
    wanted = caption(out) if name in BRIDGED else trained
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    with Image.open(images / "0.png") as image:
        exec(code.replace("FOLDER", str(out)), {"image": image})
    assert capsys.readouterr().out.strip() == wanted


def test_adapters_learn_faster_than_a_q_former_where_no_rate_is_given(folders: dict[str, Path]) -> None:
    def rate(**changes: Any) -> float | None:
        return settled(replace(PAPER, **changes)).schedule.learning_rate

    rates = {
        name: rate(policy=str(folders[name])) for name in ("git", "vit_bert", "blip2_t5", "instructblip")
    }
    assert rates == {"git": 1e-4, "vit_bert": 1e-4, "blip2_t5": 1e-5, "instructblip": 1e-5}
    assert rate(policy="") == 1e-5
    given = replace(PAPER.schedule, learning_rate=3e-5)
    assert rate(policy=str(folders["git"]), schedule=given) == 3e-5


@pytest.mark.parametrize(
    ("name", "choices", "told"),
    [
        ("git", CaptionerChoices(reuse_features=False), "leave --captioner.no-reuse-features out"),
        (
            "blip2_t5",
            CaptionerChoices(lora_rank=4),
            "trains its Q-Former and no adapters; leave --captioner.lora-rank",
        ),
        (
            "blip",
            CaptionerChoices(lora_targets=("q_proj",)),
            r"lora_targets has \['q_proj'\]; there are \['dense'",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(
    name: str, choices: CaptionerChoices, told: str, folders: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=told):
        load_captioner(str(folders[name]), dtype=torch.float32, device=torch.device("cpu"), choices=choices)
