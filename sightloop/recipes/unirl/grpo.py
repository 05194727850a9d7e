"""UniRL by GRPO: draw, ask yourself about the drawing, reinforce what was answered right (arXiv 2505.23380).

Differences from the paper, and readings where it leaves a choice (option, preset):

1. The reward is one point a fact that the answer tells, after the paper's figure (`rewards.points`); the
   formula of each category is not known. Facts are matched in the text by rules; whether the paper compared
   words or asked a language model in training is not known, and the latter is `rewards.text_judge`.
2. Quizzes are made by a grammar without end, all six categories equally often (`quizzes`): neither the
   paper's prompts nor their number and mixture are published. Several questions a category; the paper's
   evaluation has one, which invites learning the question.
3. Prompts of the evaluation never come in training, also not in other words: GenEval's where
   words are the real ones (`quizzes.geneval_prompts`), those of `quizzes.excluded`, and the run's own.
4. No old policy (`algorithm` "unirl"): the ratio is 1, one update a rollout, nothing to clip. Relatives with
   real ratios and clipping are named methods.
5. Advantages are divided by the group's standard deviation (`advantages`); drawing and answering weigh the
   same (`objectives`), each a mean over its own tokens. The paper's weights are not known.
6. The divergence is k3 a token of both turns under the distribution that is trained, from the policy before
   training, which is never replaced. Its weight 0.2 is the figure in the name of the published Show-o run
   (`kl_weight`); for Janus it is not known, and 0.04 is ours.
7. A Show-o drawing is scored with its codes hidden anew at one ratio shared by the group, as a changed line
   of the published code suggests (`likelihood.unmasking` "remasked", `likelihood.number` 1), without guidance
   (`likelihood.guided`). What that costs is measured in docs/likelihoods.md; the exact rounds are an option.
8. Not end to end: the reward reaches a drawing through the likelihood of its codes alone. Whether the
   published run also sent the answer's gradient through relaxed codes is not known; that is `unirl-sft`.
9. Rollouts are drawn as the model's authors draw (`draw`), and answers at temperature 1 (`answer`); guidance,
   rounds and temperatures in training are not known. The policy as it is answers (`answer.answerer`) and, if
   it is a Show-o that reads codes, sees those it drew (`answer.input`); whether the paper encoded the image
   anew is not known. What that means for flattery is measured in docs/papers/unirl.md.
10. Adam at a constant rate without warm-up and weight decay, the gradient's norm clipped at 1; the paper's
    evaluation code has AdamW with 0.01, its schedule and clipping are not known.
11. Groups are 3 drawings for Show-o and 8 for Janus, one prompt a GPU on 8 GPUs (`batch` 8). 3000 steps are
    those of the published Show-o checkpoint; how long Janus was trained is not known. That run's name also
    holds "bs6", "drpo" and "journey", which we cannot explain.
12. All weights of the language model learn (`model.trained`); adapters are an option.
13. The imbalance of both sides has no published formula; ours is the share of prompts with exactly one side
    right, with the rates of each side given the other (`joint`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sightloop.algorithms.grpo import GRPO, chosen_method
from sightloop.algorithms.methods import METHODS
from sightloop.models.protocols import ImageGenerator
from sightloop.recipes.config_json import checked
from sightloop.recipes.unirl.build import (
    Claim,
    Wired,
    answer_sampling,
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
from sightloop.recipes.unirl.config import GRPO_PRESETS, GrpoConfig
from sightloop.recipes.unirl.quizzes import setup_of
from sightloop.recipes.unirl.rewards import rewards_of
from sightloop.training import distributed
from sightloop.training.experiment import Experiment
from sightloop.types import Sampling

DEFAULT_KL = 0.2


def build(config: GrpoConfig, run_folder: Path, *, claim: Claim = distributed.barrier) -> Experiment:
    """Load the networks of a run and wire them up; `claim` makes the run's folder once all is loaded.

    Raises:
        ValueError: a setting that cannot work, with the value and the fix.
    """
    config = checked(config, presets=GRPO_PRESETS.values())
    require_inputs(config)
    setup = setup_of(config)
    try_quiz_rewards(config, setup)
    judges = rewards_of(config, in_world=setup.in_world)
    torch.manual_seed(config.schedule.seed)
    policy = load_policy(config, distributed.device(config.device))
    sampling = image_sampling(config, policy)
    answerer, extra_state = answerer_of(config, policy)
    wired = Wired(
        policy=policy,
        collect=collector_of(
            config, judges, setup.vocabulary, sampling=sampling, answerer=answerer, second_turn="answer"
        ),
        algorithm=algorithm_of(config, policy, sampling),
        extra_state=extra_state,
        updates=config.updates,
    )
    return experiment_of(config, setup, run_folder, wired, claim=claim)


def algorithm_of(config: GrpoConfig, policy: ImageGenerator, sampling: Sampling) -> GRPO:
    """The method by name, with what the configuration changes.

    Raises:
        ValueError: orders of unmasking for a model that draws from left to right, or clips without a ratio.
    """
    objectives = objectives_of(config, config.likelihood, sampling=sampling, policy=policy)
    answers = answer_sampling(config)
    if answers.temperature != 1.0 and objectives.answering.weight > 0:
        objectives = replace(objectives, answering=replace(objectives.answering, under=answers))
    method = METHODS[config.algorithm]
    if method.average_over == "length":
        drawing = replace(
            objectives.drawing, max_length=policy.num_image_tokens if objectives.drawing.weight else None
        )
        words = answers.max_tokens if objectives.answering.weight else None
        objectives = replace(
            objectives,
            average_over="length",
            drawing=drawing,
            answering=replace(objectives.answering, max_length=words),
        )
    plain = GRPO(
        kl_weight=0.0,
        objectives=objectives,
        score_batch=config.schedule.micro_batch,
        reduce=distributed.sum_over_ranks,
        gather=distributed.gather,
    )
    return chosen_method(plain, config, usual_kl=DEFAULT_KL, reference=lambda: reference_of(policy))
