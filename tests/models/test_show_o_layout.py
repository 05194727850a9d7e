"""Show-o's sequences and masks, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from tiny_show_o import END, NUM_BITS, tokenizer

from sightloop.models.show_o.layout import (
    IGNORED,
    SPECIAL_TOKENS,
    TokenLayout,
    caption_rows,
    conversation_rows,
    drawing_prompt,
    drawing_rows,
    plain_text,
    text_rows,
    vocabulary_of,
)
from sightloop.models.show_o.masks import answer_mask, causal, drawing_mask

# 5 words (4 is begin and end), ten special tokens from 5 on, codes 15 to 18, the mask token 19.
WORDS = TokenLayout(num_text=5, num_codes=4, begin=4, end=4)
PAD, SOI, EOI, T2I, MMU = 5, 6, 7, 10, 11


def test_ids_follow_from_the_sizes() -> None:
    assert (WORDS.pad, WORDS.soi, WORDS.eoi, WORDS.t2i, WORDS.mmu) == (PAD, SOI, EOI, T2I, MMU)
    assert (WORDS.first_code, WORDS.mask, WORDS.size) == (15, 19, 20)


def test_the_published_sizes_give_the_published_ids() -> None:
    words = TokenLayout(num_text=50295, num_codes=8192, begin=50256, end=50256)
    assert (words.soi, words.eoi, words.t2i, words.mmu) == (50296, 50297, 50300, 50301)
    assert (words.first_code, words.mask, words.size) == (50305, 58497, 58498)


def test_drawing_prompts_are_cut_before_their_end_token() -> None:
    assert drawing_prompt([1, 2], WORDS, max_text=4) == [T2I, 4, 1, 2, 4]
    assert drawing_prompt([1, 2, 3], WORDS, max_text=4) == [T2I, 4, 1, 2, 4]
    assert drawing_prompt([4, 1], WORDS, max_text=4) == [T2I, 4, 1, 4], "a begin token twice"
    assert drawing_prompt([], WORDS, max_text=4) == [T2I, 4, 4]


def test_drawings_are_padded_on_the_left() -> None:
    rows = drawing_rows(
        [[T2I, 4, 4], [T2I, 4, 1, 2, 4]], torch.tensor([[15, 19], [18, 16]]), WORDS, max_text=4
    )
    assert rows.tolist() == [[PAD, PAD, T2I, 4, 4, SOI, 15, 19, EOI], [T2I, 4, 1, 2, 4, SOI, 18, 16, EOI]]


def test_captions_are_padded_on_the_right_and_all_of_their_text_is_a_target() -> None:
    ids, labels = caption_rows(torch.tensor([[15], [16]]), [[1], [1, 2, 3, 1]], WORDS, max_text=4)
    assert ids.tolist() == [[MMU, SOI, 15, EOI, 4, 1, 4, PAD], [MMU, SOI, 16, EOI, 4, 1, 2, 4]]
    ignored = [IGNORED] * 4
    assert labels.tolist() == [[*ignored, 4, 1, 4, IGNORED], [*ignored, 4, 1, 2, 4]]


def test_of_a_conversation_only_what_the_assistant_says_is_a_target() -> None:
    turns = [[([1, 2], False), ([3, 4], True), ([1], False)], [([1], False), ([2, 2, 2, 2], True)]]
    ids, labels = conversation_rows(torch.tensor([[15], [16]]), turns, WORDS, max_text=4)
    assert ids[:, 4:].tolist() == [[1, 2, 3, 4], [1, 2, 2, 2]]
    assert labels[:, 4:].tolist() == [[IGNORED, IGNORED, 3, 4], [IGNORED, 2, 2, 2]]
    assert (labels[:, :4] == IGNORED).all()


def test_a_text_that_is_cut_loses_its_end() -> None:
    ids, labels = text_rows([[1], [1, 2, 3, 1]], WORDS, length=5)
    assert ids.tolist() == [[4, 1, 4, PAD, PAD], [4, 1, 2, 3, 1]]
    assert labels.tolist() == [[4, 1, 4, IGNORED, IGNORED], [4, 1, 2, 3, 1]]


def test_special_tokens_are_added_once_behind_the_text() -> None:
    words = tokenizer()
    num_text = len(words)
    size = num_text + 10 + 2**NUM_BITS + 1
    found = vocabulary_of(words, num_codes=2**NUM_BITS, size=size)
    assert found.num_text == num_text
    assert found.begin == found.end == words.get_vocab()[END]
    assert words.convert_tokens_to_ids("<|t2i|>") == found.t2i
    assert vocabulary_of(words, num_codes=2**NUM_BITS, size=size) == found


def test_a_tokenizer_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="50305"):
        vocabulary_of(tokenizer(), num_codes=2**NUM_BITS, size=100)
    shuffled = tokenizer()
    shuffled.add_tokens(list(SPECIAL_TOKENS[::-1]))
    with pytest.raises(ValueError, match="order"):
        vocabulary_of(shuffled, num_codes=8, size=len(shuffled) + 9)


def test_special_tokens_in_user_texts_become_spaces() -> None:
    words = tokenizer()
    vocabulary_of(words, num_codes=8, size=len(words) + 19)
    assert plain_text("a<|soi|>b <|mmu|>", words) == "a b  "
    assert plain_text(f"{END}[PAD]", words) == "  "
    hidden = plain_text("<|s<|soi|>oi|>", words)
    ids = words(hidden, add_special_tokens=False).input_ids
    assert max(ids) < len(words) - 10


def rows(mask: torch.Tensor) -> list[str]:
    """One mask as text: o may be seen, . may not."""
    return ["".join("o" if seen else "." for seen in row) for row in mask.tolist()]


def test_images_see_all_but_pads_and_text_what_is_before_it() -> None:
    is_pad = torch.tensor([[True, False, False, False, False]])
    # pad, text, text, image, image
    assert rows(drawing_mask(is_pad, first=3)[0, 0]) == ["o....", ".o...", ".oo..", ".oooo", ".oooo"]
    none = torch.zeros_like(is_pad)
    assert rows(drawing_mask(none, first=3)[0, 0]) == ["o....", "oo...", "ooo..", "ooooo", "ooooo"]
    assert rows(drawing_mask(none, first=1, last=2)[0, 0]) == ["o....", "ooooo", "ooooo", "oooo.", "ooooo"]


def test_before_an_answer_the_image_is_one_block() -> None:
    assert rows(answer_mask(4, last=1)[0, 0]) == ["oo..", "oo..", "ooo.", "oooo"]
    assert rows(answer_mask(4, first=1, last=2)[0, 0]) == ["ooo.", "ooo.", "ooo.", "oooo"]
    assert torch.equal(answer_mask(4, last=-1), causal(4))
