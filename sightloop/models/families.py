"""The one table of model families: how a folder of each is recognized, opened and written, a row a family.

A further family is a folder beside `show_o` and `janus` and a row here: recipes, commands, `export`, the plan
and lmms-eval know families by their rows alone. Loads no network: what a row names is imported when it is
called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sightloop.late import late
from sightloop.models.prompt_strings import PromptOptions
from sightloop.ranges import Count, Positive, Rank
from sightloop.text_files import read_json

Form = Literal["sightloop", "official", "transformers"]
WorldModel = Literal["show-o", "janus"]
"""The image generators of the embedded world."""
_KIND_OF = late("sightloop.models.open:kind_of")
_KEYS = ("family", "_class_name", "model_type")
"""Where config.json says what it is, in the order in which it is believed."""


@dataclass(frozen=True, kw_only=True)
class CaptionerChoices:
    """How captioners other than BLIP-2 read prompts and images, and what of them is trained."""

    lora_rank: Rank = 16
    """Rank of the low-rank adapters."""
    lora_alpha: Positive | None = None
    """None = twice the rank."""
    lora_targets: tuple[str, ...] = ()
    """Last names of the adapted linear layers (q_proj v_proj); none = all of the language model."""
    template: str = ""
    """The whole prompt, with {prompt} and the model's image token in it; empty = the model's chat template,
    or the image and then the prompt where it has none.
    """
    image_size: Count | None = None
    """Side of square images in pixels; None = images in their own shapes, as the model's own processor makes
    its input of them.
    """
    reuse_features: bool = True
    """Run the frozen tower once an image; False runs the whole model in every pass."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Folders of what an image generator's folder lacks, and strings that are not to be its own."""

    magvit: Path | None = None
    """MAGVIT-v2 (folder or hub name), for the authors' Show-o."""
    tokenizer: Path | None = None
    """Tokenizer (folder or hub name), where the folder has none."""
    tower: str = ""
    """CLIP (folder or hub name) whose features the w-clip-vit Show-o reads."""
    prompts: PromptOptions = field(default_factory=PromptOptions)
    """Strings around prompts and questions, where they are not to be the checkpoint's."""


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What of an image generator learns."""

    trained: Literal["lora", "full"] = "lora"
    """Adapters over the language model, or its weights."""
    lora_rank: int = 16
    """Rank of the low-rank adapters."""
    lora_alpha: float | None = None
    """None = twice the rank."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A row: what any folder of the family says about itself."""

    title: str
    """Its name in sentences."""
    marks: Mapping[tuple[str, str], Form]
    """Keys of config.json with the value that says so, and the form such a folder has."""


@dataclass(frozen=True, kw_only=True)
class CaptionerFamily(Family):
    """A family that writes captions. Signatures: `LoadCaptioner` and `ExportCaptioner` of protocols.py."""

    load: Callable[..., Any]
    export: Callable[..., Any] | None = None
    """None = a run of it cannot be exported."""
    load_trained: Callable[..., None] | None = None
    """Puts a file of VLRM's tensors into a captioner; None = the family has no Q-Former."""
    learning_rate: float = 1e-5
    """Where none is given. That of a Q-Former; adapters, which start from nothing, need more."""
    of_transformers: bool = True
    """Whether its config.json is one of transformers', so that hub names are known too."""


@dataclass(frozen=True, kw_only=True)
class GeneratorFamily(Family):
    """A family that draws and answers. Signatures: `LoadGenerator` and `WriteGenerator` of protocols.py."""

    load: Callable[..., Any]
    write: Callable[..., Any] | None = None
    """None = a run of it cannot be exported."""
    preset: str = ""
    """How the names of presets for it end; empty = the first that fits."""
    world: str = ""
    """Folder of the embedded world's own one; empty = there is none."""


_CLASSIC = {
    "blip": "BLIP",
    "vision-encoder-decoder": "a vision encoder with a text decoder",
    "git": "GIT",
    "instructblip": "InstructBLIP",
    "florence2": "Florence-2",
    "kosmos-2": "Kosmos-2",
}
"""Captioners whose images do not stand among the words, by transformers' names."""
_ADAPTERS_RATE = 1e-4
_LOAD_TRAINED = late("sightloop.models.captioners.family:load_trained")
ANY_CAPTIONER = "captioner"
"""The row of whatever transformers reads images and writes text with, unless another row knows it."""
FAMILIES: dict[str, Family] = {
    "blip-2": CaptionerFamily(
        title="BLIP-2",
        marks={("model_type", "blip-2"): "transformers"},
        load=late("sightloop.models.captioners.family:load_blip2"),
        export=late("sightloop.models.captioners.family:export_bridge"),
        load_trained=_LOAD_TRAINED,
    ),
    **{
        name: CaptionerFamily(
            title=title,
            marks={("model_type", name): "transformers"},
            load=late("sightloop.models.captioners.family:load_encoder_decoder"),
            export=late("sightloop.models.captioners.family:export_encoder_decoder"),
            load_trained=_LOAD_TRAINED if name == "instructblip" else None,
            learning_rate=1e-5 if name == "instructblip" else _ADAPTERS_RATE,
        )
        for name, title in _CLASSIC.items()
    },
    ANY_CAPTIONER: CaptionerFamily(
        title="a captioner of transformers",
        marks={},
        load=late("sightloop.models.captioners.family:load_generic"),
        export=late("sightloop.models.captioners.family:export_adapters"),
        learning_rate=_ADAPTERS_RATE,
    ),
    "show-o": GeneratorFamily(
        title="Show-o",
        marks={("family", "show-o"): "sightloop", ("_class_name", "Showo"): "official"},
        load=late("sightloop.models.show_o.family:load_show_o_for"),
        write=late("sightloop.models.show_o.family:write_trained_show_o"),
        world="show_o",
    ),
    "magvit2": Family(
        title="MAGVIT-v2",
        marks={("family", "magvit2"): "sightloop", ("_class_name", "MAGVITv2"): "official"},
    ),
    "janus": GeneratorFamily(
        title="Janus",
        marks={("model_type", "multi_modality"): "official", ("model_type", "janus"): "transformers"},
        load=late("sightloop.models.janus.family:load_janus_for"),
        write=late("sightloop.models.janus.family:write_trained_janus"),
        preset="janus",
        world="janus",
    ),
}
"""The rows by name, those of one's own beside them: `FAMILIES["mine"] = GeneratorFamily(...)`."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A family by its name, its row, and the form its folder has."""

    name: str
    row: Family
    form: Form


def detect_family(folder: Path) -> Found:
    """What the folder of an image generator, or of a part of one, holds.

    Raises:
        ValueError: no such folder, no config.json, or a family that is not known here; it is named.
    """
    drawing = {name: row for name, row in FAMILIES.items() if not isinstance(row, CaptionerFamily)}
    *first, last = (row.title for row in drawing.values())
    if not folder.is_dir():
        titles = " or ".join(row.title for row in drawing.values() if isinstance(row, GeneratorFamily))
        raise ValueError(f"{folder} is not a folder; give the folder or hub name of a {titles} checkpoint")
    config = read_json(folder / "config.json")
    found = _marked(config, drawing)
    if found is None:
        try:
            what, takes = _KIND_OF(folder)
        except ValueError:
            known = f"{', '.join(first)} and {last}"
            raise ValueError(f"{folder} holds {_named(config)}; known are {known}") from None
        raise ValueError(f"{folder} is {what}, not a {', '.join(first)} or {last}; {takes}")
    return found


def require(folder: Path, family: str) -> Form:
    """The form of a folder that must hold this family.

    Raises:
        ValueError: it holds another one; both are named.
    """
    found = detect_family(folder)
    if found.name != family:
        raise ValueError(f"{folder} holds {found.name}, not {family}")
    return found.form


def known_as(folder: Path) -> Found | None:
    """The row that a folder's config.json names; None if it has none, or names none of the table.

    Whoever opens the folder says what is wrong with it.
    """
    try:
        return _marked(read_json(folder / "config.json"), FAMILIES)
    except ValueError:
        return None


def draws(folder: Path) -> bool:
    """Whether a folder says that it holds an image generator."""
    found = known_as(folder)
    return found is not None and isinstance(found.row, GeneratorFamily)


def _marked(config: Mapping[str, Any], rows: Mapping[str, Family]) -> Found | None:
    for key in _KEYS:
        for name, row in rows.items():
            form = row.marks.get((key, str(config.get(key))))
            if form is not None:
                return Found(name=name, row=row, form=form)
    return None


def _named(config: Mapping[str, Any]) -> str:
    for key in _KEYS:
        if isinstance(config.get(key), str):
            return f"a model of {key} {config[key]!r}"
    return "a config.json that names no family, _class_name or model_type"


def family_named(policy: str | None, world_model: str | None) -> Family | None:
    """The row of a policy's folder, or without a policy that of the world's model; None if unknown."""
    if not policy:
        return FAMILIES.get(world_model or "")
    found = known_as(Path(policy))
    return None if found is None else found.row
