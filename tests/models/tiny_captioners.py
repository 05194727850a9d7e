"""Tiny random image-to-text models in the hub's own format: LLaVA, Idefics3, Qwen2-VL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from sightloop.models.captioners.generic import GenericCaptioner
from sightloop.types import Images, Prompt, Sampling

SIDE = 16
SPECIALS = ["<pad>", "<s>", "</s>", "<turn>", "<image>"]
PAD, BOS, EOS, TURN, IMAGE = range(len(SPECIALS))
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
CHAT = (
    "<s>{% for m in messages %}User: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<turn>{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


LAW = Sampling(max_tokens=6, temperature=1.3, top_k=8)
TEXTS = ["what is this?", "", "describe"]
FAMILIES = ("llava", "idefics3", "qwen2_vl")
Make = Callable[..., GenericCaptioner]
"""Loads a family's captioner: see the fixture `make`."""


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, for the few bytes that these tests spell."""
    letters = [*"abcdefghijklmnopqrstuvwxyzAQU?!:", "Ġ", "Ã", "©"]
    vocabulary = {word: index for index, word in enumerate([*SPECIALS, *letters])}
    core = Tokenizer(BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    core.decoder = decoders.ByteLevel()  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>", "<turn>"],
    )


def random_weights(model: nn.Module, seed: int = 0) -> None:
    """Weights large enough that an image, a position and a word each change what is said."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
        noise = torch.randn(parameter.shape, generator=generator) * spread
        parameter.data = noise + float("norm" in name and name.endswith("weight"))
        if name == "lm_head.weight":
            # Decided enough that the image token, as in trained models, is hardly ever drawn.
            parameter.data *= 3
            parameter.data[IMAGE] = 0


def save(folder: Path, model: Any, processor: Any, ends: list[int]) -> Path:
    """The model and its processor as a folder of the hub's format."""
    random_weights(model)
    # Options that a checkpoint may bring and a drawing distribution must not obey.
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=PAD, bos_token_id=BOS, repetition_penalty=1.5, max_new_tokens=3
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def llava(folder: Path, *, chat: bool = True) -> Path:
    """LLaVA with 4 image tokens; ends with `</s>` or `<turn>`."""
    words = tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=8,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(vocab_size=len(words), **SIZES),
        image_token_index=IMAGE,
        image_seq_length=4,
        vision_feature_layer=-2,
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = LlavaProcessor(
        pictures,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT if chat else None,
    )
    return save(folder, LlavaForConditionalGeneration(config), processor, [EOS, TURN])


def idefics3(folder: Path) -> Path:
    """Idefics3 with 4 image tokens, image splitting off."""
    words = tokenizer()
    pictures = Idefics3ImageProcessorPil(
        do_image_splitting=False, size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}
    )
    processor = Idefics3Processor(pictures, words, image_seq_len=4, chat_template=CHAT)
    vision = {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 4,
    }
    config = Idefics3Config(
        vision_config=vision,
        text_config=LlamaConfig(vocab_size=len(words) + 8, **SIZES),
        image_token_id=IMAGE,
        scale_factor=2,
    )
    return save(folder, Idefics3ForConditionalGeneration(config), processor, [EOS])


class PicturesOnlyQwen2VLProcessor(Qwen2VLProcessor):
    """The processor without its video part, which alone needs torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


def qwen2_vl() -> tuple[Qwen2VLForConditionalGeneration, Qwen2VLProcessor]:
    """Qwen2-VL, whose image tokens lie in a plane: 4 of them for an image of 16 pixels."""
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<|image_pad|>", "<|video_pad|>"]})  # pyright: ignore
    image, video = (words.convert_tokens_to_ids(token) for token in ("<|image_pad|>", "<|video_pad|>"))
    pictures = Qwen2VLImageProcessorPil(
        patch_size=4, temporal_patch_size=2, merge_size=2, min_pixels=64, max_pixels=1024
    )
    processor = PicturesOnlyQwen2VLProcessor(pictures, words)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    config = Qwen2VLConfig(
        text_config={"vocab_size": len(words), **SIZES, "rope_parameters": rope},
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "mlp_ratio": 2,
            "num_heads": 4,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=cast("int", image),
        video_token_id=cast("int", video),
    )
    model = Qwen2VLForConditionalGeneration(config)
    random_weights(model)
    model.lm_head.weight.data[image] = 0
    model.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD, bos_token_id=BOS)
    return model, processor


def paligemma() -> tuple[PaliGemmaForConditionalGeneration, PaliGemmaProcessor]:
    """PaliGemma, whose prompt attends in both directions."""
    words = tokenizer()
    pictures = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    pictures.image_seq_length = 4  # pyright: ignore
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 8,
        "projection_dim": 32,
        "vision_use_head": False,
    }
    config = PaliGemmaConfig(
        vision_config=vision,
        text_config={"model_type": "gemma", "vocab_size": len(words), "head_dim": 8, **SIZES},
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )
    model = PaliGemmaForConditionalGeneration(config)
    random_weights(model)
    model.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD, bos_token_id=BOS)
    return model, PaliGemmaProcessor(pictures, words)


def prompt(captioner: GenericCaptioner, texts: Sequence[str] = TEXTS) -> Prompt:
    """Prompts of unequal length with an image and a seed each."""
    images = captioner.encode_images(Images(pixels=noise(len(texts))))
    return Prompt(texts=list(texts), images=images, seeds=list(range(len(texts))))


@torch.no_grad()
def whole_model_logits(captioner: GenericCaptioner, images: Images, text: str, ids: list[int]) -> Tensor:
    """What transformers' own forward pass says at each of the tokens `ids` about one image."""
    inputs = captioner._composed.reader.inputs([text], images.pictures())
    before = inputs["input_ids"]
    for name, value in inputs.items():
        if value.shape == before.shape:
            read = ids[:-1] if name == "input_ids" else [int(name == "attention_mask")] * (len(ids) - 1)
            inputs[name] = torch.cat([value, torch.tensor([read]).to(value)], 1)
    with captioner.adapters.switched(True):
        return captioner.model(**inputs).logits[0, before.shape[1] - 1 :]


def noise(number: int, *, side: int = SIDE, seed: int = 0) -> Tensor:
    """Images of random pixels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (number, 3, side, side), generator=generator, dtype=torch.uint8)
