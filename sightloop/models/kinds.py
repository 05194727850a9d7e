"""What a model is by its configuration, and which option of a command takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from sightloop.models.transformers_internals import is_language_model

CLIPS = ("clip", "metaclip_2", "altclip")
"""Models whose scores are cosines, by transformers' names."""
MATCHER = "a BLIP-2 matcher"
"""Or a BLIP one, which is rarer."""
DETECTOR = "a Mask2Former, Grounding DINO or OWLv2"
KNOWN = {
    **{
        kind: (
            name,
            "--clip, --held-out.clip, --judge.retrieval-clip and --custom-rewards clip:NAME take it",
        )
        for kind, name in zip(CLIPS, ("a CLIP", "a MetaCLIP 2", "an AltCLIP"), strict=True)
    },
    "siglip": ("a SigLIP", "--custom-rewards siglip:NAME takes it"),
    "siglip2": ("a SigLIP 2 of any resolution", "--custom-rewards siglip:NAME takes it"),
    "blip": ("a BLIP that writes no captions", "of BLIP, --model takes BlipForConditionalGeneration"),
    "janus": ("a Janus", "`draw`, `ask` and `train unirl-grpo --model` take it"),
    "multi_modality": ("a Janus", "`draw`, `ask` and `train unirl-grpo --model` take it"),
    **dict.fromkeys(
        ("show-o", "Showo"), ("a Show-o", "`draw`, `ask` and `train unirl-grpo --model` take it")
    ),
    **dict.fromkeys(
        ("magvit2", "MAGVITv2"),
        ("a MAGVIT-v2, which is a part of a Show-o", "`draw`, `ask` and `convert --magvit` take it"),
    ),
    "mask2former": ("a Mask2Former", "`evaluate geneval --detector` takes it"),
    "grounding-dino": ("a Grounding DINO", "`evaluate geneval --detector` takes it"),
    "owlv2": ("an OWLv2", "`evaluate geneval --detector` takes it"),
}
"""Kinds that have options of their own, by transformers' names, or ours and the authors' own."""
_CLASSIC = {
    "blip": "a BLIP captioner",
    "git": "a GIT captioner",
    "instructblip": "an InstructBLIP",
    "florence2": "a Florence-2",
    "kosmos-2": "a Kosmos-2",
    "vision-encoder-decoder": "a vision encoder with a text decoder",
}
"""Captioners whose images do not stand among the words of a prompt, and that no judge asks."""
_BLIP2 = {
    True: (MATCHER, "--judge.model and --custom-rewards itm:NAME take it"),
    False: ("a BLIP-2 captioner", "--model takes it"),
}


def is_matcher(config: Any) -> bool:
    """Whether a BLIP-2 or BLIP judges pairs instead of writing captions."""
    kind_named = config.to_dict().get("architectures") or []
    reads_text = config.to_dict().get("qformer_config", {}).get("use_qformer_text_input", False)
    return bool(reads_text) or any("ImageTextRetrieval" in name for name in kind_named)


def is_blip2(config: Any) -> bool:
    """Whether it is a BLIP-2 that writes captions."""
    return config.model_type == "blip-2" and not is_matcher(config)


def is_classifier(config: Any) -> bool:
    """Whether it gives an image probabilities of classes."""
    return any("ForImageClassification" in name for name in config.to_dict().get("architectures") or [])


def is_detector(config: Any) -> bool:
    """Whether it finds objects and is known here."""
    return config.model_type in ("mask2former", "grounding-dino", "owlv2")


def is_captioner(config: Any) -> bool:
    """Whether it reads images and writes text, as far as a configuration tells."""
    if config.model_type == "blip-2":
        return not is_matcher(config)
    if config.model_type == "blip":
        named = config.to_dict().get("architectures") or ["BlipForConditionalGeneration"]
        return "BlipForConditionalGeneration" in named
    if config.model_type in KNOWN or is_classifier(config):
        # In the form of transformers, Janus reads images like any other.
        return config.model_type == "janus"
    return "vision_config" in config.to_dict() or not is_language_model(config)


def is_classic(config: Any) -> bool:
    """Whether it is a captioner whose images do not stand among the words of a prompt, other than BLIP-2."""
    return config.model_type in _CLASSIC and is_captioner(config)


def kind_named(config: Any) -> tuple[str, str]:
    """What it is, and which options take it."""
    kind = config.model_type
    if kind == "blip-2" or (kind == "blip" and is_matcher(config)):
        what, takes = _BLIP2[is_matcher(config)]
        return what.replace("BLIP-2", "BLIP") if kind == "blip" else what, takes
    if is_classic(config):
        return _CLASSIC[kind], "--model takes it"
    if kind in KNOWN:
        return KNOWN[kind]
    if is_classifier(config):
        return f"an image classifier ({kind})", "--custom-rewards class:NAME takes it"
    if is_language_model(config):
        return f"a language model ({kind})", "--judge.reference-model takes it"
    if "vision_config" in config.to_dict():
        return f"a captioner ({kind})", "--model and --custom-rewards vqa:NAME take it"
    return f"of the kind {kind!r}", "no option takes it"


def refuse_as(config: Any, wanted: str, source: str) -> NoReturn:
    """Refuse a model that is not what is wanted.

    Raises:
        ValueError: always, with what it is and which options take it.
    """
    what, takes = kind_named(config)
    raise ValueError(f"{source!r} is {what}, not {wanted}; {takes}")


def require_token_ids(fields: Mapping[str, Any], source: str) -> None:
    """Refuse what a configuration gives as numbers of tokens and is none.

    Raises:
        ValueError: the name and the value are told.
    """
    for name, value in fields.items():
        listed = value if isinstance(value, list) and value else [value]
        if name.endswith("_token_id") and not all(each is None or type(each) is int for each in listed):
            raise ValueError(
                f"{source!r} says {name} {str(value)[:60]!r} in config.json or generation_config.json, which "
                "is no number of a token; compare these files with those of the model's page"
            )
