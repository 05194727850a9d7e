"""Trained adapters in the weights: a plain folder whose model says what the captioner said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models.classic_folders import CLASSIC
from models.tiny_captioners import LAW, llava, noise
from PIL import Image

from sightloop.models.captioners.family import export_adapters
from sightloop.models.named_models import load_captioner
from sightloop.models.protocols import Card, Export
from sightloop.types import Images, Prompt, Turn

ADAPTED = {
    "llava": llava,
    **{name: CLASSIC[name] for name in ("blip", "git", "vit_gpt2", "vit_bert", "florence2", "kosmos2")},
}
DECODING = {"num_beams": 1, "no_repeat_ngram_size": 0, "min_new_tokens": 1, "max_new_tokens": 6}


def loaded(folder: Path) -> Any:
    """The captioner in a folder."""
    return load_captioner(str(folder), dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("name", ADAPTED)
def test_a_merged_folder_says_what_the_adapters_said(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ADAPTED[name](tmp_path / "base")
    captioner = loaded(base)
    pixels = noise(1, side=captioner.image_size)
    asked = Prompt(texts=["describe"], images=Images(pixels=pixels), seeds=[1])
    tokens = captioner.sample(asked, LAW)
    plain = captioner.score(Turn(prompt=asked, tokens=tokens)).log_probs
    torch.manual_seed(0)
    for parameter in captioner.adapters.parameters():
        parameter.data.normal_(std=0.2)
    said = captioner.score(Turn(prompt=asked, tokens=tokens)).log_probs
    wrote = captioner.write(
        Images(pixels=pixels), prompt="describe", beams=1, no_repeat_ngram=0, min_tokens=1, max_tokens=6
    )
    card = Card(base=str(base), steps=3, metrics={}, license_name="mit")
    wanted = Export(
        run=tmp_path, form="merged", dtype=torch.float32, card=card, prompt="describe", decoding=DECODING
    )
    export_adapters(captioner, tmp_path / "merged", wanted)

    again = loaded(tmp_path / "merged")
    turn = Turn(prompt=Prompt(texts=["describe"], images=Images(pixels=pixels)), tokens=tokens)
    torch.testing.assert_close(again.score(turn).log_probs, said, atol=1e-4, rtol=0)
    assert (said - plain).abs().max() > 0.01, "the adapters changed nothing"
    # The model card's own lines, with transformers alone.
    text = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in text and "peft" not in text
    capsys.readouterr()
    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    lines = text.split("```python\n")[1].split("```")[0].replace("'FOLDER'", repr(str(tmp_path / "merged")))
    exec(lines, {"image": image})
    # Some write the prompt along.
    assert capsys.readouterr().out.strip().removeprefix("describe").strip() == wrote[0]
