"""In which precision each part of a run is kept and computed."""

from __future__ import annotations

from sightloop.recipes.rows.config import RowsConfig
from sightloop.recipes.unirl.config import UniConfig
from sightloop.recipes.vlrm.config import VlrmConfig


def precisions(config: VlrmConfig | RowsConfig | UniConfig) -> dict[str, str]:
    """The precision of each part, by its name."""
    found = {"trained weights, gradients, Adam's moments": "float32"}
    if not isinstance(config, UniConfig):
        found["frozen tower and language model"] = config.dtype
        if isinstance(config, VlrmConfig):
            found |= {"judge: tower": config.dtype, "judge: Q-Former, embeddings, head": "float32"}
        found["log-probabilities, rewards, advantages"] = "float32"
    else:
        whole = config.model.trained == "full"
        if whole:
            found = {"trained weights (the language model), gradients, moments": "float32"}
        found["language model: products" if is_mixed(config) else "language model"] = config.dtype
        if is_mixed(config):
            found["language model: norms, sums of its layers"] = "float32"
            found["matrices of frozen copies of it (reference, grader)"] = config.dtype
        found |= {
            "what stays frozen": config.dtype,
            "MAGVIT-v2": "float32",
            "log-probabilities, rewards, advantages": "float32",
        }
    found["products of float32 matrices on a CUDA device"] = "TF32" if config.tf32 else "float32"
    return found


def is_mixed(config: UniConfig) -> bool:
    """Whether products are computed in half precision from trained weights in float32, by an autocast."""
    return config.model.trained == "full" and config.dtype != "float32"


def precision_lines(config: VlrmConfig | RowsConfig | UniConfig) -> list[str]:
    """The same as a small table."""
    return ["precision", *(f"  {name:<60} {kept:>8}" for name, kept in precisions(config).items())]
