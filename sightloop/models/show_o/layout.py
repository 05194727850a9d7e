"""The sequences that Show-o reads (arXiv 2408.12528): its special tokens, and where text and codes stand.

Text comes as token ids without begin and end; the codes of an image as ids of the joint vocabulary. One
number, `max_text`, rules all layouts: the text positions of an answer, and one less than those of a drawing's
prefix, so that rows of all kinds have one length and train in one batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sightloop.models.only_numbers import require_drawn
from sightloop.models.prompt_strings import Frame

SPECIAL_TOKENS = (
    "[PAD]",
    "<|soi|>",
    "<|eoi|>",
    "<|sov|>",
    "<|eov|>",
    "<|t2i|>",
    "<|mmu|>",
    "<|t2v|>",
    "<|v2v|>",
    "<|lvg|>",
)
"""In the order of their ids, right behind the text tokens."""
ROLES = ("USER", "ASSISTANT")
SYSTEM_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""LLaVA's, in front of the features of a vision tower; 28 tokens of Phi-1.5."""
IGNORED = -100
"""Label of a position that is no target."""


@dataclass(frozen=True, kw_only=True)
class TokenLayout:
    """Ids of the joint vocabulary: text, ten special tokens, codes of images, the mask token."""

    num_text: int
    num_codes: int
    begin: int
    """Begin of a text; Show-o's `<|sot|>` is the same token."""
    end: int
    """End of a text; Show-o's `<|eot|>` is the same token."""

    @property
    def pad(self) -> int:
        """Fills rows."""
        return self.num_text

    @property
    def soi(self) -> int:
        """Start of an image."""
        return self.num_text + SPECIAL_TOKENS.index("<|soi|>")

    @property
    def eoi(self) -> int:
        """End of an image."""
        return self.num_text + SPECIAL_TOKENS.index("<|eoi|>")

    @property
    def t2i(self) -> int:
        """Task: draw."""
        return self.num_text + SPECIAL_TOKENS.index("<|t2i|>")

    @property
    def mmu(self) -> int:
        """Task: answer about an image."""
        return self.num_text + SPECIAL_TOKENS.index("<|mmu|>")

    @property
    def first_code(self) -> int:
        """Id of code 0."""
        return self.num_text + len(SPECIAL_TOKENS)

    @property
    def mask(self) -> int:
        """Stands for a code that is not known yet; the last id."""
        return self.first_code + self.num_codes

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.mask + 1


def question_frame(
    template: str | None = None, *, roles: tuple[str, str] = ROLES, behind_features: bool
) -> Frame:
    """How the official evaluation asks, or a template.

    There is a line break before a question about codes, none behind features.
    """
    if template is not None:
        return Frame.of_template(template, name="question_template")
    asks, answers = roles
    if behind_features:
        return Frame(before=f"{asks}: ", after=f" {answers}:", empty=f"{asks}:{answers}:")
    return Frame(before=f"{asks}: \n", after=f" {answers}:")


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, *, num_codes: int, size: int) -> TokenLayout:
    """The joint vocabulary over a tokenizer, to which the special tokens are added where it lacks them.

    Raises:
        ValueError: text, special tokens, codes and the mask token do not add up to `size`, or the special
            tokens are not the tokenizer's last ones in their order.
    """
    missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(missing)
    tokenizer.pad_token = SPECIAL_TOKENS[0]
    num_text = len(tokenizer) - len(SPECIAL_TOKENS)
    if len(tokenizer) + num_codes + 1 != size:
        raise ValueError(
            f"{len(tokenizer)} tokens of the tokenizer, {num_codes} codes and the mask token make "
            f"{len(tokenizer) + num_codes + 1}, but the model has {size} ids; use the tokenizer it was "
            "trained with (Phi-1.5 has 50305 with the special tokens)"
        )
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    if ids != list(range(num_text, len(tokenizer))):
        raise ValueError(
            f"the special tokens have the ids {ids}; they must be the last ones, in this order: "
            f"{SPECIAL_TOKENS}"
        )
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ValueError("the tokenizer has no end token (eos_token); set one")
    begin = tokenizer.bos_token_id
    return TokenLayout(
        num_text=num_text, num_codes=num_codes, begin=begin if isinstance(begin, int) else end, end=end
    )


def plain_text(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """User text in which every special or added token is a space: it could end a prompt or open an image."""
    marks = {*SPECIAL_TOKENS, *tokenizer.all_special_tokens}
    pattern = "|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))
    return re.sub(pattern, " ", text)


def begun(text: Sequence[int], vocabulary: TokenLayout) -> list[int]:
    """A text with its begin token, which it may already have."""
    return list(text) if text and text[0] == vocabulary.begin else [vocabulary.begin, *text]


def drawing_prompt(text: Sequence[int], vocabulary: TokenLayout, *, max_text: int) -> list[int]:
    """Task, begin, text, end: at most `max_text` + 1 ids, cut before the end token as in the official code.

    An empty text gives the three ids that also stand for "no condition".
    """
    ids = [vocabulary.t2i, *begun(text, vocabulary)]
    return [*ids[:max_text], vocabulary.end]


def drawing_rows(
    prompts: Sequence[Sequence[int]], codes: Int[Tensor, "B N"], vocabulary: TokenLayout, *, max_text: int
) -> Int[Tensor, "B L"]:
    """Prompts with pads on their left, then the image between its marks."""
    rows = [[vocabulary.pad] * (max_text + 1 - len(ids)) + list(ids) for ids in prompts]
    prefix = torch.tensor(rows, device=codes.device)
    return torch.cat([prefix, framed(codes, vocabulary)], 1)


def require_codes(ids: Int[Tensor, "B N"], vocabulary: TokenLayout, source: str = "") -> None:
    """Check that ids are codes of images; ids of the host, or it waits for them. `source` is the model.

    Raises:
        ValueError: one is none, or was drawn from values that are not numbers.
    """
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary.num_codes:
        require_drawn(int(ids.min()), source, "images")
        raise ValueError(
            f"codes from {int(ids.min())} to {int(ids.max())}; images have codes from 0 to "
            f"{vocabulary.num_codes - 1}"
        )


def framed(codes: Int[Tensor, "B N"], vocabulary: TokenLayout) -> Int[Tensor, "B F"]:
    """The image between its marks."""
    mark = codes.new_ones(len(codes), 1)
    return torch.cat([mark * vocabulary.soi, codes, mark * vocabulary.eoi], 1)


def image_prefix(codes: Int[Tensor, "B N"], vocabulary: TokenLayout) -> Int[Tensor, "B P"]:
    """What precedes a text about an image: the task, and the image between its marks."""
    task = codes.new_full((len(codes), 1), vocabulary.mmu)
    return torch.cat([task, framed(codes, vocabulary)], 1)


def caption_rows(
    codes: Int[Tensor, "B N"], texts: Sequence[Sequence[int]], vocabulary: TokenLayout, *, max_text: int
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    """Images and their captions for training, and the labels: the whole text, its begin token too."""
    rows: list[list[int]] = []
    for text in texts:
        ids = begun(text, vocabulary)
        rows.append([*ids[: max_text - 1], vocabulary.end])
    return _with_image(codes, rows, rows, vocabulary, max_text=max_text)


def conversation_rows(
    codes: Int[Tensor, "B N"],
    turns: Sequence[Sequence[tuple[Sequence[int], bool]]],
    vocabulary: TokenLayout,
    *,
    max_text: int,
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    """Images and conversations for instruction tuning; only what the assistant says is a target.

    A conversation is a list of stretches of ids, each with whether the assistant says it (its end token
    included). There is no begin token; too long conversations are cut.
    """
    rows = [[token for ids, _ in turn for token in ids][:max_text] for turn in turns]
    labels = [
        [token if said else IGNORED for ids, said in turn for token in ids][:max_text] for turn in turns
    ]
    return _with_image(codes, rows, labels, vocabulary, max_text=max_text)


def _with_image(
    codes: Tensor, rows: list[list[int]], labels: list[list[int]], vocabulary: TokenLayout, *, max_text: int
) -> tuple[Tensor, Tensor]:
    prefix = image_prefix(codes, vocabulary)
    text = right_padded(rows, vocabulary.pad, length=max_text).to(codes.device)
    targets = right_padded(labels, IGNORED, length=max_text).to(codes.device)
    return torch.cat([prefix, text], 1), torch.cat([torch.full_like(prefix, IGNORED), targets], 1)


def text_rows(
    texts: Sequence[Sequence[int]], vocabulary: TokenLayout, *, length: int
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    """Plain text for training, and its labels; a text that is too long loses its end token."""
    rows = [[*begun(text, vocabulary), vocabulary.end][:length] for text in texts]
    return right_padded(rows, vocabulary.pad, length=length), right_padded(rows, IGNORED, length=length)


def right_padded(
    rows: Sequence[Sequence[int]], filler: int, *, length: int | None = None
) -> Int[Tensor, "B L"]:
    """Rows of one length (None = that of the longest)."""
    length = max(map(len, rows), default=0) if length is None else length
    return torch.tensor([[*row, *[filler] * (length - len(row))] for row in rows], dtype=torch.int64)


def pads(ids: Int[Tensor, "B L"], vocabulary: TokenLayout) -> Bool[Tensor, "B L"]:
    """True where a row is filled up."""
    return ids == vocabulary.pad
