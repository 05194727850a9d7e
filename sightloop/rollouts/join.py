"""One rollout from several: parts of a batch that were collected one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sightloop.types import Images, Rollout, Tokens, Turn


def join_rollouts(parts: list[Rollout]) -> Rollout:
    """One rollout from several with the same turns, padded to the longest text."""
    if len(parts) == 1:
        return parts[0]
    turns = tuple(_join_turns([part.turns[i] for part in parts]) for i in range(len(parts[0].turns)))
    drawn = [part.drawn for part in parts if part.drawn is not None]
    baselines = [part.baseline for part in parts if part.baseline is not None]
    return Rollout(
        turns=turns,
        rewards=_pad([part.rewards for part in parts]),
        reward_parts={n: torch.cat([p.reward_parts[n] for p in parts]) for n in parts[0].reward_parts},
        group=torch.cat([part.group for part in parts]),
        pieces=[row for part in parts for row in part.pieces],
        sources=[text for part in parts for text in part.sources],
        baseline=torch.cat(baselines) if baselines else None,
        references=[text for part in parts for text in part.references],
        answers=[text for part in parts for text in part.answers],
        drawn=Images(pixels=torch.cat([images.pixels for images in drawn])) if drawn else None,
    )


def _join_turns(turns: list[Turn]) -> Turn:
    prompts = [turn.prompt for turn in turns]
    prompt = replace(
        prompts[0],
        texts=[text for prompt in prompts for text in prompt.texts],
        images=_join_seen([prompt.images for prompt in prompts]),
        seeds=[seed for p in prompts for seed in p.seeds or []] if prompts[0].seeds is not None else None,
    )
    return Turn(prompt=prompt, tokens=_join_tokens([turn.tokens for turn in turns]))


def _join_seen(parts: Sequence[Images | Tokens | None]) -> Images | Tokens | None:
    codes = [part for part in parts if isinstance(part, Tokens)]
    seen = [part for part in parts if isinstance(part, Images)]
    if codes:
        return _join_tokens(codes)
    if not seen:
        return None
    return _join_images(seen)


def _join_images(seen: Sequence[Images]) -> Images:
    # Features of images in their own shapes are as many as the largest of a part has.
    features = {key: _join_features([part.features[key] for part in seen]) for key in seen[0].features}
    # The parts are of one batch, whose samples are filled up to equally many images.
    more = zip(*(part.more for part in seen), strict=True)
    return Images(
        pixels=torch.cat([part.pixels for part in seen]),
        whole=[each for part in seen for each in part.whole or []] or None,
        features=features,
        keys=_join_keys(seen),
        more=tuple(map(_join_images, more)),
        counts=[count for part in seen for count in part.counts or ()] or None,
    )


def _join_features(values: list[Tensor]) -> Tensor:
    if values[0].ndim < 3:
        return torch.cat(values)
    most = max(value.shape[1] for value in values)
    gaps = [(0, 0) * (value.ndim - 2) + (0, most - value.shape[1]) for value in values]
    return torch.cat([F.pad(value, gap) for value, gap in zip(values, gaps, strict=True)])


def _join_keys(parts: Sequence[Images] | Sequence[Tokens]) -> list[bytes] | None:
    known = [part.keys for part in parts if part.keys is not None]
    return [key for keys in known for key in keys] if len(known) == len(parts) else None


def _join_tokens(parts: list[Tokens]) -> Tokens:
    def join(values: list[Tensor | None]) -> Tensor | None:
        known = [value for value in values if value is not None]
        return _pad(known) if len(known) == len(values) else None

    codes = [part.one_hot for part in parts if part.one_hot is not None]
    return Tokens(
        ids=_pad([part.ids for part in parts]),
        mask=_pad([part.mask for part in parts]),
        log_probs=join([part.log_probs for part in parts]),
        decode_step=join([part.decode_step for part in parts]),
        one_hot=torch.cat(codes) if codes else None,
        keys=_join_keys(parts),
    )


def _pad(values: list[Tensor]) -> Tensor:
    width = max(value.shape[1] for value in values)
    return torch.cat([F.pad(value, (0, width - value.shape[1])) for value in values])
