"""Vision-language models learn from what they see: training, models, evaluations.

    import sightloop

    run = sightloop.train("vlrm", policy="blip2-opt-2.7b/", judge="blip2-itm-vit-g/", images="photos/")
    model = sightloop.load(run)
    model.caption([image])

What is named here is imported when it is first used, so that `import sightloop` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightloop.api import evaluate as evaluate
    from sightloop.api.model import Model as Model
    from sightloop.api.model import load as load
    from sightloop.api.train import train as train
    from sightloop.api.training_run import TrainingRun as TrainingRun
    from sightloop.recipes.rows.config import RowsConfig as RowsConfig
    from sightloop.recipes.unirl.config import GrpoConfig as GrpoConfig
    from sightloop.recipes.unirl.config import SftConfig as SftConfig
    from sightloop.recipes.vlrm.config import VlrmConfig as VlrmConfig
    from sightloop.types import Evaluation as Evaluation
    from sightloop.types import Outcome as Outcome

__version__ = "0.2.0"
_NAMES = {
    "Evaluation": "sightloop.types",
    "GrpoConfig": "sightloop.recipes.unirl.config",
    "Model": "sightloop.api.model",
    "Outcome": "sightloop.types",
    "RowsConfig": "sightloop.recipes.rows.config",
    "SftConfig": "sightloop.recipes.unirl.config",
    "TrainingRun": "sightloop.api.training_run",
    "VlrmConfig": "sightloop.recipes.vlrm.config",
    "evaluate": "sightloop.api",
    "load": "sightloop.api.model",
    "train": "sightloop.api.train",
}
"""Where each public name is. A release that takes one away says so in CHANGELOG.md."""
__all__ = [
    "Evaluation",
    "GrpoConfig",
    "Model",
    "Outcome",
    "RowsConfig",
    "SftConfig",
    "TrainingRun",
    "VlrmConfig",
    "__version__",
    "evaluate",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"sightloop has no {name!r}; it has {', '.join(__all__)}")
    if name == "evaluate":
        return import_module("sightloop.api.evaluate")
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
