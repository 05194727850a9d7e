"""Whether a judge judges: its folder, its configuration, and images whose right caption is known.

Ranking finds swapped classes and swapped channels; both are then told apart by undoing each. It does not
notice an activation that is nearly the right one: the bundled models' scores are therefore compared with
those on record, and other checkpoints' activations with what their family was trained with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sightloop.doctor.findings import Finding
from sightloop.doctor.probes import Probe, drawn_probe, world_probe
from sightloop.models.clip import SIGLIPS
from sightloop.models.transformers_internals import GELUActivation, QuickGELUActivation
from sightloop.rewards.clip_family import ClipSimilarity
from sightloop.rewards.similarity import ItmSimilarity
from sightloop.rewards.yes_no import YesNoJudge
from sightloop.world.language import WORDS

Judge = ItmSimilarity | ClipSimilarity | YesNoJudge
RECORD = Path(__file__).with_name("doctor_record.json")
"""Scores of the bundled judges, by the digest of their weights; made by `doctor_record`."""
_RIGHT = 0.9
"""Share of the images whose own caption must come first."""
_OFF = 1e-3
"""Scores may differ by this share of their spread, and no more, from those on record."""
_BUNDLED_BYTES = 50_000_000
"""Larger weights are nobody's bundled ones, and are not read for a digest."""


@dataclass(frozen=True, kw_only=True)
class ModelToExamine:
    """A judge of a recipe: what it is for, and where it is."""

    name: str
    """The setting or reward it serves."""
    model: str
    kind: Literal["itm", "clip", "yes-no"]
    scale: Literal["cosine", "logit"] = "cosine"
    processor: str = ""

    def load(self, *, dtype: torch.dtype, device: torch.device) -> Judge:
        """The judge itself."""
        if self.kind == "itm":
            return ItmSimilarity.from_pretrained(self.model, dtype=dtype, device=device)
        if self.kind == "yes-no":
            return YesNoJudge.from_pretrained(self.model, dtype=dtype, device=device)
        return ClipSimilarity.from_pretrained(
            self.model, dtype=dtype, device=device, scale=self.scale, processor=self.processor
        )


def examine(wanted: ModelToExamine, *, dtype: torch.dtype, device: torch.device) -> list[Finding]:
    """Everything about one judge; a model that cannot be loaded is one failure."""
    found = _Findings(part=f"{wanted.name}: {wanted.model}")
    try:
        judge = wanted.load(dtype=dtype, device=device)
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        return [
            found.fail("loads", _first_lines(error), "correct what is named above, or name another model")
        ]
    probe = world_probe() if _knows_world_only(judge) else drawn_probe()
    scores = judge.rewards(*probe.pairs).float().cpu()
    return [
        found.ok(
            "loads", f"{sum(p.numel() for p in judge.model.parameters()) / 1e6:.1f} M parameters, all there"
        ),
        *_configuration(found, judge, wanted.model),
        *_on_record(found, judge, scores, wanted.model),
        _ranking(found, judge, probe, scores),
    ]


@dataclass(frozen=True, kw_only=True)
class _Findings:
    """Makes findings about one model."""

    part: str

    def ok(self, name: str, says: str, **figures: float) -> Finding:
        return Finding(part=self.part, name=name, mark="pass", says=says, figures=figures)

    def note(self, name: str, says: str, fix: str) -> Finding:
        return Finding(part=self.part, name=name, mark="warn", says=says, fix=fix)

    def fail(self, name: str, says: str, fix: str, **figures: float) -> Finding:
        return Finding(part=self.part, name=name, mark="fail", says=says, fix=fix, figures=figures)


def _configuration(found: _Findings, judge: Judge, model: str) -> Iterator[Finding]:
    """Activations and sizes against what the family was trained with."""
    if isinstance(judge, YesNoJudge):
        return
    prepared = judge.preparation
    if prepared is None:
        yield found.ok("image size", "images in their own shapes")
    elif prepared.shortest_side not in (None, prepared.height):
        yield found.note(
            "image size",
            f"images are brought to {prepared.shortest_side} pixels and cut to {prepared.height}: "
            "their edges are lost",
            f"set size.shortest_edge to {prepared.height} in its processor's JSON unless it was trained so",
        )
    else:
        yield found.ok("image size", f"{prepared.height} x {prepared.width}, as the model sees them")
    for part, said, known in _activations(judge, model):
        if said not in known:
            yield found.fail(
                "activation",
                f"{part}.hidden_act is {said!r}; this family was trained with {' or '.join(known)}",
                f"write {known[0]!r} there in config.json",
            )
    parts = _activations(judge, model)
    if all(said in known for _, said, known in parts):
        yield found.ok("activation", ", ".join(f"{part} {said}" for part, said, _ in parts))


def _activations(judge: Judge, model: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Part, activation as configured, activations that it may have."""
    config: Any = judge.model.config
    if isinstance(judge, ItmSimilarity):
        return [
            (part, getattr(config, part).hidden_act, ("gelu",)) for part in ("vision_config", judge.reader)
        ]
    known: tuple[str, ...] = ("gelu", "quick_gelu")
    if config.model_type in SIGLIPS:
        known = ("gelu_pytorch_tanh",)
    elif "openai" in model:
        known = ("quick_gelu",)
    elif any(name in model.lower() for name in ("laion", "pickscore", "hps")):
        known = ("gelu",)
    seen, read = str(config.vision_config.hidden_act), str(config.text_config.hidden_act)
    same = known if read == seen or seen not in known else (seen,)
    return [("vision_config", seen, known), ("text_config", read, same)]


def _on_record(found: _Findings, judge: Judge, scores: Tensor, model: str) -> Iterator[Finding]:
    """The scores of bundled weights against those that they are known to give."""
    known = record().get(digest(model))
    if known is None or judge.model.dtype != torch.float32 or isinstance(judge, YesNoJudge):
        return
    off = float((scores - torch.tensor(known["scores"])).abs().max() / scores.std())
    if off <= _OFF:
        yield found.ok("scores on record", f"equal to {off:.0e} of their spread", off=off)
        return
    now = settings_of(judge)
    changed = [
        f"{name} is {now[name]!r}, not {was!r}" for name, was in known["settings"].items() if now[name] != was
    ]
    yield found.fail(
        "scores on record",
        f"these are the bundled weights, and their scores are off by {off:.2g} of their spread: "
        + ("; ".join(changed) or "nothing in the configuration explains it"),
        "put config.json and the processor's JSON back as they were bundled"
        if changed
        else "install the versions of constraints.txt again",
        off=off,
    )


def _ranking(found: _Findings, judge: Judge, probe: Probe, scores: Tensor) -> Finding:
    """Whether the right caption comes first; if not, what would make it."""
    right, margin = _share_right(probe, scores), float(probe.margins(scores).mean())
    line = f"the right caption comes first for {right:.0%} of {len(probe.true)} images"
    if right >= _RIGHT:
        return found.ok(
            "ranks the right caption first", f"{line}, by {margin:.3g}", right=right, margin=margin
        )
    causes: list[tuple[Callable[[], float], str, str]] = [
        (
            lambda: _share_right(probe, -scores),
            "with the sign turned it would be right: the classes of its head are in the other order",
            "swap the two rows of its head, so that class 1 is 'matched', or turn its training labels",
        ),
        (
            lambda: _share_right(probe, judge.rewards(*probe.bgr().pairs).float().cpu()),
            "with red and blue swapped it would be right: the model reads BGR, or its pixels come as BGR",
            "give it RGB, or reverse the input channels of its patch embedding",
        ),
        (
            lambda: _with_other_activation(judge, probe),
            "with the other GELU it would be right",
            "correct hidden_act in config.json (OpenAI's CLIPs: quick_gelu, all others: gelu)",
        ),
    ]
    for undone, why, fix in causes:
        if undone() >= _RIGHT:
            return found.fail(
                "ranks the right caption first", f"{line}; {why}", fix, right=right, margin=margin
            )
    return found.fail(
        "ranks the right caption first",
        line,
        "do not train on it: download it again, and compare its processor with the model's page",
        right=right,
        margin=margin,
    )


def _share_right(probe: Probe, scores: Tensor) -> float:
    return float((probe.margins(scores) > 0).float().mean())


def _with_other_activation(judge: Judge, probe: Probe) -> float:
    """The share that would be right with quick GELU for GELU, or the other way round."""
    undo = [
        (module, name, child)
        for module in judge.model.modules()
        for name, child in module.named_children()
        if isinstance(child, QuickGELUActivation | GELUActivation | nn.GELU)
    ]
    for module, name, child in undo:
        setattr(module, name, nn.GELU() if isinstance(child, QuickGELUActivation) else QuickGELUActivation())
    try:
        return _share_right(probe, judge.rewards(*probe.pairs).float().cpu())
    finally:
        for module, name, child in undo:
            setattr(module, name, child)


def _knows_world_only(judge: Judge) -> bool:
    words: Any = judge.processor.tokenizer if isinstance(judge, YesNoJudge) else judge.tokenizer
    return set(words.get_vocab()) == set(WORDS)


def settings_of(judge: ItmSimilarity | ClipSimilarity) -> dict[str, Any]:
    """What of configuration and processor decides the scores."""
    config, prepared = judge.model.config, judge.preparation
    assert prepared is not None, "bundled judges see squares"
    parts = ("vision_config", judge.reader if isinstance(judge, ItmSimilarity) else "text_config")
    acts = {f"{part}.hidden_act": getattr(config, part).hidden_act for part in parts}
    eps = {f"{part}.layer_norm_eps": getattr(config, part).layer_norm_eps for part in parts}
    pixels = {
        "image size": prepared.height,
        "shortest edge": prepared.shortest_side,
        "image_mean": list(prepared.mean),
        "image_std": list(prepared.std),
        "resample": prepared.resampling,
    }
    return acts | eps | pixels


def record() -> dict[str, Any]:
    """Scores and settings of the bundled judges by the digest of their weights."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def digest(model: str) -> str:
    """Of the weights of a small folder; "" for any other."""
    file = Path(model) / "model.safetensors"
    if not file.is_file() or file.stat().st_size > _BUNDLED_BYTES:
        return ""
    return sha256(file.read_bytes()).hexdigest()


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:400] or type(error).__name__
