"""Samples of a training batch for the run folder: what was said, earned and credited, token by token."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from sightloop.types import Credit, Images, Rollout

GALLERY_SIZE = 16
_PICTURE_SIDE = 256


def gallery_samples(folder: Path, rollout: Rollout, credit: Credit) -> list[dict[str, Any]]:
    """The first samples of a batch; their pictures are copied into the run folder."""
    tokens = rollout.turns[-1].tokens
    pictures = rollout.turns[0].prompt.images
    # Credit spans the tokens of all turns, rewards those of the last.
    offset = credit.advantages.shape[1] - tokens.mask.shape[1]
    samples: list[dict[str, Any]] = []
    for row in range(min(GALLERY_SIZE, len(rollout))):
        counted = tokens.mask[row].nonzero()[:, 0]
        pieces = rollout.pieces[row] if rollout.pieces else []
        values = None if credit.values is None else credit.values[row, offset + counted].tolist()
        samples.append(
            {
                "source": rollout.sources[row] if rollout.sources else "",
                "image": save_picture(folder, pictures.pixels[row]) if isinstance(pictures, Images) else "",
                "pieces": pieces + [""] * (len(counted) - len(pieces)),
                "rewards": rollout.rewards[row, counted].tolist(),
                "credit": credit.advantages[row, offset + counted].tolist(),
                "values": values,
                "ended": len(pieces) < len(counted),
                "parts": {name: float(part[row]) for name, part in rollout.reward_parts.items()},
            }
        )
    return samples


def save_picture(folder: Path, pixels: Tensor) -> str:
    """Keep a small copy below `folder`; its path from there."""
    return _keep(folder, Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()))


def copy_picture(folder: Path, source: str) -> str | None:
    """Keep a small copy of a picture file below `folder`; None if `source` is no such file."""
    if not Path(source).is_file():
        return None
    try:
        with Image.open(source) as picture:
            return _keep(folder, picture.convert("RGB"))
    except OSError:
        # A frame of a video, a member of an archive: the page does without.
        return None


def _keep(folder: Path, picture: Image.Image) -> str:
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    name = f"images/{hashlib.sha1(f'{picture.size}'.encode() + picture.tobytes()).hexdigest()}.png"
    path = folder / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        picture.save(partial, format="png")
        os.replace(partial, path)
    return name
