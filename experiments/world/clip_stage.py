"""Pre-training stage 4: the tiny CLIPs."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel

from experiments.world.fitting import CornerHeads, Stage, World, fit, held_out, text_ids
from sightloop.world.language import STYLES, Style, caption
from sightloop.world.models import new_clip, normalized


def train_clip(world: World, stage: Stage, width: int) -> CLIPModel:
    """Stage 4: contrastive, with the corner heads on the image side fading out over half the run."""
    torch.manual_seed(4 + width)
    model = new_clip(width)
    heads = CornerHeads(width)
    parts = nn.ModuleDict({"model": model, "heads": heads})

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        index = world.batch(rng, 192)
        scenes = [world.scenes[i] for i in index]
        texts = [caption(s, STYLES[rng.choice(3, p=(0.1, 0.25, 0.65))], rng) for s in scenes]
        ids, mask = text_ids(texts)
        out = model(input_ids=ids, attention_mask=mask.long(), pixel_values=normalized(world.pixels[index]))
        match = torch.arange(len(index))
        contrast = F.cross_entropy(out.logits_per_text, match) + F.cross_entropy(out.logits_per_image, match)
        reading = heads(out.vision_model_output.pooler_output, scenes)[0]
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6)
        return contrast / 2 + reading * max(0.1, 1 - 2 * step / stage.steps)

    def report() -> str:
        return ", ".join(f"R@1 {style} {clip_gate(model, world, style):.3f}" for style in STYLES)

    fit(stage, parts, list(parts.parameters()), loss_at=loss_at, report=report)
    return model


@torch.no_grad()
def clip_gate(model: CLIPModel, world: World, style: Style, size: int = 500) -> float:
    """CLIP R@1 among 500 held-out images of captions of one style."""
    index = list(held_out(world, size))
    rng = np.random.default_rng(9)
    ids, mask = text_ids([caption(world.scenes[i], style, rng) for i in index])
    out = model(input_ids=ids, attention_mask=mask.long(), pixel_values=normalized(world.pixels[index]))
    return (out.logits_per_text.argmax(1) == torch.arange(size)).float().mean().item()
