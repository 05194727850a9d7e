"""`sightloop.load`: a trained or published model that captions, answers and generates."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from sightloop.data.decode import Decoding, upright
from sightloop.data.encoded import EncodedImage
from sightloop.data.given import is_one_image, source_of
from sightloop.data.images import ImageBatch, ImageSet, UnreadableImageError
from sightloop.data.sources import open_source
from sightloop.evaluators.held_out_captions import Writing
from sightloop.evaluators.joint import most_likely_answers
from sightloop.image_files import BrokenImageError, upright_rgb
from sightloop.integrations.answerer import AnswererSettings, Asked, Respondent
from sightloop.models.families import Parts, WorldModel, draws
from sightloop.models.open import local_folder
from sightloop.models.precision import DTYPES
from sightloop.models.protocols import Captioner, ImageGenerator, missing_members, sees_whole
from sightloop.process.long_work import at_work
from sightloop.recipes.inputs import settings_of_run
from sightloop.recipes.unirl.config import UniConfig
from sightloop.recipes.vlrm.config import PAPER, SHAPES
from sightloop.rollouts.seeds import image_seed
from sightloop.runs.restore import (
    Precision,
    before_training,
    open_captioner,
    open_generator,
    read_config,
    restore,
)
from sightloop.training import distributed
from sightloop.training.run_files import is_run
from sightloop.types import Images, Prompt, Sampling

GREEDY = "write greedily: beams 1, no_repeat_ngram 0, min_tokens 1"
_BATCH, _QUESTIONS = 4, 16
"""Images that are drawn, and questions that are answered, at once."""


def load(
    source: str | os.PathLike[str],
    *,
    step: str = "best",
    device: str = "auto",
    dtype: Precision | None = None,
    parts: Parts | None = None,
    world_model: WorldModel = "show-o",
) -> Model:
    """The model of a run, of a folder (also one that `export` wrote), or of a hub name.

    `step` of a run is "best", "last", a number, or "start" for the model before training. `dtype` is that of
    frozen weights; None = as in training, else float32. `parts` are what a Show-o's folder lacks. An empty
    `source` is the embedded world's `world_model`, which draws.

    Raises:
        ValueError: there is no such model, or it can neither caption nor draw.
    """
    if dtype is not None and not (isinstance(dtype, str) and dtype in DTYPES):
        raise ValueError(f"dtype is {dtype!r}; there are: {', '.join(DTYPES)}")
    name = os.fspath(source)
    where = distributed.device(device)
    if name and is_run(name):
        run = Path(name)
        is_image = isinstance(settings_of_run(run)[1], UniConfig)
        kept = dtype or ("float32" if is_image else None)
        if step == "start":
            policy = before_training(run, device=where, dtype=kept)
        else:
            policy = restore(run, step, device=where, dtype=kept).policy
        return Model(policy, name=name)
    if step != "best":
        raise ValueError(f"step {step!r} has no effect on {name!r}, which is no run; leave it out")
    if name and not draws(local_folder(name, weights=False)):
        if dtype == "float16":
            raise ValueError("captioners have no float16; use bfloat16 or float32")
        return Model(open_captioner(name, device=where, dtype=dtype), name=name)
    policy = open_generator(
        name, world_model=world_model, parts=parts or Parts(), dtype=dtype or "float32", device=device
    )
    return Model(policy, name=name)


class Model:
    """A model that captions images, answers questions about them, or generates them."""

    def __init__(self, policy: Captioner | ImageGenerator, *, name: str = "") -> None:
        self.policy = policy
        self.name = name
        """The run, folder or hub name that it was loaded from."""

    @property
    def can_caption(self) -> bool:
        """Whether it writes captions of its own accord."""
        return not missing_members(self.policy, Captioner)

    @property
    def can_generate(self) -> bool:
        """Whether it draws images."""
        return not missing_members(self.policy, ImageGenerator)

    def __repr__(self) -> str:
        return f"<sightloop.Model {self.name or 'of the embedded world'}: {type(self.policy).__name__}>"

    def caption(self, images: Any, *, batch_size: int = 32, column: str = "", **how: Any) -> list[str]:
        """A caption of each image, in order: of one image, a list, a folder, a glob or a data set.

        `how` is how captions are written: `prompt`, `beams`, `no_repeat_ngram`, `min_tokens`, `max_tokens`,
        `fit` ("crop" or "squash"); by default as the run was evaluated, else the paper's.

        Raises:
            ValueError: the model does not caption, or an image cannot be read.
        """
        listed = [images] if is_one_image(images) else images
        if isinstance(listed, str | Path):
            source = open_source(str(listed), column=column or None)
        else:
            source = source_of(listed, column=column)
        captioner, writing = self.captioner, writing_of(self.name, how)
        decoding = Decoding(size=captioner.image_size, fit=writing.fit, whole=sees_whole(captioner))
        pictures = ImageSet(source, decoding, batch_size=batch_size)
        return [caption for _, caption in caption_images(captioner, pictures, writing)]

    def answer(self, image: Any, question: str | Sequence[str], *, max_tokens: int = 64) -> Any:
        """The most likely answer to a question about an image; a list of them to a list of questions.

        Raises:
            ValueError: an empty question, or an image that cannot be read.
        """
        questions = [question] if isinstance(question, str) else list(question)
        for each in questions:
            if not each.strip():
                raise ValueError("the question is empty; say what to ask")
        pixels = image_pixels(image)
        if self.can_generate:
            image_rows = torch.from_numpy(pixels).permute(2, 0, 1)[None]

            def answers(some: list[str]) -> list[str]:
                images = Images(pixels=image_rows.expand(len(some), -1, -1, -1))
                return most_likely_answers(self.generator, some, images, max_tokens)

            parts = [questions[start : start + _QUESTIONS] for start in range(0, len(questions), _QUESTIONS)]
            said: list[str] = []
            with at_work("answers", total=len(questions), unit="questions") as work:
                for some in distributed.in_turns(parts, answers):
                    said += some
                    work.advance(len(some))
        else:
            asked = [Asked(picture=Image.fromarray(pixels), question=each) for each in questions]
            said = Respondent(self.policy).answers(asked, AnswererSettings(max_tokens=max_tokens))
        return said[0] if isinstance(question, str) else said

    def score(self, image: Any, text: str, *, question: str = "") -> float:
        """The log-probability of a text as a caption of an image, or as the answer to a question about it;
        without the end of the text.

        Raises:
            ValueError: an image that cannot be read, or a text without tokens.
        """
        asked = Asked(picture=Image.fromarray(image_pixels(image)), question=question)
        return Respondent(self.policy).likelihood(asked, text).log_prob

    def generate(self, prompt: str, *, number: int = 1, seed: int = 0, **how: Any) -> list[Image.Image]:
        """Images of a prompt; each depends on prompt, seed and its place alone.

        `how` is how they are drawn: `guidance`, `rounds` (Show-o), `temperature`; by default as the model's
        authors draw.

        Raises:
            ValueError: the model does not draw, or a setting out of its range.
        """
        if not prompt.strip():
            raise ValueError("the prompt is empty; say what to draw")
        if number < 1:
            raise ValueError(f"number is {number}; draw at least 1 image")
        return [image for some in self.drawings([prompt], number=number, seed=seed, **how) for image in some]

    def drawings(
        self, prompts: Sequence[str], *, number: int = 1, seed: int = 0, **how: Any
    ) -> Iterator[list[Image.Image]]:
        """Images of each prompt in turn, some at a time; ranks share the work. As `generate`."""
        generator, sampling = self.generator, self.sampling(**how)
        starts = range(0, number, _BATCH)
        parts = [(each, range(at, min(at + _BATCH, number))) for each in prompts for at in starts]

        def drawn(part: tuple[str, range]) -> list[Image.Image]:
            prompt, places = part
            seeds = [image_seed(prompt, place, seed) for place in places]
            with torch.no_grad():
                wanted = Prompt(texts=[prompt] * len(places), wants="image", seeds=seeds)
                pixels = generator.pixels(generator.sample(wanted, sampling)).pixels.cpu()
            return [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in pixels]

        with at_work("drawn", total=number * len(prompts), unit="images") as work:
            for some in distributed.in_turns(parts, drawn):
                work.advance(len(some))
                yield some

    def sampling(self, **how: Any) -> Sampling:
        """The distribution that draws images.

        Raises:
            ValueError: a setting that drawing does not have, or one out of its range.
        """
        known = {"guidance": "guidance", "rounds": "decode_steps", "temperature": "temperature"}
        if unknown := sorted(how.keys() - known.keys()):
            raise ValueError(f"drawing has no setting {unknown[0]!r}; it has {', '.join(known)}")
        chosen = {known[name]: value for name, value in how.items() if value is not None}
        return self.generator.default_sampling(**chosen)

    @property
    def captioner(self) -> Captioner:
        """The policy that captions.

        Raises:
            ValueError: this model does not.
        """
        if not self.can_caption:
            raise ValueError(f"{self!r} draws and answers; ask it with answer(image, question)")
        return cast("Captioner", self.policy)

    @property
    def generator(self) -> ImageGenerator:
        """The policy that draws.

        Raises:
            ValueError: this model does not.
        """
        if not self.can_generate:
            raise ValueError(f"{self!r} captions and answers; it cannot draw")
        return cast("ImageGenerator", self.policy)


def writing_of(model: str, how: Mapping[str, Any]) -> Writing:
    """How the captioner of this name writes; what is not given is as the run was evaluated.

    Raises:
        ValueError: a setting that captions do not have.
    """
    if not model:
        usual = Writing.of(SHAPES.held_out, "")
    else:
        config = read_config(Path(model)) if is_run(model) else PAPER
        usual = Writing.of(config.held_out, config.draw.prompt)
    if unknown := sorted(how.keys() - vars(usual).keys()):
        raise ValueError(f"captions have no setting {unknown[0]!r}; they have {', '.join(vars(usual))}")
    return replace(usual, **{name: value for name, value in how.items() if value not in (None, "")})


def caption_images(
    policy: Captioner, images: ImageSet, writing: Writing, *, instead: str = GREEDY
) -> Iterator[tuple[str, str]]:
    """Source and caption of each image, in order; ranks share the work.

    `instead` is what to do about a captioner without beams.

    Raises:
        UnreadableImageError: an image is broken, and none is to be left out.
    """

    def written(batch: ImageBatch) -> list[tuple[str, str]]:
        with torch.no_grad():
            captions = writing(policy, policy.encode_images(batch.images), instead=instead)
        return list(zip(batch.sources, captions, strict=True))

    with at_work("captions", total=images.most, unit="images") as work:
        for pairs in images.each(written, in_turns=distributed.in_turns):
            work.advance(len(pairs))
            yield from pairs


def image_pixels(image: Any) -> np.ndarray:
    """An image of any kind, mode and size as RGB, H x W x 3.

    Raises:
        ValueError: it is missing, damaged or no image.
    """
    if isinstance(image, str | Path) and not Path(image).is_file():
        raise ValueError(f"{image} does not exist or is no file; name an image")
    read = source_of([image]).pictures
    found: EncodedImage = next(iter(read()))
    try:
        content = found.read()
        return np.array(upright(content) if isinstance(content, bytes) else upright_rgb(content))
    except (BrokenImageError, UnreadableImageError) as error:
        raise ValueError(f"{found.source}: {error}") from error
