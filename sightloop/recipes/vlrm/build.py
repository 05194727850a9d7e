"""VLRM: a captioner learns from what a frozen judge sees (arXiv 2404.01911).

Differences from the paper, and readings where it leaves a choice (option, preset):

1. Eq. 4 has the probability p_k, not its logarithm (`objective`, "probability").
2. p_k is the model's own distribution at temperature 1, as at inference; eq. 4 names none (`score_under`,
   "own").
3. The reference term is the mean log-probability of the text, added; its formula, not its name. It does not
   see the image and leaves the end token out (`judge.reference_includes_end`).
4. Similarity is the logit of class 1 averaged over the queries, not a softmax. Checkpoint and text length are
   not stated (`judge.model`, `judge.max_text_tokens` 64).
5. Advantages are standardized over the real tokens of the whole batch on all ranks, never over padding.
6. The loss is a mean over captions of the mean over a caption's tokens (`average_over`, "caption").
7. The value of a token is read before it is drawn (`critic.position`, "pre").
8. The critic's loss does not reach the Q-Former side; its adapters are off everywhere else.
9. Bad phrases are matched on text by whole words and mapped to tokens; a year is four digits standing alone.
   Phrases of the prose that the table lacks are off (`judge.extra_phrases`).
10. Repeats exempt articles, prepositions and colors by lists of ours (`judge.exempt_words` adds to them).
11. One caption an image (`draw.per_image`).
12. "Clamp the gradient with threshold 1" is element-wise (`gradient_clip`, "value"; "norm" is the other usual
    reading).
13. The retrieval term of VLRM-RS uses plain cosines (`judge.logit_scale` 1) over the captions that one rank
    would judge together (`judge.contrast`), also where several ranks share them.
14. The value head's figure is not public: a perceptron of 2h, 4h, 8h has the paper's 275 M parameters
    (`critic.widths`); rank 4 on all six linear layers has its 6 M (`critic.lora_rank`).
15. Critic and policy share one Adam step; their parameters are disjoint, so the order does not matter.
16. Length of training captions, prompt and image crop are not stated (`draw.max_tokens` 60,
    `draw.prompt` empty, `data.fit` "squash").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sightloop.data.batches import Batching, ImageStream
from sightloop.data.decode import Decoding
from sightloop.data.sources import Source, open_named_images
from sightloop.late import late
from sightloop.models.captioners.critic import TrunkCritic
from sightloop.models.captioners.vision_towers import same_tower
from sightloop.models.kinds import CLIPS
from sightloop.models.named_models import captioner_family, load_captioner, model_config
from sightloop.models.open import MATCHER, is_language_model, is_matcher, refuse_as
from sightloop.models.precision import DTYPES
from sightloop.models.protocols import (
    Captioner,
    SharesTower,
    SupportsCheckpointing,
    SupportsCritic,
    SupportsSharding,
    missing_members,
    require_members,
    sees_whole,
)
from sightloop.recipes.config_json import checked
from sightloop.recipes.vlrm.algorithms import ALGORITHMS
from sightloop.recipes.vlrm.config import VLRM_PRESETS, VlrmConfig, settled
from sightloop.rewards.combine import combine
from sightloop.rewards.fluency import LanguageModelFluency, TokenFluency
from sightloop.rewards.loading import Loading
from sightloop.rewards.phrases import (
    EXEMPT_WORDS,
    EXTRA_PHRASES,
    BadPhrases,
    Repeats,
    load_phrases,
    missing_end,
)
from sightloop.rewards.similarity import ItmSimilarity
from sightloop.rollouts.caption import CaptionCollector
from sightloop.training import distributed
from sightloop.training.experiment import Experiment
from sightloop.types import Reward, Sampling
from sightloop.world.bundled import WEIGHTS, is_bundled, is_world_folder

Claim = Callable[[], object]
"""What a builder calls once all is loaded."""
_DRAWN = "pictures"
_CLIP: tuple[str, Callable[[Any], bool]] = ("a CLIP", lambda config: config.model_type in CLIPS)
NUM_SCENES, NUM_HELD_OUT = 4096, 500
"""Images that the embedded world draws for a run."""
# Loaded where a configuration asks for them.
_finished_checkpoints = late("sightloop.training.checkpoint:finished_checkpoints")
_held_out_of = late("sightloop.evaluators.held_out_captions:held_out_of")
_load_rewards = late("sightloop.rewards.custom:load_rewards")
_read_names = late("sightloop.rewards.custom:read_names")
_retrieval = late("sightloop.rewards.retrieval_term:open_retrieval")
_captions_to_try = late("sightloop.recipes.reward_trial:captions_to_try")
_try_rewards = late("sightloop.recipes.reward_trial:try_rewards")
_say_if_alike = late("sightloop.recipes.image_variety:say_if_alike")
_write_images = late("sightloop.world.image_folder:write_images")


def build(config: VlrmConfig, run_folder: Path, *, claim: Claim = distributed.barrier) -> Experiment:
    """Load the networks and the images of a run and wire them up.

    `claim` makes the run's folder, once everything that may be missing was found and loaded.

    Raises:
        ValueError: a setting that cannot work, with the value and the fix.
    """
    config = checked(config, presets=VLRM_PRESETS.values())
    config.require_ranks(distributed.num_ranks())
    draws_scenes = not config.data.images
    config = shapes_world(config, run_folder) if draws_scenes else config
    require_models(config, in_world=draws_scenes)
    config = settled(config)
    named = [each for each in (config.data, config.held_out) if each.images]
    own = [each for each in named if Path(each.images).parent != run_folder / _DRAWN]
    sources = [open_named_images(each) for each in own]
    if not draws_scenes:
        _try_rewards(config.custom_rewards, lambda: _captions_to_try(sources[0]))
    torch.manual_seed(config.schedule.seed)
    device = distributed.device(config.device)
    policy = load_trained_captioner(config, device)
    row = ALGORITHMS[config.algorithm]
    critic = _critic(config, policy) if row.has_critic else None
    if config.gradient_checkpointing:
        saving: SupportsCheckpointing = require_members(
            policy, SupportsCheckpointing, what="gradient_checkpointing", instead="leave it out"
        )
        saving.enable_gradient_checkpointing(critic.adapters.checkpoint_contexts if critic else None)
    trainable: dict[str, nn.Module] = {"policy": policy.trainable_module()}
    if critic is not None:
        trainable["critic"] = critic
    collect, algorithm = _collector(config, policy, device), _algorithm(config, critic)
    if draws_scenes:
        # Scenes are drawn into the folder; the models that know them are small.
        claim()
        draw_scenes(config, run_folder)
        sources.insert(0, open_named_images(config.data))
        _try_rewards(config.custom_rewards, lambda: _captions_to_try(sources[0]))
    held_out = _evaluator(config, policy, device, run_folder)
    if config.shard:
        # After the judge has compared its tower with the policy's, which whole weights can do only.
        whole: SupportsSharding = require_members(
            policy, SupportsSharding, what="shard", instead="leave it out"
        )
        distributed.shard(whole.shard_units(), policy.trainable_module().parameters())
        whole.all_ranks_finished = distributed.all_ranks
    if not draws_scenes:
        claim()
    return Experiment(
        policy=policy,
        trainable=trainable,
        batches=_batches(config, sources[0], policy),
        collect=collect,
        algorithm=algorithm,
        critic=algorithm.critic_pass if row.has_critic else None,
        evaluators={"held_out": held_out} if held_out is not None else {},
        schedule=config.schedule,
    )


def shapes_world(config: VlrmConfig, run_folder: Path) -> VlrmConfig:
    """The configuration with the embedded world's models and the scenes that the run draws, where none are
    named.
    """
    require_images(config)
    return replace(
        config,
        data=replace(config.data, images=str(run_folder / _DRAWN / "train")),
        judge=replace(
            config.judge,
            model=config.judge.model or str(WEIGHTS / "judge"),
            retrieval_clip=config.judge.retrieval_clip or str(WEIGHTS / "clip_retrieval"),
        ),
        held_out=replace(
            config.held_out,
            images=config.held_out.images or str(run_folder / _DRAWN / "held_out"),
            clip=config.held_out.clip or str(WEIGHTS / "clip"),
        ),
    )


def draw_scenes(config: VlrmConfig, run_folder: Path) -> None:
    """Draw those scenes, unless they are there."""
    if distributed.rank() == 0:
        # Nothing has been learned from the images of a run that this one replaces.
        replace_others = not _finished_checkpoints(run_folder / "checkpoints")
        numbers = {"train": NUM_SCENES, "held_out": config.held_out.limit or NUM_HELD_OUT}
        for name, number in numbers.items():
            folder, seed = run_folder / _DRAWN / name, config.schedule.seed
            _write_images(folder, number=number, seed=seed, replace=replace_others)
    distributed.barrier()


def _evaluator(config: VlrmConfig, policy: Captioner, device: torch.device, folder: Path) -> Any:
    return _held_out_of(
        config.held_out,
        prompt=config.draw.prompt,
        captioner=policy,
        device=device,
        shared_work=not config.shard,
        folder=folder,
    )


def require_images(config: VlrmConfig) -> None:
    """Refuse to take models of one's own to the embedded world's scenes for want of images.

    Raises:
        ValueError: no images are named, and policy and judge are not the embedded world's.
    """
    own = not is_bundled(base_model(config)) and config.judge.model and not is_bundled(config.judge.model)
    if own and not config.data.images:
        raise ValueError(
            "data.images is empty; name the images to train on with --data.images (the embedded world's "
            "scenes are for its own tiny models)"
        )


def require_models(config: VlrmConfig, *, in_world: bool = False) -> None:
    """Look for every model and custom reward that the run needs before the first model is loaded.

    Raises:
        ValueError: one is not named, does not exist or cannot be reached.
    """
    custom = _read_names(config.custom_rewards)
    judge, weights, held_out = config.judge, config.rewards, config.held_out
    needed = [
        ("policy", base_model(config), True, None),
        ("judge.model", judge.model, weights.similarity, (MATCHER, is_matcher)),
        (
            "judge.reference_model",
            judge.reference_model,
            weights.reference and judge.reference_model,
            ("a language model", is_language_model),
        ),
        ("judge.retrieval_clip", judge.retrieval_clip, weights.retrieval, _CLIP),
        ("held_out.clip", held_out.clip, held_out.images, _CLIP),
        *(("custom_rewards", model, True, None) for reward in custom for model in reward.models),
    ]
    for setting, name, wanted, kind in needed:
        if wanted and not name:
            raise ValueError(f"{setting} is empty; with images of your own, name a folder or a hub model")
        if wanted:
            found = (captioner_family if setting == "policy" else model_config)(name)
            if kind is not None and not kind[1](found):
                refuse_as(found, kind[0], name)
    if not config.policy and not in_world and not is_world_folder(config.data.images):
        raise ValueError(
            "policy is empty, and the bundled tiny captioner knows only the embedded world's images; with "
            "images of your own, name a captioner with --model"
        )


def load_trained_captioner(config: VlrmConfig, device: torch.device) -> Captioner:
    """The captioner that the configuration names, as its family opens it.

    Raises:
        ValueError: as for `load_captioner`.
    """
    dtype = DTYPES[config.dtype]
    return load_captioner(base_model(config), dtype=dtype, device=device, choices=config.captioner)


def base_model(config: VlrmConfig) -> str:
    """The model a run starts from: the embedded world's if none is named."""
    return config.policy or str(WEIGHTS / "captioner")


def _critic(config: VlrmConfig, policy: Captioner) -> TrunkCritic:
    settings = config.critic
    trunk: SupportsCritic = require_members(
        policy,
        SupportsCritic,
        what=f"the critic of algorithm {config.algorithm!r}",
        instead="use --algorithm scst",
    )
    return TrunkCritic(
        trunk,
        widths=settings.widths,
        rank=settings.lora_rank,
        alpha=settings.lora_alpha,
        position=settings.position,
    )


def drawing(config: VlrmConfig) -> Sampling:
    """The distribution that draws captions in training."""
    draw = config.draw
    return Sampling(max_tokens=draw.max_tokens, temperature=draw.temperature, top_k=draw.top_k)


def _algorithm(config: VlrmConfig, critic: TrunkCritic | None) -> Any:
    """The algorithm by name, with the settings that it takes."""
    row = ALGORITHMS[config.algorithm]
    chosen = {
        "gamma": config.gamma,
        "objective": config.objective or "probability",  # Paper: eq. 4
        "average_over": config.average_over or "caption",
    }
    settings: dict[str, Any] = {name: chosen[name] for name in row.takes}
    if critic is not None:
        settings |= {
            "critic": critic,
            "critic_batch": config.schedule.micro_batch,
            "value_weight": config.critic.value_weight,
        }
    under = drawing(config) if config.score_under == "sampling" else None
    return row.made_by(**settings, under=under, reduce=distributed.sum_over_ranks)


def _batches(config: VlrmConfig, source: Source, policy: Captioner) -> ImageStream:
    data = config.data
    if distributed.rank() == 0:
        _say_if_alike(source, config.batch)
    size, whole = policy.image_size, sees_whole(policy)
    decoding = Decoding(size=size, fit=data.fit, max_pixels=data.max_pixels, whole=whole)
    batching = Batching(
        batch_size=config.batch,
        seed=config.schedule.seed,
        rank=distributed.rank(),
        num_ranks=distributed.num_ranks(),
        workers=data.workers,
        max_broken_fraction=data.max_broken_fraction,
    )
    return ImageStream(source, decoding, batching)


def _collector(config: VlrmConfig, policy: Captioner, device: torch.device) -> CaptionCollector:
    rewards, weights = weighted_rewards(config, policy, device)
    return CaptionCollector(
        judge=combine(rewards, weights),
        sampling=drawing(config),
        prompt=config.draw.prompt,
        per_image=config.draw.per_image,
        chunk=config.draw_batch,
        greedy_baseline=ALGORITHMS[config.algorithm].greedy_baseline,
        keep_features=config.keep_features,
    )


def weighted_rewards(
    config: VlrmConfig, policy: Captioner, device: torch.device
) -> tuple[dict[str, Reward], dict[str, float]]:
    """All rewards of the run, the user's own included, and their weights."""
    own = caption_rewards(config, policy, device)
    how = Loading(dtype=DTYPES[config.dtype], device=device)
    rewards, weights = _load_rewards(config.custom_rewards, taken=vars(config.rewards), how=how)
    if not own and not rewards:
        raise ValueError("every reward weight is 0; give at least one a weight")
    return own | rewards, {name: getattr(config.rewards, name) for name in own} | weights


def caption_rewards(config: VlrmConfig, policy: Captioner, device: torch.device) -> dict[str, Reward]:
    """The rewards of the recipe that have a weight, by name."""
    judge, weights, dtype = config.judge, config.rewards, DTYPES[config.dtype]
    rewards: dict[str, Reward] = {}
    if weights.similarity:
        rewards["similarity"] = similarity_judge(config, policy, device)
    if weights.reference and judge.reference_model:
        rewards["reference"] = LanguageModelFluency.from_pretrained(
            judge.reference_model, dtype=dtype, device=device, include_end=judge.reference_includes_end
        )
    elif weights.reference:
        rewards["reference"] = TokenFluency(
            log_probs=policy.reference_log_probs,
            is_end=policy.is_end,
            include_end=judge.reference_includes_end,
        )
    if weights.retrieval:
        over_ranks = config.contrast_over_ranks(distributed.num_ranks())
        how: dict[str, Any] = {"dtype": dtype, "device": device, "logit_scale": judge.logit_scale}
        how |= {"gather": distributed.gather, "rank": distributed.rank()} if over_ranks else {}
        contrast = over_ranks or judge.contrast
        rewards["retrieval"] = _retrieval(judge.retrieval_clip, contrast=contrast, **how)
    if weights.missing_end:
        rewards["missing_end"] = missing_end
    if weights.bad_phrases:
        extra = EXTRA_PHRASES if judge.extra_phrases else ()
        rewards["bad_phrases"] = BadPhrases(phrases=(*load_phrases(judge.phrases or None), *extra))
    if weights.repeats:
        rewards["repeats"] = Repeats(exempt=EXEMPT_WORDS | frozenset(judge.exempt_words))
    return rewards


def similarity_judge(config: VlrmConfig, policy: Captioner, device: torch.device) -> ItmSimilarity:
    """The image-text matcher, on the captioner's vision tower where the two are equal."""
    judge = ItmSimilarity.from_pretrained(
        config.judge.model,
        dtype=DTYPES[config.dtype],
        device=device,
        max_text_tokens=config.judge.max_text_tokens,
    )
    if config.judge.reuse_tower == "auto" and not missing_members(policy, SharesTower):
        shared: SharesTower = cast("Any", policy)
        how = judge.preparation
        if same_tower(shared.tower, judge.tower) and shared.prepares_like(how.mean, how.std, how.height):
            judge.reuse_tower(shared.tower_key)
    return judge
