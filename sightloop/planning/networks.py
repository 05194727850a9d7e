"""The networks of models that draw and answer without their weights: on the meta device, from what a folder
tells, or in the paper's sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PhiConfig,
    PhiForCausalLM,
)

from sightloop.models.atomic_files import read_json
from sightloop.models.families import detect_family
from sightloop.models.janus.checkpoint import SpecialIds, official_config, read_janus_tokenizer
from sightloop.models.janus.policy import FullPart, JanusSettings
from sightloop.models.janus.tensor_names import from_official
from sightloop.models.lora import Adapters
from sightloop.models.named_models import model_config
from sightloop.models.open import open_config, read_shapes
from sightloop.models.show_o.checkpoint import ShowOSizes
from sightloop.models.show_o.magvit2 import Magvit2
from sightloop.models.show_o.magvit2_layers import Magvit2Config
from sightloop.models.show_o.settings import LORA_TARGETS
from sightloop.models.show_o.vision import new_projector
from sightloop.models.weight_files import weight_files
from sightloop.recipes.image_policies import world_folder
from sightloop.recipes.unirl.config import UniConfig
from sightloop.training.run_files import is_run

SHOW_O_PAPER = ShowOSizes(num_image_tokens=1024, num_text=50295, max_text_tokens=64)
"""Show-o at 512 pixels, as UniRL trains it."""
_PHI: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24}
_TOWER = "openai/clip-vit-large-patch14-336"
_TOWER_CONFIG = CLIPVisionConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
)


def janus_paper() -> JanusConfig:
    """Janus 1.3B: DeepSeek-LLM's body, SigLIP-L at 384 pixels, 576 of 16,384 codes."""
    return JanusConfig(
        text_config=LlamaConfig(
            vocab_size=102400,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=24,
            num_attention_heads=16,
            num_key_value_heads=16,
            max_position_embeddings=16384,
            tie_word_embeddings=False,
        ),
        vision_config=JanusVisionConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=384,
            patch_size=16,
            num_image_tokens=576,
            mlp_ratio=4.0,
            projection_dim=2048,
            depth=2,
        ),
        vq_config=JanusVQVAEConfig(
            embed_dim=8,
            num_embeddings=16384,
            latent_channels=256,
            base_channels=128,
            channel_multiplier=[1, 1, 2, 2, 4],
            num_res_blocks=2,
            projection_dim=2048,
            image_token_embed_dim=2048,
            num_hidden_layers=2,
        ),
        tie_word_embeddings=False,
    )


@dataclass(frozen=True, kw_only=True)
class Networks:
    """A policy's networks on the meta device, and what of them learns."""

    name: str
    language: Any
    """PhiForCausalLM, or JanusForConditionalGeneration, which holds all of Janus."""
    magvit: Magvit2 | None
    """Show-o's; None for Janus."""
    vision: nn.ModuleList | None
    """Tower and projector of a w-clip-vit Show-o."""
    trained: nn.Module
    adapters: Adapters | None
    sizes: ShowOSizes | None
    """Show-o's sequences."""

    @property
    def is_janus(self) -> bool:
        """Whether the family is Janus."""
        return self.magvit is None


def networks_of(config: UniConfig, *, is_paper: bool = False) -> Networks:
    """The networks of a configuration; those of the paper if `is_paper` and no policy is named, or if the
    policy is a folder that is not here.

    Raises:
        ValueError: a run instead of a model, another family, or files that do not tell the sizes.
    """
    folder = Path(config.policy)
    if config.policy and is_run(folder):
        raise ValueError(f"{folder} is a run; write its model with `sightloop export` and name that folder")
    if (is_paper and not config.policy) or (config.policy and not folder.exists()):
        is_janus = config.world_model == "janus" or "janus" in folder.name.lower()
        told = "Janus 1.3B" if is_janus else "Show-o at 512 pixels"
        name = f"{told}, the paper's sizes"
        return _janus(config, janus_paper(), name) if is_janus else _paper_show_o(config, name)
    folder = folder if config.policy else world_folder(config.world_model)
    found = detect_family(folder)
    if found.name == "janus":
        given = _official_janus(folder) if found.form == "official" else open_config(folder)
        return _janus(config, given, str(folder))
    if found.name != "show-o":
        raise ValueError(f"{folder} is {found.name}, which cannot draw; name a Show-o or Janus")
    return _show_o_in(config, folder, is_official=found.form == "official")


def shapes_in(source: Path) -> dict[str, Tensor]:
    """The tensors of a weight file or folder without their values.

    Raises:
        ValueError: no weights there.
    """
    found: dict[str, Tensor] = {}
    for file in weight_files(source):
        found |= read_shapes(file)
    return found


def _show_o_in(config: UniConfig, folder: Path, *, is_official: bool) -> Networks:
    told = read_json(folder / "config.json")
    if is_official:
        sizes = ShowOSizes(
            num_image_tokens=told["num_vq_tokens"],
            num_text=told["llm_vocab_size"],
            num_codes=told.get("codebook_size", ShowOSizes.num_codes),
        )
        magvit = Path(config.model.magvit) if config.model.magvit else None
        phi, reads_tower = _official_phi(folder, sizes), bool(told.get("w_clip_vit"))
    else:
        names = ("num_image_tokens", "num_text", "num_codes", "max_text_tokens")
        sizes = ShowOSizes(**{name: told[name] for name in names if name in told})
        magvit = Path(config.model.magvit) if config.model.magvit else folder / "magvit2"
        phi = open_config(folder / "language_model")
        reads_tower = (folder / "projector").is_dir()
    coder = Magvit2Config() if magvit is None else Magvit2Config.of_tensors(shapes_in(magvit))
    tower = _tower(config.model.tower) if reads_tower else None
    return _show_o(config, phi, sizes=sizes, coder=coder, tower=tower, name=str(folder))


def _official_phi(folder: Path, sizes: ShowOSizes) -> PhiConfig:
    """Off the shapes of the weights; a folder without weights is taken for one over Phi-1.5."""
    given: dict[str, Any] = dict(_PHI)
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


def _paper_show_o(config: UniConfig, name: str) -> Networks:
    phi = _phi(_PHI, 32, SHOW_O_PAPER)
    tower = _tower(config.model.tower) if config.model.tower else None
    return _show_o(config, phi, sizes=SHOW_O_PAPER, coder=Magvit2Config(), tower=tower, name=name)


def _tower(name: str) -> CLIPVisionConfig:
    if not name or (name == _TOWER and not Path(name).exists()):
        return _TOWER_CONFIG
    found: Any = model_config(name)
    return found.vision_config if found.model_type == "clip" else found


def _show_o(
    config: UniConfig,
    phi: PhiConfig,
    *,
    sizes: ShowOSizes,
    coder: Magvit2Config,
    tower: CLIPVisionConfig | None,
    name: str,
) -> Networks:
    with torch.device("meta"):
        language, magvit = PhiForCausalLM(phi), Magvit2(coder)
        vision = None
        if tower is not None:
            width = phi.hidden_size
            vision = nn.ModuleList([CLIPVisionModel(tower), new_projector(tower.hidden_size, width)])
        targets = {
            key: part
            for key, part in language.model.named_modules()
            if isinstance(part, nn.Linear) and key.rsplit(".", 1)[-1] in LORA_TARGETS
        }
        adapters = _adapters(config, targets)
        whole = language if vision is None else nn.ModuleList([language, vision[1]])
    return Networks(
        name=name,
        language=language,
        magvit=magvit,
        vision=vision,
        trained=whole if adapters is None else adapters,
        adapters=adapters,
        sizes=sizes,
    )


def _official_janus(folder: Path) -> JanusConfig:
    ids = SpecialIds.of_tokenizer(read_janus_tokenizer(folder))
    return official_config(read_json(folder / "config.json"), from_official(shapes_in(folder)), ids)


def _janus(config: UniConfig, given: JanusConfig, name: str) -> Networks:
    with torch.device("meta"):
        model: Any = JanusForConditionalGeneration(given)
        linears = model.model.language_model.named_modules()
        adapters = _adapters(config, {key: part for key, part in linears if isinstance(part, nn.Linear)})
    trained = FullPart(model, JanusSettings(trained="full")) if adapters is None else adapters
    return Networks(
        name=name,
        language=model,
        magvit=None,
        vision=None,
        trained=trained,
        adapters=adapters,
        sizes=None,
    )


def _adapters(config: UniConfig, linears: Mapping[str, nn.Linear]) -> Adapters | None:
    if config.model.trained == "full":
        return None
    return Adapters(linears, rank=config.model.lora_rank, alpha=1.0)
