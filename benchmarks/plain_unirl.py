"""One GRPO step of drawing and answering as one writes it with transformers and peft: the other side.

Show-o draws as its authors' loop does: whole padded sequences, both branches, the whole head, every round; it
answers one question at a time and reads everything again for each word. Janus draws and answers by
transformers' `generate`, one prompt and one question at a time. Likelihoods are a log-softmax over the whole
vocabulary, other kinds of ids shut out, at every position of an ordinary forward pass. Nothing is made slow
on purpose: no gradient where none is needed, logits changed in place, each image decoded once.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks.measure import Clock
from sightloop.models.janus.policy import Janus
from sightloop.models.show_o.layout import begun, drawing_prompt, drawing_rows, image_prefix, right_padded
from sightloop.models.show_o.masks import answer_mask, drawing_mask
from sightloop.models.show_o.policy import ShowO
from sightloop.models.show_o.settings import LORA_TARGETS
from sightloop.quizzes.grammar import Quiz
from sightloop.rewards.answers import facts_stated
from sightloop.types import Sampling

KL_WEIGHT = 0.2


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a step does."""

    group: int
    drawing: Sampling
    num_words: int
    micro_batch: int
    rank: int = 16
    """Of the adapters; 0 trains the whole model beside a frozen copy."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A judged batch, group by group."""

    prompts: list[str]
    questions: list[str]
    codes: Tensor
    hidden: Tensor
    """Codes whose likelihood counts, unknown together."""
    answers: Tensor
    said: Tensor
    """Words that count."""
    rewards: Tensor

    def rows(self, index: Tensor) -> Samples:
        """Some of them."""
        some = index.tolist()
        return Samples(
            prompts=[self.prompts[i] for i in some],
            questions=[self.questions[i] for i in some],
            codes=self.codes[index],
            hidden=self.hidden[index],
            answers=self.answers[index],
            said=self.said[index],
            rewards=self.rewards[index],
        )


class PlainUnirl(ABC):
    """Draw, ask, judge, learn."""

    def __init__(self, policy: Any, model: Any, work: Work, *, targets: str | list[str]) -> None:
        """`policy` tells ids and sizes; its `model`, or an equal one, is trained and changed here."""
        self.policy, self.work, self.model = policy, work, model
        self.tokenizer = policy.tokenizer
        self.peft: Any = None
        if work.rank:
            terms = LoraConfig(
                r=work.rank, lora_alpha=2 * work.rank, target_modules=targets, lora_dropout=0.0
            )
            self.peft = get_peft_model(model, terms)
            self.frozen = model
        else:
            trained = {id(parameter) for parameter in self.whole()}
            self.frozen = copy.deepcopy(model, {id(p): p for p in model.parameters() if id(p) not in trained})
            for parameter in self.whole():
                parameter.requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=1e-5)

    @abstractmethod
    def whole(self) -> list[nn.Parameter]:
        """What training without adapters changes."""

    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return list(self.adapters().values()) if self.peft else self.whole()

    def adapters(self) -> dict[str, nn.Parameter]:
        """By peft's names."""
        return {name: p for name, p in self.model.named_parameters() if "lora_" in name}

    # -- one step

    def step(self, quizzes: Sequence[Quiz], clock: Clock) -> Samples:
        """All of it."""
        asked = [quiz for quiz in quizzes for _ in range(self.work.group)]
        prompts, questions = [quiz.prompt for quiz in asked], [quiz.question for quiz in asked]
        with torch.no_grad():
            with clock.phase("draw"):
                codes = self.draw(prompts)
            with clock.phase("ask"):
                spoken = self.ask(codes, questions)
            with clock.phase("judge"):
                texts = self.tokenizer.batch_decode(spoken, skip_special_tokens=True)
                told = [sum(facts_stated(t, quiz.facts)) for t, quiz in zip(texts, asked, strict=True)]
        lengths = torch.tensor([len(row) for row in spoken])
        answers = right_padded(spoken, 0)
        samples = Samples(
            prompts=prompts,
            questions=questions,
            codes=codes,
            hidden=self.hide(codes),
            answers=answers,
            said=torch.arange(answers.shape[1]) < lengths[:, None],
            rewards=torch.tensor(told, dtype=torch.float32),
        )
        self.gradients(samples, clock)
        with clock.phase("optimizer"):
            nn.utils.clip_grad_value_(self.parameters(), 1.0)
            self.optimizer.step()
        return samples

    def gradients(self, samples: Samples, clock: Clock) -> None:
        """Leave the gradients of a judged batch in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        grouped = samples.rewards.view(-1, self.work.group)
        worth = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
        for rows in torch.arange(len(samples.rewards)).split(self.work.micro_batch):
            some, advantage = samples.rows(rows), worth.flatten()[rows, None]
            losses: list[Tensor] = []
            for score, mask in ((self.drawn, some.hidden), (self.said, some.said)):
                with clock.phase("policy"):
                    log_probs = score(self.model, some)
                with clock.phase("reference"), torch.no_grad(), self.as_before():
                    apart = score(self.frozen, some) - log_probs
                ratio = (log_probs - log_probs.detach()).exp()
                apart = apart.detach() + log_probs.detach() - log_probs
                token = -ratio * advantage + KL_WEIGHT * (apart.exp() - apart - 1)
                losses.append(((token * mask).sum(1) / mask.sum(1)).sum() / len(samples.rewards))
            with clock.phase("backward"):
                ((losses[0] + losses[1]) / 2).backward()

    def as_before(self) -> AbstractContextManager[None]:
        """The model without its adapters."""
        return self.peft.disable_adapter() if self.peft else nullcontext()

    @abstractmethod
    def draw(self, prompts: list[str]) -> Tensor:
        """Codes."""

    @abstractmethod
    def ask(self, codes: Tensor, questions: list[str]) -> list[list[int]]:
        """The words of each answer, its end token included."""

    @abstractmethod
    def hide(self, codes: Tensor) -> Tensor:
        """Which codes' likelihoods count."""

    @abstractmethod
    def drawn(self, model: Any, samples: Samples) -> Tensor:
        """Log-probabilities of the codes that count."""

    @abstractmethod
    def said(self, model: Any, samples: Samples) -> Tensor:
        """Log-probabilities of the words of the answers."""


class PlainShowO(PlainUnirl):
    """With Show-o."""

    policy: ShowO

    def __init__(self, policy: ShowO, model: Any, work: Work) -> None:
        super().__init__(policy, model, work, targets=list(LORA_TARGETS))
        self.words, self.max_text = policy.vocabulary, policy.settings.max_text_tokens
        ids = torch.arange(self.words.size)
        is_code = (ids >= self.words.first_code) & (ids < self.words.mask)
        self.not_codes = torch.zeros(self.words.size).masked_fill_(~is_code, -torch.inf)
        self.not_text = torch.zeros(self.words.size).masked_fill_(ids >= self.words.num_text, -torch.inf)

    def whole(self) -> list[nn.Parameter]:
        """The whole language model."""
        return list(self.model.parameters())

    def _rows(self, prompts: list[str], codes: Tensor) -> tuple[Tensor, Tensor]:
        """Sequences of a drawing and their mask; `codes` are ids of the joint vocabulary."""
        texts = self.policy.text_ids(prompts)
        begins = [drawing_prompt(text, self.words, max_text=self.max_text) for text in texts]
        ids = drawing_rows(begins, codes, self.words, max_text=self.max_text)
        return ids, drawing_mask(ids == self.words.pad, first=self.max_text + 1)

    def draw(self, prompts: list[str]) -> Tensor:
        """The authors' loop."""
        count, law, words = len(prompts), self.work.drawing, self.words
        rounds, length = law.decode_steps or 1, law.max_tokens
        codes, drawn, heat = torch.full((count, length), words.mask), torch.empty(0), 1.0
        places = slice(self.max_text + 2, -1)
        ids, mask = self._rows(prompts + [""] * count, codes.repeat(2, 1))
        for step in range(rounds):
            ids[:, places] = codes.repeat(2, 1)
            given, free = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.chunk(2)
            guided = (1 + law.guidance) * given - law.guidance * free
            chances = guided[:, places, words.first_code : words.mask].softmax(-1)
            picked = torch.multinomial(chances.flatten(0, 1), 1).view(count, length)
            unknown = codes == words.mask
            drawn = torch.where(unknown, picked, codes - words.first_code)
            ratio = torch.tensor((step + 1) / rounds)
            keep = int((length * torch.cos(ratio * math.pi * 0.5)).floor())
            keep = max(1, min(int(unknown[0].sum()) - 1, keep))
            sure = chances.gather(2, drawn[..., None])[..., 0]
            sure = sure.masked_fill(~unknown, torch.finfo(torch.float32).max).clamp(min=1e-20)
            heat *= 1 - float(ratio)
            noise = -(-torch.rand(count, length).clamp(min=1e-20).log()).clamp(min=1e-20).log()
            scores = sure.log() + heat * noise
            forgotten = scores < scores.sort(1).values[:, keep : keep + 1]
            codes = torch.where(forgotten, words.mask, drawn + words.first_code)
        return drawn

    def ask(self, codes: Tensor, questions: list[str]) -> list[list[int]]:
        """Image, question and all words so far again for every word."""
        answers: list[list[int]] = []
        for ids in self._asked(codes, questions):
            width, answer = codes.shape[1] + 3, list[int]()
            for _ in range(self.work.num_words):
                row = torch.tensor([ids + answer])
                seen = answer_mask(row.shape[1], last=width - 1)
                logits = self.model(input_ids=row, attention_mask=seen, use_cache=False).logits
                chances = (logits[0, -1] + self.not_text).softmax(-1)
                answer.append(int(torch.multinomial(chances, 1)))
                if answer[-1] == self.words.end:
                    break
            answers.append(answer)
        return answers

    def _asked(self, codes: Tensor, questions: list[str]) -> list[list[int]]:
        pictures = image_prefix(codes + self.words.first_code, self.words).tolist()
        texts = self.policy.text_ids([self.policy.asking.whole(text) for text in questions])
        return [p + begun(text, self.words) for p, text in zip(pictures, texts, strict=True)]

    def hide(self, codes: Tensor) -> Tensor:
        """As in masked training, one ratio for the batch."""
        ratio = torch.cos(torch.rand(()) * math.pi / 2)
        count = (codes.shape[1] * ratio).round().clamp(min=1)
        return torch.rand(codes.shape).argsort(1).argsort(1) < count

    def drawn(self, model: Any, samples: Samples) -> Tensor:
        """Hidden codes from the others."""
        codes = samples.codes + self.words.first_code
        ids, mask = self._rows(samples.prompts, codes.masked_fill(samples.hidden, self.words.mask))
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        law = logits.add_(self.not_codes).log_softmax(-1)
        return law[:, self.max_text + 2 : -1].gather(2, codes[..., None])[..., 0] * samples.hidden

    def said(self, model: Any, samples: Samples) -> Tensor:
        """Words behind image and question."""
        asked = self._asked(samples.codes, samples.questions)
        rows = [row + answer for row, answer in zip(asked, samples.answers[:, :-1].tolist(), strict=True)]
        ids = right_padded(rows, self.words.pad)
        seen = answer_mask(ids.shape[1], last=samples.codes.shape[1] + 2)
        logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits.float()
        law = logits.add_(self.not_text).log_softmax(-1)
        return _behind(law, [len(row) for row in asked], samples)


class PlainJanus(PlainUnirl):
    """With Janus."""

    policy: Janus

    def __init__(self, policy: Janus, model: Any, work: Work) -> None:
        super().__init__(policy, model, work, targets=r".*language_model\..*(q|k|v|o|gate|up|down)_proj")
        self.values = torch.empty(0)

    def whole(self) -> list[nn.Parameter]:
        """Language model, what reads codes and what writes them."""
        core = self.model.model
        own = (core.language_model.layers, core.language_model.norm)
        parts = (*own, core.generation_head, core.generation_aligner)
        return [parameter for part in parts for parameter in part.parameters()]

    def draw(self, prompts: list[str]) -> Tensor:
        """By `generate`, the group of each prompt at once."""
        groups: list[Tensor] = []
        for prompt in prompts[:: self.work.group]:
            row = torch.tensor([self.policy.prompts.drawing_row(prompt)])
            codes = self.model.generate(
                row,
                attention_mask=torch.ones_like(row),
                generation_mode="image",
                num_return_sequences=self.work.group,
                do_sample=True,
                guidance_scale=self.work.drawing.guidance,
                top_k=0,
            )
            groups.append(codes)
        return torch.cat(groups)

    def shown(self, codes: Tensor) -> Tensor:
        """What the vision tower sees."""
        made = self.model.decode_image_tokens(codes).permute(0, 3, 1, 2)
        return ((made + 1) / 2 * 255).clamp(0, 255).to(torch.uint8).float() / 255 * 2 - 1

    def ask(self, codes: Tensor, questions: list[str]) -> list[list[int]]:
        """By `generate`, one question at a time."""
        self.values = self.shown(codes)
        answers: list[list[int]] = []
        for question, values in zip(questions, self.values, strict=True):
            row = torch.tensor([self.policy.prompts.question_row(question, True)])
            made = self.model.generate(
                input_ids=row,
                attention_mask=torch.ones_like(row),
                pixel_values=values[None],
                do_sample=True,
                top_k=0,
                max_new_tokens=self.work.num_words,
            )
            answers.append(made[0, row.shape[1] :].tolist())
        return answers

    def hide(self, codes: Tensor) -> Tensor:
        """All of them count."""
        return torch.ones_like(codes, dtype=torch.bool)

    def gradients(self, samples: Samples, clock: Clock) -> None:
        """Images are decoded once, also where they were given."""
        if not len(self.values):
            with torch.no_grad():
                self.values = self.shown(samples.codes)
        self.image_of = {row.numpy().tobytes(): k for k, row in enumerate(samples.codes)}
        super().gradients(samples, clock)
        self.values = torch.empty(0)

    def drawn(self, model: Any, samples: Samples) -> Tensor:
        """Each code from those before it."""
        core = model.model
        rows = [self.policy.prompts.drawing_row(prompt) for prompt in samples.prompts]
        ids, mask, places = self._padded(rows, following=samples.codes.shape[1] - 1)
        words = core.language_model.embed_tokens(ids)
        codes = model.prepare_embeddings_for_image_generation(samples.codes[:, :-1])
        hidden = core.language_model(
            inputs_embeds=torch.cat([words, codes], 1),
            attention_mask=mask,
            position_ids=places,
            use_cache=False,
        ).last_hidden_state
        law = core.generation_head(hidden[:, ids.shape[1] - 1 :]).float().log_softmax(-1)
        return law.gather(2, samples.codes[..., None])[..., 0]

    def said(self, model: Any, samples: Samples) -> Tensor:
        """Words behind image and question."""
        rows = [self.policy.prompts.question_row(text, True) for text in samples.questions]
        ids, mask, places = self._padded(rows, following=samples.answers.shape[1] - 1)
        pictures = [self.image_of[row.numpy().tobytes()] for row in samples.codes]
        answers = samples.answers.masked_fill(~samples.said, self.policy.prompts.pad)
        logits = model(
            input_ids=torch.cat([ids, answers[:, :-1]], 1),
            attention_mask=mask,
            position_ids=places,
            pixel_values=self.values[pictures],
            use_cache=False,
        ).logits.float()
        return _behind(logits.log_softmax(-1), [ids.shape[1]] * len(rows), samples)

    def _padded(self, rows: Sequence[Sequence[int]], *, following: int) -> tuple[Tensor, Tensor, Tensor]:
        length = max(map(len, rows))
        pad = self.policy.prompts.pad
        ids = torch.tensor([[pad] * (length - len(row)) + list(row) for row in rows])
        gaps = torch.tensor([length - len(row) for row in rows])
        mask = (torch.arange(length + following) >= gaps[:, None]).long()
        return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def _behind(law: Tensor, starts: list[int], samples: Samples) -> Tensor:
    """What the distribution says of each answer, whose first word stands at its start."""
    places = torch.tensor(starts)[:, None] - 1 + torch.arange(samples.answers.shape[1])
    places = places.clamp(max=law.shape[1] - 1)
    found = law[torch.arange(len(law))[:, None], places, samples.answers]
    return found.masked_fill(~samples.said, 0)


PLAIN = {"show-o": PlainShowO, "janus": PlainJanus}
