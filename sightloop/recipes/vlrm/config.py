"""Settings of the VLRM recipe; the defaults are the paper's where it states them.

Light to import: the command line reads it before any network is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from sightloop.data.settings import DataSettings
from sightloop.evaluators.settings import HeldOutSettings
from sightloop.late import late
from sightloop.models.families import FAMILIES, CaptionerChoices
from sightloop.ranges import (
    Count,
    CountOrNone,
    Fraction,
    NotNegative,
    Positive,
    Rank,
    Weight,
    Width,
    require_ranges,
)
from sightloop.recipes.choices import Choice
from sightloop.recipes.vlrm.algorithms import ALGORITHMS
from sightloop.recipes.vlrm.choices import CHOICES
from sightloop.training.schedule import CriticSchedule

_captioner_family = late("sightloop.models.named_models:captioner_family")

if TYPE_CHECKING:
    AlgorithmName = str
else:
    AlgorithmName = Literal[tuple(ALGORITHMS)]


@dataclass(frozen=True, kw_only=True)
class RewardWeights:
    """Weight of each reward; 0 leaves it out (Paper: eq. 1, all 1)."""

    similarity: Weight = 1.0
    """Image-text matching logit of the judge."""
    reference: Weight = 1.0
    """Mean log-probability of the text under a language model."""
    retrieval: Weight = 0.0
    """In-batch retrieval term of a second CLIP (Paper: eq. 5, 0.3 in VLRM-RS)."""
    missing_end: Weight = 1.0
    """Weight of the penalty for a caption that was cut off before its end."""
    bad_phrases: Weight = 1.0
    """Weight of the penalty for the paper's bad phrases (its table 6)."""
    repeats: Weight = 1.0
    """Weight of the penalty for words that come again."""


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """What judges a caption."""

    model: Annotated[str, tyro.conf.arg(aliases=("--judge",))] = "Salesforce/blip2-itm-vit-g"
    """BLIP-2 image-text matcher: folder or hub name. The paper does not name the checkpoint; this one saw
    no labels.
    """
    max_text_tokens: Count = 64
    """Judge's text length; LAVIS cuts at 32, which hides the tail of long captions."""
    reuse_tower: Literal["auto", "never"] = "auto"
    """Use the captioner's vision tower when all its tensors are equal."""
    retrieval_clip: str = "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
    """CLIP of the retrieval term; loaded only if the term has a weight."""
    contrast: Count | None = None
    """Captions contrasted in the retrieval term; None = those judged together."""
    logit_scale: Positive = 1.0
    """Multiplies the cosines of eq. 5, which prints none."""
    reference_model: str = ""
    """Another language model for the reference term; empty = the captioner's own frozen one."""
    reference_includes_end: bool = False
    """Whether the reference's likelihood counts the end token, too."""
    phrases: str = ""
    """File of bad phrases, one a line; empty = the paper's 212."""
    extra_phrases: bool = False
    """Add the phrases that the paper's text names and its table lacks."""
    exempt_words: tuple[str, ...] = ()
    """Words that may repeat, besides articles, prepositions and colors."""


@dataclass(frozen=True, kw_only=True)
class CriticSettings:
    """Value head and its adapters (A2C only)."""

    widths: tuple[Width, ...] = (2, 4, 8)
    """Hidden widths in hidden sizes; none = the linear head that the paper reports to collapse."""
    lora_rank: Rank = 4
    """Rank of the low-rank adapters."""
    lora_alpha: Positive | None = None
    """None = twice the rank."""
    position: Literal["pre", "post"] = "pre"
    """Read the state that predicts a token (unbiased baseline) or the one that has read it."""
    value_weight: Positive = 1.0
    """Weight of the critic's loss."""


@dataclass(frozen=True, kw_only=True)
class CaptionSampling:
    """How captions are drawn in training (Paper: section 3.6)."""

    temperature: NotNegative = 2.0
    """Temperature of sampling; 1 = the model's own distribution."""
    top_k: CountOrNone = 6
    """Tokens are drawn among the k likeliest; none = among all."""
    max_tokens: Count = 60
    """Longest caption in tokens, its end included."""
    prompt: str = ""
    """Text that captions continue; empty = the model's own."""
    per_image: Count = 1
    """Captions an image; more than 1 suits `--algorithm group`."""


@dataclass(frozen=True, kw_only=True)
class VlrmConfig:
    """Train a captioner on what a judge sees (VLRM, arXiv 2404.01911)."""

    policy: Annotated[str, tyro.conf.arg(name="model")] = "Salesforce/blip2-opt-2.7b"
    """Any captioner of docs/families.md: folder or hub name; empty = the embedded world's."""
    algorithm: AlgorithmName = "a2c"
    """Learned critic (the paper); self-critical training as published (arXiv 1612.00563); the greedy caption
    as baseline of the paper's objective; or the mean of an image's captions as its baseline.
    """
    objective: Literal["probability", "log_probability"] | None = None
    """What is pushed: p (Paper: eq. 4 as printed) or log p; None = p, and log p for scst."""
    score_under: Literal["model", "sampling"] = "model"
    """Whose probability: the model's at temperature 1, or the distribution that drew the captions."""
    gamma: Fraction = 1.0
    """Discount of later rewards in a token's return; 1 = none (Paper: 1)."""
    average_over: Literal["caption", "token"] | None = None
    """Every caption or every token weighs the same in the loss; None = captions, and tokens for scst."""
    batch: Count = 4096
    """Images a step, over all ranks."""
    draw_batch: Count | None = 256
    """Captions drawn and judged at once on a rank; None = all."""
    keep_features: bool = True
    """Keep the frozen tower's features through the step; False computes them anew in each pass."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Frozen weights; trainable ones are always float32."""
    tf32: bool = True
    """Products of float32 matrices in TF32 on a CUDA device: about three digits, several times as fast."""
    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass: less memory, about a third more time."""
    shard: bool = False
    """Spread the frozen weights over the ranks (fully_shard) instead of a copy on each."""
    track: tuple[Literal["wandb", "tensorboard", "trackio"], ...] = ()
    """Trackers that receive the metrics beside the run folder."""
    rewards: RewardWeights = field(default_factory=RewardWeights)
    custom_rewards: tuple[str, ...] = ()
    """More rewards with their weights: module:function=0.5, file.py:function=2, or a name of docs/rewards.md
    (length=0.01, clip:FOLDER=1).
    """
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    critic: CriticSettings = field(default_factory=CriticSettings)
    captioner: CaptionerChoices = field(default_factory=CaptionerChoices)
    draw: CaptionSampling = field(default_factory=CaptionSampling)
    data: DataSettings = field(default_factory=DataSettings)
    held_out: HeldOutSettings = field(default_factory=HeldOutSettings)
    schedule: Annotated[CriticSchedule, tyro.conf.arg(name="")] = field(default_factory=CriticSchedule)
    choices: ClassVar[tuple[Choice, ...]] = CHOICES

    def __post_init__(self) -> None:
        require_ranges(self)
        if self.batch < 2:
            raise ValueError(
                f"batch is {self.batch}; the advantages are standardized over it, use at least 2"
            )
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm is {self.algorithm!r}; there are: {', '.join(ALGORITHMS)}")
        row = ALGORITHMS[self.algorithm]
        if "objective" not in row.takes and (self.objective, self.average_over) != (None, None):
            others = " or ".join(name for name, other in ALGORITHMS.items() if "objective" in other.takes)
            raise ValueError(
                f"algorithm {self.algorithm!r} has its own objective and average_over; objective is "
                f"{self.objective!r}, average_over is {self.average_over!r}: leave both out, or use {others}"
            )
        if row.compares_captions and self.draw.per_image < 2:
            raise ValueError(
                f"algorithm {self.algorithm!r} compares captions of one image, draw.per_image is "
                f"{self.draw.per_image}; use at least 2"
            )
        if not row.compares_captions and self.rewards.retrieval and self.judge.contrast == 1:
            raise ValueError("judge.contrast is 1; the retrieval term needs at least 2 captions to contrast")

    def require_ranks(self, num_ranks: int) -> None:
        """Look at what a rank is given, as the first step would find it.

        Raises:
            ValueError: the batch cannot be split, or captions judged together are too few for the retrieval
                term, not a multiple of `judge.contrast`, or in one part fewer than in the others.
        """
        if self.batch % num_ranks:
            raise ValueError(f"batch is {self.batch}, for {num_ranks} ranks; use a multiple of that number")
        if not self.rewards.retrieval:
            return
        images, each = self.batch // num_ranks, self.draw.per_image
        whole = min(self._judged_together, images)
        over_ranks = self.contrast_over_ranks(num_ranks)
        parts = (whole, images % whole or whole) if over_ranks is None else (self.batch,)
        for number in parts:
            # The term depends on how many are contrasted, so all captions of a batch have as many.
            contrast = over_ranks or self.judge.contrast or whole * each
            if contrast < 2 or number * each % contrast:
                raise ValueError(
                    f"the retrieval term would contrast {number * each} of the captions that are judged "
                    f"together (batch {self.batch}, ranks {num_ranks}, draw.per_image {each}, draw_batch "
                    f"{self.draw_batch}, judge.contrast {self.judge.contrast}); let all parts hold equally "
                    "many and at least 2 (a draw_batch that divides a rank's captions), or a multiple of "
                    "judge.contrast"
                )

    def contrast_over_ranks(self, num_ranks: int) -> int | None:
        """How many captions the retrieval term contrasts where each rank has fewer; None = each has enough.

        Only where a rank judges all of its captions at once; the ranks then judge at the same time.
        """
        images, each = self.batch // num_ranks, self.draw.per_image
        wanted = self.judge.contrast or min(self._judged_together, self.batch) * each
        return wanted if wanted > images * each and self._judged_together >= images else None

    @property
    def _judged_together(self) -> int:
        """Images whose captions one rank judges together, if it has so many."""
        return self.batch if self.draw_batch is None else max(1, self.draw_batch // self.draw.per_image)


def settled(config: VlrmConfig) -> VlrmConfig:
    """The same with the learning rate of what its captioner trains, where none is given.

    Raises:
        ValueError: the captioner does not exist.
    """
    if config.schedule.learning_rate is not None:
        return config
    # The embedded world's captioner is a BLIP-2.
    row: Any = _captioner_family(config.policy) if config.policy else FAMILIES["blip-2"]
    return replace(config, schedule=replace(config.schedule, learning_rate=row.learning_rate))


PAPER = VlrmConfig()
"""VLRM as the paper has it."""
PAPER_RS = replace(PAPER, rewards=RewardWeights(reference=0.0, retrieval=0.3))
"""VLRM-RS: no reference term, the retrieval term instead."""
SHAPES = replace(
    PAPER,
    policy="",
    batch=256,
    draw_batch=None,
    dtype="float32",
    judge=JudgeSettings(
        model="",
        retrieval_clip="",
        exempt_words=("small", "large", "circle", "square", "triangle", "cross"),
    ),
    # Two hidden layers, not three: the trunk is 96 wide.
    critic=CriticSettings(widths=(2, 4)),
    # Temperature 2 spoils a vocabulary of 32 words.
    draw=CaptionSampling(temperature=1.0, max_tokens=36),
    held_out=HeldOutSettings(clip="", limit=500, beams=1, no_repeat_ngram=0, min_tokens=1, max_tokens=36),
    schedule=CriticSchedule(
        steps=120,
        micro_batch=256,
        learning_rate=2e-4,
        critic_learning_rate=1e-3,
        warmup_steps=10,
        gradient_clip="norm",
        save_every=20,
        eval_every=20,
        sample_every=20,
        best_metric="held_out/recall@1",
    ),
)
"""The paper's algorithm on the embedded world; learning rates and temperature fit its small networks."""

SHAPES_RS = replace(SHAPES, rewards=RewardWeights(reference=0.0, retrieval=0.3))
VLRM_PRESETS = {"shapes": SHAPES, "shapes-rs": SHAPES_RS, "paper": PAPER, "paper-rs": PAPER_RS}
