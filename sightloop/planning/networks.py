"""The networks of models that draw and answer without their weights, of the sizes that a folder tells or of
the papers', and what a pass through each takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionModel,
    JanusConfig,
    JanusForConditionalGeneration,
    PhiConfig,
    PhiForCausalLM,
)

from sightloop.models.families import detect_family
from sightloop.models.janus.checkpoint import SpecialIds, official_config, read_janus_tokenizer
from sightloop.models.janus.policy import FullPart, JanusSettings
from sightloop.models.janus.tensor_names import from_official
from sightloop.models.lora import Adapters
from sightloop.models.open import local_folder, open_config, read_shapes
from sightloop.models.precision import DTYPES
from sightloop.models.show_o.checkpoint import ShowOSizes
from sightloop.models.show_o.magvit2 import Magvit2
from sightloop.models.show_o.magvit2_layers import Magvit2Config
from sightloop.models.show_o.settings import LORA_TARGETS
from sightloop.models.show_o.vision import new_projector
from sightloop.models.weight_files import weight_files
from sightloop.planning.counting import (
    Language,
    Pass,
    cast_as_autocast_does,
    count,
    language_of,
    on_meta,
    passing,
)
from sightloop.planning.precision import is_mixed
from sightloop.planning.published import PHI, SHOW_O, SHOW_O_TOWER, config_of, janus
from sightloop.recipes.image_policies import world_folder
from sightloop.recipes.unirl.config import SftConfig, UniConfig
from sightloop.text_files import read_json
from sightloop.training.run_files import is_run

_SYSTEM = 28
"""Tokens before the features of a tower that Show-o reads."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """A policy's networks on the meta device, what of them learns, and what each pass takes."""

    name: str
    parts: dict[str, tuple[int, int]]
    """Parameters of each frozen part, and bytes of one."""
    parameters: dict[str, int]
    trained: nn.Module
    has_adapters: bool
    language: Language
    codes: int
    """Codes of an image."""
    num_codes: int
    canvas: int
    """Positions that every pass over a drawing runs through."""
    seen: int
    """Positions of an image that is asked about."""
    rounds: int
    """Passes that draw an image; codes that go one by one are one pass in all."""
    guidance: float
    """Where the configuration leaves it to the model."""
    drawn_at_once: int | None
    """Images that are made of codes at once; None = all."""
    code: float
    """FLOPs of the logits of one code."""
    word: float
    decode: Pass
    """Pixels of codes."""
    look: Pass
    """What questions read of pixels; nothing where they read codes."""
    through: Pass
    """From relaxed codes through pixels to what questions read, and back; nothing elsewhere."""
    is_world: bool
    """Whether it is the embedded world's, which evaluates by itself."""

    @property
    def by_rounds(self) -> bool:
        """Whether codes are drawn in rounds over the whole image."""
        return self.canvas > self.codes


def is_relaxed(config: UniConfig) -> bool:
    """Whether the answer's loss reaches the drawing side."""
    return isinstance(config, SftConfig) and config.end_to_end


def networks_of(config: UniConfig, *, is_paper: bool = False) -> Networks:
    """The networks of a configuration; those of the paper if `is_paper` and no policy is named. A policy is
    fetched by its hub name, as for the run.

    Raises:
        ValueError: no such folder, a run instead of a model, another family, or files that do not tell the
            sizes.
    """
    folder = local_folder(config.policy) if config.policy else world_folder(config.world_model)
    if config.policy and is_run(folder):
        raise ValueError(f"{folder} is a run; write its model with `sightloop export` and name that folder")
    if is_paper and not config.policy:
        return _PAPERS[config.world_model](config)
    if config.policy and not folder.exists():
        raise ValueError(
            f"{folder} does not exist; name a Show-o or Janus (folder or hub name), or leave --model out "
            "and take --preset paper or paper-janus for the plan of the paper's model"
        )
    found = detect_family(folder)
    if found.name not in _FOLDERS:
        raise ValueError(f"{folder} is {found.name}, which cannot draw; name a Show-o or Janus")
    return _FOLDERS[found.name](config, folder, found.form == "official")


def shapes_in(source: Path) -> dict[str, Tensor]:
    """The tensors of a weight file or folder without their values.

    Raises:
        ValueError: no weights there.
    """
    found: dict[str, Tensor] = {}
    for file in weight_files(source):
        found |= read_shapes(file)
    return found


def _show_o_in(config: UniConfig, folder: Path, is_official: bool) -> Networks:
    fields = read_json(folder / "config.json")
    if is_official:
        sizes = ShowOSizes(
            num_image_tokens=fields["num_vq_tokens"],
            num_text=fields["llm_vocab_size"],
            num_codes=fields.get("codebook_size", ShowOSizes.num_codes),
        )
        magvit = local_folder(config.model.magvit) if config.model.magvit else None
        phi, reads_tower = _official_phi(folder, sizes), bool(fields.get("w_clip_vit"))
    else:
        names = ("num_image_tokens", "num_text", "num_codes", "max_text_tokens")
        sizes = ShowOSizes(**{name: fields[name] for name in names if name in fields})
        magvit = local_folder(config.model.magvit) if config.model.magvit else folder / "magvit2"
        phi = open_config(folder / "language_model")
        reads_tower = (folder / "projector").is_dir()
    coder = Magvit2Config() if magvit is None else Magvit2Config.of_tensors(shapes_in(magvit))
    tower = _tower_config(config.model.tower) if reads_tower else None
    return _show_o(config, phi, sizes=sizes, coder=coder, tower=tower, name=str(folder))


def _official_phi(folder: Path, sizes: ShowOSizes) -> PhiConfig:
    """Off the shapes of the weights; a folder without weights is taken for one over Phi-1.5."""
    given: dict[str, Any] = dict(PHI)
    heads = 32
    if any(folder.glob("*.bin")) or any(folder.glob("*.safetensors")):
        shapes = {name.removeprefix("showo."): value.shape for name, value in shapes_in(folder).items()}
        first = "model.layers.0"
        width, inner = shapes["model.embed_tokens.weight"][1], shapes[f"{first}.mlp.fc1.weight"][0]
        layers = {name.split(".")[2] for name in shapes if name.startswith("model.layers.")}
        heads = width // shapes[f"{first}.self_attn.q_layernorm.weight"][0]
        given = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": len(layers)}
    return _phi(given, heads, sizes)


def _phi(given: Mapping[str, Any], heads: int, sizes: ShowOSizes) -> PhiConfig:
    return PhiConfig(
        **given,
        vocab_size=sizes.vocabulary,
        num_attention_heads=heads,
        qk_layernorm=True,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def _paper_show_o(config: UniConfig) -> Networks:
    tower = _tower_config(config.model.tower) if config.model.tower else None
    return _show_o(
        config,
        _phi(PHI, 32, SHOW_O),
        sizes=SHOW_O,
        coder=Magvit2Config(),
        tower=tower,
        name="Show-o at 512 pixels, the paper's sizes",
    )


def _tower_config(name: str) -> Any:
    found: Any = config_of(name or SHOW_O_TOWER)
    return found.vision_config if found.model_type == "clip" else found


def _show_o(
    config: UniConfig, phi: PhiConfig, *, sizes: ShowOSizes, coder: Magvit2Config, tower: Any, name: str
) -> Networks:
    dtype = DTYPES[config.dtype]
    model, magvit = on_meta(lambda: PhiForCausalLM(phi), dtype), on_meta(lambda: Magvit2(coder))
    targets = {
        key: part
        for key, part in model.model.named_modules()
        if isinstance(part, nn.Linear) and key.rsplit(".", 1)[-1] in LORA_TARGETS
    }
    width, codes, large = phi.hidden_size, sizes.num_image_tokens, sizes.num_image_tokens >= 1024
    parameters = {"Show-o's language model": count(model), "MAGVIT-v2": count(magvit)}
    parts = {"MAGVIT-v2, float32": (count(magvit), 4)}
    trained, seen, objective = model, codes + 2, round(codes**0.5)
    pixels = objective * magvit.factor
    decoded = (magvit.decoder, (1, coder.num_bits, objective, objective), torch.float32)
    through = look = Pass()
    if tower is None and config.answer.input == "reencoded":
        look = _pixels_through(magvit.encoder, (1, 3, pixels, pixels), torch.float32)
    elif tower is not None:
        eyes = on_meta(lambda: CLIPVisionModel(tower), dtype)
        projector = on_meta(lambda: new_projector(tower.hidden_size, width), dtype)
        looking = (eyes, (1, 3, tower.image_size, tower.image_size), dtype)
        look, through = _pixels_through(*looking), _there_and_back(config, decoded, looking)
        seen = _SYSTEM + (tower.image_size // tower.patch_size) ** 2
        parameters["vision tower and its projector"] = count(eyes, projector)
        is_full = config.model.trained == "full"
        parts["vision tower, frozen"] = (count(eyes) + (0 if is_full else count(projector)), dtype.itemsize)
        trained = nn.ModuleList([model, projector])
    trained, language = _trained(config, model, decoder=model.model, targets=targets, full=trained)
    if isinstance(trained, Adapters):
        parts["language model, frozen"] = (count(model), dtype.itemsize)
    return Networks(
        name=name,
        parts=parts,
        parameters=parameters,
        trained=trained,
        has_adapters=isinstance(trained, Adapters),
        language=language,
        codes=codes,
        num_codes=sizes.num_codes,
        canvas=codes + 2,
        seen=seen,
        rounds=min(config.draw.steps or (50 if large else 18), codes),
        guidance=5.0 if large else 1.75,
        drawn_at_once=None,
        code=2 * width * sizes.num_codes,
        word=2 * width * sizes.num_text,
        decode=_pixels_through(*decoded),
        look=look,
        through=through,
        is_world=_is_world(config, name),
    )


def _janus_in(config: UniConfig, folder: Path, is_official: bool) -> Networks:
    if not is_official:
        return _janus(config, open_config(folder), str(folder))
    ids = SpecialIds.of_tokenizer(read_janus_tokenizer(folder))
    given = official_config(read_json(folder / "config.json"), from_official(shapes_in(folder)), ids)
    return _janus(config, given, str(folder))


def _janus(config: UniConfig, given: JanusConfig, name: str) -> Networks:
    dtype = DTYPES[config.dtype]
    vision: Any = given.vision_config
    coder: Any = given.vq_config
    whole = on_meta(lambda: JanusForConditionalGeneration(given), dtype)
    model = whole.model
    language, tower, vq = model.language_model, model.vision_model, model.vqmodel
    targets = {key: part for key, part in language.named_modules() if isinstance(part, nn.Linear)}
    codes, objective = vision.num_image_tokens, round(vision.num_image_tokens**0.5)
    eyes, coding = count(tower, model.aligner), (model.generation_aligner, model.generation_head)
    total = count(whole)
    looking = (tower, (1, 3, vision.image_size, vision.image_size), dtype)
    decoded = (vq.decoder, (1, coder.latent_channels, objective, objective), dtype)
    look, decode = _pixels_through(*looking), _pixels_through(*decoded)
    word, code = 2 * count(whole.lm_head), 2 * count(*coding)
    full = FullPart(whole, JanusSettings(trained="full"))
    trained, passes = _trained(config, whole, decoder=language, targets=targets, full=full)
    rest = total - eyes - count(vq) - (0 if isinstance(trained, Adapters) else count(trained))
    title = "language model" if isinstance(trained, Adapters) else "words and codes"
    return Networks(
        name=name,
        parts={
            f"{title}, frozen": (rest, dtype.itemsize),
            "vision tower and its aligner, frozen": (eyes, dtype.itemsize),
            "VQ model, frozen": (count(vq), dtype.itemsize),
        },
        parameters={
            "Janus": total,
            "  language model": count(language, whole.lm_head),
            "  vision tower and its aligner": eyes,
            "  VQ model": count(vq),
            "  what reads and writes codes": count(model.generation_embeddings, *coding),
        },
        trained=trained,
        has_adapters=isinstance(trained, Adapters),
        language=passes,
        codes=codes,
        num_codes=coder.num_embeddings,
        canvas=codes,
        seen=codes,
        rounds=1,
        guidance=5.0,
        drawn_at_once=4,
        code=code,
        word=word,
        decode=decode,
        look=look,
        through=_there_and_back(config, decoded, looking),
        is_world=_is_world(config, name),
    )


def _is_world(config: UniConfig, name: str) -> bool:
    return not config.policy and name == str(world_folder(config.world_model))


def _trained(
    config: UniConfig, model: nn.Module, *, decoder: Any, targets: Mapping[str, nn.Linear], full: nn.Module
) -> tuple[nn.Module, Language]:
    """What learns, and a position of the language model with it."""
    dtype, width = DTYPES[config.dtype], int(decoder.config.hidden_size)
    if config.model.trained == "full":
        full.requires_grad_(True).float()
        if is_mixed(config):
            cast_as_autocast_does(decoder, dtype)
        return full, language_of(decoder, width=width, dtype=torch.float32, gradient_from_below=True)
    with torch.device("meta"):
        adapters = Adapters(targets, rank=config.model.lora_rank, alpha=1.0)
    with adapters.switched(True):
        below = is_relaxed(config)
        return adapters, language_of(decoder, width=width, dtype=dtype, gradient_from_below=below)


def _pixels_through(part: Any, shape: tuple[int, ...], dtype: torch.dtype, *, learns: bool = False) -> Pass:
    """One image through a network of pixels, and back to what went in."""

    def run() -> Tensor:
        out = part(torch.empty(shape, dtype=dtype, device="meta", requires_grad=learns))
        return out if isinstance(out, Tensor) else out.last_hidden_state

    return passing(run, part, learns=learns)


def _there_and_back(config: UniConfig, *parts: tuple[Any, tuple[int, ...], torch.dtype]) -> Pass:
    """Through several networks, where the answer's loss goes back to relaxed codes."""
    if not is_relaxed(config):
        return Pass()
    each = [asdict(_pixels_through(*part, learns=True)) for part in parts]
    return Pass(**{key: sum(one[key] for one in each) for key in each[0]})


_FOLDERS = {"show-o": _show_o_in, "janus": _janus_in}
_PAPERS = {
    "show-o": _paper_show_o,
    "janus": lambda config: _janus(config, janus(), "Janus 1.3B, the paper's sizes"),
}
