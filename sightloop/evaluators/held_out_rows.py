"""What a model answers to held-out rows, by the mean of the rewards that it is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sightloop.data.decode import Decoding
from sightloop.data.images import ImageBatch, ImageSet
from sightloop.data.sources import Source
from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluators.settings import HeldOutRowSettings
from sightloop.messages import MessagePrompt
from sightloop.models.protocols import Captioner
from sightloop.rewards.combine import combine
from sightloop.rollouts.caption import CaptionCollector
from sightloop.training import distributed
from sightloop.types import Evaluation, Reward, Sampling

_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class HeldOutRows:
    """Answers the rows greedily with the current weights, and has the answers judged as in training."""

    batches: list[ImageBatch]
    collect: CaptionCollector
    protocol: Mapping[str, str]

    @staticmethod
    def of(
        source: Source | None,
        *,
        rewards: Mapping[str, Reward],
        weights: Mapping[str, float],
        decoding: Decoding,
        settings: HeldOutRowSettings,
        max_tokens: int,
    ) -> HeldOutRows | None:
        """The evaluation of these rows; None if there are none."""
        if source is None:
            return None
        batches = list(ImageSet(source, decoding, batch_size=_CHUNK, limit=settings.limit))
        parts = {
            "rows": source.fingerprint(),
            "number": str(sum(map(len, batches))),
            "rewards": ", ".join(f"{name}={weights[name]:g}" for name in rewards),
            "decoding": f"greedy, {max_tokens} tokens",
            "image_size": str(decoding.size),
            "fit": "own shape" if decoding.whole else decoding.fit,
        }
        return HeldOutRows(
            batches=batches,
            collect=CaptionCollector(
                judge=combine(rewards, weights), sampling=Sampling(max_tokens=max_tokens, temperature=0.0)
            ),
            protocol=parts | {"hash": protocol_hash(parts)},
        )

    def __call__(self, policy: Captioner) -> Evaluation:
        """The mean of each reward and of their weighted sum, length in tokens, share of answers that end."""
        numbered = list(enumerate(self.batches))[distributed.rank() :: distributed.num_ranks()]
        mine = {number: self._answered(policy, batch) for number, batch in numbered}
        everyones = {number: found for part in distributed.gather(mine) for number, found in part.items()}
        samples = [each for number in range(len(self.batches)) for each in everyones[number]]
        names = [name for name in samples[0] if name not in _TEXTS]
        per_sample = {name: [float(each[name]) for each in samples] for name in names}
        return Evaluation(
            metrics={name: sum(values) / len(values) for name, values in per_sample.items()},
            per_sample=per_sample,
            samples=[{name: str(each[name]) for name in _TEXTS} for each in samples],
            protocol=dict(self.protocol),
        )

    def _answered(self, policy: Captioner, batch: ImageBatch) -> list[dict[str, Any]]:
        rollout = self.collect(policy, batch)
        tokens = rollout.turns[0].tokens
        values: dict[str, Tensor] = {
            "reward": rollout.rewards.sum(1),
            **rollout.reward_parts,
            "length": tokens.mask.sum(1),
            "ended": policy.is_end(tokens).any(1),
        }
        columns = {name: value.tolist() for name, value in values.items()}
        return [
            {name: column[row] for name, column in columns.items()}
            | {
                "source": batch.sources[row],
                "question": question_of(batch.prompts[row]),
                "caption": "".join(rollout.pieces[row]).strip(),
                "truth": batch.references[row],
            }
            for row in range(len(batch))
        ]


_TEXTS = ("source", "question", "caption", "truth")


def question_of(prompt: str) -> str:
    """What is asked, as people read it: the words of a conversation's last message."""
    if not isinstance(prompt, MessagePrompt):
        return prompt
    content = prompt.messages[-1]["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content).strip()
