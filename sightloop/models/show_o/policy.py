"""Show-o (arXiv 2408.12528) as a policy: one transformer that draws images and answers about them.

It reads its own codes of an image, or (w-clip-vit variant) features of a frozen vision tower. Trained are
low-rank adapters, or the whole language model; the tokenizer of images is always frozen.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PhiForCausalLM, PreTrainedTokenizerBase

from sightloop.models.decoding.code_likelihood import require_relaxable
from sightloop.models.decoding.token_pieces import Pieces
from sightloop.models.deduplicate import distinct, image_keys, row_keys
from sightloop.models.lora import Adapters
from sightloop.models.mixed_precision import MixedPrecision, forget_casts, keep_frozen_in
from sightloop.models.prompt_strings import PROMPT_PLACE, QUESTION_PLACE, answer_ids
from sightloop.models.show_o.answers import AnsweredImages, code_images, draw_answers, score_answers
from sightloop.models.show_o.body import Body, no_contexts
from sightloop.models.show_o.fused_rounds import Easel, draw_rounds
from sightloop.models.show_o.layout import (
    begun,
    plain_text,
    question_frame,
    require_codes,
    right_padded,
    vocabulary_of,
)
from sightloop.models.show_o.likelihood import DecodingState, canvas_of, relaxed_image, score_codes
from sightloop.models.show_o.losses import (
    Losses,
    Masking,
    caption_example,
    drawing_example,
    losses_of,
    text_example,
    without_conditions,
)
from sightloop.models.show_o.magvit2 import Magvit2, pixel_values_of, pixels_from
from sightloop.models.show_o.sampling import draw_codes, relaxed_round, seeded_noise
from sightloop.models.show_o.settings import ShowOSettings
from sightloop.models.show_o.static_sampling import draw_rounds_static
from sightloop.models.show_o.vision import FEATURES, ShowOVision
from sightloop.models.written_text import template_ids, text_ids
from sightloop.types import Images, Prompt, Sampling, Tokens, TokenScores, Turn

logger = logging.getLogger(__name__)
CONDITION_DROPOUT = 0.1
"""Share of prompts that training replaces by no condition."""


class ShowO(nn.Module):
    """An `ImageGenerator`: draws images from prompts, answers questions about images, scores both."""

    def __init__(
        self,
        model: PhiForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        magvit: Magvit2,
        *,
        settings: ShowOSettings | None = None,
        vision: ShowOVision | None = None,
    ) -> None:
        super().__init__()
        settings = ShowOSettings() if settings is None else settings
        self.settings = settings
        self.tokenizer = tokenizer
        self.magvit = magvit.eval().requires_grad_(False)
        self.model = model.eval().requires_grad_(settings.trained == "full")
        self.vocabulary = vocabulary_of(
            tokenizer, num_codes=self.magvit.num_codes, size=model.config.vocab_size
        )
        self.body = Body(model, self.vocabulary)
        self.num_image_tokens = settings.num_image_tokens
        self.source: str = model.name_or_path or ""
        self.pieces = Pieces(tokenizer, end_ids=(self.vocabulary.end,), source=self.source)
        self.adapters: Adapters | None = None
        if settings.trained == "lora":
            alpha = 2 * settings.lora_rank if settings.lora_alpha is None else settings.lora_alpha
            self.adapters = Adapters(self._targets(), rank=settings.lora_rank, alpha=alpha)
        self.vision = None if vision is None else vision.requires_grad_(False)
        if vision is not None and settings.trained == "full":
            vision.projector.requires_grad_(True)
        self.asking = question_frame(settings.question_template, behind_features=vision is not None)
        self.mixed = MixedPrecision()
        self._adapted, self._has_warned, self._is_static = True, False, False

    def _targets(self) -> dict[str, nn.Linear]:
        linears = {
            name: part for name, part in self.model.model.named_modules() if isinstance(part, nn.Linear)
        }
        last_names = {name.rsplit(".", 1)[-1] for name in linears}
        unknown = sorted(set(self.settings.lora_targets) - last_names)
        if unknown:
            raise ValueError(f"lora_targets has {unknown}; there are {sorted(last_names)}")
        return {
            name: linear
            for name, linear in linears.items()
            if name.rsplit(".", 1)[-1] in self.settings.lora_targets
        }

    # -- what is trained, and what it is compared with

    def trainable_module(self) -> nn.Module:
        """The adapters, or the language model and what projects features into it."""
        if self.adapters is not None:
            return self.adapters
        return self.model if self.vision is None else nn.ModuleList([self.model, self.vision.projector])

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """The policy as it was before training, inside.

        Raises:
            ValueError: the whole model is trained; compare with a copy (`models.adapted.frozen_copy`).
        """
        if self.adapters is None:
            raise ValueError("the whole model is trained, there are no adapters; compare with a frozen copy")
        before, self._adapted = self._adapted, False
        try:
            yield
        finally:
            self._adapted = before

    @contextmanager
    def _active(self) -> Iterator[None]:
        with self.mixed.active(self.body.device):
            if self.adapters is None:
                yield
            else:
                with self.adapters.switched(self._adapted):
                    yield

    def compute_in(self, dtype: torch.dtype) -> None:
        """Products of the trained model in `dtype` from weights in float32; a frozen tower is kept in it."""
        self.mixed.dtype = dtype
        if self.vision is not None:
            keep_frozen_in(self.vision.tower, dtype)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute layers in the backward pass instead of keeping what they computed."""
        self.body.recompute = no_contexts if self.adapters is None else self.adapters.checkpoint_contexts

    def enable_decode_graphs(self) -> None:
        """Draw in rounds of fixed shapes; a CUDA device replays a recorded graph for each (unmeasured).

        Not for sharded weights, which are gathered by the host. A drawing that ends with a relaxed round
        stays as it is.
        """
        self._is_static = True

    # -- images

    def default_sampling(self, **changes: Any) -> Sampling:
        """The official distribution: guidance 1.75 and 18 rounds up to 256 pixels, 5 and 50 at 512."""
        large = self.num_image_tokens >= 1024
        official: dict[str, Any] = {
            "max_tokens": self.num_image_tokens,
            "guidance": 5.0 if large else 1.75,
            "decode_steps": min(50 if large else 18, self.num_image_tokens),
        }
        return Sampling(**(official | changes))

    @property
    def image_size(self) -> int:
        """Side of an image in pixels."""
        return math.isqrt(self.num_image_tokens) * self.magvit.factor

    @torch.no_grad()
    def pixels(self, tokens: Tokens) -> Images:
        """Images of image tokens; every id is part of the image, whatever the mask says."""
        whole = self._whole(tokens)
        return Images(pixels=pixels_from(self.magvit.decode(whole.ids)), keys=whole.keys)

    @torch.no_grad()
    def image_tokens(self, images: Images) -> Tokens:
        """Image tokens of images, which are brought to the policy's size as the official code does."""
        ids = self.magvit.encode(pixel_values_of(images.pixels, self.image_size).to(self.body.device))
        return self._whole(Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool)))

    def _sized(self, tokens: Tokens) -> Tokens:
        if tokens.ids.shape[1] != self.num_image_tokens:
            raise ValueError(
                f"{tokens.ids.shape[1]} tokens an image; this policy's images have {self.num_image_tokens}"
            )
        return tokens

    def _whole(self, tokens: Tokens) -> Tokens:
        """The same with keys: the host looks at ids once, to compare them and to see that they are codes."""
        if self._sized(tokens).keys is not None:
            return tokens
        here = tokens.ids.cpu()
        require_codes(here, self.vocabulary, self.source)
        return replace(tokens, keys=row_keys(here))

    # -- the policy

    @torch.no_grad()
    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Draw images or answers; the prompt's seeds decide the draws if given.

        A prompt is cut to the text positions as in the official code; an empty one is no condition.
        Images keep the codes where the mask of `prompt.images` is True. Their tokens' mask is True where a
        code was drawn. With `sampling.relaxation` they carry codes with a gradient to the weights.
        """
        with self._active():
            if prompt.wants == "image":
                return self._draw(prompt, sampling)
            images, questions = self._asked(prompt)
            return draw_answers(self.body, images, questions, sampling=sampling, seeds=prompt.seeds)

    def _draw(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        if sampling.max_tokens != self.num_image_tokens:
            raise ValueError(
                f"max_tokens is {sampling.max_tokens}; an image has {self.num_image_tokens} tokens"
            )
        require_relaxable(sampling)
        known = self._known(prompt)
        shape = (len(known), self.num_image_tokens, self.vocabulary.num_codes)
        noise = seeded_noise(shape, sampling, prompt.seeds)
        ends_relaxed = relaxed_round(sampling) is not None
        ids, lean = self._prompt_ids(prompt.texts), None if ends_relaxed else self.body.lean()
        canvas = None
        if lean is None:
            with torch.set_grad_enabled(sampling.relaxation is not None):
                canvas = self._canvas(ids, sampling)
            tokens = draw_codes(canvas.hidden_states, canvas.logits_of, known, sampling=sampling, noise=noise)
        else:
            max_text = self.settings.max_text_tokens
            easel = Easel(self.body, lean, ids, max_text=max_text, sampling=sampling)
            tokens = (draw_rounds_static if self._is_static else draw_rounds)(easel, known, noise)
        if sampling.relaxation is None or ends_relaxed:
            return tokens
        forget_casts()
        with torch.enable_grad():
            canvas = self._canvas(ids, sampling) if canvas is None else canvas
            one_hot = relaxed_image(canvas, self._whole(tokens), sampling, seeds=prompt.seeds)
        return replace(tokens, one_hot=one_hot)

    def _known(self, prompt: Prompt) -> Tokens:
        if isinstance(prompt.images, Images):
            raise ValueError("a drawing keeps codes, not pixels; give image_tokens(images) with a mask")
        if prompt.images is None:
            ids = torch.zeros(len(prompt), self.num_image_tokens, dtype=torch.int64, device=self.body.device)
            return Tokens(ids=ids, mask=torch.zeros_like(ids, dtype=torch.bool))
        return self._whole(prompt.images)

    def _prompt_ids(self, texts: list[str]) -> list[list[int]]:
        ids = self.text_ids(texts)
        # Task, begin and end take three of the positions.
        too_long = sum(len(row) + 3 > self.settings.max_text_tokens + 1 for row in ids)
        if too_long and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%d of %d prompts are longer than %d text positions and were cut; this is said once",
                too_long,
                len(ids),
                self.settings.max_text_tokens,
            )
        return ids

    def _canvas(self, ids: list[list[int]], sampling: Sampling | None) -> DecodingState:
        return canvas_of(
            self.body,
            ids,
            max_text=self.settings.max_text_tokens,
            guidance=0.0 if sampling is None else sampling.guidance,
        )

    def text_ids(self, texts: list[str]) -> list[list[int]]:
        """Ids of user texts; special tokens written in them become spaces."""
        plain = [plain_text(text, self.tokenizer) for text in texts]
        return [text_ids(self.tokenizer, text) for text in plain]

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """Log-probabilities under the model's own distribution (None: no guidance, temperature 1) or another.

        Codes of an image are scored from those that earlier rounds (`decode_step`) fixed; without rounds,
        all at once from an image of which nothing is known.
        """
        with self._active():
            if turn.prompt.wants == "image":
                canvas = self._canvas(self._prompt_ids(turn.prompt.texts), under)
                return score_codes(canvas, self._sized(turn.tokens), under)
            images, questions = self._asked(turn.prompt)
            return score_answers(self.body, images, questions, turn.tokens, under)

    def _asked(self, prompt: Prompt) -> tuple[AnsweredImages, list[list[int]]]:
        if prompt.images is None:
            raise ValueError("a question needs images; give one of each")
        return self._answered_images(prompt.images), self.questions(prompt.texts)

    def questions(self, texts: list[str]) -> list[list[int]]:
        """Ids of questions with the strings around them."""
        asked = [self.asking.whole(plain_text(text, self.tokenizer)) for text in texts]
        ids = [template_ids(self.tokenizer, text) for text in asked]
        # Behind features the official code leaves the begin token out.
        return [begun(row, self.vocabulary) if self.vision is None else row for row in ids]

    @property
    def templates(self) -> dict[str, str]:
        """The strings around prompts and questions, for records."""
        own = {"drawing template": PROMPT_PLACE, "question template": self.asking.around(QUESTION_PLACE)}
        return own if self.vision is None else own | {"system prompt": self.vision.system_prompt}

    def encode_images(self, images: Images) -> Images:
        """The same images with what the frozen tower sees, where there is one."""
        return images if self.vision is None else self.vision.encode_images(images)

    def understanding_input(self, tokens: Tokens) -> Images | Tokens:
        """The codes themselves, or their images with what the frozen tower sees."""
        return self._whole(tokens) if self.vision is None else self.encode_images(self.pixels(tokens))

    def _answered_images(self, images: Images | Tokens) -> AnsweredImages:
        if isinstance(images, Tokens) and images.one_hot is not None:
            # Rows that carry a gradient keep their own.
            rows = row_of = list(range(len(images)))
        else:
            images = images if isinstance(images, Images) else self._whole(images)
            rows, row_of = distinct(image_keys(images))
        few, index = images.rows(torch.tensor(rows)), torch.tensor(row_of, device=self.body.device)
        if self.vision is not None:
            features = self._features(self.vision, few)
            system = self.text_ids([self.vision.system_prompt])[0]
            return self.vision.image_rows(self.body, features, system, row_of=index)
        tokens = self.image_tokens(few) if isinstance(few, Images) else self._whole(few)
        return code_images(self.body, tokens, row_of=index)

    def _features(self, vision: ShowOVision, images: Images | Tokens) -> Float[Tensor, "D P c"]:
        if isinstance(images, Tokens) and images.one_hot is not None:
            return vision.features(self.magvit.decode_soft(images.one_hot))
        seen = images if isinstance(images, Images) else self.pixels(images)
        return vision.encode_images(seen).features[FEATURES].to(self.body.device)

    # -- supervised training

    def losses(
        self,
        *,
        drawings: tuple[list[str], Tokens] | None = None,
        captions: tuple[Tokens, list[str]] | None = None,
        texts: list[str] | None = None,
        masking: Masking | None = None,
        dropped: Float[Tensor, " B"] | None = None,
    ) -> Losses:
        """The official training losses of prompts with images, images with captions, and plain texts.

        `masking` None hides codes at random. A prompt whose number in `dropped` is below 0.1 counts as no
        condition, which guidance needs; None draws these numbers too.

        Raises:
            ValueError: there is nothing to learn from.
        """
        vocabulary, max_text = self.vocabulary, self.settings.max_text_tokens
        drawing = text = answer = None
        if drawings is not None:
            prompts, codes = self.text_ids(drawings[0]), self._whole(drawings[1]).ids
            masking = Masking.drawn(len(codes), codes.shape[1]) if masking is None else masking
            dropped = torch.rand(len(prompts)) if dropped is None else dropped
            prompts = without_conditions(prompts, dropped, probability=CONDITION_DROPOUT)
            hidden = masking.hidden().to(codes.device)
            drawing = drawing_example(prompts, codes, hidden, vocabulary, max_text=max_text)
        if captions is not None:
            codes = self._whole(captions[0]).ids
            answer = caption_example(codes, self.text_ids(captions[1]), vocabulary, max_text=max_text)
        if texts is not None:
            text = text_example(
                self.text_ids(texts), vocabulary, max_text=max_text, num_image=self.num_image_tokens
            )
        with self._active():
            return losses_of(self.body, max_text=max_text, drawing=drawing, text=text, answer=answer)

    # -- texts

    def encode(self, texts: list[str]) -> Tokens:
        """Ids of given answers as they stand behind a question, with the end token, right-padded."""
        plain, behind = [plain_text(text, self.tokenizer) for text in texts], self.asking.after
        said = (answer_ids(self.tokenizer, text, behind=behind) for text in plain)
        rows = [[*ids, self.vocabulary.end] for ids in said]
        ids = right_padded(rows, self.vocabulary.pad).to(self.body.device)
        lengths = torch.tensor([len(row) for row in rows], device=ids.device)
        return Tokens(ids=ids, mask=torch.arange(ids.shape[1], device=ids.device) < lengths[:, None])

    def decode(self, tokens: Tokens) -> list[list[str]]:
        """The text of each token of answers up to the end token, which has none."""
        return self.pieces(tokens)

    def is_end(self, tokens: Tokens) -> Bool[Tensor, "B T"]:
        """True where a token that counts is the end token."""
        return (tokens.ids == self.vocabulary.end) & tokens.mask
