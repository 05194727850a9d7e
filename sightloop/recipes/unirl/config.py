"""Settings of the UniRL recipes, light to import; the defaults are the paper's where it states them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from sightloop.algorithms.methods import METHODS, require_method
from sightloop.evaluators.settings import PER_PROMPT, JointSettings
from sightloop.models.families import WorldModel
from sightloop.models.prompt_strings import PromptOptions
from sightloop.ranges import Count, Fraction, NotNegative, Positive, Rank, Rate, Weight, require_ranges
from sightloop.recipes.choices import Choice
from sightloop.recipes.unirl.choices import GRPO_CHOICES, SFT_CHOICES
from sightloop.recipes.unirl.scoring_settings import LikelihoodSettings, RelaxationSettings
from sightloop.training.schedule import Schedule

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """Parts of the policy, and what of it learns."""

    magvit: Annotated[str, tyro.conf.arg(aliases=("--magvit",))] = ""
    """MAGVIT-v2 (folder or hub name), for the authors' Show-o."""
    tokenizer: Annotated[str, tyro.conf.arg(aliases=("--tokenizer",))] = ""
    """Tokenizer (folder or hub name), where the policy's folder has none."""
    tower: Annotated[str, tyro.conf.arg(aliases=("--tower",))] = ""
    """CLIP (folder or hub name) whose features the w-clip-vit Show-o reads."""
    prompts: Annotated[PromptOptions, tyro.conf.arg(prefix_name=False)] = field(default_factory=PromptOptions)
    trained: Literal["lora", "full"] = "full"
    """Adapters over the language model, or its weights."""
    lora_rank: Rank = 16
    """Rank of the low-rank adapters."""
    lora_alpha: Positive | None = None
    """None = twice the rank."""


@dataclass(frozen=True, kw_only=True)
class QuizSettings:
    """What is drawn and asked; weights of the six categories are relative, 0 leaves one out."""

    file: Annotated[str, tyro.conf.arg(aliases=("--quiz-file",))] = ""
    """JSON lines with tag, prompt, question, answer, include; empty = quizzes made by the grammar."""
    vocabulary: Literal["auto", "real", "shapes"] = "auto"
    """Words of the quizzes; auto = the embedded world's for its own models, else the real ones."""
    excluded: str = ""
    """File of further prompts that never come, also if put in other words."""
    geneval_prompts: Literal["leave-out", "allow"] = "leave-out"
    """GenEval's 553 test prompts among quizzes with real words; leave-out = in no wording do they come."""
    single_object: NotNegative = 1.0
    """Share of quizzes about one object, relative to the others."""
    two_object: NotNegative = 1.0
    """Share of quizzes about two objects."""
    counting: NotNegative = 1.0
    """Share of quizzes about a number of objects."""
    colors: NotNegative = 1.0
    """Share of quizzes about a color."""
    position: NotNegative = 1.0
    """Share of quizzes about where two objects are."""
    color_attr: NotNegative = 1.0
    """Share of quizzes about the colors of two objects."""


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """How images are drawn in training; None = as the model's authors draw."""

    guidance: NotNegative | None = None
    """Classifier-free guidance; 0 = none. Scales differ between families."""
    steps: Annotated[Count | None, tyro.conf.arg(name="rounds")] = None
    """Rounds of a masked decoder."""
    temperature: NotNegative = 1.0
    """Temperature of sampling; 1 = the model's own distribution."""


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """How questions about the drawings are answered, and by whom."""

    answerer: Literal["self", "frozen", "average"] = "self"
    """The policy itself (the paper), the policy before training, or a moving average of it."""
    decay: Fraction = 0.99
    """Of the moving average."""
    temperature: NotNegative = 1.0
    """Temperature of sampling; 1 = the model's own distribution."""
    max_tokens: Count = 32
    """Longest text in tokens."""
    input: Literal["codes", "reencoded"] = "codes"
    """What questions about a drawing read: the codes that were drawn, or the image encoded anew, as others
    see it. A policy with a vision tower sees the image anyway; relaxed codes keep their gradient."""


@dataclass(frozen=True, kw_only=True)
class QuizRewards:
    """Weight of each reward; 0 leaves it out."""

    points: Weight = 1.0
    """One point a fact that the answer tells (the paper's figure: 0, 1, 2)."""
    share: Weight = 0.0
    """Share of the facts told: every category has the same range."""
    all_facts: Weight = 0.0
    """1 for an answer that tells every fact."""
    negative_questions: Weight = 0.0
    """1 if the question about something absent is denied; asks one more question a drawing."""
    object_identification: Weight = 0.0
    """1 if the thing whose color was asked for is named too; asks one more question about such drawings."""
    text_judge: Weight = 0.0
    """A language model's opinion of the answer (`judge.text_model`)."""
    detector: Weight = 0.0
    """Share of the prompt that a detector finds in the drawing (`judge.detector`); asks nobody."""


@dataclass(frozen=True, kw_only=True)
class QuizJudge:
    """What judges answers and drawings besides the facts."""

    subtract_blind_baseline: bool = False
    """Take off what the answer about a blank image would earn."""
    scale: Literal["raw", "group"] = "raw"
    """Standardize each reward within its group before weighting."""
    text_model: str = ""
    """Language model (folder or hub name) that is asked whether an answer fits the true one."""
    detector: str = ""
    """Mask2Former (folder or hub name) or module:function; empty in the embedded world = its checker."""
    colors: str = ""
    """CLIP that names the colors of what the detector found."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What drawing and answering weigh, and how their gradients meet."""

    drawing: NotNegative | None = None
    """None = 1; but 0 in supervised training end to end, where the answer's loss trains the drawings."""
    answering: NotNegative = 1.0
    """Weight of the answers' loss."""
    balance: bool = False
    """Scale the two gradients to the same norm before they are added, whatever the sides weigh."""
    per_turn_every: Count = 10
    """Steps between measurements of both gradient norms and their cosine; costs one more backward pass."""


@dataclass(frozen=True, kw_only=True)
class UniConfig:
    """What both UniRL recipes share."""

    policy: Annotated[str, tyro.conf.arg(name="model")] = ""
    """Folder or hub name of a Show-o or Janus; empty = the embedded world's."""
    world_model: WorldModel = "show-o"
    """Which of the embedded world's models, if no policy is named."""
    batch: Count = 8
    """Prompts a step, over all ranks (the paper: one a GPU on eight)."""
    group: Count = 3
    """Drawings a prompt."""
    draw_batch: Count | None = None
    """Images drawn and asked about at once on a rank; None = all."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Frozen weights, and products of a language model that is trained as a whole; trained weights are always
    float32."""
    tf32: bool = True
    """Products of float32 matrices in TF32 on a CUDA device: about three digits, several times as fast."""
    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass: less memory, about a third more time."""
    track: tuple[Literal["wandb", "tensorboard", "trackio"], ...] = ()
    """Trackers that receive the metrics beside the run folder."""
    model: PolicySettings = field(default_factory=PolicySettings)
    quizzes: QuizSettings = field(default_factory=QuizSettings)
    draw: DrawSettings = field(default_factory=DrawSettings)
    answer: AnswerSettings = field(default_factory=AnswerSettings)
    rewards: QuizRewards = field(default_factory=QuizRewards)
    custom_rewards: tuple[str, ...] = ()
    """More rewards with their weights: module:function=0.5, file.py:function=2, or a name of docs/rewards.md
    (clip:FOLDER=1)."""
    judge: QuizJudge = field(default_factory=QuizJudge)
    objectives: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    joint: JointSettings = field(default_factory=JointSettings)
    schedule: Annotated[Schedule, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Schedule(
            steps=3000,
            warmup_steps=0,
            gradient_clip="norm",
            save_every=100,
            eval_every=100,
            sample_every=100,
            best_metric="joint/drawn",
        )
    )

    def __post_init__(self) -> None:
        require_ranges(self)
        if self.answer.max_tokens < 2:
            raise ValueError(
                f"answer.max_tokens is {self.answer.max_tokens}; an answer has a word and an end"
            )
        number = self.joint.per_category
        if number and number < PER_PROMPT:
            raise ValueError(
                f"joint.per_category is {number}; a prompt is drawn {PER_PROMPT} times: use at least "
                f"{PER_PROMPT}, or 0 for no evaluation"
            )
        if self.objectives.balance and not self.drawing_weight == self.objectives.answering > 0:
            raise ValueError(
                f"objectives.balance gives both sides the same norm, but drawing weighs {self.drawing_weight}"
                f" and answering {self.objectives.answering}; use equal weights above 0, or none"
            )

    @property
    def drawing_weight(self) -> float:
        """The weight of the drawing side."""
        return 1.0 if self.objectives.drawing is None else self.objectives.drawing


@dataclass(frozen=True, kw_only=True)
class GrpoConfig(UniConfig):
    """Draw, ask yourself about the drawing, reinforce what was answered right (UniRL, arXiv 2505.23380)."""

    algorithm: MethodName = "unirl"
    """UniRL's objective, or a relative by name; `updates`, `kl_weight` and clips below stay yours."""
    advantages: Literal["standardized", "centered", "leave-one-out"] | None = None
    """Rewards minus the group's mean and divided by its deviation, not divided, or minus the mean of the
    others; None = the method's (UniRL: standardized)."""
    kl_weight: NotNegative | None = None
    """Of the divergence from the policy before training; None = the method's (UniRL: 0.2)."""
    clip_low: Rate | None = None
    """How far below 1 the ratio to the old policy may fall before it is clipped."""
    clip_high: Positive | None = None
    """Bounds of the ratio around 1; None = the method's (UniRL: none, its ratio is 1)."""
    updates: Count = 1
    """Updates from one rollout; more than 1 needs a method with an old policy."""
    drop_zero_variance_groups: bool | None = None
    """Leave out prompts whose drawings all earned the same; None = the method's (UniRL: no, DAPO: yes)."""
    likelihood: LikelihoodSettings = field(default_factory=LikelihoodSettings)
    choices: ClassVar[tuple[Choice, ...]] = GRPO_CHOICES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 2:
            raise ValueError(f"group is {self.group}; GRPO compares the drawings of a prompt, use at least 2")
        require_method(self.algorithm, updates=self.updates)
        if self.answer.answerer != "self" and self.objectives.answering > 0:
            raise ValueError(
                f"answer.answerer is {self.answer.answerer!r}: its answers are not the policy's own, so they "
                "cannot be reinforced; use --objectives.answering 0"
            )


@dataclass(frozen=True, kw_only=True)
class SftConfig(UniConfig):
    """Draw, and learn the prompt's true answer about the drawing (UniRL's SFT, arXiv 2505.23380)."""

    end_to_end: bool = True
    """The answer's loss reaches the drawing side through relaxed codes; False trains on own drawings."""
    filter: Literal["none", "answer_correct", "best_of_group"] = "none"
    """Which drawings are learned from: all (the paper), those answered right, or the best of each group."""
    kl_weight: NotNegative = 0.0
    """Of the divergence from the policy before training, on both sides; 0 = none (the paper names none)."""
    relaxation: RelaxationSettings = field(default_factory=RelaxationSettings)
    likelihood: LikelihoodSettings = field(default_factory=LikelihoodSettings)
    choices: ClassVar[tuple[Choice, ...]] = SFT_CHOICES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.filter == "best_of_group" and self.group < 2:
            raise ValueError(f"filter is 'best_of_group' and group is {self.group}; use at least 2")
        self.relaxation.require_sense()

    @property
    def drawing_weight(self) -> float:
        """The weight of the drawing side: of the likelihood of the model's own drawings."""
        if self.objectives.drawing is None:
            return 0.0 if self.end_to_end else 1.0
        return self.objectives.drawing


_BASE = UniConfig().schedule
GRPO_SHOW_O = GrpoConfig(schedule=replace(_BASE, micro_batch=3))
"""Show-o at 512 pixels, 8 GPUs with a group of 3 each."""
GRPO_JANUS = GrpoConfig(
    world_model="janus",
    group=8,
    likelihood=LikelihoodSettings(unmasking="trajectory"),
    kl_weight=0.04,
    schedule=replace(_BASE, micro_batch=8),
)
"""Janus, 8 GPUs with a group of 8 each; its divergence weight is not known."""
SFT_SHOW_O = SftConfig(schedule=replace(_BASE, micro_batch=24))
SFT_JANUS = SftConfig(
    world_model="janus",
    group=8,
    likelihood=LikelihoodSettings(unmasking="trajectory"),
    schedule=replace(_BASE, micro_batch=64),
)
_SHAPES_SCHEDULE = Schedule(
    steps=100,
    micro_batch=72,
    learning_rate=2e-4,
    warmup_steps=5,
    gradient_clip="norm",
    save_every=25,
    eval_every=50,
    sample_every=25,
    best_metric="joint/drawn",
)
_SHAPES_ANSWERS = AnswerSettings(max_tokens=12, temperature=0.5)
_SHAPES_REWARDS = QuizRewards(points=0.0, all_facts=1.0)
GRPO_SHAPES_JANUS = GrpoConfig(
    world_model="janus",
    batch=9,
    group=8,
    dtype="float32",
    answer=_SHAPES_ANSWERS,
    rewards=_SHAPES_REWARDS,
    # A deviation would blow up groups in which one answer alone was a slip.
    advantages="centered",
    objectives=ObjectiveSettings(answering=0.3),
    likelihood=LikelihoodSettings(unmasking="trajectory", guided=True),
    kl_weight=0.0,
    schedule=_SHAPES_SCHEDULE,
)
"""The tiny Janus, scored exactly as it drew; learning rate and groups fit its size."""
GRPO_SHAPES = replace(
    GRPO_SHAPES_JANUS,
    world_model="show-o",
    batch=12,
    quizzes=QuizSettings(single_object=0.5, counting=1.5),
    # The usual guidance hides from a group what else could have been drawn.
    draw=DrawSettings(guidance=1.0),
    # Otherwise it learns codes that only it can read.
    answer=replace(_SHAPES_ANSWERS, input="reencoded"),
    rewards=replace(_SHAPES_REWARDS, object_identification=0.5),
    likelihood=LikelihoodSettings(unmasking="subsampled", number=4, guided=True),
    kl_weight=0.05,
    model=PolicySettings(trained="lora"),
    schedule=replace(_SHAPES_SCHEDULE, micro_batch=96, learning_rate=2e-3, decay="linear"),
)
"""The tiny Show-o; of the rounds, which are many, a quarter is scored."""
SFT_SHAPES_JANUS = SftConfig(
    world_model="janus",
    batch=9,
    group=8,
    dtype="float32",
    answer=_SHAPES_ANSWERS,
    rewards=_SHAPES_REWARDS,
    likelihood=LikelihoodSettings(unmasking="trajectory"),
    schedule=_SHAPES_SCHEDULE,
)
SFT_SHAPES = replace(
    SFT_SHAPES_JANUS,
    world_model="show-o",
    batch=GRPO_SHAPES.batch,
    quizzes=GRPO_SHAPES.quizzes,
    draw=GRPO_SHAPES.draw,
    answer=GRPO_SHAPES.answer,
    rewards=GRPO_SHAPES.rewards,
    likelihood=LikelihoodSettings(),
    model=GRPO_SHAPES.model,
    # A tenth of GRPO's: every weight of this loss is positive, and at half of GRPO's both sides get worse.
    schedule=replace(GRPO_SHAPES.schedule, learning_rate=2e-4),
)
GRPO_PRESETS = {
    "shapes": GRPO_SHAPES,
    "shapes-janus": GRPO_SHAPES_JANUS,
    "paper": GRPO_SHOW_O,
    "paper-janus": GRPO_JANUS,
}
SFT_PRESETS = {
    "shapes": SFT_SHAPES,
    "shapes-janus": SFT_SHAPES_JANUS,
    "paper": SFT_SHOW_O,
    "paper-janus": SFT_JANUS,
}


def folder_of(name: str) -> Path | None:
    """A folder that may be left out."""
    return Path(name) if name else None
