"""What the stages of pre-training share: the pool of scenes, frozen features, word ids, and the training
itself.

The step's random numbers depend on the stage's name and the step only, so a resumed stage repeats an
uninterrupted one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightloop.models.open import read_saved
from sightloop.world.language import WORDS, caption_tokens
from sightloop.world.models import BOS, EOS, PAD, normalized
from sightloop.world.scenes import COLORS, CORNERS, GROUNDS, SHAPES, SIZES, Scene, render, sample_scene

NUM_TRAIN, NUM_HELD_OUT = 24_000, 1_000
WORD_IDS = {word: index for index, word in enumerate(WORDS)}


@dataclass(frozen=True, kw_only=True)
class World:
    """The training pool: scenes, their images, and (after stage 1) the frozen tower's features."""

    scenes: list[Scene]
    pixels: Tensor
    features: Tensor = field(default_factory=lambda: torch.empty(0))

    def batch(self, rng: np.random.Generator, size: int) -> list[int]:
        """Indices of training scenes."""
        return rng.integers(0, NUM_TRAIN, size).tolist()


def make_world(seed: int = 0) -> World:
    """24,000 training scenes and 1,000 held out."""
    rng = np.random.default_rng([seed, crc32(b"pool")])
    scenes = [sample_scene(rng) for _ in range(NUM_TRAIN + NUM_HELD_OUT)]
    pictures = np.stack([render(scene, rng) for scene in scenes])
    return World(scenes=scenes, pixels=torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous())


class CornerHeads(nn.Module):
    """Reads shape, color and size of every corner, and the ground, off a feature vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (len(SHAPES) + 1, len(COLORS) + 1, len(SIZES) + 1)
        self.read = nn.Linear(width, 4 * sum(self.sizes) + len(GROUNDS))

    def forward(self, features: Tensor, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and the share of corners read without an error."""
        out = self.read(features)
        corners = out[:, : 4 * sum(self.sizes)].view(-1, 4, sum(self.sizes)).split(self.sizes, -1)
        truths = torch.tensor([_corner_truth(scene) for scene in scenes])
        loss = 0.3 * F.cross_entropy(
            out[:, 4 * sum(self.sizes) :], torch.tensor([GROUNDS.index(scene.ground) for scene in scenes])
        )
        right = torch.ones(len(scenes), 4, dtype=torch.bool)
        for kind, logits in enumerate(corners):
            loss = loss + F.cross_entropy(logits.flatten(0, 1), truths[:, :, kind].flatten())
            right &= logits.argmax(-1) == truths[:, :, kind]
        return loss, right.float().mean()


def _corner_truth(scene: Scene) -> list[list[int]]:
    truth = [[len(SHAPES), len(COLORS), len(SIZES)] for _ in CORNERS]
    for thing in scene.things:
        truth[CORNERS.index(thing.corner)] = [
            SHAPES.index(thing.shape),
            COLORS.index(thing.color),
            SIZES.index(thing.size),
        ]
    return truth


def text_ids(texts: list[str]) -> tuple[Tensor, Tensor]:
    """`<s> words </s>` right-padded, and the mask."""
    rows = [[BOS, *(WORD_IDS[word] for word in caption_tokens(text)), EOS] for text in texts]
    length = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    return ids, torch.arange(length)[None] < torch.tensor([len(row) for row in rows])[:, None]


@torch.no_grad()
def see(world: World, tower: nn.Module) -> World:
    """The pool with the frozen tower's features."""
    chunks = [tower(normalized(chunk)).last_hidden_state for chunk in world.pixels.split(500)]
    return World(scenes=world.scenes, pixels=world.pixels, features=torch.cat(chunks))


def queries_of(model: Any, features: Tensor) -> Tensor:
    """The Q-Former's outputs for images alone."""
    queries = model.query_tokens.expand(len(features), -1, -1)
    return model.qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state


def held_out(world: World, size: int = 400) -> range:
    """Indices of scenes that no stage is trained on."""
    return range(NUM_TRAIN, NUM_TRAIN + size)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training: its name, length and peak learning rate, and the folder of its snapshots."""

    name: str
    steps: int
    peak_lr: float
    work: Path


def fit(
    stage: Stage,
    parts: nn.ModuleDict,
    trained: list[nn.Parameter],
    *,
    loss_at: Callable[[int, np.random.Generator], Tensor],
    report: Callable[[], str],
) -> None:
    """AdamW with one cycle and snapshots every 200 steps; a finished stage is only loaded."""
    name, steps, peak_lr, work = stage.name, stage.steps, stage.peak_lr, stage.work
    finished = work / f"{name}.pt"
    if finished.exists():
        parts.load_state_dict(read_saved(finished))
        return
    optimizer = torch.optim.AdamW(trained, lr=peak_lr, weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=steps, pct_start=0.08)
    snapshot, first = work / f"{name}.snapshot.pt", 0
    if snapshot.exists():
        saved = read_saved(snapshot)
        parts.load_state_dict(saved["parts"])
        optimizer.load_state_dict(saved["optimizer"])
        cycle.load_state_dict(saved["cycle"])
        first = saved["step"]
    started, total = time.perf_counter(), 0.0
    for step in range(first, steps):
        torch.manual_seed(step)
        loss = loss_at(step, np.random.default_rng([crc32(name.encode()), step]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        cycle.step()
        total += loss.item()
        if (step + 1) % 200 == 0:
            with torch.no_grad():
                figures = report()
            seconds = time.perf_counter() - started
            print(f"{name} {step + 1}/{steps} {seconds:.0f} s  loss {total / 200:.3f}  {figures}", flush=True)
            total = 0.0
            state = {
                "parts": parts.state_dict(),
                "optimizer": optimizer.state_dict(),
                "cycle": cycle.state_dict(),
                "step": step + 1,
            }
            _write(state, snapshot)
    _write(parts.state_dict(), finished)
    snapshot.unlink(missing_ok=True)


def _write(state: dict[str, object], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)
