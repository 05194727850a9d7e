"""The recipes by name: the command line's only look-up. Building a recipe loads the networks, so it comes
last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sightloop.evaluators.settings import HeldOutSettings
from sightloop.recipes.unirl.config import (
    GRPO_JANUS,
    GRPO_SHAPES,
    GRPO_SHAPES_JANUS,
    GRPO_SHOW_O,
    SFT_JANUS,
    SFT_SHAPES,
    SFT_SHAPES_JANUS,
    SFT_SHOW_O,
    GrpoConfig,
    SftConfig,
)
from sightloop.recipes.vlrm.config import (
    PAPER,
    PAPER_RS,
    CriticSettings,
    DrawSettings,
    JudgeSettings,
    RewardWeights,
    VlrmConfig,
)
from sightloop.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A configuration class and its named starting points; the first preset is used when no policy is
    given.
    """

    does: str
    config: type[Any]
    presets: dict[str, Any]
    builder: str
    """Module that holds `build(config, run_folder)`."""
    to_evaluate: str
    """What a run needs to be evaluated."""


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
    draw=DrawSettings(temperature=1.0, max_new_tokens=36),
    held_out=HeldOutSettings(clip="", limit=500, beams=1, no_repeat_ngram=0, min_tokens=1, max_tokens=36),
    schedule=Schedule(
        steps=120,
        micro_batch=256,
        learning_rate=2e-4,
        critic_learning_rate=1e-3,
        warmup_steps=10,
        clip="norm",
        save_every=20,
        eval_every=20,
        sample_every=20,
        best_metric="held_out/recall@1",
    ),
)
"""The paper's algorithm on the embedded world; learning rates and temperature fit its small networks."""

SHAPES_RS = replace(SHAPES, rewards=RewardWeights(reference=0.0, retrieval=0.3))

_TO_EVALUATE_DRAWINGS = (
    "that takes a judge of drawings, --both-sides.detector (a Mask2Former), and --both-sides.per-category "
    "above 0"
)

RECIPES = {
    "vlrm": Recipe(
        does="a captioner learns from what an image-text matcher sees",
        config=VlrmConfig,
        presets={
            "shapes": SHAPES,
            "shapes-rs": SHAPES_RS,
            "paper": PAPER,
            "paper-rs": PAPER_RS,
        },
        builder="sightloop.recipes.vlrm.build",
        to_evaluate="name pictures with --held-out.images, and the CLIP that measures with --held-out.clip",
    ),
    "unirl-grpo": Recipe(
        does="a model that draws and answers reinforces what it sees in its own drawings",
        config=GrpoConfig,
        presets={
            "shapes": GRPO_SHAPES,
            "shapes-janus": GRPO_SHAPES_JANUS,
            "paper": GRPO_SHOW_O,
            "paper-janus": GRPO_JANUS,
        },
        builder="sightloop.recipes.unirl.grpo",
        to_evaluate=_TO_EVALUATE_DRAWINGS,
    ),
    "unirl-sft": Recipe(
        does="the same model learns true answers about its own drawings",
        config=SftConfig,
        presets={
            "shapes": SFT_SHAPES,
            "shapes-janus": SFT_SHAPES_JANUS,
            "paper": SFT_SHOW_O,
            "paper-janus": SFT_JANUS,
        },
        builder="sightloop.recipes.unirl.sft",
        to_evaluate=_TO_EVALUATE_DRAWINGS,
    ),
}
