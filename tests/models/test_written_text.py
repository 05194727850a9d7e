"""Special tokens that somebody wrote are text, for every kind of tokenizer; other texts are read as ever."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from sightloop.models.clip import ClipEncoder
from sightloop.models.written_text import read_texts, spelled_out, text_ids
from sightloop.recipes.image_policies import load_image_policy
from sightloop.rewards.similarity import ItmSimilarity
from sightloop.runs.restore import open_captioner
from sightloop.types import Images
from sightloop.world.bundled import WEIGHTS
from sightloop.world.scenes import render, sample_scene

CORPUS = [
    "a small red circle on a bench",
    "two  gray cats, said: <ok> [it]!",
    "naïve 日本 </ s >",
    "x<y>z",
    "",
]


def trained(kind: Any, model: Any, *, special: list[str], split: Any, **more: Any) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = split
    tokenizer.train_from_iterator(CORPUS * 9, kind(special_tokens=special, show_progress=False, **more))
    return tokenizer


def byte_level() -> Any:
    """GPT-2, OPT, Qwen: bytes and merges; markers of chats and images are added without being special."""
    made = trained(
        trainers.BpeTrainer,
        models.BPE(),
        special=["<|endoftext|>", "</s>"],
        split=pre_tokenizers.ByteLevel(add_prefix_space=False),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        vocab_size=400,
    )
    made.decoder = decoders.ByteLevel()
    made.add_tokens(["<image>", "<|im_end|>", AddedToken("   ", normalized=False)])
    # As CLIP's and GPT-2's: the unknown token is the end.
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token=end, eos_token=end, bos_token="</s>")


def word_pieces() -> Any:
    """BERT."""
    made = trained(
        trainers.WordPieceTrainer,
        models.WordPiece(unk_token="[UNK]"),
        special=["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"],
        split=pre_tokenizers.BertPreTokenizer(),
        vocab_size=200,
    )
    made.normalizer = normalizers.BertNormalizer()
    ends = [("[CLS]", made.token_to_id("[CLS]")), ("[SEP]", made.token_to_id("[SEP]"))]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, mask_token="[MASK]", **names)


def unigram() -> Any:
    """T5, SigLIP: `</s>` is a piece of the model too."""
    made = trained(
        trainers.UnigramTrainer,
        models.Unigram(),
        special=["<pad>", "</s>", "<unk>"],
        split=pre_tokenizers.Metaspace(),
        unk_token="<unk>",
        vocab_size=90,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    )


def bundled() -> Any:
    return AutoTokenizer.from_pretrained(WEIGHTS / "janus")


KINDS: list[Callable[[], Any]] = [byte_level, word_pieces, unigram, ByT5Tokenizer, bundled]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def words(request: pytest.FixtureRequest) -> Any:
    """A tokenizer."""
    return request.param()


def strings_of(words: Any) -> list[str]:
    added = [str(token) for token in words.added_tokens_decoder.values() if str(token).strip()]
    return list(dict.fromkeys([*added, *words.all_special_tokens]))


def test_what_is_written_like_a_special_token_is_none(words: Any) -> None:
    for name in strings_of(words):
        number = words.convert_tokens_to_ids(name)
        for text in (f"a cat {name} a dog", name * 8, f"{name}a", name.upper(), f" {name} "):
            if number != words.unk_token_id or (words.is_fast and words.unk_token == "<|endoftext|>"):
                assert number not in text_ids(words, text), (name, text)
            # A template is read in the usual way.
            filled = spelled_out(words, text)
            if number != words.unk_token_id:
                assert number not in words(filled, add_special_tokens=False).input_ids, (name, filled)
            # What stands behind it is there.
            assert text_ids(words, text) != text_ids(words, text.split(name)[0]) or text == name.upper()


def test_other_texts_are_read_as_ever(words: Any) -> None:
    letters = random.Random(0)
    drawn = ["".join(letters.choices("ab <>/[]|s  e日ï\n", k=letters.randrange(1, 30))) for _ in range(300)]
    marks = [mark.casefold() for mark in strings_of(words)]
    texts = [text for text in [*CORPUS, "", *drawn] if not any(mark in text.casefold() for mark in marks)]
    assert len(texts) > 250
    for options in ({}, {"add_special_tokens": False}, {"truncation": True, "max_length": 7}):
        assert read_texts(words, texts, **options).input_ids == words(texts, **options).input_ids
    assert [spelled_out(words, text) for text in texts] == texts
    assert [text_ids(words, text) for text in texts] == [
        words(text, add_special_tokens=False).input_ids if text else [] for text in texts
    ]


def scenes(number: int) -> tuple[Images, list[str]]:
    """Images, and what is true of each."""
    import numpy as np

    from sightloop.world.language import full_caption

    rng = np.random.default_rng(0)
    drawn = [sample_scene(rng) for _ in range(number)]
    pixels = np.stack([render(scene, rng) for scene in drawn])
    told = [full_caption(scene) for scene in drawn]
    return Images(pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()), told


def test_the_judge_is_not_pleased_by_special_tokens() -> None:
    judge = ItmSimilarity.from_pretrained(WEIGHTS / "judge")
    images, told = scenes(16)
    true = judge.rewards(images, told)
    for name, alike in (("</s>" * 8, "zzz"), ("<s>" * 8, "zzz"), ("</s> " * 8, "z " * 16), ("<pad>", "z z")):
        found = judge.rewards(images, [name] * 16)
        # They are words that it does not know.
        assert torch.allclose(found, judge.rewards(images, [alike] * 16), atol=1e-5), name
        assert float(found.mean()) < float(true.mean()) - 3, name
    longer = judge.rewards(images, [f"{text} </s> a large blue square" for text in told])
    assert not torch.allclose(longer, true, atol=0.01)


@pytest.mark.parametrize("kind", ["show_o", "janus", "captioner"])
def test_policies_read_prompts_questions_and_answers_as_text(kind: str) -> None:
    given = "a red circle </s> <|endoftext|> <pad> <begin_of_image> <|soi|> <image> a cross"
    device = torch.device("cpu")
    pictures = Images(pixels=torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    if kind == "captioner":
        policy: Any = open_captioner("", device=device)
        policy.write(policy.encode_images(pictures), prompt=given, max_tokens=4)
        rows = [policy._text_ids(given), policy.encode([given]).ids[0, :-1].tolist()]
        marks = {policy.bos, policy.pad, *policy.ends, policy.tokenizer.convert_tokens_to_ids("<image>")}
    elif kind == "janus":
        policy = load_image_policy("", device=device, world_model="janus")
        frame = {policy.prompts.start, policy.prompts.stop, policy.prompts.begin, policy.end}
        rows = [list(policy.prompts.drawing_row(given)[1:-1]), policy.encode([given]).ids[0, :-1].tolist()]
        asked = policy.prompts.question_row(given, True)
        at = len(asked) - 1 - asked[::-1].index(policy.prompts.picture)
        rows.append(list(asked[at + 2 :]))
        marks = frame | {policy.prompts.pad, policy.prompts.picture}
    else:
        policy = load_image_policy("", device=device, world_model="show-o")
        (row,) = policy.text_ids([given])
        rows = [row, policy.encode([given]).ids[0, :-1].tolist()]
        # Its end also stands for words that it does not know.
        marks = {policy.vocabulary.pad, policy.vocabulary.soi, policy.vocabulary.t2i}
    assert all(rows) and not any(marks & set(row) for row in rows)


def test_clip_recall_sees_what_stands_behind_an_end() -> None:
    encoder = ClipEncoder.from_pretrained(WEIGHTS / "clip")
    plain, longer = encoder.texts(["a small red circle", "a small red circle </s> a large blue square"])
    assert float((plain - longer).abs().max()) > 0.01


@pytest.mark.parametrize("half", ["\ud800", "caf\udce9"])
def test_half_a_character_is_refused_with_its_text(half: str) -> None:
    words = AutoTokenizer.from_pretrained(WEIGHTS / "clip")
    with pytest.raises(ValueError, match=r"holds half a character; write it as UTF-8"):
        read_texts(words, ["a dog", half])
