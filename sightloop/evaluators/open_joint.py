"""The evaluation of drawing and answering from its settings: its check, its images, its quizzes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sightloop.data.decode import BrokenImageError, Decoding, decode
from sightloop.evaluators.image_checks import open_check
from sightloop.evaluators.joint import FixedImages, JointEvaluator
from sightloop.evaluators.settings import JointSettings
from sightloop.geneval.folder import sample_files
from sightloop.image_files import read_regular
from sightloop.quizzes.asks import QuizSetup
from sightloop.quizzes.grammar import Quiz, quiz_of_metadata
from sightloop.quizzes.vocabulary import Vocabulary
from sightloop.text_files import form_of, read_json
from sightloop.types import Images
from sightloop.world.boundary import require_world_images, require_world_words
from sightloop.world.held_out_scenes import held_out_scenes, images_of

_FIXED_SIDE = 384
"""Pixels along the side of fixed images; policies bring them to their own size."""


def read_fixed(folder: Path, vocabulary: Vocabulary, size: int = _FIXED_SIDE) -> FixedImages:
    """Images in GenEval's folder that show what their metadata says; each is asked about.

    Raises:
        ValueError: there are none, or metadata or an image cannot be read; it is named.
    """
    files = sorted(folder.glob("[0-9]*/metadata.jsonl"))
    if not files:
        raise ValueError(f"{folder} holds no 00000/metadata.jsonl; give images in GenEval's folder")
    pixels: list[Tensor] = []
    quizzes: list[Quiz] = []
    for file in files:
        with form_of(str(file)):
            quiz = quiz_of_metadata(read_json(file), vocabulary)
        for image in sample_files(file.parent / "samples"):
            try:
                found = decode(read_regular(image), Decoding(size=size, fit="squash"))
                pixels.append(torch.from_numpy(found.copy()).permute(2, 0, 1))
            except (BrokenImageError, OSError) as error:
                raise ValueError(f"{image}: {error}") from error
            quizzes.append(quiz)
    if not pixels:
        raise ValueError(f"{folder} holds metadata and no samples/0000.png; put the images beside it")
    return FixedImages(images=Images(pixels=torch.stack(pixels)), quizzes=quizzes)


def joint_evaluator(
    settings: JointSettings, setup: QuizSetup, *, max_answer: int, device: str, folder: Path | None = None
) -> JointEvaluator | None:
    """The evaluation of both sides; None if there is none, or nothing can judge drawings.

    Raises:
        ValueError: images that cannot be read, or a file or images that nothing would use.
    """
    if not setup.asks:
        return None
    check = open_check(settings.detector, settings.colors, in_world=setup.in_world, device=device)
    if check is None:
        for name in ("quiz_file", "fixed"):
            if given := getattr(settings, name):
                raise ValueError(
                    f"{name} is {given!r}, but nothing judges drawings; name a detector with --detector "
                    "(in training --joint.detector)"
                )
        return None
    if setup.world_model is not None:
        texts = (text for ask in setup.asks for text in (ask.quiz.prompt, ask.quiz.question))
        require_world_words(texts, setup.world_model, option="--model")
    return JointEvaluator(
        asks=setup.asks,
        check=check,
        fixed=_fixed_images(settings, setup),
        folder=folder,
        max_answer=max_answer,
        seed=settings.seed,
        chunk=settings.draw_batch,
    )


def _fixed_images(settings: JointSettings, setup: QuizSetup) -> FixedImages | None:
    """Images that are not the policy's own, with questions whose answers are known."""
    if settings.fixed:
        if setup.world_model is not None:
            folders = Path(settings.fixed).glob("[0-9]*/samples")
            shown = [str(file) for folder in folders for file in sample_files(folder)]
            require_world_images(shown, what="model", option="--model")
        return read_fixed(Path(settings.fixed), setup.vocabulary)
    if not setup.in_world:
        return None
    quizzes = [ask.quiz for ask in setup.asks]
    scenes = held_out_scenes(quizzes, seed=settings.seed)
    return FixedImages(images=images_of(scenes, seed=settings.seed), quizzes=quizzes)
