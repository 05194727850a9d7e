"""One VLRM step as one writes it with transformers and peft alone: the benchmark's other side.

Captions come from `generate`; every pass starts from pixels; scores are a full-vocabulary log-softmax of an
ordinary forward pass; the judge is a model of its own; the critic is a peft adapter and a perceptron. Padding
is whatever the longest caption needs. Nothing is made slow on purpose: no gradient where none is needed, and
the same micro-batches.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks.measure import Clock
from sightloop.models.captioners.blip2 import LORA_TARGETS


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What both sides must agree on for given captions."""

    similarity: Tensor
    reference: Tensor
    advantages: Tensor


class PlainVlrm:
    """A captioner, a judge and a critic, and one step over a batch of images."""

    def __init__(
        self,
        captioner: nn.Module,
        judge: Any,
        *,
        words: Any,
        judge_words: Any,
        pictures: Any,
        rank: int,
        head: nn.Module,
    ) -> None:
        """Weights are shared with `captioner`; `head` is copied, adapters start as `adopt` says."""
        tensors = [*captioner.parameters(), *captioner.buffers()]
        self.model: Any = copy.deepcopy(captioner, {id(tensor): tensor for tensor in tensors})
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(LORA_TARGETS), lora_dropout=0.0)
        self.model.language_model = get_peft_model(self.model.language_model, lora)
        self.head = copy.deepcopy(head)
        self.judge, self.words, self.judge_words = judge, words, judge_words
        self.mean, self.std = (
            torch.tensor(each).view(1, 3, 1, 1) for each in (pictures.image_mean, pictures.image_std)
        )
        text = self.model.config.text_config
        self.end, self.pad = text.eos_token_id, text.pad_token_id
        self.start = [self.model.config.image_token_index] * self.model.config.num_query_tokens
        self.start = torch.tensor([[*self.start, text.bos_token_id]])
        self.optimizer = torch.optim.Adam([*self.bridge(), *self.critic_parameters()], lr=1e-5)

    def bridge(self) -> list[nn.Parameter]:
        """What the policy trains."""
        model = self.model
        return [
            model.query_tokens,
            *model.qformer.parameters(),
            *model.language_projection.parameters(),
        ]

    def adapters(self) -> dict[str, nn.Parameter]:
        """The critic's adapters by peft's names."""
        named = self.model.language_model.named_parameters()
        return {name: parameter for name, parameter in named if "lora_" in name}

    def critic_parameters(self) -> list[nn.Parameter]:
        """What the critic trains."""
        return [*self.adapters().values(), *self.head.parameters()]

    def adopt(self, adapters: Mapping[str, Tensor]) -> None:
        """Take over the other side's adapters, by the names of `adapters()`."""
        for name, parameter in self.adapters().items():
            parameter.data.copy_(adapters[name])

    # -- one step

    def step(self, pixels: Tensor, clock: Clock, *, max_tokens: int, micro_batch: int) -> Tensor:
        """Sample, judge, learn; the lengths of the captions."""
        with clock.phase("sample"):
            ids, mask = self.sample(self.prepared(pixels), max_tokens)
        self.gradients(pixels, ids, mask, clock=clock, micro_batch=micro_batch)
        with clock.phase("update"):
            nn.utils.clip_grad_value_([*self.bridge(), *self.critic_parameters()], 1.0)
            self.optimizer.step()
        return mask.sum(1)

    def gradients(
        self, pixels: Tensor, ids: Tensor, mask: Tensor, *, clock: Clock, micro_batch: int
    ) -> Judged:
        """Judge given captions and leave the gradients of their loss in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        values = self.prepared(pixels)
        with torch.no_grad():
            with clock.phase("judge"):
                similarity = self.similarity(values, ids)
            with clock.phase("reference"):
                reference = self.reference(ids, mask)
            with clock.phase("critic"):
                expected = self.values(values, ids, mask)
        returns = (similarity + reference)[:, None].expand(mask.shape)
        surprise = (returns - expected)[mask]
        advantages = (returns - expected - surprise.mean()) / (surprise.std() + 1e-8)
        shares = mask / mask.sum(1, keepdim=True) / len(mask)
        for rows in torch.arange(len(mask)).split(micro_batch):
            with clock.phase("policy"):
                scores = self.log_probs(values[rows], ids[rows], mask[rows])
            with clock.phase("critic"):
                guesses = self.values(values[rows], ids[rows], mask[rows])
            with clock.phase("update"):
                loss = (returns[rows] - guesses).square() - scores.exp() * advantages[rows]
                (loss * shares[rows]).sum().backward()
        return Judged(similarity=similarity, reference=reference, advantages=advantages * mask)

    def prepared(self, pixels: Tensor) -> Tensor:
        """Pixels as the towers want them."""
        return (pixels.float() / 255 - self.mean) / self.std

    def sample(self, values: Tensor, max_tokens: int) -> tuple[Tensor, Tensor]:
        """Captions and their mask, end token included."""
        with self.adapters_off():
            drawn = self.model.generate(
                pixel_values=values,
                do_sample=True,
                temperature=2.0,
                top_k=6,
                max_new_tokens=max_tokens,
                eos_token_id=self.end,
                pad_token_id=self.pad,
            )
        ids = drawn[:, self.start.shape[1] :]
        ends = (ids == self.end).long()
        return ids, ends.cumsum(1) - ends == 0

    def similarity(self, values: Tensor, ids: Tensor) -> Tensor:
        """The judge's logit of a match."""
        spelled = [[token for token in row if token != self.end] for row in ids.tolist()]
        texts = self.words.batch_decode(spelled, skip_special_tokens=True)
        read = self.judge_words(texts, padding=True, return_tensors="pt")
        matched = self.judge(
            pixel_values=values,
            input_ids=read.input_ids,
            attention_mask=read.attention_mask,
            use_image_text_matching_head=True,
        )
        return matched.logits_per_image[:, 1]

    def reference(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Mean log-probability of the text alone, end token left out."""
        start = self.start[:, -1:].expand(len(ids), 1)
        with self.adapters_off():
            logits = self.model.language_model(
                input_ids=torch.cat([start, ids[:, :-1]], 1), attention_mask=self._behind(mask, 1)
            ).logits
        scores = logits.float().log_softmax(-1).gather(2, ids[..., None])[..., 0]
        real = mask & (ids != self.end)
        return (scores * real).sum(1) / real.sum(1).clamp(min=1)

    def log_probs(self, values: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Log-probability of each token under the policy."""
        with self.adapters_off():
            logits = self._forward(values, ids, mask).logits
        first = self.start.shape[1] - 1
        scores = logits[:, first:].float().log_softmax(-1)
        return scores.gather(2, ids[..., None])[..., 0] * mask

    def values(self, values: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The critic's value before each token; no gradient into the bridge."""
        for parameter in self.bridge():
            parameter.requires_grad_(False)
        out = self._forward(values, ids, mask, output_hidden_states=True)
        for parameter in self.bridge():
            parameter.requires_grad_(True)
        hidden = out.language_model_outputs.hidden_states[-1]
        return self.head(hidden[:, self.start.shape[1] - 1 :]) * mask

    def adapters_off(self) -> AbstractContextManager[None]:
        """The language model as the policy knows it."""
        return self.model.language_model.disable_adapter()

    def _forward(self, values: Tensor, ids: Tensor, mask: Tensor, **options: Any) -> Any:
        start = self.start.expand(len(ids), -1)
        return self.model(
            pixel_values=values,
            input_ids=torch.cat([start, ids[:, :-1]], 1),
            attention_mask=self._behind(mask, start.shape[1]),
            **options,
        )

    @staticmethod
    def _behind(mask: Tensor, length: int) -> Tensor:
        return nn.functional.pad(mask[:, :-1].long(), (length, 0), value=1)
