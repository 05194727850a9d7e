"""`sightloop.evaluate`: the measures of captions, of a model or of texts that are there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sightloop.api.model import Model, caption_images, load, writing_of
from sightloop.data.decode import Decoding
from sightloop.data.given import source_of
from sightloop.data.images import ImageSet
from sightloop.data.sources import open_source
from sightloop.evaluation.captions import caption_measures
from sightloop.evaluation.ranking import Ties
from sightloop.evaluation.retrieval import clip_recall as recall_of_captions
from sightloop.models.clip import ClipEncoder
from sightloop.models.named_models import model_config
from sightloop.models.protocols import sees_whole
from sightloop.recipes.inputs import settings_of_run
from sightloop.recipes.vlrm.config import VlrmConfig
from sightloop.rewards.phrases import contains_bad_phrase
from sightloop.training import distributed
from sightloop.training.run_files import is_run
from sightloop.types import Evaluation


def clip_recall(
    model: Model | str | os.PathLike[str] | Sequence[str],
    images: Any,
    *,
    clip: str = "",
    ties: Ties = "optimistic",
    device: str = "auto",
    **how: Any,
) -> Evaluation:
    """How well captions find their own images among all others: CLIP Recall, both directions, MRR.

    `model` writes the captions (a `Model`, a run, or whatever `load` takes), or is a list of them, one an
    image. `clip` is the CLIP that measures, by default that of the run. `how` is as for `Model.caption`.

    Raises:
        ValueError: no CLIP is named, images cannot be read, or captions and images do not fit together.
    """
    named = clip or _clip_of(model)
    model_config(named)
    encoder = ClipEncoder.from_pretrained(named, device=distributed.device(device))
    source = open_source(str(images)) if isinstance(images, str | Path) else source_of(images)
    seen = ImageSet(source, Decoding(size=encoder.size, fit="crop"))
    pixels = torch.cat([batch.images.pixels for batch in seen])
    if not isinstance(model, Model | str | os.PathLike):
        if how:
            raise ValueError(f"{next(iter(how))} has no effect on captions that are there; leave it out")
        return recall_of_captions(encoder, encoder.see(pixels), list(model), ties=ties)
    opened = model if isinstance(model, Model) else load(model, device=device)
    writing = writing_of(opened.name, how)
    decoding = Decoding(size=opened.captioner.image_size, fit=writing.fit, whole=sees_whole(opened.captioner))
    pairs = list(caption_images(opened.captioner, ImageSet(source, decoding), writing))
    sources, captions = [name for name, _ in pairs], [text for _, text in pairs]
    measured = recall_of_captions(encoder, encoder.see(pixels), captions, sources=sources, ties=ties)
    return writing.recall(opened.captioner, measured)


def captions(written: Sequence[str], *, references: Sequence[Sequence[str]] | None = None) -> Evaluation:
    """Length, variety, repeats, colors, bad phrases of captions; with references also CIDEr-D, ROUGE-L, BLEU.

    Raises:
        ValueError: no captions, or not one list of references a caption.
    """
    wanted = None if references is None else [list(texts) for texts in references]
    return caption_measures(list(written), references=wanted, flag=contains_bad_phrase)


def _clip_of(model: Any) -> str:
    """The CLIP that measures a model's run.

    Raises:
        ValueError: it is of no run, or the run names none.
    """
    named = model.name if isinstance(model, Model) else model
    name = os.fspath(named) if isinstance(named, str | os.PathLike) else ""
    config = settings_of_run(Path(name))[1] if name and is_run(name) else None
    if not isinstance(config, VlrmConfig) or not config.held_out.clip:
        raise ValueError("no CLIP is named; name the one that measures: clip='FOLDER or hub name'")
    return config.held_out.clip
