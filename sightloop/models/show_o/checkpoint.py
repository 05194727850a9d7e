"""Show-o's checkpoints in and out: the authors' folders, and folders of ours with a place for every part.

A folder of ours holds `config.json`, `language_model/` (a Phi folder that transformers loads), `tokenizer/`
with the special tokens added, `magvit2/`, and `projector/` where a vision tower's features are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, PhiConfig, PhiForCausalLM, PreTrainedTokenizerBase

from sightloop.models.atomic_files import atomic_write
from sightloop.models.families import require
from sightloop.models.open import ModelRole, filled, local_folder, open_config, open_model
from sightloop.models.prompt_strings import QUESTION_PLACE, Frame, PromptOptions
from sightloop.models.show_o.layout import SPECIAL_TOKENS, SYSTEM_PROMPT, question_frame, vocabulary_of
from sightloop.models.show_o.magvit2 import Magvit2
from sightloop.models.show_o.policy import ShowO, ShowOSettings
from sightloop.models.show_o.vision import ShowOVision, new_projector
from sightloop.models.weight_files import (
    in_precision,
    load_exactly,
    read_weights,
    refuse_filled,
    refuse_problems,
    tokenizer_file,
    write_json,
    write_weights,
)
from sightloop.text_files import form_of, read_json

OFFICIAL_WEIGHTS = "pytorch_model.bin"
"""The only name that the official code looks for."""
_PREFIX, _PROJECTOR = "showo.", "mm_projector."
_TOWER = ModelRole(
    what="a CLIP with a vision tower",
    fits=lambda config: config.model_type in {"clip", "clip_vision_model"},
    model=CLIPVisionModel,
)
_UNUSED = "rotary_emb.inv_freq"


@dataclass(frozen=True, kw_only=True)
class ShowOSizes:
    """What the tensors do not tell."""

    num_image_tokens: int
    num_text: int
    """Text tokens, without the special ones."""
    num_codes: int = 8192
    max_text_tokens: int = 128
    """Text positions of a row. The authors' checkpoints do not say; they used 128, and 381 for
    conversations.
    """
    language_model: str = "microsoft/phi-1_5"
    """Where the tokenizer is from."""

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        small = [f"{name} is {value}" for name, value in numbers.items() if value < 1]
        refuse_problems("sizes must be at least 1", small)

    @property
    def vocabulary(self) -> int:
        """Ids of the joint vocabulary: text, special tokens, codes, the mask token."""
        return self.num_text + len(SPECIAL_TOKENS) + self.num_codes + 1


@dataclass(frozen=True, kw_only=True)
class ShowOWeights:
    """A checkpoint's own parts: everything but tokenizer, MAGVIT-v2 and vision tower."""

    model: PhiForCausalLM
    projector: nn.Sequential | None
    """From a vision tower's features to the language model's input (w-clip-vit)."""
    sizes: ShowOSizes


# -- in


def read_show_o(folder: Path | str, *, dtype: torch.dtype | None = None) -> ShowOWeights:
    """The weights of an official folder or one of ours; dtype None = as stored.

    Raises:
        ValueError: another family, or tensors and sizes that do not fit; they are named.
    """
    folder = local_folder(folder)
    if require(folder, "show-o") == "official":
        return _read_official(folder, dtype)
    config = read_json(folder / "config.json")
    known = {field.name for field in fields(ShowOSizes)}
    sizes = _sizes({name: value for name, value in config.items() if name in known}, folder)
    tensors = read_weights(folder / "language_model")
    model = _phi(tensors, open_config(folder / "language_model"), str(folder), dtype)
    refuse_problems(f"{folder} does not fit itself", _disagreements(model, sizes))
    given = read_weights(folder / "projector") if (folder / "projector").is_dir() else {}
    return ShowOWeights(model=model, projector=_projector(given, folder, model), sizes=sizes)


def _read_official(folder: Path, dtype: torch.dtype | None) -> ShowOWeights:
    config = read_json(folder / "config.json")
    tensors = {name: tensor for name, tensor in read_weights(folder).items() if not name.endswith(_UNUSED)}
    phi = {k.removeprefix(_PREFIX): v for k, v in tensors.items() if k.startswith(_PREFIX)}
    projector = {k.removeprefix(_PROJECTOR): v for k, v in tensors.items() if k.startswith(_PROJECTOR)}
    other = [f"{k} is unknown" for k in tensors if not k.startswith((_PREFIX, _PROJECTOR))]
    if bool(config.get("w_clip_vit")) != bool(projector):
        other.append(
            f"w_clip_vit is {config.get('w_clip_vit')} and there are {len(projector)} mm_projector tensors"
        )
    refuse_problems(f"{folder} is not a Show-o checkpoint", other)
    names = {"num_image_tokens": "num_vq_tokens", "num_text": "llm_vocab_size", "num_codes": "codebook_size"}
    names |= {"language_model": "llm_model_path"}
    sizes = _sizes({ours: config[theirs] for ours, theirs in names.items() if config.get(theirs)}, folder)
    model = _phi(phi, _phi_config(phi, folder), str(folder), dtype)
    wrong = _disagreements(model, sizes)
    for name, wanted in (("vocab_size", sizes.vocabulary), ("mask_token_id", sizes.vocabulary - 1)):
        if config.get(name, wanted) != wanted:
            wrong.append(f"{name} is {config[name]}, text, special tokens and codes make it {wanted}")
    refuse_problems(f"{folder} does not fit itself", wrong)
    return ShowOWeights(model=model, projector=_projector(projector, folder, model), sizes=sizes)


def _sizes(given: dict[str, Any], folder: Path) -> ShowOSizes:
    needed = ("num_image_tokens", "num_text")
    missing = [name for name in needed if not isinstance(given.get(name), int)]
    refuse_problems(
        f"{folder / 'config.json'} does not tell all sizes", [f"{name} is missing" for name in missing]
    )
    return ShowOSizes(**given)


def _disagreements(model: PhiForCausalLM, sizes: ShowOSizes) -> list[str]:
    rows = model.get_parameter("model.embed_tokens.weight").shape[0]
    if rows == sizes.vocabulary:
        return []
    return [
        f"the embedding has {rows} rows; {sizes.num_text} text tokens, {len(SPECIAL_TOKENS)} special ones, "
        f"{sizes.num_codes} codes and the mask token make {sizes.vocabulary}"
    ]


def _phi_config(tensors: Mapping[str, Tensor], folder: Path) -> PhiConfig:
    """Official folders leave Phi's sizes to another checkpoint, so they are read off the tensors."""
    first = "model.layers.0"
    names = ("model.embed_tokens.weight", f"{first}.mlp.fc1.weight", f"{first}.self_attn.q_layernorm.weight")
    names += (f"{first}.self_attn.q_proj.weight", f"{first}.self_attn.k_proj.weight")
    missing = [f"{_PREFIX}{name} is missing" for name in names if name not in tensors]
    refuse_problems(f"{folder} is not a Show-o checkpoint", missing)
    embedding, hidden, norm, query, key = (tensors[name].shape for name in names)
    layers = {name.split(".")[2] for name in tensors if name.startswith("model.layers.")}
    return PhiConfig(
        vocab_size=embedding[0],
        hidden_size=embedding[1],
        intermediate_size=hidden[0],
        num_hidden_layers=len(layers),
        num_attention_heads=query[0] // norm[0],
        num_key_value_heads=key[0] // norm[0],
        qk_layernorm=True,
        tie_word_embeddings=False,
        # Phi's own numbers mean nothing here, and a pad id would stop the gradient of its row.
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def _phi(
    tensors: Mapping[str, Tensor], config: PhiConfig, source: str, dtype: torch.dtype | None
) -> PhiForCausalLM:
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in PhiForCausalLM(config).state_dict().items()}
    what = f"{source}: the language model does not fit"
    stored = tensors.get("lm_head.weight")
    dtype = stored.dtype if dtype is None and stored is not None else dtype or torch.float32
    ready = in_precision(tensors, shapes, dtype, what=what)
    return filled(PhiForCausalLM, config, ready, source=source, dtype=dtype, attn_implementation="sdpa")


def _projector(tensors: Mapping[str, Tensor], folder: Path, model: PhiForCausalLM) -> nn.Sequential | None:
    if not tensors:
        return None
    missing = [f"{_PROJECTOR}0.weight is missing"] if "0.weight" not in tensors else []
    refuse_problems(f"{folder} is not a Show-o checkpoint", missing)
    features = tensors["0.weight"].shape[1]
    made = new_projector(features, model.config.hidden_size)
    load_exactly(made, tensors, source=f"{folder}: the projector")
    return made.to(model.dtype)


def read_tokenizer(folder: Path | str, sizes: ShowOSizes) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, special tokens added.

    Raises:
        ValueError: there is none, or it has not as many tokens as the checkpoint's text part.
    """
    tokenizer = tokenizer_file(Path(folder), hint=f"the folder of {sizes.language_model}'s")
    with form_of(f"the tokenizer in {folder}"):
        vocabulary_of(tokenizer, num_codes=sizes.num_codes, size=sizes.vocabulary)
    return tokenizer


def load_show_o(
    folder: Path | str,
    *,
    magvit: Path | str | None = None,
    tokenizer: Path | str | None = None,
    tower: Path | str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    settings: ShowOSettings | None = None,
) -> ShowO:
    """The policy of a folder of ours or an official one, which needs folders of its other two parts.

    A w-clip-vit checkpoint also needs its CLIP `tower` (openai/clip-vit-large-patch14-336), a folder or a
    name on the hub. The checkpoint decides over the sizes in `settings`. Frozen weights are in `dtype`;
    MAGVIT-v2 stays in float32, as its signs decide.

    Raises:
        ValueError: a part is missing, the parts do not fit, or a string has no place in this variant.
    """
    folder = local_folder(folder)
    ours = require(folder, "show-o") == "sightloop"
    if magvit is None and not ours:
        raise ValueError(f"{folder} is an official folder, without MAGVIT-v2; name its folder with --magvit")
    settings = ShowOSettings() if settings is None else settings
    weights = read_show_o(folder, dtype=dtype)
    config = read_json(folder / "config.json")
    strings = chosen_strings(config, has_tower=weights.projector is not None, prompts=settings.prompts)
    vision = _vision(folder, weights, tower, strings.get("system_prompt", SYSTEM_PROMPT))
    codec = Magvit2.from_folder(folder / "magvit2" if magvit is None else magvit)
    check_magvit(codec, weights.sizes)
    text = read_tokenizer(_tokenizer_folder(folder, tokenizer, ours), weights.sizes)
    settings = replace(
        settings,
        num_image_tokens=weights.sizes.num_image_tokens,
        max_text_tokens=weights.sizes.max_text_tokens,
        question_template=settings.question_template or strings.get("question_template"),
    )
    return ShowO(weights.model, text, codec, settings=settings, vision=vision).to(device)


def chosen_strings(
    config: Mapping[str, Any], *, has_tower: bool, prompts: PromptOptions | None
) -> dict[str, str]:
    """`question_template` and `system_prompt` where they are not the official ones.

    Raises:
        ValueError: a string that this variant does not read, or a template without its place.
    """
    prompts = PromptOptions() if prompts is None else prompts
    if prompts.drawing is not None:
        raise ValueError("Show-o reads prompts for images as they are; leave --prompts.drawing out")
    if prompts.system is not None and not has_tower:
        raise ValueError(
            "only the Show-o that reads a vision tower (w-clip-vit) has a system prompt; leave "
            "--prompts.system out"
        )
    template = prompts.text("template")
    if template is not None:
        Frame.of_template(template, name="--prompts.template")
    if prompts.roles is not None:
        frame = question_frame(roles=prompts.roles, behind_features=has_tower)
        template = frame.around(QUESTION_PLACE)
    chosen = {"question_template": template, "system_prompt": prompts.text("system")}
    strings = {name: config.get(name) if value is None else value for name, value in chosen.items()}
    return {name: str(value) for name, value in strings.items() if value is not None}


def _vision(folder: Path, weights: ShowOWeights, tower: Path | str | None, system: str) -> ShowOVision | None:
    if (tower is None) != (weights.projector is None):
        fix = "name its CLIP's folder with --tower" if tower is None else "leave --tower out"
        reads = "features of a vision tower (w-clip-vit)" if tower is None else "its own codes of images"
        raise ValueError(f"{folder} reads {reads}; {fix}")
    if tower is None or weights.projector is None:
        return None
    loaded = open_model(tower, _TOWER, dtype=weights.model.dtype).model
    wide, narrow = weights.projector.get_parameter("0.weight").shape[1], loaded.config.hidden_size
    if wide != narrow:
        raise ValueError(f"{tower} has features of {narrow} numbers, the projector of {folder} reads {wide}")
    return ShowOVision(loaded, weights.projector, system_prompt=system)


def _tokenizer_folder(folder: Path, tokenizer: Path | str | None, ours: bool) -> Path | str:
    if tokenizer is not None:
        return tokenizer
    return folder / "tokenizer" if ours else folder


# -- out


def write_show_o(
    weights: ShowOWeights,
    output: Path,
    *,
    tokenizer: PreTrainedTokenizerBase,
    magvit: Magvit2,
    strings: Mapping[str, str] | None = None,
) -> None:
    """Write a folder of ours; it appears when it is complete.

    `strings`: `question_template` and `system_prompt`, where they are not the official ones.

    Raises:
        ValueError: the output is in the way, or the parts do not fit together.
    """
    refuse_filled(output)
    vocabulary_of(tokenizer, num_codes=weights.sizes.num_codes, size=weights.sizes.vocabulary)
    check_magvit(magvit, weights.sizes)
    with atomic_write(output) as partial:
        partial.mkdir(parents=True)
        weights.model.save_pretrained(partial / "language_model")
        tokenizer.save_pretrained(partial / "tokenizer")
        write_magvit2(magvit, partial / "magvit2", official=False)
        if weights.projector is not None:
            (partial / "projector").mkdir()
            write_weights(partial / "projector", weights.projector.state_dict())
        write_json(partial / "config.json", {"family": "show-o", **asdict(weights.sizes), **(strings or {})})


def write_official(weights: ShowOWeights, output: Path) -> None:
    """Write a folder that the official code's `Showo.from_pretrained` reads.

    Raises:
        ValueError: the output is in the way.
    """
    refuse_filled(output)
    sizes = weights.sizes
    tensors = {f"{_PREFIX}{name}": value for name, value in weights.model.state_dict().items()}
    if weights.projector is not None:
        tensors |= {f"{_PROJECTOR}{k}": v for k, v in weights.projector.state_dict().items()}
    config = {
        "_class_name": "Showo",
        "vocab_size": sizes.vocabulary,
        "llm_vocab_size": sizes.num_text,
        "llm_model_path": sizes.language_model,
        "codebook_size": sizes.num_codes,
        "num_vq_tokens": sizes.num_image_tokens,
        "mask_token_id": sizes.vocabulary - 1,
        "load_from_showo": True,
        "w_clip_vit": weights.projector is not None,
    }
    with atomic_write(output) as partial:
        partial.mkdir(parents=True)
        size = sum(tensor.nbytes for tensor in tensors.values())
        write_weights(partial, tensors, name=OFFICIAL_WEIGHTS, shard_bytes=size)
        write_json(partial / "config.json", config)


def write_magvit2(magvit: Magvit2, output: Path, *, official: bool) -> None:
    """Write MAGVIT-v2's folder, in the form of the official code or in ours: only names of files differ.

    Raises:
        ValueError: the output is in the way.
    """
    refuse_filled(output)
    tensors = magvit.state_dict()
    with atomic_write(output) as partial:
        partial.mkdir(parents=True)
        write_weights(partial, tensors, name=OFFICIAL_WEIGHTS if official else "model.safetensors")
        write_json(
            partial / "config.json", {"_class_name": "MAGVITv2"} if official else {"family": "magvit2"}
        )


def check_magvit(magvit: Magvit2, sizes: ShowOSizes) -> None:
    """Refuse an image tokenizer with another number of codes.

    Raises:
        ValueError: the numbers differ.
    """
    if magvit.num_codes != sizes.num_codes:
        raise ValueError(
            f"MAGVIT-v2 has {magvit.num_codes} codes and the language model knows {sizes.num_codes}; "
            "use the one it was trained with"
        )
