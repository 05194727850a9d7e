"""Samples of a training batch for the run folder: what was drawn and said, earned and credited."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from sightloop.image_files import open_image
from sightloop.types import Credit, Images, Rollout

GALLERY_SIZE = 16
NUM_EVALUATION_IMAGES = 64
"""Images of an evaluation that are copied into the run folder, for the report."""
_IMAGE_SIDE = 256


def gallery_samples(folder: Path, rollout: Rollout, credit: Credit) -> list[dict[str, Any]]:
    """The first samples of a batch; their images are copied into the run folder.

    Of drawings whole groups are taken, so that samples of one prompt can be compared.
    """
    if rollout.turns[0].prompt.wants == "image":
        return [_drawing(folder, rollout, credit, row) for row in _whole_groups(rollout.group.tolist())]
    return [_caption(folder, rollout, credit, row) for row in range(min(GALLERY_SIZE, len(rollout)))]


def _whole_groups(groups: list[int]) -> list[int]:
    """Rows of the first groups that fit, side by side; of a group larger than a gallery, its first rows."""
    rows: list[int] = []
    for group in dict.fromkeys(groups):
        members = [row for row, own in enumerate(groups) if own == group]
        if rows and len(rows) + len(members) > GALLERY_SIZE:
            break
        rows += members
    return rows[:GALLERY_SIZE]


def _caption(folder: Path, rollout: Rollout, credit: Credit, row: int) -> dict[str, Any]:
    images = rollout.turns[0].prompt.images
    return {
        "source": rollout.sources[row] if rollout.sources else "",
        "image": save_image(folder, images.pixels[row]) if isinstance(images, Images) else "",
        **_words(rollout, credit, row),
        "parts": _parts(rollout, row),
    }


def _drawing(folder: Path, rollout: Rollout, credit: Credit, row: int) -> dict[str, Any]:
    drawing, *asking = rollout.turns
    codes, columns = drawing.tokens, rollout.turn_columns()[0]
    counted = codes.mask[row] & (credit.loss_weights[row, columns] > 0)
    advantages = credit.advantages[row, columns][counted]
    drawn = codes.mask[row]
    words = _words(rollout, credit, row) if asking else {"pieces": [], "rewards": [], "credit": []}
    return {
        "source": rollout.sources[row] if rollout.sources else drawing.prompt.texts[row],
        "image": "" if rollout.drawn is None else save_image(folder, rollout.drawn.pixels[row]),
        "question": asking[0].prompt.texts[row] if asking else "",
        "truth": rollout.references[row] if rollout.references else "",
        "answer": rollout.answers[row] if rollout.answers else "",
        "values": None,
        "ended": True,
        **words,
        "reward": float(rollout.rewards[row].sum()),
        "parts": _parts(rollout, row),
        "group": int(rollout.group[row]),
        "group_size": int((rollout.group == rollout.group[row]).sum()),
        # 0 where no code of the drawing counts in the loss.
        "drawing_credit": float(advantages.mean()) if len(advantages) else 0.0,
        "drawing_log_prob": None if codes.log_probs is None else float(codes.log_probs[row][drawn].mean()),
    }


def _words(rollout: Rollout, credit: Credit, row: int) -> dict[str, Any]:
    """The last turn of a sample, token by token."""
    tokens = rollout.turns[-1].tokens
    columns = rollout.turn_columns()[-1]
    counted = tokens.mask[row].nonzero()[:, 0]
    pieces = rollout.pieces[row] if rollout.pieces else []
    return {
        "pieces": pieces + [""] * (len(counted) - len(pieces)),
        "rewards": rollout.rewards[row, counted].tolist(),
        "credit": credit.advantages[row, columns][counted].tolist(),
        "values": None if rollout.values is None else rollout.values[row, counted].tolist(),
        "ended": len(pieces) < len(counted),
    }


def _parts(rollout: Rollout, row: int) -> dict[str, float]:
    return {name: float(part[row]) for name, part in rollout.reward_parts.items()}


def save_image(folder: Path, pixels: Tensor) -> str:
    """Keep a small copy below `folder`; its path from there."""
    return _keep(folder, Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()))


def copy_image(folder: Path, source: str) -> str | None:
    """Keep a small copy of an image file below `folder`; None if `source` is no such file."""
    if not Path(source).is_file():
        return None
    try:
        return _keep(folder, open_image(source))
    except ValueError:
        # A frame of a video, a member of an archive: the page does without.
        return None


def _keep(folder: Path, image: Image.Image) -> str:
    image.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE))
    name = f"images/{hashlib.sha1(f'{image.size}'.encode() + image.tobytes()).hexdigest()}.png"
    path = folder / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        image.save(partial, format="png")
        os.replace(partial, path)
    return name
