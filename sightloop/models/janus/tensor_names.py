"""Names and layouts of Janus' tensors in the authors' checkpoints, and in transformers; both ways."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sightloop.models.weight_files import refuse_problems

Pairs = tuple[tuple[str, str], ...]
_TOWER: Pairs = (
    (".blocks.", ".encoder.layers."),
    (".attn.proj.", ".self_attn.projection_layer."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".norm.", ".post_layernorm."),
    (".patch_embed.proj.", ".embeddings.patch_embedding."),
    (".pos_embed", ".embeddings.position_embedding.weight"),
)
_CODES: Pairs = (
    (".encoder.conv_blocks.", ".encoder.down."),
    (".decoder.conv_blocks.", ".decoder.up."),
    (".res.", ".block."),
    (".mid.0.", ".mid.block_1."),
    (".mid.1.", ".mid.attn_1."),
    (".mid.2.", ".mid.block_2."),
)
_ALIGNER: Pairs = ((".layers.0.", ".fc1."),)
# The authors' prefix, that of transformers, and what changes behind it.
_PARTS: tuple[tuple[str, str, Pairs], ...] = (
    ("vision_model.vision_tower.", "model.vision_model.", _TOWER),
    ("gen_vision_model.", "model.vqmodel.", _CODES),
    ("aligner.", "model.aligner.", _ALIGNER),
    ("gen_aligner.", "model.generation_aligner.", _ALIGNER),
    ("gen_head.", "model.generation_head.", ((".output_mlp_projector.", ".proj_out."),)),
    ("gen_embed.", "model.generation_embeddings.", ()),
    ("language_model.model.", "model.language_model.", ()),
    ("language_model.lm_head.", "lm_head.", ()),
)
_DROPPED = ("vision_model.vision_tower.attn_pool.", "gen_vision_model.quantize.codebook_used")
"""A pooling that nothing reads, and a count from training."""
_FUSED, _SPLIT = ".self_attn.qkv.", tuple(f".self_attn.{part}_proj." for part in "qkv")
_POSITIONS = "model.vision_model.embeddings.position_embedding.weight"
_COUNTED = 65_536
"""Length of the authors' count of used codes, whatever the codebook's size."""


def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names and in the layouts of transformers.

    Raises:
        ValueError: tensors that no Janus of the authors has; they are named.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_DROPPED)}
    parts = tuple(part for part, _, _ in _PARTS)
    refuse_problems(
        "no Janus checkpoint", [f"{name} is unknown" for name in kept if not name.startswith(parts)]
    )
    made: dict[str, Tensor] = {}
    for name, tensor in kept.items():
        renamed = _renamed(name)
        if _FUSED in renamed:
            rows = zip(_SPLIT, tensor.chunk(3), strict=True)
            made |= {renamed.replace(_FUSED, own): part for own, part in rows}
        else:
            made[renamed] = tensor[0] if renamed == _POSITIONS else tensor
    return made


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names and in the layouts of the authors.

    The pooling of the vision tower, which Janus never reads, is not among them.
    """
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _SPLIT[0] in name and name.startswith("model.vision_model."):
            parts = [tensors[name.replace(_SPLIT[0], own)] for own in _SPLIT]
            made[_named_by_authors(name.replace(_SPLIT[0], _FUSED))] = torch.cat(parts)
        elif not (name.startswith("model.vision_model.") and any(own in name for own in _SPLIT)):
            made[_named_by_authors(name)] = tensor[None] if name == _POSITIONS else tensor
    return made | {_DROPPED[1]: torch.zeros(_COUNTED)}


def _renamed(name: str) -> str:
    for theirs, ours, pairs in _PARTS:
        if name.startswith(theirs):
            rest = f".{name.removeprefix(theirs)}"
            for before, after in pairs:
                rest = rest.replace(before, after)
            rest = rest.removeprefix(".")
            # The authors number activations too: layers 2, 4, ... are the hidden layers 0, 1, ...
            start, number, kind = (*rest.split(".", 2), "", "")[:3]
            if pairs is _ALIGNER and start == "layers" and number.isdigit() and int(number) % 2 == 0:
                rest = f"hidden_layers.{int(number) // 2 - 1}.{kind}"
            return ours + rest
    raise AssertionError(f"{name} has no part")


def _named_by_authors(name: str) -> str:
    for theirs, ours, pairs in _PARTS:
        if name.startswith(ours):
            rest = f".{name.removeprefix(ours)}"
            for before, after in pairs:
                rest = rest.replace(after, before)
            rest = rest.removeprefix(".")
            start, number, kind = (*rest.split(".", 2), "", "")[:3]
            if pairs is _ALIGNER and start == "hidden_layers":
                rest = f"layers.{2 * int(number) + 2}.{kind}"
            return theirs + rest
    raise AssertionError(f"{name} has no part")
