"""Model folders in the forms that people have them: the bundled ones, in shards, as .bin, other families."""

from __future__ import annotations

import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    Blip2ForConditionalGeneration,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from sightloop.models.weight_files import read_weights
from sightloop.world.bundled import WEIGHTS

# Made by the tests of these families.
CLASSIC = ("blip", "git", "vit_gpt2", "florence2", "kosmos2")
DETECTORS = ("grounding_dino", "owlv2")
_TESTS = Path(__file__).parents[2] / "tests"
_MARKS = ["<pad>", "<s>", "</s>", "<image>"]
_SIDE = 16
_CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def make_models(folder: Path) -> None:
    """One folder each."""
    folder.mkdir()
    for name in ("captioner", "judge", "clip", "show_o", "janus"):
        shutil.copytree(WEIGHTS / name, folder / name)
    captioner: Any = Blip2ForConditionalGeneration.from_pretrained(WEIGHTS / "captioner")
    _beside(captioner, folder / "sharded", max_shard_size="1MB")
    shutil.copytree(WEIGHTS / "captioner", folder / "pickled")
    (folder / "pickled" / "model.safetensors").unlink()
    torch.save(read_weights(WEIGHTS / "captioner"), folder / "pickled" / "pytorch_model.bin")
    _llava(folder / "llava")
    words = _tokenizer()
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **_sizes())).save_pretrained(folder / "language")
    words.chat_template = "{{ messages[0]['content'] }}"
    words.save_pretrained(folder / "language")
    (folder / "head").mkdir()
    torch.save({"weight": torch.zeros(1, 96), "bias": torch.zeros(1)}, folder / "head" / "head.pth")
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    labels = {0: "circle", 1: "square"}
    config = ViTConfig(**sizes, num_attention_heads=2, image_size=_SIDE, patch_size=8, id2label=labels)
    ViTForImageClassification(config).save_pretrained(folder / "classifier")
    side = {"height": _SIDE, "width": _SIDE}
    ViTImageProcessorPil(size=side).save_pretrained(folder / "classifier")

    sys.path.append(str(_TESTS))
    for module, names in (
        ("models.classic_folders", CLASSIC),
        ("geneval.test_detection_zero_shot", DETECTORS),
    ):
        for name in names:
            vars(import_module(module))[name](folder / name)


def _beside(model: Any, folder: Path, **how: Any) -> None:
    """The bundled captioner's folder with its weights written otherwise."""
    shutil.copytree(WEIGHTS / "captioner", folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, **how)


def _tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core: Any = Tokenizer(BPE({word: place for place, word in enumerate([*_MARKS, *letters])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_tokens(["yes", "no"])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )


def _sizes() -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**sizes, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _llava(folder: Path) -> None:
    words = _tokenizer()
    layers: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, image_size=_SIDE, patch_size=8, **layers)
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(vocab_size=len(words), **_sizes()),
        image_token_index=3,
        image_seq_length=4,
        vision_feature_layer=-2,
    )
    pixels = CLIPImageProcessorPil(size={"shortest_edge": _SIDE}, crop_size={"height": _SIDE, "width": _SIDE})
    processor = LlavaProcessor(
        pixels,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHAT,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
