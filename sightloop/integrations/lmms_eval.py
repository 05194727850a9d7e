"""Any of our policies as a model of lmms-eval: `lmms_eval --model sightloop --model_args model=FOLDER`.

lmms-eval finds `manifest` by the package's entry point, and `SightloopModel` by its name; both exist only
where lmms-eval is installed. One image a question; several are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from PIL import Image
from tqdm import tqdm

from sightloop.evaluators.open_detector import EMBEDDED
from sightloop.integrations.answerer import Asked, Respondent, settings_from

_PLACEHOLDER = "<image>"
_CLASS = "SightloopModel"


def manifest() -> Any:
    """What lmms-eval's registry of models wants to know."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest(model_id="sightloop", simple_class_path=f"{__name__}.{_CLASS}")


def generated(
    respondent: Respondent,
    requests: Sequence[tuple[str, dict[str, Any], Sequence[Image.Image]]],
    *,
    batch: int = 1,
    max_tokens: int = 64,
) -> list[str]:
    """Answers to requests of context, generation settings and images.

    Raises:
        ValueError: a request without exactly one image, or a setting that our policies do not have.
    """
    found: list[str] = []
    with tqdm(total=len(requests), desc="answers", unit="question", disable=None) as bar:
        for start in range(0, len(requests), batch):
            some = requests[start : start + batch]
            asked = [asked_of(context, images) for context, _, images in some]
            kinds = [settings_from(given, max_tokens=max_tokens) for _, given, _ in some]
            by_row = {}
            for kind in dict.fromkeys(kinds):
                rows = [row for row, own in enumerate(kinds) if own == kind]
                by_row |= zip(rows, respondent.answers([asked[row] for row in rows], kind), strict=True)
            found += [by_row[row] for row in range(len(some))]
            bar.update(len(some))
    return found


def asked_of(context: str, images: Sequence[Any]) -> Asked:
    """A request as a question about its image.

    Raises:
        ValueError: not exactly one image, or something else than an image.
    """
    if len(images) != 1 or not isinstance(images[0], Image.Image):
        kinds = ", ".join(type(each).__name__ for each in images) or "nothing"
        raise ValueError(
            f"{context[:60]!r} comes with {kinds}; our policies answer questions about one image each, so "
            "choose tasks of that kind"
        )
    return Asked(picture=images[0], question=context.replace(_PLACEHOLDER, "").strip())


def flat_images(shown: Any) -> list[Any]:
    """The images of a task's `doc_to_visual`, which may nest them or give none."""
    if shown is None:
        return []
    if isinstance(shown, list | tuple):
        return [image for each in shown for image in flat_images(each)]
    return [shown]


def named(model: str) -> str:
    """The name as `Respondent.from_name` takes it; the embedded world's tiny model has to be asked for."""
    if not model:
        raise ValueError(
            "--model_args names no model; give model=FOLDER, or model=shapes for the embedded world's tiny "
            "one, which knows only colored shapes"
        )
    return "" if model == EMBEDDED else model


def __getattr__(name: str) -> Any:
    if name == _CLASS:
        return _model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _model_class() -> type[Any]:
    """The class, made where lmms-eval is there to inherit from."""
    from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]

    class SightloopModel(lmms):
        """A policy of sightloop behind lmms-eval's interface."""

        is_simple = True

        def __init__(
            self,
            model: str = "",
            *,
            world_model: Any = "show-o",
            fit: Any = "squash",
            max_new_tokens: int = 64,
            batch_size: int | str = 1,
            device: str = "auto",
            **more: Any,
        ) -> None:
            super().__init__()
            if unknown := sorted(set(more) - {"max_batch_size"}):
                raise ValueError(
                    f"--model_args has {unknown[0]!r}; there are: model, world_model, fit, max_new_tokens"
                )
            if not str(batch_size).isdigit() or int(batch_size) < 1:
                raise ValueError(f"batch_size is {batch_size!r}; use a whole number from 1 on")
            self.respondent = Respondent.from_name(
                named(model), world_model=world_model, device=device, fit=fit
            )
            self.batch = int(batch_size)
            self.max_tokens = int(max_new_tokens)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            rows = [
                (context, dict(settings), self._pictures(show, doc, task, split))
                for context, settings, show, doc, task, split in (request.args for request in requests)
            ]
            answers = generated(self.respondent, rows, batch=self.batch, max_tokens=self.max_tokens)
            for row, answer in zip(rows, answers, strict=True):
                self.cache_hook.add_partial("generate_until", row[:2], answer)
            return answers

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            found: list[tuple[float, bool]] = []
            for request in tqdm(requests, desc="likelihoods", unit="text", disable=None):
                context, wanted, show, doc, task, split = request.args
                text = wanted if isinstance(wanted, str) else wanted(self.task_dict[task][split][doc])
                asked = asked_of(context, self._pictures(show, doc, task, split))
                likely = self.respondent.likelihood(asked, text)
                found.append((likely.log_prob, likely.is_greedy))
            return found

        def generate_until_multi_round(self, requests: Iterable[Any]) -> list[str]:
            raise NotImplementedError("our policies answer one question at a time; choose another task")

        def _pictures(self, show: Callable[[Any], Any], doc: Any, task: str, split: str) -> list[Any]:
            return flat_images(show(self.task_dict[task][split][doc]))

    return SightloopModel
