"""Captioners see images as their own processor makes them of files in any shape: tiles, aspect ratio, as many
places as it takes; alone as in a batch of unlike shapes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.chat_folders import CHAT_FOLDERS
from models.classic_folders import CLASSIC
from models.damaged_folders import change_json
from models.tiny_captioners import EOS, LAW, PAD, random_weights
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, GenerationConfig

from sightloop.data.decode import MOST_WHOLE, Decoding, decode_both
from sightloop.data.images import ImageBatch, ImageSet
from sightloop.data.sources import open_source
from sightloop.image_files import BrokenImageError
from sightloop.models.families import CaptionerChoices
from sightloop.models.named_models import load_captioner
from sightloop.models.open import open_config, open_processor
from sightloop.models.protocols import sees_whole
from sightloop.types import Images, Prompt, Sampling, Turn

SHAPES = [(16, 44), (44, 16), (24, 24), (20, 44)]
"""Height and width."""
RAGGED = ["llava_next", "llava_onevision", "idefics3", "smolvlm", "qwen2_5_vl", "qwen3_vl", "internvl"]
RAGGED += ["pixtral", "mistral3", "aya_vision"]
GREEDY = Sampling(max_tokens=6, temperature=0)
TOWERS = ("visual", "vision_tower", "vision_model")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(7)
    for number, (height, width) in enumerate(SHAPES):
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return folder


def loaded(folder: Path, **choices: Any) -> Any:
    return load_captioner(
        str(folder),
        dtype=torch.float32,
        device=torch.device("cpu"),
        choices=CaptionerChoices(lora_rank=2, **choices),
    )


def batch_of(captioner: Any, pictures: Path) -> ImageBatch:
    decoding = Decoding(size=captioner.image_size, whole=sees_whole(captioner))
    (batch,) = ImageSet(open_source(str(pictures)), decoding)
    return batch


def looked_at(model: Any) -> list[Any]:
    """What a model's vision tower is given from now on."""
    seen: list[Any] = []
    tower = next(vars(model.base_model)["_modules"][n] for n in TOWERS if hasattr(model.base_model, n))
    tower.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append([*args, *kwargs.values()][0].detach().clone()), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("name", RAGGED)
def test_images_of_any_shape_are_those_of_the_processor(name: str, pictures: Path, tmp_path: Path) -> None:
    folder = CHAT_FOLDERS[name](tmp_path / name)
    captioner = loaded(folder)
    batch = batch_of(captioner, pictures)
    text, never = captioner.prompt_text("describe"), [captioner.image_token]
    # A user's own calls: one image after the other, from its file.
    theirs: Any = AutoModelForImageTextToText.from_pretrained(folder)
    theirs.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD)
    processor, wanted = open_processor(folder, open_config(folder)), looked_at(theirs)
    options = {"num_beams": 3, "no_repeat_ngram_size": 2, "max_new_tokens": 6, "suppress_tokens": never}
    greedy: list[list[int]] = []
    beams: list[str] = []
    for file in batch.sources:
        with Image.open(file) as image:
            inputs = processor(text=[text], images=[[image]], add_special_tokens=False, return_tensors="pt")
        row = captioner._composed.reader.row("describe", image.height, image.width)
        assert row.ids.tolist() == inputs["input_ids"][0].tolist()
        start = inputs["input_ids"].shape[1]
        made = theirs.generate(**inputs, do_sample=False, max_new_tokens=6)[0, start:].tolist()
        greedy.append(made[: made.index(EOS) + 1] if EOS in made else made)
        made = theirs.generate(**inputs, do_sample=False, **options)[:, start:]
        beams += [said.strip() for said in captioner.tokenizer.batch_decode(made, skip_special_tokens=True)]

    seen = looked_at(captioner.model)
    images = captioner.encode_images(batch.images)
    pixels = torch.cat([each.flatten() for each in wanted[::2]])
    ours = torch.cat([each.flatten() for each in seen])
    # In a batch, some pad with images of zeros.
    assert name == "llava_next" or torch.equal(ours[ours != 0], pixels[pixels != 0])
    asked = Prompt(texts=["describe"] * len(batch), images=images)
    tokens = captioner.sample(asked, GREEDY)
    assert [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)] == greedy
    rules = {"beams": 3, "no_repeat_ngram": 2, "min_tokens": 0, "max_tokens": 6}
    assert captioner.write(images, prompt="describe", **rules) == beams


@pytest.mark.parametrize("name", ["llava_next", "smolvlm", "qwen2_5_vl", "qwen3_vl", "gemma3"])
def test_a_batch_of_unlike_shapes_is_scored_as_it_is_drawn(name: str, pictures: Path, tmp_path: Path) -> None:
    captioner = loaded(CHAT_FOLDERS[name](tmp_path / name))
    random_weights(captioner.adapters, seed=5)
    images = captioner.encode_images(batch_of(captioner, pictures).images)
    each = torch.arange(len(images)).repeat_interleave(2)
    texts = ["describe", "a", "what is it", "a"] * 2
    asked = Prompt(texts=texts, images=images.rows(each), seeds=list(range(8)))
    tokens = captioner.sample(asked, LAW)
    together = captioner.score(Turn(prompt=asked, tokens=tokens), under=LAW).log_probs
    torch.testing.assert_close(together, tokens.log_probs, atol=1e-5, rtol=1e-5)
    states = captioner.hidden_states(Turn(prompt=asked, tokens=tokens))
    for row in range(8):
        at = torch.tensor([row])
        turn = Turn(prompt=asked.rows(at), tokens=tokens.rows(at))
        alone = captioner.score(turn, under=LAW).log_probs
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-4)
        mask = tokens.mask[row]
        torch.testing.assert_close(
            captioner.hidden_states(turn)[0][mask], states[row][mask], atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("name", ["git", "blip"])
def test_a_classic_captioner_sees_what_its_processor_makes_of_the_file(
    name: str, pictures: Path, tmp_path: Path
) -> None:
    folder = CLASSIC[name](tmp_path / name)
    captioner = loaded(folder)
    seen: list[Any] = []
    captioner.states.tower.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = batch_of(captioner, pictures)
    captioner.encode_images(batch.images)
    processor: Any = AutoImageProcessor.from_pretrained(folder)
    opened = [Image.open(file) for file in batch.sources]
    assert torch.equal(seen[0], processor(images=opened, return_tensors="pt")["pixel_values"])


def test_squares_that_only_people_see_are_small(tmp_path: Path) -> None:
    folder = CHAT_FOLDERS["pixtral"](tmp_path / "pixtral")
    change_json(folder / "config.json", lambda told: told["vision_config"].update({"image_size": 1540}))
    assert loaded(folder).image_size == 448
    assert loaded(folder, image_size=1540).image_size == 1540


def test_a_fixed_size_stays_an_option(pictures: Path, tmp_path: Path) -> None:
    captioner = loaded(CHAT_FOLDERS["llava_next"](tmp_path / "model"), image_size=16)
    images = batch_of(captioner, pictures).images
    assert not sees_whole(captioner) and images.whole is None
    assert captioner.encode_images(images).features[captioner._composed.key].shape[0] == len(SHAPES)


def test_whole_images_are_bounded(tmp_path: Path) -> None:
    decoding = Decoding(size=8, whole=True)
    large = decode_both(Image.new("RGB", (4096, 2048), "red"), decoding)
    assert large.square.shape == (8, 8, 3) and large.whole is not None
    height, width = large.whole.shape[:2]
    assert 0.99 * MOST_WHOLE < height * width <= MOST_WHOLE and abs(width - 2 * height) <= 2
    with pytest.raises(BrokenImageError, match="too elongated to be looked at whole"):
        decode_both(Image.new("RGB", (1010, 10)), replace(decoding, fit="squash"))


def test_equal_squares_of_unlike_images_are_told_apart() -> None:
    square = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    whole = [torch.zeros(3, 4, 8, dtype=torch.uint8), torch.zeros(3, 8, 4, dtype=torch.uint8)]
    images = Images(pixels=square, whole=whole)
    assert [picture.size for picture in images.pictures()] == [(8, 4), (4, 8)]
    assert images.rows(torch.tensor([1, 0])).sizes == [(8, 4), (4, 8)]
