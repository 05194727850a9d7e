"""Commands of models that draw and answer: `sightloop convert | draw | ask`.

Networks are imported when a command needs them, so that help comes at once.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sightloop.recipes.unirl.config import PromptOptions

Positional = tyro.conf.Positional


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Checkpoints of models that draw: from their authors' folders to such that load here, and back.

    Show-o becomes a folder with its language model, tokenizer and MAGVIT-v2; Janus becomes a folder that
    transformers loads.
    """

    family: Positional[Literal["show-o", "magvit2", "janus"]]
    source: Positional[Path]
    """Folder of the checkpoint; for magvit2 also a weight file."""
    output: Positional[Path]
    """Folder to write; it must not exist yet, or be empty."""
    to: Literal["sightloop", "official"] = "sightloop"
    magvit: Path | None = None
    """Folder or weight file of MAGVIT-v2, which Show-o draws with."""
    tokenizer: Path | None = None
    """Folder of the tokenizer (Show-o: Phi-1.5's), where the source has none."""
    max_text_tokens: int | None = None
    """Text positions that a Show-o was trained with; default 128."""
    prompts: PromptOptions = dataclasses.field(default_factory=PromptOptions)


def convert(words: list[str]) -> None:
    """Convert a checkpoint."""
    options = tyro.cli(ConvertOptions, args=words, prog="sightloop convert")
    from sightloop.cli.convert import ConvertJob
    from sightloop.cli.convert import convert as run

    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    given["prompts"] = None if options.prompts == PromptOptions() else options.prompts
    run(ConvertJob(**given))
    print(f"wrote {options.output}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model draws or answers."""

    model: str = ""
    """Folder of a Show-o or Janus in any form, or of a run (its best step); empty = the embedded world's,
    which knows only its own images and words.
    """
    world_model: Literal["show-o", "janus"] = "show-o"
    """Which of the embedded world's models, if none is named."""
    magvit: Path | None = None
    """MAGVIT-v2 of a Show-o that was not converted."""
    tokenizer: Path | None = None
    """Tokenizer of a model whose folder has none."""
    tower: str = ""
    """CLIP (folder or hub name) of the Show-o that reads its features (w-clip-vit)."""
    prompts: PromptOptions = dataclasses.field(default_factory=PromptOptions)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """Draw pictures of a prompt; the defaults are the law of the model's authors."""

    prompt: Positional[str]
    number: int = 4
    """Pictures."""
    output: Path = Path("drawings")
    """Folder; its pictures are kept and their numbers continued."""
    steps: int | None = None
    """Rounds of a masked decoder (Show-o): more are slower and truer."""
    guidance: float | None = None
    """How far the prompt counts; 0 = no guidance. Scales differ between families."""
    temperature: float | None = None
    seed: int = 0
    source: Annotated[ModelOptions, tyro.conf.arg(name="")] = ModelOptions()


def draw(words: list[str]) -> None:
    """Draw pictures of a prompt."""
    options = tyro.cli(DrawOptions, args=words, prog="sightloop draw")
    from sightloop.cli import draw as recipe

    author = _author(options.source, texts=[options.prompt])
    fields = (field.name for field in dataclasses.fields(recipe.DrawJob) if field.name != "author")
    job = recipe.DrawJob(**{name: getattr(options, name) for name in fields}, author=author)
    for path in recipe.draw(_policy(options.source), job):
        print(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskOptions:
    """Ask a question about a picture; the most likely answer is printed."""

    image: Positional[Path]
    question: Positional[str]
    max_tokens: int = 64
    """Longest answer."""
    source: Annotated[ModelOptions, tyro.conf.arg(name="")] = ModelOptions()


def ask(words: list[str]) -> None:
    """Ask a question about a picture."""
    options = tyro.cli(AskOptions, args=words, prog="sightloop ask")
    from sightloop.cli import draw as recipe

    picture = recipe.read_picture(options.image)
    _author(options.source, texts=[options.question], image=options.image)
    job = recipe.AskJob(picture=picture, question=options.question, max_tokens=options.max_tokens)
    print(recipe.ask(_policy(options.source), job))


def _author(options: ModelOptions, *, texts: list[str], image: Path | None = None) -> str:
    """Who will draw or answer; the embedded world's models are refused what is not of their world."""
    from sightloop.recipes.image_policies import world_folder
    from sightloop.world import boundary as embedded_world

    if options.model:
        return Path(options.model).name
    if image is not None:
        embedded_world.require_world_images([str(image)], what="model", option="--model")
    embedded_world.require_world_words(texts, world_folder(options.world_model), option="--model")
    return embedded_world.drawn_by(options.world_model)


def _policy(options: ModelOptions) -> Any:
    from sightloop.models.families import Parts
    from sightloop.runs.restore import open_generator

    return open_generator(
        options.model,
        world_model=options.world_model,
        parts=Parts(
            magvit=options.magvit,
            tokenizer=options.tokenizer,
            tower=options.tower,
            prompts=options.prompts,
        ),
        dtype=options.dtype,
        device=options.device,
    )
