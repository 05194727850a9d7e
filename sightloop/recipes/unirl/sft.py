"""UniRL by supervised training: the prompt's true answer is the label of the model's own drawing
(arXiv 2505.23380).

Differences from the paper, and readings where it leaves a choice (option, preset):

1. End to end (`end_to_end`), codes are straight-through Gumbel-softmax: one-hot forward, soft backward, at
   temperature 1 without a schedule (`relaxation`). The paper's temperature, and which codes of a masked
   decoder carry the gradient, are not known. The preset relaxes the middle round and ends the drawing there:
   the last round holds hardly any code (`relaxation.codes`, with what was measured in docs/papers/unirl.md).
   Janus' codes are relaxed in one pass over the finished drawing, decoded to pixels and read by its tower;
   how the paper relaxed them is not known.
2. The relaxed drawing is made under the distribution that draws, guidance included, and the gradient passes
   through it; whether the paper's does is not known.
3. End to end, answers alone are labels. Not end to end, the likelihood of the model's own drawings is trained
   beside them with equal weight (`objectives.drawing`), scored with codes hidden anew (`likelihood`); the
   paper's formula and weight for this case are not known.
4. Every drawing is labeled with the prompt's answer, right or wrong (`filter` "none", the paper's figure).
   That teaches the seeing side to tell what was asked for instead of what it sees; "answer_correct" and
   "best_of_group" keep such drawings out.
5. Only the answer's tokens are labels, not the question's; the published code labels both.
6. A batch is one optimizer step, and a relaxed batch one backward pass: `micro_batch` is at least the
   drawings of a step on a rank.
7. The number of steps of the paper's supervised runs is not known; 3000 are those of its published GRPO run.
8. The policy is asked about its drawings for the log and for `filter`; no gradient comes of that.
9. No term holds the policy near its start (`kl_weight` 0); none is known of the paper's supervised runs.
10. Quizzes, optimizer, trained weights and evaluation as in `unirl_grpo`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sightloop.algorithms.sft import SFT
from sightloop.recipes.config_json import checked
from sightloop.recipes.unirl.build import (
    Claim,
    Wired,
    answerer_of,
    collector_of,
    experiment_of,
    image_sampling,
    load_policy,
    objectives_of,
    reference_of,
    require_inputs,
    try_quiz_rewards,
)
from sightloop.recipes.unirl.config import SFT_PRESETS, SftConfig
from sightloop.recipes.unirl.quizzes import setup_of
from sightloop.recipes.unirl.rewards import rewards_of
from sightloop.training import distributed
from sightloop.training.experiment import Experiment


def build(config: SftConfig, run_folder: Path, *, claim: Claim = distributed.barrier) -> Experiment:
    """Load the networks of a run and wire them up; `claim` makes the run's folder once all is loaded.

    Raises:
        ValueError: a setting that cannot work, with the value and the fix.
    """
    config = checked(config, presets=SFT_PRESETS.values())
    samples = config.batch * config.group // distributed.num_ranks()
    if config.end_to_end and config.schedule.micro_batch < samples:
        raise ValueError(
            f"relaxed drawings allow one backward pass: micro_batch is {config.schedule.micro_batch}, a rank "
            f"draws {samples} (batch x group); raise micro_batch, or use --no-end-to-end"
        )
    require_inputs(config)
    setup = setup_of(config)
    try_quiz_rewards(config, setup)
    judges = rewards_of(config, in_world=setup.in_world)
    torch.manual_seed(config.schedule.seed)
    policy = load_policy(config, distributed.device(config.device))
    sampling = image_sampling(config, policy, config.relaxation if config.end_to_end else None)
    answerer, extra_state = answerer_of(config, policy)
    learns_drawings = config.drawing_weight > 0
    if config.kl_weight > 0 and not learns_drawings:
        # The penalty holds drawings, too; both sides then weigh the same.
        config = replace(config, objectives=replace(config.objectives, drawing=config.objectives.answering))
    algorithm = SFT(
        objectives=objectives_of(config, config.likelihood, sampling=sampling, policy=policy),
        learns_drawings=learns_drawings,
        kl_weight=config.kl_weight,
        reference=reference_of(policy) if config.kl_weight > 0 else None,
        filter=config.filter,
        reduce=distributed.sum_over_ranks,
        gather=distributed.gather,
    )
    wired = Wired(
        policy=policy,
        collect=collector_of(
            config, judges, setup.vocabulary, sampling=sampling, answerer=answerer, second_turn="truth"
        ),
        algorithm=algorithm,
        extra_state=extra_state,
    )
    return experiment_of(config, setup, run_folder, wired, claim=claim)
