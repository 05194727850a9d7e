"""Settings of the recipe `grpo`.

Light to import: the command line reads it before any network is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from sightloop.algorithms.methods import METHODS, require_method
from sightloop.data.settings import RowSettings
from sightloop.evaluators.settings import HeldOutRowSettings
from sightloop.models.families import CaptionerChoices
from sightloop.ranges import Count, NotNegative, Positive, Rate, require_ranges
from sightloop.recipes.choices import Choice
from sightloop.recipes.rows.choices import CHOICES
from sightloop.training.schedule import Schedule

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]


@dataclass(frozen=True, kw_only=True)
class AnswerSampling:
    """How answers are drawn in training, which is also the distribution that is trained."""

    temperature: Positive = 1.0
    """Temperature of sampling; 1 = the model's own distribution."""
    top_k: Count | None = None
    """Tokens are drawn among the k likeliest; none = among all."""
    max_tokens: Count = 256
    """Longest answer in tokens, its end included."""


@dataclass(frozen=True, kw_only=True)
class RowSchedule(Schedule):
    """The same where the model decides on the rate."""

    steps: Count = 500
    """Optimizer steps."""
    micro_batch: Count = 8
    """Samples a backward pass; any size gives the same gradient."""
    learning_rate: Rate | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """The optimizer's rate after the warm-up; None = 1e-4 for adapters, 1e-5 for a Q-Former."""
    gradient_clip: Literal["value", "norm", "none"] = "norm"
    """Clamp every gradient element, or scale the gradient of each trainable part."""
    best_metric: str | None = "held_out/reward"
    """The checkpoint that is best by this metric is kept besides the newest ones."""

    def learning_rate_of(self, part: str) -> float:
        """The highest rate of a trainable part."""
        del part
        assert self.learning_rate is not None, "a run settles its rate before it starts"
        return self.learning_rate


@dataclass(frozen=True, kw_only=True)
class RowsConfig:
    """Train a model on rows of images and prompts with rewards of any kind, by GRPO or a relative."""

    policy: Annotated[str, tyro.conf.arg(name="model")] = ""
    """Any captioner of docs/families.md: folder or hub name; empty = the embedded world's Janus."""
    algorithm: MethodName = "grpo"
    """The method by name; advantages, `updates`, `kl_weight` and clips below stay yours."""
    advantages: Literal["standardized", "centered", "leave-one-out"] | None = None
    """Rewards minus the group's mean and divided by its deviation, not divided, or minus the mean of the
    others; None = the method's."""
    kl_weight: NotNegative | None = None
    """Of the divergence from the model before training; None = 0.04, and 0 for methods without one."""
    clip_low: Rate | None = None
    """How far below 1 the ratio to the old policy may fall before it is clipped; None = the method's."""
    clip_high: Positive | None = None
    """The same above 1."""
    updates: Count = 1
    """Updates from one rollout; more than 1 needs a method with an old policy."""
    drop_zero_variance_groups: bool | None = None
    """Leave out rows whose answers all earned the same; None = the method's (DAPO: yes)."""
    batch: Count = 16
    """Rows a step, over all ranks."""
    group: Count = 8
    """Answers a row."""
    draw_batch: Count | None = None
    """Answers drawn and judged at once on a rank; None = all."""
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
    track: tuple[Literal["wandb", "tensorboard", "trackio"], ...] = ()
    """Trackers that receive the metrics beside the run folder."""
    custom_rewards: tuple[str, ...] = ("exact",)
    """Rewards with their weights: module:function=0.5, file.py:function=2, or a name of docs/rewards.md
    (clip:FOLDER=1).
    """
    captioner: CaptionerChoices = field(default_factory=CaptionerChoices)
    draw: AnswerSampling = field(default_factory=AnswerSampling)
    data: RowSettings = field(default_factory=RowSettings)
    held_out: HeldOutRowSettings = field(default_factory=HeldOutRowSettings)
    schedule: Annotated[RowSchedule, tyro.conf.arg(name="")] = field(default_factory=RowSchedule)
    choices: ClassVar[tuple[Choice, ...]] = CHOICES

    def __post_init__(self) -> None:
        require_ranges(self)
        if self.group < 2:
            raise ValueError(f"group is {self.group}; the answers of a row are compared, use at least 2")
        require_method(self.algorithm, updates=self.updates)
        if not self.custom_rewards:
            raise ValueError("custom_rewards is empty; name at least one reward")


DEFAULT = RowsConfig()
"""For models of one's own."""
SHAPES = replace(
    DEFAULT,
    batch=32,
    dtype="float32",
    kl_weight=0.0,
    draw=AnswerSampling(max_tokens=12),
    held_out=HeldOutRowSettings(limit=256),
    schedule=RowSchedule(
        steps=100,
        micro_batch=256,
        learning_rate=1e-3,
        warmup_steps=5,
        save_every=25,
        eval_every=25,
        sample_every=25,
    ),
)
"""The embedded world's Janus on questions about its scenes; the learning rate fits its size."""
ROWS_PRESETS = {"shapes": SHAPES, "default": DEFAULT}
