"""A judge that is asked: how likely does an image-text-to-text model say yes about an image?

Any such model of transformers that goes on where its prompt ends, or answers by a decoder (BLIP-2 and
InstructBLIP with FLAN-T5, the kind of judge that VQAScore has). One question about the whole text is the
manner of VQAScore (arXiv 2404.01291); one question a fact, averaged, that of TIFA and of GenEval 2 (arXiv
2512.16853). Only yes and no compete: `p(yes) / (p(yes) + p(no))`, each summed over its spellings; or yes
against all words, as VQAScore has it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from sightloop.models.captioners.prompt_reader import processed
from sightloop.models.only_numbers import require_numbers
from sightloop.models.open import IMAGE_TO_TEXT, in_one_sentence, open_model
from sightloop.models.written_text import in_template, spelled_out, text_ids
from sightloop.rewards.samples import outcome_images, pil_images, sample_name
from sightloop.types import Fact, Images, Outcome, on_last_token

FITS = 'Does this figure show "{text}"? Please answer yes or no.'
"""The question about a whole text, after VQAScore's."""
_YES, _NO = ("yes", "Yes", "YES", " yes", " Yes", " YES"), ("no", "No", "NO", " no", " No", " NO")
_ANSWER = "Please answer yes or no."
Questions = Callable[[Outcome], list[list[str]]]
"""The questions about each sample, all of which a good image, or a true text, answers with yes."""
Mean = Literal["arithmetic", "geometric"]
Against = Literal["no", "all words"]


class YesNoJudge:
    """Asks questions about images and reads how likely the answer is yes."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        template: str = "",
        question: str = FITS,
        batch: int = 8,
        against: Against = "no",
    ) -> None:
        """Take a model and its processor; `question` has a place for {text}.

        `template` is the whole prompt with {question} and the image's token in it; empty = the model's chat
        template, or the image and then the question where it has none.

        Raises:
            ValueError: the model has no single token for yes or for no, or one for both; it does not say what
                its answers begin with; a template or question without its place.
        """
        self.model: Any = model.eval().requires_grad_(False)
        self.processor: Any = processor
        self.against: Against = against
        self._start = _first_token(self.model)
        """What an answer of an encoder-decoder begins with; None = it goes on from the prompt."""
        for what, text, place in (("template", template, "{question}"), ("question", question, "{text}")):
            if text and place not in text:
                raise ValueError(f"the {what} {text!r} has no {place}")
        self.template = template
        self.question = question
        self.batch = batch
        self._yes, self._no = self._spellings(_YES), self._spellings(_NO)
        if not self._yes or not self._no or set(self._yes) & set(self._no):
            raise ValueError(
                f"the tokenizer {self.processor.tokenizer.name_or_path!r} has the tokens {self._yes} for "
                f"yes and {self._no} for no; a judge needs a single token for each"
            )
        self._keeps = "logits_to_keep" in inspect.signature(cast("Any", model).forward).parameters

    @staticmethod
    def from_pretrained(
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        template: str = "",
        question: str = FITS,
        against: Against = "no",
    ) -> YesNoJudge:
        """Load a folder of the hub's format (or a hub name).

        Raises:
            ValueError: weights are missing, or the tokenizer is another model's.
        """
        wanted = replace(IMAGE_TO_TEXT, what="a model that answers questions about images")
        found = open_model(folder, wanted, dtype=dtype, device=device)
        return YesNoJudge(found.model, found.processor, template=template, question=question, against=against)

    @torch.no_grad()
    def log_yes(self, images: Images, questions: Sequence[str]) -> Float[Tensor, " B"]:
        """Log-probability (nats) of yes, against no or all words, of each image and question, float32."""
        opened = pil_images(images)
        texts = [self._prompt(question) for question in questions]
        found = torch.zeros(len(texts), device=self.model.device)
        # By length, so that a batch holds little padding.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for first in range(0, len(order), self.batch):
            rows = order[first : first + self.batch]
            logits = self._next_word([texts[r] for r in rows], [opened[r] for r in rows])
            yes, no = logits[:, self._yes].logsumexp(1), logits[:, self._no].logsumexp(1)
            among_all = yes - logits.logsumexp(1)
            found[rows] = among_all if self.against == "all words" else F.logsigmoid(yes - no)
        return require_numbers(found, self.model.name_or_path)

    def rewards(self, images: Images, texts: list[str]) -> Float[Tensor, " B"]:
        """Probability that the image shows the text, as VQAScore asks it."""
        return self.log_yes(images, [self.question.replace("{text}", text) for text in texts]).exp()

    def _next_word(self, texts: list[str], opened: list[Any]) -> Float[Tensor, "B V"]:
        # On the right no position moves, whatever a model makes of padding.
        made = processed(self.processor, texts, [[image] for image in opened], padding_side="right")
        inputs = {
            n: v.to(self.model.device) for n, v in made.items() if n not in ("labels", "token_type_ids")
        }
        inputs |= {n: v.to(self.model.device) for n, v in made.items() if n == "token_type_ids"}
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        if self._start is not None:
            starts = torch.full((len(texts), 1), self._start, device=self.model.device)
            return self.model(**inputs, decoder_input_ids=starts).logits[:, 0].float()
        last = inputs["attention_mask"].sum(1) - 1
        places = last.unique()
        kept = {"logits_to_keep": places} if self._keeps else {}
        with in_one_sentence(self.model.name_or_path, "the model"):
            logits = self.model(**inputs, **kept).logits
        at = (
            torch.searchsorted(places, last)
            if self._keeps
            else last + logits.shape[1] - len(made.input_ids[0])
        )
        return logits[torch.arange(len(texts), device=logits.device), at].float()

    def _prompt(self, question: str) -> str:
        question = spelled_out(self.processor.tokenizer, question)
        if self.template:
            return self.template.replace("{question}", question)
        if self._start is not None:
            # Its processor puts the image in front.
            return question
        if self.processor.chat_template is not None:
            content = [{"type": "image"}, {"type": "text", "text": question}]
            chat = [{"role": "user", "content": content}]
            return in_template(self.processor, chat, tokenize=False)
        return f"{self.processor.image_token}{question}"

    def _spellings(self, words: Sequence[str]) -> list[int]:
        """The words that are one token, each token once."""
        tokenizer = self.processor.tokenizer
        found: set[int] = set()
        for word in words:
            ids = text_ids(tokenizer, word)
            # Tokenizers that leave unknown letters out make one token of anything.
            if len(ids) == 1 and tokenizer.decode(ids).strip() == word.strip():
                found.add(ids[0])
        return sorted(found)


def _first_token(model: Any) -> int | None:
    """What an answer begins with, of a model whose language model has a decoder of its own."""
    inner: Any = dict(model.named_children()).get("language_model")
    parts: list[Any] = [part for part in (inner, model) if part is not None]
    configs: list[Any] = []
    for part in parts:
        own = cast("dict[str, Any]", vars(part))
        configs += [own.get("generation_config"), part.config]
    if not any(part.config.is_encoder_decoder for part in parts):
        return None
    settings: list[dict[str, Any]] = [vars(config) for config in configs if config is not None]
    starts = (each.get("decoder_start_token_id") for each in settings)
    start: int | None = next((token for token in starts if token is not None), None)
    if start is None:
        raise ValueError(
            f"{model.name_or_path!r} does not say what its answers begin with; write "
            "decoder_start_token_id into its config.json"
        )
    return start


@dataclass(frozen=True, kw_only=True)
class AskedFacts:
    """The mean probability of yes over the questions about a sample, on its last token.

    The geometric mean is 0 as soon as one answer is surely no; GenEval 2 scores whole prompts by it, and the
    arithmetic mean over the single facts.
    """

    judge: YesNoJudge
    mean: Mean = "geometric"
    questions: Questions | None = None
    """None = one question a fact of the outcome."""

    def __post_init__(self) -> None:
        if self.mean not in ("arithmetic", "geometric"):
            raise ValueError(f'mean is {self.mean!r}; use "arithmetic" or "geometric"')

    @torch.no_grad()
    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """The mean for each sample.

        Raises:
            ValueError: no images, or a sample about which there is no question.
        """
        asked = facts_asked(outcome) if self.questions is None else self.questions(outcome)
        for row, questions in enumerate(asked):
            if not questions:
                raise ValueError(f"there is no question about {sample_name(outcome, row)}")
        owner = torch.tensor([row for row, questions in enumerate(asked) for _ in questions])
        images = outcome_images(outcome).rows(owner)
        said = self.judge.log_yes(images, [question for questions in asked for question in questions])
        return on_last_token(mean_of(said, owner.to(said.device), self.mean), outcome.tokens)


def mean_of(log_probs: Float[Tensor, " Q"], owner: Tensor, mean: Mean) -> Float[Tensor, " B"]:
    """The mean probability of the questions of each owner; all owners from 0 on have some.

    >>> log_probs = torch.tensor([0.9, 0.4, 0.5]).log()
    >>> mean_of(log_probs, torch.tensor([0, 0, 1]), "geometric")
    tensor([0.6000, 0.5000])
    """
    values = log_probs if mean == "geometric" else log_probs.exp()
    number = owner.bincount()
    means = torch.zeros(len(number), device=values.device).index_add(0, owner, values) / number
    return means.exp() if mean == "geometric" else means


def facts_asked(outcome: Outcome) -> list[list[str]]:
    """One question about each fact of each sample.

    Raises:
        ValueError: the outcome has no facts.
    """
    if len(outcome.facts) != len(outcome.pieces):
        raise ValueError("the outcome has no facts to ask about; give the questions")
    return [[question_about(fact) for fact in facts] for facts in outcome.facts]


def question_about(fact: Fact) -> str:
    """A question that is answered with yes where the fact holds.

    >>> question_about(Fact(kind="color", words=("blue",), about=("circle",)))
    'Is the circle blue? Please answer yes or no.'
    """
    word, thing = fact.words[0], fact.about[0] if fact.about else "object"
    article = "an" if word[0].lower() in "aeiou" else "a"
    asked = {
        "noun": f"Is there {article} {word} in the picture?",
        "number": f"Is the number of objects of the kind {thing!r} {word}?",
        "color": f"Is the {thing} {word}?",
        "relation": f"Is the {thing} {word} the {fact.target[0] if fact.target else 'other object'}?",
    }
    return f"{asked[fact.kind]} {_ANSWER}"
