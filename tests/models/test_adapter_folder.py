"""A captioner's adapters for peft, and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from damaged_folders import pictures
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_captioners import SIDE, Make, noise, prompt, random_weights
from transformers import AutoModelForImageTextToText

from sightloop.cli import main
from sightloop.models.captioners.adapter_folder import export_adapter, load_adapter
from sightloop.models.named_models import load_captioner
from sightloop.types import Images, Turn
from sightloop.world.bundled import WEIGHTS


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # asked by peft
def test_peft_runs_the_exported_adapters(make: Make, tmp_path: Path) -> None:
    captioner = make("llava", lora_targets=("q_proj", "down_proj"), lora_alpha=3.0)
    base = captioner.model.config.name_or_path
    export_adapter(captioner, tmp_path / "adapter", base=base)
    plain = AutoModelForImageTextToText.from_pretrained(base)
    peft = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    asked = prompt(captioner, ["describe"])
    tokens = captioner.encode(["a cat"])
    inputs = captioner._composed.reader.inputs(["describe"], Images(pixels=noise(1)).pictures())
    length = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens.ids], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    law = peft(**inputs).logits[0, length - 1 : -1].log_softmax(-1)

    assert noise(1).shape[-1] == SIDE
    torch.testing.assert_close(
        captioner.score(Turn(prompt=asked, tokens=tokens)).log_probs[0],
        law.gather(1, tokens.ids[0, :, None])[:, 0],
        atol=1e-5,
        rtol=0,
    )
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(stored) == 2 * 2 * 2
    assert "base_model.model.model.language_model.layers.1.mlp.down_proj.lora_B.weight" in stored


def test_adapters_come_back_as_they_were(make: Make, tmp_path: Path) -> None:
    captioner, other = make("idefics3"), make("idefics3", stirred=False)
    export_adapter(captioner, tmp_path / "adapter", base="somewhere")
    load_adapter(other, tmp_path / "adapter")

    for name, tensor in captioner.adapters.state_dict().items():
        assert torch.equal(other.adapters.state_dict()[name], tensor)


def test_adapters_that_do_not_fit_are_refused_and_not_loaded(make: Make, tmp_path: Path) -> None:
    captioner = make("llava")
    export_adapter(captioner, tmp_path / "adapter", base="somewhere")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    first = next(iter(weights))
    other = make("llava")
    random_weights(other.adapters, seed=8)
    before = {name: tensor.clone() for name, tensor in other.adapters.state_dict().items()}

    def refused(message: str, changed: dict[str, torch.Tensor] | None = None, **settings: object) -> None:
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config | settings))
        save_file(weights if changed is None else changed, tmp_path / "adapter" / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=message):
            load_adapter(other, tmp_path / "adapter")

    refused(f"{first} is missing", {name: t for name, t in weights.items() if name != first})
    refused("extra is unknown", weights | {"extra": torch.zeros(1)})
    refused(r"is \(3, 3\), the captioner wants \(2, ", weights | {first: torch.zeros(3, 3)})
    refused("alpha / rank is 7.5, the captioner has 2", lora_alpha=15)
    refused("use_rslora is on", use_rslora=True)
    refused(f"{first} is not finite", weights | {first: torch.full_like(weights[first], torch.nan)})
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(ValueError, match="is a pointer of Git LFS"):
        load_adapter(other, tmp_path / "adapter")
    with pytest.raises(ValueError, match="is not an adapter folder"):
        load_adapter(other, tmp_path)
    with pytest.raises(ValueError, match="is not empty"):
        export_adapter(captioner, tmp_path / "adapter", base="somewhere")
    for name, tensor in other.adapters.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_exported_adapters_are_a_model_for_captions_and_training(make: Make, tmp_path: Path) -> None:
    captioner = make("llava")
    base, folder = str(captioner.model.config.name_or_path), tmp_path / "adapter"
    export_adapter(captioner, folder, base=base)
    shown, asked = pictures(tmp_path, 4), prompt(captioner, ["describe"])
    again = load_captioner(str(folder), dtype=torch.float32, device=torch.device("cpu"))
    plain = load_captioner(base, dtype=torch.float32, device=torch.device("cpu"))
    turn = Turn(prompt=asked, tokens=captioner.encode(["a cat"]))
    scores = [each.score(turn).log_probs for each in (captioner, again, plain)]
    torch.testing.assert_close(scores[1], scores[0], atol=1e-5, rtol=0)
    assert (scores[2] - scores[0]).abs().max() > 1e-3

    main(["caption", str(shown), "--model", str(folder), "--output", str(tmp_path / "written.jsonl")])
    assert len((tmp_path / "written.jsonl").read_text().splitlines()) == 4
    run = tmp_path / "run"
    main(["train", "vlrm", "--preset", "shapes", "--model", str(folder), "--run", str(run), "--batch", "4",
          "--steps", "1", "--data.images", str(shown), "--held-out.images", str(shown),
          "--held-out.clip", str(WEIGHTS / "clip"), "--judge.model", str(WEIGHTS / "judge")])  # fmt: skip
    assert (run / "checkpoints" / "step_000001").is_dir()

    config = json.loads((folder / "adapter_config.json").read_text())
    for changed, told in (
        ({"use_dora": True}, "use_dora is on"),
        ({"base_model_name_or_path": ""}, "names no"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(config | changed))
        with pytest.raises(ValueError, match=told):
            load_captioner(str(folder), dtype=torch.float32, device=torch.device("cpu"))
