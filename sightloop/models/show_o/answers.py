"""Answers about images: many at once, the image read once for all its questions, with a cache.

An image before a text is a closed block that never sees the text, so its keys and values serve every
question about it. Drawn and scored are text tokens and the end token only; codes of images and special
tokens have no place in an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightloop.models.decoding.code_likelihood import code_log_probs
from sightloop.models.decoding.sampling import TextDecoder, draw_tokens
from sightloop.models.show_o.body import Body, Prefix
from sightloop.models.show_o.layout import image_prefix, right_padded
from sightloop.models.show_o.masks import answer_mask
from sightloop.models.transformers_internals import Cache
from sightloop.types import Sampling, Tokens, TokenScores


@dataclass(frozen=True, kw_only=True)
class AnsweredImages:
    """The distinct images of a batch as embeddings, everything before the question included."""

    embeds: Float[Tensor, "D P h"]
    row_of: Int[Tensor, " B"]
    """Which image each row of the batch asks about."""
    first: int = 0
    """First position that everybody sees, also from before it."""
    last: int | None = None
    """Last such position; None = the end of the prefix."""

    def read(self, body: Body) -> Prefix:
        """Their keys and values."""
        width = self.embeds.shape[1]
        last = width - 1 if self.last is None else self.last
        device = self.embeds.device
        # Who all see each other need no mask.
        is_block = self.first == 0 and last == width - 1
        return body.prefix(
            self.embeds,
            torch.arange(width, device=device)[None],
            row_of=self.row_of,
            mask=None if is_block else answer_mask(width, first=self.first, last=last, device=device),
        )


def code_images(body: Body, tokens: Tokens, *, row_of: Int[Tensor, " B"]) -> AnsweredImages:
    """Images given by their codes; a gradient passes to one-hot codes."""
    vocabulary = body.vocabulary
    embeds = body.embed(image_prefix(tokens.ids + vocabulary.first_code, vocabulary))
    if tokens.one_hot is not None:
        embeds = torch.cat([embeds[:, :2], body.mix_codes(tokens.one_hot), embeds[:, -1:]], 1)
    return AnsweredImages(embeds=embeds, row_of=row_of)


def draw_answers(
    body: Body,
    images: AnsweredImages,
    questions: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    seeds: list[int] | None,
    head: Callable[[Float[Tensor, "B h"]], Float[Tensor, "B V"]] | None = None,
    end: int | None = None,
) -> Tokens:
    """One answer to each question, given as ids. `head` None draws text alone; `end` None is the text's end.

    Raises:
        ValueError: image, question and answer are longer than the model reads.
    """
    width = images.embeds.shape[1]
    longest = max(map(len, questions))
    _check_length(body, width + longest + sampling.max_tokens)
    ids = torch.tensor(
        [[body.vocabulary.pad] * (longest - len(row)) + list(row) for row in questions], device=body.device
    )
    gaps = torch.tensor([longest - len(row) for row in questions])
    mask = None
    if bool(gaps.any()):
        real = torch.arange(longest) >= gaps[:, None]
        mask = torch.nn.functional.pad(real, (width, 0), value=True).to(body.device)
    vocabulary = body.vocabulary
    writer = TextDecoder(
        decoder=_Decoder(body=body, images=images),
        embed=body.embed,
        head=body.text_logits if head is None else head,
        num_layers=len(body.phi.layers),
        ends=(vocabulary.end if end is None else end,),
        pad=vocabulary.pad,
    )
    context = torch.cat([images.embeds[images.row_of], body.embed(ids)], 1)
    return draw_tokens(writer, context, mask=mask, sampling=sampling, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class _Decoder:
    """Runs new positions; at first the images, each distinct one once, and all questions."""

    body: Body
    images: AnsweredImages

    def __call__(
        self, embeds: Float[Tensor, "B Q h"], mask: Bool[Tensor, "B K"] | None, cache: Cache
    ) -> Float[Tensor, "B _ h"]:
        """Last hidden states of the question, or of the new token."""
        body, before = self.body, cache.get_seq_length()
        if before == 0:
            prefix = self.images.read(body)
            for layer, states in enumerate(prefix.states):
                cache.update(states[0][prefix.row_of], states[1][prefix.row_of], layer)
            before = prefix.width
            embeds = embeds[:, before:]
        length = embeds.shape[1]
        if mask is None:
            positions = torch.arange(before, before + length, device=embeds.device)[None]
        else:
            positions = (mask.cumsum(1) - 1)[:, before:]
        seen = None if mask is None else mask[:, None, None]
        if length > 1:
            after = answer_mask(before + length, last=before - 1, device=embeds.device)[:, :, before:]
            seen = after if seen is None else seen & after
        return body(embeds, positions, mask=seen, cache=cache)


def score_answers(
    body: Body,
    images: AnsweredImages,
    questions: Sequence[Sequence[int]],
    tokens: Tokens,
    under: Sampling | None,
) -> TokenScores:
    """Log-probabilities of given answers among all texts.

    Raises:
        ValueError: a token that counts is no text token, or the whole is longer than the model reads.
    """
    vocabulary, mask = body.vocabulary, tokens.mask
    # All that the host has to know, in one look at the device.
    ids_here, mask_here = torch.stack([tokens.ids, mask.to(tokens.ids.dtype)]).cpu()
    mask_here = mask_here.bool()
    counted = ids_here[mask_here]
    if bool(((counted >= vocabulary.num_text) | (counted < 0)).any()):
        wrong = int(counted.max()) if bool((counted >= 0).all()) else int(counted.min())
        raise ValueError(
            f"id {wrong} is no text token ({vocabulary.num_text} of them); an answer holds text alone"
        )
    width = images.embeds.shape[1]
    # Each token is predicted from those before it, whether these count or not.
    last = (mask_here * torch.arange(1, mask.shape[1] + 1)).amax(1)
    given = [
        [*question, *row[: max(0, count - 1)]]
        for question, row, count in zip(questions, ids_here.tolist(), last.tolist(), strict=True)
    ]
    ids = right_padded(given, vocabulary.pad).to(body.device)
    _check_length(body, width + ids.shape[1])
    positions = torch.arange(width, width + ids.shape[1], device=body.device)[None]
    seen = answer_mask(width + ids.shape[1], last=width - 1, device=body.device)[:, :, width:]
    hidden = body(body.embed(ids), positions, mask=seen, prefix=images.read(body))
    rows, places = mask_here.nonzero(as_tuple=True)
    lengths = torch.tensor([len(question) for question in questions])
    at = torch.stack([rows, lengths[rows] - 1 + places]).to(body.device)
    log_probs, entropy = code_log_probs(
        body.text_logits, (hidden[at[0], at[1]],), counted.to(body.device), under=under
    )
    blank = torch.zeros(mask.shape, device=mask.device)
    return TokenScores(
        log_probs=blank.masked_scatter(mask, log_probs), entropy=blank.masked_scatter(mask, entropy)
    )


def _check_length(body: Body, length: int) -> None:
    limit = body.phi.config.max_position_embeddings
    if length > limit:
        raise ValueError(
            f"image, question and answer take {length} positions; the model reads {limit}. Shorten the "
            "question or lower max_tokens"
        )
