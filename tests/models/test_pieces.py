"""The text of each token."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

from sightloop.models.decoding.token_pieces import Pieces
from sightloop.types import Tokens

PAD, BOS, END = 0, 1, 2


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, plus "man" and " man"."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "<s>", "</s>", *alphabet, "ma", "man", "Ġman"]
    vocabulary = {word: index for index, word in enumerate(words)}
    core = Tokenizer(BPE(vocabulary, [("m", "a"), ("ma", "n"), ("Ġ", "man")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    core.decoder = decoders.ByteLevel()  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def row(*ids: int, counting: int | None = None) -> Tokens:
    """One row of tokens of which the first `counting` count."""
    counting = len(ids) if counting is None else counting
    return Tokens(ids=torch.tensor([ids]), mask=torch.arange(len(ids))[None] < counting)


def test_each_token_gets_what_it_adds_to_the_text() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("a man a")

    assert Pieces(tokenizer)(row(*ids)) == [["a", " man", " ", "a"]]


def test_end_and_padding_have_no_piece() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("a man")

    assert Pieces(tokenizer)(row(*ids, END, PAD, PAD, counting=len(ids) + 1)) == [["a", " man"]]
    assert Pieces(tokenizer)(row(END, PAD, counting=1)) == [[]]


def test_an_end_token_that_is_an_ordinary_word_has_no_piece() -> None:
    # BLIP-2 on OPT ends its captions with a line break.
    tokenizer = byte_tokenizer()
    line_break = tokenizer.encode("\n")[0]
    ids = tokenizer.encode("a man")

    assert Pieces(tokenizer)(row(*ids, line_break)) == [["a", " man", "\n"]]
    assert Pieces(tokenizer, end_ids=[line_break])(row(*ids, line_break)) == [["a", " man"]]


def test_a_special_token_inside_a_text_keeps_its_place() -> None:
    tokenizer = byte_tokenizer()
    a, man = tokenizer.encode("a man")

    assert Pieces(tokenizer)(row(a, BOS, man, END)) == [["a", "", " man"]]


def test_tokens_behind_the_mask_are_not_read() -> None:
    tokenizer = byte_tokenizer()
    a, man = tokenizer.encode("a man")

    assert Pieces(tokenizer)(row(a, man, a, counting=2)) == [["a", " man"]]


def test_a_character_of_several_tokens_belongs_to_the_token_that_completes_it() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("né 🐶!")  # n, 2 bytes, space, 4 bytes, !

    assert Pieces(tokenizer)(row(*ids)) == [["n", "", "é", " ", "", "", "", "🐶", "!"]]


def test_a_character_that_is_never_completed_still_joins_to_the_text() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("a🐶")[:3]
    pieces = Pieces(tokenizer)(row(*ids))[0]

    assert len(pieces) == 3
    assert pieces[0] == "a"
    assert "".join(pieces) == tokenizer.decode(ids)


def test_a_decoder_that_glues_commas_is_followed() -> None:
    core = Tokenizer(WordLevel({"<unk>": 0, "a": 1, "cat": 2, ",": 3}, unk_token="<unk>"))
    core.decoder = decoders.WordPiece(cleanup=True)  # pyright: ignore
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")

    assert Pieces(tokenizer)(row(1, 2, 3, 1, 2)) == [["a", " cat", ",", " a", " cat"]]


def test_rows_of_one_batch_do_not_mix() -> None:
    tokenizer = byte_tokenizer()
    a, man = tokenizer.encode("a man")
    tokens = Tokens(
        ids=torch.tensor([[a, man, END], [man, END, PAD], [a, a, a]]),
        mask=torch.tensor([[True, True, True], [True, True, False], [True, True, True]]),
    )

    assert Pieces(tokenizer)(tokens) == [["a", " man"], [" man"], ["a", "a", "a"]]


def test_random_bytes_join_to_the_tokenizers_own_text() -> None:
    tokenizer = byte_tokenizer()
    ids = torch.randint(3, len(tokenizer), (40, 12))
    pieces = Pieces(tokenizer)(Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool)))

    assert ["".join(row) for row in pieces] == tokenizer.batch_decode(ids)
    assert {len(row) for row in pieces} == {12}
