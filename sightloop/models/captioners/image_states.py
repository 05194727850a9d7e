"""A text model that reads what a frozen tower saw: by cross-attention, or in front of its words.

The tower sees an image once. Rows whose prompts are equally long run together, so that no row is padded and
every decoder counts its positions as it always does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sightloop.models.captioners.end_to_end import distance, images_in
from sightloop.models.decoding.beams import Rules, write_texts
from sightloop.models.decoding.sampling import Decoder, TextDecoder, draw_tokens
from sightloop.models.deduplicate import distinct, image_keys
from sightloop.models.transformers_internals import (
    BaseModelOutput,
    Cache,
    CrossCache,
    cache_argument,
    roomy_cache,
)
from sightloop.models.written_text import spelled_out, template_batch, template_ids
from sightloop.types import Images, Prompt, Sampling, Tokens, Turn

Form = Literal["beside", "encoded", "before", "in front"]
"""How image states reach the words: the text model attends to them, or to what an encoder makes of them and
the prompt; the whole model puts them before its words; the text model reads them as it does embedded words.
"""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Where a model has its parts, by their paths in it (empty = the whole model)."""

    title: str
    form: Form
    tower: str
    text: str
    """What is called with words; it has the head."""
    language: str
    """What adapters and a critic sit on."""
    enter: Callable[[Any, Tensor, dict[str, Tensor]], Tensor]
    """The model, the tower's features and the prompts for a Q-Former, if it reads them, to image states."""
    start: Callable[[Any, Any], list[int | None]]
    """The model and its tokenizer to what a text begins with; None is left out."""
    ends: Callable[[Any], int | list[int] | None]
    bridge: tuple[str, ...] = ()
    """Trained in place of adapters, in float32."""
    encoder: str = ""
    decoder: str = ""
    """What is called in place of `text`, if that takes no embedded words."""
    front: Callable[[Any, Any], list[int]] = lambda model, words: []
    """Words before image states that stand in front."""
    slots: Callable[[Any, Any, int], list[int]] = lambda model, words, number: []
    """Words in the places of so many states, which the n-gram rule counts as written."""
    lead: str = ""
    """Before a prompt, with special tokens."""
    prompts: tuple[tuple[str, str], ...] = ()
    """Prompts that are short for others."""


def part_of(model: Any, path: str) -> Any:
    """The part of a model at a path."""
    return model.get_submodule(path) if path else model


@contextmanager
def replaced(part: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, a part of a model does this instead."""
    before = vars(part).get("forward")
    vars(part)["forward"] = forward
    try:
        yield
    finally:
        del vars(part)["forward"]
        if before is not None:
            vars(part)["forward"] = before


@dataclass(frozen=True, kw_only=True)
class SeenStates:
    """What the text model reads of images, a row each; None = there is no image."""

    states: Float[Tensor, "B N w"] | None
    mask: Bool[Tensor, "B N"] | None = None
    """None = all count."""

    def rows(self, at: Int[Tensor, " R"] | None) -> SeenStates:
        """Some rows; None = all."""
        if at is None or self.states is None:
            return self
        return SeenStates(states=self.states[at], mask=None if self.mask is None else self.mask[at])


class ImageStates:
    """Draws and reads texts about images whose features were computed once."""

    def __init__(
        self, model: Any, plan: Architecture, *, words: Any, images: Any, template: str | None, pad: int
    ) -> None:
        self.model, self.plan = model, plan
        self.words, self.images = words, images
        self.query_words: Any = None
        """The tokenizer of a Q-Former that reads prompts."""
        self.template, self.pad = template, pad
        self.text, self.tower = part_of(model, plan.text), part_of(model, plan.tower)
        self.head: nn.Linear = self.text.get_output_embeddings()
        self.key = f"captioner:{model.config.name_or_path}"
        self.start = [token for token in plan.start(model, words) if token is not None]
        self.begin = self.start or plan.front(model, words)[:1]
        """What a text without an image begins with."""
        self.stops: tuple[int, ...] = ()
        self.enters_with_gradient = True
        self._compared = False

    def embed(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T h"]:
        """The text model's input for words."""
        return self.text.get_input_embeddings()(ids)

    # -- seeing

    @torch.no_grad()
    def encode_images(self, images: Images) -> Images:
        """Add the frozen tower's features; images that have them are returned as they are."""
        if self.key in images.features:
            return images
        like = next(self.tower.parameters())
        pixels = self.images(images=images.pictures(), return_tensors="pt")["pixel_values"].to(like)
        seen = self.tower(pixels).last_hidden_state
        return replace(images, features={**images.features, self.key: seen})

    def prompt_text(self, prompt: str) -> str:
        """What the model is asked; special tokens in the prompt are text."""
        asked = spelled_out(self.words, dict(self.plan.prompts).get(prompt, prompt))
        return asked if self.template is None else self.template.replace("{prompt}", asked)

    def _asked(self, tokenizer: Any, texts: list[str]) -> dict[str, Tensor]:
        """Prompts with their special tokens, padded on the right."""
        asked = [self.prompt_text(text) for text in texts]
        read = template_batch(tokenizer, asked)
        device = self.head.weight.device
        return {name: read[name].to(device, non_blocking=True) for name in ("input_ids", "attention_mask")}

    def _seen(self, prompt: Prompt) -> SeenStates:
        """Image states of all rows; equal ones are computed once."""
        images = images_in(prompt)
        reads_prompt = self.plan.form == "encoded" or self.query_words is not None
        texts = prompt.texts if reads_prompt else [""] * len(prompt)
        firsts, places = distinct(list(zip(texts, image_keys(images), strict=True)))
        if len(firsts) < len(places):
            images, texts = images.rows(torch.tensor(firsts)), [texts[first] for first in firsts]
        features = self.encode_images(images).features[self.key]
        asked = {} if self.query_words is None else self._asked(self.query_words, texts)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.enters_with_gradient):
            states = self.plan.enter(self.model, features, asked)
        seen = SeenStates(states=states)
        if self.plan.form == "encoded":
            seen = self._encoded(states, texts)
        at = torch.tensor(places).to(self.head.weight.device, non_blocking=True)
        return seen.rows(at if len(firsts) < len(places) else None)

    def _encoded(self, states: Tensor | None, texts: list[str]) -> SeenStates:
        """What the language model's encoder makes of image states and prompts."""
        asked = self._asked(self.words, texts)
        embeds, mask = self.embed(asked["input_ids"]), asked["attention_mask"]
        if states is not None:
            embeds = torch.cat([states.to(embeds), embeds], 1)
            mask = torch.cat([mask.new_ones(states.shape[:2]), mask], 1)
        encoder = part_of(self.model, self.plan.encoder)
        out = encoder(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        return SeenStates(states=out, mask=mask.bool())

    def starts(self, texts: list[str]) -> list[list[int]]:
        """What stands before each text in the text model."""
        if self.plan.form == "encoded":
            return [self.start] * len(texts)
        asked = {text: self.plan.lead + self.prompt_text(text) for text in set(texts)}
        known = {text: template_ids(self.words, whole) for text, whole in asked.items()}
        return [[*self.start, *known[text]] for text in texts]

    # -- the text model

    def _run(self, embeds: Tensor, seen: SeenStates, cache: Cache | None = None) -> Float[Tensor, "B N h"]:
        """What the head reads at embedded words."""
        given: dict[str, Any] = {"use_cache": cache is not None, **cache_argument(cache)}
        with replaced(self.head, lambda hidden: hidden):
            out = self._called(embeds, seen, 0 if cache is None else cache.get_seq_length(), given)
        hidden = out.last_hidden_state if self.plan.decoder else out.logits
        return hidden[:, -embeds.shape[1] :]

    def _called(self, embeds: Tensor, seen: SeenStates, before: int, given: dict[str, Any]) -> Any:
        states = seen.states
        if self.plan.form == "beside":
            return self.text(inputs_embeds=embeds, encoder_hidden_states=states, **given)
        if self.plan.form == "encoded":
            whole = BaseModelOutput(last_hidden_state=cast("Any", states))
            mask = None if seen.mask is None else seen.mask.long()
            if self.plan.decoder:
                given |= {"encoder_hidden_states": states, "encoder_attention_mask": mask}
                return part_of(self.model, self.plan.decoder)(inputs_embeds=embeds, **given)
            return self.text(
                encoder_outputs=whole, attention_mask=mask, decoder_inputs_embeds=embeds, **given
            )
        # Some add to what they are given.
        embeds = embeds.clone()
        if self.plan.form == "in front" or states is None:
            return self.text(inputs_embeds=embeds, **given)
        if before:
            places = torch.arange(embeds.shape[1], device=embeds.device) + before - states.shape[1]
            return self.text(inputs_embeds=embeds, position_ids=places[None], **given)
        blank = states.new_zeros(len(states), 1, 1, 1)
        with replaced(self.tower, lambda *_, **__: BaseModelOutput(last_hidden_state=cast("Any", states))):
            return self.text(inputs_embeds=embeds, pixel_values=blank, **given)

    def _context(self, starts: Int[Tensor, "B P"], seen: SeenStates) -> Float[Tensor, "B L h"]:
        embeds = self.embed(starts)
        if self.plan.form != "in front" or seen.states is None:
            return embeds
        parts = [seen.states.to(embeds), embeds]
        if front := self.plan.front(self.model, self.words):
            parts.insert(0, self.embed(torch.tensor([front] * len(embeds), device=embeds.device)))
        return torch.cat(parts, 1)

    def _cache(self, seen: SeenStates) -> Callable[[int, int], Cache]:
        if self.plan.form in ("beside", "encoded"):
            return lambda _, room: CrossCache(room)
        assert seen.states is not None
        more = seen.states.shape[1] if self.plan.form == "before" else 0
        return lambda layers, room: roomy_cache(layers, room + more)

    def _writer(self, seen: SeenStates) -> TextDecoder:
        # Rows change rarely, and picking their states anew for each token would be a copy of all of them.
        now: list[tuple[Tensor | None, SeenStates]] = [(None, seen)]

        def run(embeds: Tensor, mask: Tensor | None, cache: Cache) -> Tensor:
            rows = cache.image_rows if isinstance(cache, CrossCache) else None
            if rows is not now[0][0]:
                now[0] = (rows, seen.rows(rows))
            return self._run(embeds, now[0][1], cache)

        config = self.text.config.get_text_config(decoder=True)
        return TextDecoder(
            decoder=cast("Decoder", run),
            embed=self.embed,
            head=self.head,
            num_layers=int(config.num_hidden_layers),
            new_cache=self._cache(seen),
            ends=self.stops,
            pad=self.pad,
            source=self.model.name_or_path or "",
        )

    def _parts(
        self, prompt: Prompt
    ) -> Iterator[tuple[Int[Tensor, " R"], Int[Tensor, "R P"], SeenStates, list[int] | None]]:
        """Rows with prompts of one length: their numbers, the prompts' tokens, image states, seeds."""
        seen, starts = self._seen(prompt), self.starts(prompt.texts)
        device = self.head.weight.device
        for length in sorted({len(start) for start in starts}):
            rows = [row for row, start in enumerate(starts) if len(start) == length]
            at = torch.tensor(rows).to(device, non_blocking=True)
            ids = torch.tensor([starts[row] for row in rows]).to(device, non_blocking=True)
            seeds = None if prompt.seeds is None else [prompt.seeds[row] for row in rows]
            yield at, ids, seen.rows(None if len(rows) == len(starts) else at), seeds

    def draw(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Draw one text a row."""
        if prompt.seeds is not None and len(prompt.seeds) != len(prompt):
            raise ValueError(f"{len(prompt.seeds)} seeds for {len(prompt)} samples; give one seed a sample")
        at: list[Tensor] = []
        drawn: list[Tokens] = []
        for rows, starts, seen, seeds in self._parts(prompt):
            context = self._context(starts, seen)
            at.append(rows)
            drawn.append(draw_tokens(self._writer(seen), context, mask=None, sampling=sampling, seeds=seeds))
        return drawn[0] if len(drawn) == 1 else _joined(drawn, torch.cat(at), self.pad)

    def write(self, prompt: Prompt, rules: Rules) -> list[list[int]]:
        """The new tokens of one text a row, written by these rules; all rows ask the same.

        Raises:
            ValueError: the model computes something that is not a number.
        """
        ((_, starts, seen, _),) = self._parts(prompt)
        assert seen.states is not None
        slots = self.plan.slots(self.model, self.words, seen.states.shape[1])
        before = [*self.plan.front(self.model, self.words), *slots]
        history = torch.cat([starts.new_tensor(before, dtype=torch.long).expand(len(starts), -1), starts], 1)
        return write_texts(self._writer(seen), self._context(starts, seen), history, rules)

    def hidden(self, turn: Turn) -> tuple[Float[Tensor, "B L h"], int]:
        """What the head reads before the first token and after each, and where the first is predicted: 0."""
        ids = turn.tokens.ids
        at: list[Tensor] = []
        found: list[Tensor] = []
        for rows, starts, seen, _ in self._parts(turn.prompt):
            words = torch.cat([starts, ids[rows]], 1)
            hidden = self._run(self._context(words, seen), seen)
            at.append(rows)
            found.append(hidden[:, -ids.shape[1] - 1 :])
        if len(found) == 1:
            return found[0], 0
        return torch.cat(found)[torch.cat(at).argsort()], 0

    def hidden_of_text(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T h"]:
        """What the head reads before each word of a text without an image."""
        start = torch.tensor(self.begin, device=ids.device).expand(len(ids), -1)
        blank = SeenStates(states=None)
        if self.plan.form == "encoded":
            one = self._encoded(None, [""])
            blank = one.rows(torch.zeros(len(ids), dtype=torch.long, device=ids.device))
        words = torch.cat([start, ids[:, :-1]], 1)
        return self._run(self.embed(words), blank)[:, -ids.shape[1] :]

    # -- the check

    @torch.no_grad()
    def compare(self, prompt: Prompt) -> None:
        """Once: a text read word by word, as it is written, gives what reading it at once gives.

        Raises:
            ValueError: it does not.
        """
        if self._compared:
            return
        self._compared = True
        one = replace(prompt, seeds=None).rows(torch.tensor([0]))
        ((_, starts, seen, _),) = self._parts(one)
        words = torch.cat([starts, torch.full_like(starts[:, :1], self.stops[0]).expand(1, 2)], 1)
        at_once = self._run(self._context(words, seen), seen)[:, -3:]
        writer = self._writer(seen)
        cache = writer.new_cache(writer.num_layers, words.shape[1] + self._context(starts, seen).shape[1])
        passes = [self._context(starts, seen), *(self.embed(words[:, [place]]) for place in (-2, -1))]
        step_by_step = torch.cat([writer.decoder(each, None, cache)[:, -1:] for each in passes], 1)
        apart = distance(self.head(step_by_step), self.head(at_once))
        if apart > 1:
            raise ValueError(
                f"{self.model.config.model_type!r} reads a text {apart:.1f} times as far from how it writes "
                "it as rounding explains; its text decoder cannot be used here"
            )


def _joined(drawn: Sequence[Tokens], rows: Int[Tensor, " B"], pad: int) -> Tokens:
    """Parts of a batch in the order of its rows."""
    longest, order = max(part.ids.shape[1] for part in drawn), rows.argsort()

    def whole(parts: list[Tensor], fill: float) -> Tensor:
        wide = [nn.functional.pad(part, (0, longest - part.shape[1]), value=fill) for part in parts]
        return torch.cat(wide)[order]

    log_probs = [part.log_probs for part in drawn if part.log_probs is not None]
    return Tokens(
        ids=whole([part.ids for part in drawn], pad),
        mask=whole([part.mask for part in drawn], False),
        log_probs=whole(log_probs, 0.0) if log_probs else None,
    )
