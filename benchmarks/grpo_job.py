"""The job that `grpo_beside_trl` gives to both libraries: a random LLaVA, its images, its terms.

Both virtual environments import this file, so it needs torch and transformers only.
"""

from __future__ import annotations

import gc
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor

from benchmarks.measure import peak_resident, reset_peak

SIDE, PATCH, NUM_WORDS, NUM_PICTURES = 64, 16, 1000, 32
GENERATIONS = 4
"""Captions of an image."""
QUESTION = "w7 w8 w9"
RANK, ALPHA = 16, 32.0
LEARNING_RATE = 1e-4
LENGTH_UNIT = 100
"""A caption earns one for so many characters."""
_SPECIALS = ("<pad>", "<s>", "</s>", "<image>", "user", "assistant", "\n")
_PAD, _BEGIN, _END, _IMAGE = range(4)
_CHAT = (
    "<s>{% for m in messages %}{{ m['role'] }} {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %} {{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the comparison."""

    name: str
    width: int
    layers: int
    prompts: int
    """Images a step, each with `GENERATIONS` captions."""
    new_tokens: int


JOBS = {
    "small": Job(name="small", width=128, layers=4, prompts=2, new_tokens=16),
    "large": Job(name="large", width=256, layers=6, prompts=4, new_tokens=32),
}


def write_job(job: Job, folder: Path) -> None:
    """The model and its images as plain files."""
    torch.manual_seed(0)
    words = _words()
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=NUM_WORDS,
        hidden_size=job.width,
        intermediate_size=2 * job.width,
        num_hidden_layers=job.layers,
        num_attention_heads=job.width // 32,
        num_key_value_heads=job.width // 32,
        max_position_embeddings=512,
        pad_token_id=_PAD,
        bos_token_id=_BEGIN,
        eos_token_id=_END,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=_IMAGE,
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
        # Words are drawn from a wide choice, and neither the end nor an image is among it: captions of all
        # lengths would make the two sides' work depend on chance.
        model.lm_head.weight *= 3
        model.lm_head.weight[: len(_SPECIALS)] = 0
    model.generation_config = GenerationConfig(
        eos_token_id=_END, pad_token_id=_PAD, bos_token_id=_BEGIN, do_sample=True
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = LlavaProcessor(
        pictures,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHAT,
    )
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "pictures").mkdir()
    for index, pixels in enumerate(torch.randint(256, (NUM_PICTURES, SIDE, SIDE, 3), dtype=torch.uint8)):
        Image.fromarray(pixels.numpy()).save(folder / "pictures" / f"{index:03d}.png")


def _words() -> PreTrainedTokenizerFast:
    spelled = [*_SPECIALS, *(f"w{'x' * (index % 7)}{index}" for index in range(NUM_WORDS))][:NUM_WORDS]
    # The question's words are among them.
    spelled[-3:] = QUESTION.split()
    core = Tokenizer(WordLevel({word: index for index, word in enumerate(spelled)}, unk_token="w7"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    core.decoder = decoders.WordPiece(prefix="", cleanup=False)  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="w7",
        additional_special_tokens=["<image>"],
    )


def length_reward(text: str) -> float:
    """What a caption earns."""
    return len(text) / LENGTH_UNIT


@dataclass
class Diary:
    """What one side's process writes about its run: a step lasts until the next one starts."""

    imports: int
    """Bytes resident once everything is imported."""
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Tokens of the captions of each step."""
    trained: int = 0
    """Parameters that learn."""
    peak: int = 0
    """Most bytes resident at any time after the imports."""

    @staticmethod
    def open() -> Diary:
        """Call this right after the imports."""
        gc.collect()
        return Diary(imports=reset_peak())

    def step_starts(self) -> None:
        """Close the step before and start the next one."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def write(self, path: Path, trained: int) -> None:
        """The last step that started is not counted: libraries save and evaluate there."""
        self.trained, self.peak = trained, peak_resident()
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The first captions of a side and what was learned from them, for the other side to check."""

    sources: list[str]
    """File name of each caption's image."""
    ids: list[list[int]]
    rewards: list[float]

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> Judged:
        """What `write` wrote."""
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Judged(**saved)
