"""Janus answers: an image is read once for all questions about it, a question once for all its answers.

A row is the image with what frames it, then the question, then the answer. Shorter questions leave a gap
after the image that nobody looks at, so all rows of a batch have their image in the same place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightloop.models.decoding.sampling import Decoder, TextDecoder, alone, draw_tokens
from sightloop.models.deduplicate import distinct
from sightloop.models.janus.body import JanusBody
from sightloop.models.janus.images import JanusImages
from sightloop.models.janus.prompts import JanusPrompts
from sightloop.models.transformers_internals import Cache
from sightloop.types import Prompt, Sampling, Tokens


@dataclass(frozen=True, kw_only=True)
class Questions:
    """The different images of a batch, the different questions about each, and who asks them."""

    image_embeds: Float[Tensor, "D P h"]
    """Embedded, with their frame; P is 0 where there are none."""
    words: Int[Tensor, "Q S"]
    """Padded on the left."""
    mask: Bool[Tensor, "Q S"] | None
    image_of: Int[Tensor, " Q"]
    question_of: Int[Tensor, " B"]

    @property
    def length(self) -> int:
        """Positions before the answer."""
        return self.image_embeds.shape[1] + self.words.shape[1]

    def whole_mask(self) -> Bool[Tensor, "Q L"] | None:
        """Over image and question; None where there are no gaps."""
        return None if self.mask is None else F.pad(self.mask, (self.image_embeds.shape[1], 0), value=True)


class JanusAnswers:
    """Draws and reads the words of answers."""

    def __init__(self, body: JanusBody, prompts: JanusPrompts, image_codec: JanusImages) -> None:
        self.body = body
        self.prompts = prompts
        self.image_codec = image_codec
        self.all_ranks_finished: Callable[[bool], bool] = alone

    def questions(self, prompt: Prompt, max_tokens: int) -> Questions:
        """The batch, each different part once.

        Raises:
            ValueError: a question is too long, or it and the images do not fit.
        """
        images = prompt.images
        if images is not None and len(images) != len(prompt):
            raise ValueError(f"{len(prompt)} questions and {len(images)} images; give each question its own")
        rows = [self.prompts.question_row(text, images is not None) for text in prompt.texts]
        self.body.check_length(max(map(len, rows)) + max_tokens, "the longest question with its answer")
        seen, image_of = ([], [0] * len(rows)) if images is None else self.image_codec.see(images)
        firsts, places = distinct(list(zip(rows, image_of, strict=True)))
        start = 0 if images is None else rows[0].index(self.prompts.stop) + 1
        frame, device = torch.tensor([rows[0][:start]], dtype=torch.long), self.body.device
        framed = self.body.words(frame.to(device))
        if images is not None:
            place = (frame[0] == self.prompts.picture).to(device)
            framed = framed.expand(len(seen), -1, -1)
            spots = place[None, :, None].expand_as(framed)
            framed = framed.masked_scatter(spots, cast("Tensor", seen).to(framed))
        words, mask = self.body.padded([rows[row][start:] for row in firsts])
        return Questions(
            image_embeds=framed,
            words=words,
            mask=mask,
            image_of=torch.tensor([image_of[row] for row in firsts], device=device),
            question_of=torch.tensor(places, device=device),
        )

    def draw(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        head: Callable[[Float[Tensor, "B h"]], Float[Tensor, "B V"]],
        ends: tuple[int, ...],
    ) -> Tokens:
        """One answer a row."""
        questions = self.questions(prompt, sampling.max_tokens)
        mask = questions.whole_mask()
        writer = TextDecoder(
            decoder=self._decoder(questions),
            embed=self.body.words,
            head=head,
            num_layers=self.body.num_layers,
            ends=ends,
            pad=self.body.pad,
            all_ranks_finished=self.all_ranks_finished,
        )
        # The decoder reads the questions itself: this only tells how many and how long they are.
        place = torch.zeros(1, 1, 1, device=self.body.device).expand(len(prompt), questions.length, 1)
        return draw_tokens(
            writer,
            place,
            mask=None if mask is None else mask[questions.question_of],
            sampling=sampling,
            seeds=prompt.seeds,
        )

    def _decoder(self, questions: Questions) -> Decoder:
        body = self.body

        def begin(cache: Cache) -> Tensor:
            asked = body.cache(questions.length)
            if questions.image_embeds.shape[1]:
                looked = body.cache(questions.image_embeds.shape[1])
                body.run(questions.image_embeds, None, looked)
                body.spread(looked, questions.image_of, asked)
            hidden = body.run(body.words(questions.words), questions.whole_mask(), asked)[:, -1:]
            body.spread(asked, questions.question_of, cache)
            return hidden[questions.question_of]

        def run(embeds: Tensor, mask: Tensor | None, cache: Cache) -> Tensor:
            return begin(cache) if cache.get_seq_length() == 0 else body.run(embeds, mask, cache)

        return cast("Decoder", run)

    def hidden(self, prompt: Prompt, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T h"]:
        """The hidden state that predicts each word of given answers."""
        questions = self.questions(prompt, ids.shape[1])
        rows = questions.question_of
        asked = torch.cat([questions.image_embeds[questions.image_of], self.body.words(questions.words)], 1)[
            rows
        ]
        mask = questions.whole_mask()
        mask = None if mask is None else F.pad(mask[rows], (0, ids.shape[1] - 1), value=True)
        embeds = torch.cat([asked, self.body.words(ids[:, :-1])], 1)
        return self.body.run(embeds, mask)[:, questions.length - 1 :]
