"""Figures of a step, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sightloop.training.loop import num_images
from sightloop.training.metrics import UpdateResult, distinct_share, rollout_metrics, update_metrics
from sightloop.types import Credit, Prompt, Rollout, Tokens, Turn

MASK = torch.tensor([[True, True, True], [True, True, False]])


def judged(pieces: list[list[str]]) -> Rollout:
    tokens = Tokens(ids=MASK.long(), mask=MASK)
    return Rollout(
        turns=(Turn(prompt=Prompt(texts=["", ""]), tokens=tokens),),
        rewards=torch.tensor([[0.0, -1.0, 4.0], [2.0, 2.0, 0.0]]),
        reward_parts={"similarity": torch.tensor([5.0, 3.0])},
        group=torch.tensor([7, 7]),
        pieces=pieces,
        sources=["a.png", "b.png"],
    )


def credited(*, critic: bool) -> Credit:
    advantages = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 0.0, 77.0]])
    loss_weights = torch.where(MASK, 0.2, 0.0)
    if not critic:
        return Credit(advantages=advantages, loss_weights=loss_weights)
    returns = torch.tensor([[3.0, 3.0, 4.0], [4.0, 2.0, 0.0]])
    return Credit(advantages=advantages, loss_weights=loss_weights, returns=returns)


def test_rewards_lengths_and_ends_are_means_over_captions() -> None:
    found = rollout_metrics(judged([["a", " red", " ring"], [" a"]]), credited(critic=False))
    assert found["reward/total"] == 3.5
    assert found["reward/similarity"] == 4
    assert found["tokens/length"] == 2.5
    # Three pieces for three tokens: cut. One piece for two tokens: ended.
    assert found["tokens/ended"] == 0.5
    assert found["tokens/distinct"] == 0.75
    # Values 1, -1, 1, -1, 0: squares sum to 4, over n - 1 = 4.
    assert found["advantage/std"] == pytest.approx(1)
    assert "critic/explained_variance" not in found


def test_a_critic_is_judged_by_what_it_left_unexplained() -> None:
    values = torch.tensor([[2.0, 3.0, 3.0], [3.0, 3.0, 0.0]])
    found = rollout_metrics(replace(judged([["a"], ["b"]]), values=values), credited(critic=True))
    # Returns 3 3 4 4 2 (mean 3.2, squares about it 2.8); errors 1 0 1 1 -1 (mean 0.4, squares about it 3.2).
    assert found["critic/explained_variance"] == pytest.approx(1 - 3.2 / 2.8, rel=1e-5)
    assert found["advantage/std"] == pytest.approx((3.2 / 4) ** 0.5)


def test_a_rollout_without_text_has_no_figures_about_words() -> None:
    assert (
        not {"tokens/ended", "tokens/distinct"} & rollout_metrics(judged([]), credited(critic=False)).keys()
    )


def test_distinct_words_are_counted_per_word() -> None:
    assert distinct_share(["a red ring", "a red star"]) == pytest.approx(4 / 6)
    assert distinct_share(["", " "]) == 0


def test_captions_of_one_image_count_as_one_image() -> None:
    assert num_images(judged([["a"], ["b"]])) == 1


def test_an_update_reports_losses_norms_speed_and_memory() -> None:
    measured = UpdateResult(losses={"policy/loss": torch.tensor(0.25)}, gradient_norms={"policy": 2.0})
    found = update_metrics(measured, {"collect": 1.0, "credit": 0.5, "update": 0.5}, 6)
    assert found.pop("memory/peak_gib") > 0.01
    assert found == {
        "policy/loss": 0.25,
        "gradient/norm_policy": 2.0,
        "seconds/collect": 1.0,
        "seconds/credit": 0.5,
        "seconds/update": 0.5,
        "speed/images_per_second": 3.0,
    }
