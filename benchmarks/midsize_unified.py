"""Models that draw and answer, of middle size and of the embedded world, with quizzes they can read.

Those of middle size have random weights, and the ids, codes and proportions of real ones. Their heads for
words favor the words of quizzes and the end token, so that answers have all lengths and earn something.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from benchmarks.midsize_janus import EOS, SPECIALS, VOCABULARY, JanusSizes
from benchmarks.midsize_janus import new_janus as new_midsize_janus
from benchmarks.show_o_sampling import Sizes, new_model
from sightloop.models.families import Learning
from sightloop.models.janus.policy import Janus, JanusSettings
from sightloop.models.show_o.magvit2 import Magvit2, Magvit2Config
from sightloop.models.show_o.policy import ShowO, ShowOSettings
from sightloop.quizzes.stream import GrammarQuizzes, QuizBatch
from sightloop.quizzes.vocabulary import REAL
from sightloop.recipes.image_policies import load_image_policy
from sightloop.world.quizzes import SHAPES_VOCABULARY

Family = Literal["show-o", "janus"]
FAMILIES: tuple[Family, ...] = ("show-o", "janus")
_END = "<|endoftext|>"
_FAVOUR, _FAVOUR_END = 4.0, 5.0
_NUM_SPOKEN = 300
"""Quizzes whose words the tokenizers know."""


def whole_policy(family: Family, *, tiny: bool, image: int = 384) -> ShowO | Janus:
    """A policy without adapters and without gradients, whose model serves either side.

    `image` is the size of a middle Janus' images; each 16 x 16 pixels are a code.
    """
    if tiny:
        cpu = torch.device("cpu")
        policy: Any = load_image_policy("", device=cpu, world_model=family, learning=Learning(trained="full"))
    else:
        policy = _midsize_show_o() if family == "show-o" else _midsize_janus(image)
    return policy.requires_grad_(False)


def quizzes(number: int, *, tiny: bool, first: int = 0) -> QuizBatch:
    """Quizzes of the embedded world or of real things."""
    source = GrammarQuizzes(SHAPES_VOCABULARY if tiny else REAL, seed=0)
    indices = list(range(first, first + number))
    return QuizBatch(quizzes=[source.quiz(index) for index in indices], indices=indices, seeds=indices)


def _midsize_show_o() -> ShowO:
    sizes = Sizes()
    model = new_model(sizes)
    words = _quiz_words()
    known = {word: index for index, word in enumerate(words)}
    known |= {f"w{index}": index for index in range(len(words), sizes.num_text - 1)}
    end = sizes.num_text - 1
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_core(known | {_END: end}, unknown=_END),
        bos_token=_END,
        eos_token=_END,
        unk_token=_END,
    )
    model.lm_head.weight.normal_(0, sizes.width**-0.5)
    model.lm_head.bias.zero_()
    model.lm_head.weight[: len(words)] *= _FAVOUR
    model.lm_head.weight[end] *= _FAVOUR_END
    pictures = Magvit2Config(
        channels=32,
        num_bits=13,
        encoder_multipliers=(1,) * 5,
        decoder_multipliers=(1,) * 5,
        encoder_blocks=(1,) * 5,
        decoder_blocks=(1,) * 5,
    )
    settings = ShowOSettings(num_image_tokens=sizes.num_tokens, trained="full")
    return ShowO(model, tokenizer, Magvit2(pictures), settings=settings)


def _midsize_janus(image: int) -> Janus:
    model = new_midsize_janus(JanusSizes(image=image))
    words = _quiz_words()
    known = {word: index for index, word in enumerate([*SPECIALS, *words])}
    known |= {f"w{index}": index for index in range(len(known), VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_core(known, unknown="<pad>"),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=SPECIALS[3:],
    )
    model.lm_head.weight[len(SPECIALS) : len(SPECIALS) + len(words)] *= _FAVOUR
    model.lm_head.weight[EOS] *= _FAVOUR_END
    return Janus(model, tokenizer, settings=JanusSettings(trained="full"))


def _core(words: dict[str, int], *, unknown: str) -> Tokenizer:
    core = Tokenizer(WordLevel(words, unk_token=unknown))
    core.normalizer = normalizers.Lowercase()  # pyright: ignore
    marks = pre_tokenizers.Split(Regex("[.,:?]"), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])  # pyright: ignore
    return core


def _quiz_words() -> Sequence[str]:
    spoken = ["user assistant <|user|> <|assistant|> : ? , ."]
    for quiz in quizzes(_NUM_SPOKEN, tiny=False).quizzes:
        spoken += [quiz.prompt, quiz.question, quiz.answer]
    text = " ".join(spoken).lower()
    for mark in ".,:?":
        text = text.replace(mark, f" {mark} ")
    return list(dict.fromkeys(text.split()))
