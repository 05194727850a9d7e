"""Images to judged captions: order, seeds, groups, parts and baselines, with a policy of letters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sightloop.data.images import ImageBatch
from sightloop.rollouts.caption import CaptionCollector, join_rollouts
from sightloop.types import Images, Outcome, Prompt, Rollout, Sampling, Tokens, TokenScores, Turn

END, LETTERS = 5, "abcde"
LAW = Sampling(max_tokens=4)


@dataclass
class Speller:
    """Writes letters that depend on image and seed; greedy texts on the image alone."""

    looked: list[int] = field(default_factory=list)
    asked: list[Prompt] = field(default_factory=list)
    image_size: int = 1

    def encode_images(self, images: Images) -> Images:
        """Images with their number as the feature."""
        self.looked.append(len(images))
        return replace(images, features={"number": images.pixels[:, 0, 0, :1].float()})

    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Text of 1 to 4 tokens; those shorter than 4 end."""
        assert isinstance(prompt.images, Images)
        self.asked.append(prompt)
        greedy = sampling.temperature == 0
        rows: list[list[int]] = []
        for index, number in enumerate(prompt.images.pixels[:, 0, 0, 0].tolist()):
            seed = 0 if greedy or prompt.seeds is None else prompt.seeds[index]
            rows.append([(number + seed + k) % 5 for k in range(1 + (number + seed) % 4)])
        rows = [row if len(row) == 4 else [*row, END] for row in rows]
        width = max(map(len, rows))
        ids = torch.tensor([row + [END] * (width - len(row)) for row in rows])
        mask = torch.arange(width)[None] < torch.tensor(list(map(len, rows)))[:, None]
        return Tokens(ids=ids, mask=mask, log_probs=None if greedy else -ids.float() * mask)

    def decode(self, tokens: Tokens) -> list[list[str]]:
        """Letters before the end token."""
        rows = zip(tokens.ids.tolist(), tokens.mask.tolist(), strict=True)
        return [
            [LETTERS[id] for id, counts in zip(*row, strict=True) if counts and id != END] for row in rows
        ]

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """Nobody may ask: collecting needs no scores."""
        raise AssertionError("scored while collecting")

    def encode(self, texts: list[str]) -> Tokens:
        """Nor this."""
        raise AssertionError("encoded while collecting")

    def reference_log_probs(self, tokens: Tokens) -> Tensor:
        """Nor this: rewards bring their own."""
        raise AssertionError("asked for the reference while collecting")

    def trainable_module(self) -> nn.Module:
        """Nor this."""
        raise AssertionError("trained while collecting")

    def is_end(self, tokens: Tokens) -> Tensor:
        """The end token where it counts."""
        return (tokens.ids == END) & tokens.mask


def judge(outcome: Outcome) -> tuple[Tensor, dict[str, Tensor]]:
    """One a token."""
    assert outcome.images is not None
    rewards = outcome.tokens.mask.float()
    assert [len(row) for row in outcome.pieces] == (outcome.tokens.mask.sum(1) - outcome.ended.int()).tolist()
    return rewards, {"tokens": rewards.sum(1)}


def batch_of(numbers: list[int]) -> ImageBatch:
    """Images that are their numbers."""
    pixels = torch.tensor(numbers, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    return ImageBatch(
        images=Images(pixels=pixels),
        sources=[f"{number}.png" for number in numbers],
        references=[f"about {number}" for number in numbers],
        indices=[100 + number for number in numbers],
        seeds=[1000 * number + 1 for number in numbers],
    )


def collect(numbers: list[int], **settings: Any) -> tuple[Rollout, Speller]:
    """A rollout and the policy that wrote it."""
    policy: Any = Speller()
    collector = CaptionCollector(judge=judge, sampling=LAW, prompt="what?", **settings)
    return collector(policy, batch_of(numbers)), policy


def test_captions_of_an_image_stand_side_by_side_with_seeds_of_their_own() -> None:
    rollout, policy = collect([3, 1], per_image=3)
    prompt = rollout.turns[0].prompt

    assert rollout.sources == ["3.png"] * 3 + ["1.png"] * 3
    assert rollout.group.tolist() == [103] * 3 + [101] * 3
    assert prompt.texts == ["what?"] * 6
    assert prompt.seeds is not None
    assert len(set(prompt.seeds)) == 6
    assert (prompt.seeds[0], prompt.seeds[3]) == (3001, 1001)
    assert all(0 <= seed < 2**63 for seed in prompt.seeds)
    assert policy.looked == [2], "an image is looked at once, however many captions it gets"
    assert isinstance(prompt.images, Images)
    assert prompt.images.features["number"][:, 0].tolist() == [3, 3, 3, 1, 1, 1]


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 100])
def test_drawing_in_parts_changes_nothing(chunk: int) -> None:
    numbers = [3, 1, 4, 0, 2]
    whole, _ = collect(numbers, per_image=2, greedy_baseline=True)
    parts, policy = collect(numbers, per_image=2, greedy_baseline=True, chunk=chunk)

    assert max(policy.looked) <= max(1, chunk // 2)
    assert len({int(length) for length in whole.turns[0].tokens.mask.sum(1)}) > 1
    for one, other in zip(tensors_of(whole), tensors_of(parts), strict=True):
        assert torch.equal(one, other)
    assert (parts.pieces, parts.sources) == (whole.pieces, whole.sources)
    assert parts.turns[0].prompt.seeds == whole.turns[0].prompt.seeds


def tensors_of(rollout: Rollout) -> list[Tensor]:
    """All that training reads; what stands behind the mask does not count."""
    tokens = rollout.turns[0].tokens
    assert tokens.log_probs is not None and rollout.baseline is not None
    images = rollout.turns[0].prompt.images
    assert isinstance(images, Images)
    shown = [
        tokens.ids * tokens.mask,
        tokens.mask,
        tokens.log_probs,
        images.pixels,
        *images.features.values(),
    ]
    return [*shown, rollout.rewards, *rollout.reward_parts.values(), rollout.group, rollout.baseline]


def test_the_baseline_is_the_greedy_captions_total() -> None:
    rollout, policy = collect([0, 2, 3], per_image=2, greedy_baseline=True)

    # Image n gets 1 + n % 4 letters, and an end token where there is room for it.
    assert rollout.baseline is not None
    assert rollout.baseline.tolist() == [2, 2, 4, 4, 4, 4]
    assert [len(prompt) for prompt in policy.asked] == [6, 3]
    assert collect([0, 2])[0].baseline is None


def test_rewards_and_texts_are_those_of_the_captions() -> None:
    rollout, _ = collect([3, 1])
    tokens = rollout.turns[0].tokens

    assert rollout.reward_parts["tokens"].tolist() == tokens.mask.sum(1).tolist()
    assert rollout.pieces == Speller().decode(tokens)
    assert not rollout.turns[0].tokens.mask.all(), "no text ended"


def test_features_stay_only_if_they_are_wanted() -> None:
    for keep in (True, False):
        images = collect([3, 1], keep_features=keep)[0].turns[0].prompt.images
        assert isinstance(images, Images)
        assert bool(images.features) is keep


def test_greedy_parts_without_log_probabilities_join() -> None:
    policy: Any = Speller()
    greedy = CaptionCollector(judge=judge, sampling=replace(LAW, temperature=0.0), chunk=1)
    rollout = greedy(policy, batch_of([3, 0]))

    assert rollout.turns[0].tokens.log_probs is None
    assert rollout.rewards.shape == (2, 4)
    assert join_rollouts([rollout]) is rollout


def test_impossible_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="per_image is 0"):
        CaptionCollector(judge=judge, sampling=LAW, per_image=0)
    with pytest.raises(ValueError, match="chunk is 0"):
        CaptionCollector(judge=judge, sampling=LAW, chunk=0)
