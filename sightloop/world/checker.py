"""Reads the things off an image of the embedded world, from its pixels alone: shape, color, box, certainty.

A pixel belongs to the color whose line from the ground explains it, connected pixels are a thing, and the
shape that fits best when drawn where the thing's mass lies is its shape. So what an image tokenizer does to
images, blur and tint, does not matter. The checker knows no prompt and nothing of what should be there.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from sightloop.geneval.rules import Detection, GenEvalRules
from sightloop.world.scenes import COLOR_RGB, COLORS, CORNERS, SHAPES, SIDE, inside

Pixels = UInt8[np.ndarray, "H W 3"]
Floats = NDArray[np.float64]
_PALETTE = np.array([COLOR_RGB[color] for color in COLORS], dtype=np.float64)
SURE = 0.85
"""Score above which a thing counts; true things of clean images score above 0.9."""
CHECKER_RULES = GenEvalRules(threshold=SURE, counting_threshold=SURE)
"""How what was found is judged: GenEval's rules, with this threshold for everything."""
_MIN_STRENGTH = 0.5
_MAX_STRENGTH = 1.25
_PULL = 0.03
_NOISY = 9.0
"""Noise, in grey levels, above which an image is smoothed first."""
_MIN_PIXELS = 9
_RADII = (2.6, 9.0)
_MAX_SIDE = 17
"""Pixels; what is wider must be two things that touch."""
_MARGIN = 3
_SUPERSAMPLE = 3
_BLURS = (0.0, 0.6, 1.0, 1.5)


def corner_of(seen: Detection) -> str:
    """The corner of the image that the center of a thing lies in."""
    left, top, right, bottom = seen.box
    return CORNERS[2 * (top + bottom > SIDE) + (left + right > SIDE)]


def detect(picture: Pixels) -> list[Detection]:
    """The things of an image, the surest first; junk scores low, so compare scores with a threshold.

    A score says how well the shape fits, times how pure the color is.
    """
    values = picture.astype(np.float64)
    steps = np.abs(np.diff(values, axis=1))
    if np.median(steps) / 0.954 > _NOISY:
        values = _blurred(values.transpose(2, 0, 1), 0.8).transpose(1, 2, 0)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    offset = values - np.median(border, axis=0)
    lines = _PALETTE - np.median(border, axis=0)
    strength, cost = _explained(offset, lines)
    best = cost.argmin(-1)
    foreground = np.take_along_axis(strength, best[..., None], -1)[..., 0] >= _MIN_STRENGTH
    labels = _things(foreground, best, strength, cost)
    found = [
        _described(labels, number, offset=offset, lines=lines, strength=strength)
        for number in range(1, int(labels.max()) + 1)
    ]
    return sorted((d for d in found if d is not None), key=lambda d: -d.score)


def _explained(offset: Floats, lines: Floats) -> tuple[Floats, Floats]:
    """How far each pixel lies along each color's line from the ground, and how badly that explains it."""
    lengths = (lines**2).sum(-1)
    strength = (offset @ lines.T / lengths).clip(0, _MAX_STRENGTH)
    missed = (offset[..., None, :] - strength[..., None] * lines) ** 2
    return strength, missed.sum(-1) + _PULL * lengths * (1 - strength) ** 2


def _things(
    foreground: NDArray[np.bool_], best: NDArray[np.intp], strength: Floats, cost: Floats
) -> NDArray[np.intp]:
    """Number of the thing of each pixel, 0 = none."""
    labels = np.zeros(foreground.shape, dtype=np.intp)
    count = 0
    for piece in _components(foreground):
        cores = _core_colors(piece, best, strength)
        owner = best
        if len(cores) > 1:
            owner = np.array(cores)[cost[..., cores].argmin(-1)]
        for color in cores if len(cores) > 1 else [-1]:
            part = piece if color < 0 else piece & (owner == color)
            for blob in [part] if color < 0 else _components(part):
                for thing in _separated(blob):
                    count += 1
                    labels[thing] = count
    return labels


def _core_colors(piece: NDArray[np.bool_], best: NDArray[np.intp], strength: Floats) -> list[int]:
    """Colors with a pixel whose four neighbors have the same color, all at nearly full strength."""
    cores: list[int] = []
    for color in np.unique(best[piece]).tolist():
        full = piece & (best == color) & (strength[..., color] > 0.8)
        core = full[1:-1, 1:-1] & full[:-2, 1:-1] & full[2:, 1:-1] & full[1:-1, :-2] & full[1:-1, 2:]
        if core.any():
            cores.append(color)
    return cores


def _components(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Pixels that hang together over their four neighbors, pieces of a few pixels left out."""
    height, width = mask.shape
    unseen = set(np.flatnonzero(mask).tolist())
    pieces: list[NDArray[np.bool_]] = []
    while unseen:
        stack = [unseen.pop()]
        members: list[int] = []
        while stack:
            at = stack.pop()
            members.append(at)
            column = at % width
            for near in (
                at - width,
                at + width,
                at - 1 if column else -1,
                at + 1 if column < width - 1 else -1,
            ):
                if near in unseen:
                    unseen.remove(near)
                    stack.append(near)
        if len(members) >= _MIN_PIXELS:
            piece = np.zeros(height * width, dtype=bool)
            piece[members] = True
            pieces.append(piece.reshape(height, width))
    return pieces


def _separated(blob: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """A piece too wide for one thing, cut where it is thinnest near its middle."""
    for axis in (0, 1):
        profile = blob.sum(axis)
        places = np.flatnonzero(profile)
        first, last = int(places[0]), int(places[-1])
        size = last - first + 1
        if size > _MAX_SIDE:
            inner = np.arange(first + round(0.3 * size), last + 1 - round(0.3 * size))
            lowest = inner[profile[inner] == profile[inner].min()]
            cut = int(lowest[len(lowest) // 2])
            if profile[cut] < 0.6 * profile.max():
                where = np.arange(blob.shape[1 - axis]) < cut
                before = blob & (where[None, :] if axis == 0 else where[:, None])
                return [
                    thing
                    for half in (before, blob & ~before)
                    for piece in _components(half)
                    for thing in _separated(piece)
                ]
    return [blob]


def _described(
    labels: NDArray[np.intp], number: int, *, offset: Floats, lines: Floats, strength: Floats
) -> Detection | None:
    """Color from the strongest pixels, shape from the best fit; None = too small or too large."""
    mine = labels == number
    rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
    top, bottom = max(0, rows[0] - _MARGIN), min(mine.shape[0], rows[-1] + 1 + _MARGIN)
    left, right = max(0, columns[0] - _MARGIN), min(mine.shape[1], columns[-1] + 1 + _MARGIN)
    window = (slice(top, bottom), slice(left, right))
    color, level, purity = _colored(offset[mine], lines)
    free = (labels[window] == 0) | mine[window]
    alpha = (strength[window][..., color] / level).clip(0, 1) * free
    alpha[alpha < 0.1] = 0
    near = _grown(mine[window], 2)
    mass = alpha * near
    area = float(mass.sum())
    y, x = np.mgrid[top:bottom, left:right] + 0.5
    center_x, center_y = float((mass * x).sum() / area), float((mass * y).sum() / area)
    fits: list[tuple[float, str, float, float]] = []
    for shape in SHAPES:
        radius = (area / _AREA[shape]) ** 0.5
        if _RADII[0] <= radius <= _RADII[1]:
            shape_y = center_y - radius * _CENTROID[shape]
            fit = _fit(alpha, free, shape, at=(shape_y - top, center_x - left), radius=radius)
            fits.append((fit, shape, shape_y, radius))
    if not fits:
        return None
    fit, shape, shape_y, radius = max(fits)
    reach_x, up, down = _REACH[shape]
    return Detection(
        name=shape,
        color=COLORS[color],
        box=(
            center_x - radius * reach_x,
            shape_y - radius * up,
            center_x + radius * reach_x,
            shape_y + radius * down,
        ),
        score=float(np.clip(fit, 0, 1) * purity),
    )


def _colored(offset: Floats, lines: Floats) -> tuple[int, float, float]:
    """Color, strength and purity of a thing's pixels: share of their energy on the color's line."""
    strongest = (offset**2).sum(-1)
    mean = offset[strongest >= np.median(strongest)].mean(0)
    strength, cost = _explained(mean, lines)
    color = int(cost.argmin())
    level = float(max(strength[color], 0.3))
    missed = ((mean - strength[color] * lines[color]) ** 2).sum() / max((mean**2).sum(), 1.0)
    return color, level, float(1 - missed)


def _grown(mask: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    for _ in range(times):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


def _fit(
    alpha: Floats, free: NDArray[np.bool_], shape: str, *, at: tuple[float, float], radius: float
) -> float:
    """1 minus the squared error of the shape drawn there, as a share of its square; best of some blurs."""
    height, width = alpha.shape
    fine_y = (np.arange(height * _SUPERSAMPLE) + 0.5) / _SUPERSAMPLE - at[0]
    fine_x = (np.arange(width * _SUPERSAMPLE) + 0.5) / _SUPERSAMPLE - at[1]
    covered = inside(shape, fine_x[None, :] / radius, fine_y[:, None] / radius).astype(np.float64)
    drawn = covered.reshape(height, _SUPERSAMPLE, width, _SUPERSAMPLE).mean((1, 3))
    best = -1.0
    for sigma in _BLURS:
        blurred = _blurred(drawn[None], sigma)[0] * free
        best = max(best, 1 - float(((alpha - blurred) ** 2).sum() / max((blurred**2).sum(), 1e-6)))
    return best


def _blur_matrix(size: int, sigma: float) -> Floats:
    distance = np.arange(size)[:, None] - np.arange(size)[None]
    weights = np.exp(-(distance**2) / (2 * sigma**2)) * (np.abs(distance) <= 4)
    return weights / weights.sum(1, keepdims=True)


_BLUR_MATRICES = {
    (size, sigma): _blur_matrix(size, sigma) for size in range(1, SIDE + 1) for sigma in (*_BLURS[1:], 0.8)
}


def _blurred(planes: Floats, sigma: float) -> Floats:
    if sigma == 0:
        return planes
    rows, columns = (_BLUR_MATRICES.get((size, sigma)) for size in planes.shape[-2:])
    rows = _blur_matrix(planes.shape[-2], sigma) if rows is None else rows
    columns = _blur_matrix(planes.shape[-1], sigma) if columns is None else columns
    return rows @ planes @ columns.T


def _measured(shape: str) -> tuple[float, float, tuple[float, float, float]]:
    """Area, centroid below the origin, and reach to the sides, up and down of the shape of radius 1."""
    axis = (np.arange(600) + 0.5) / 300 - 1
    covered = inside(shape, axis[None, :], axis[:, None])
    rows, columns = axis[covered.any(1)], axis[covered.any(0)]
    centroid = float((covered * axis[:, None]).sum() / covered.sum())
    return float(covered.mean() * 4), centroid, (float(columns.max()), float(-rows.min()), float(rows.max()))


_MEASURED = {shape: _measured(shape) for shape in SHAPES}
_AREA = {shape: measured[0] for shape, measured in _MEASURED.items()}
_CENTROID = {shape: measured[1] for shape, measured in _MEASURED.items()}
_REACH = {shape: measured[2] for shape, measured in _MEASURED.items()}
