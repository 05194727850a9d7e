"""Rewards by name, as the command line has them: `clip:FOLDER=0.5`, `length`, `module:function=2`.

`OFFERED` lists the library's own. Every other name is a function of the user's (see `functions`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sightloop.late import late
from sightloop.rewards.functions import load_reward
from sightloop.rewards.loading import CLASSIFIER, READER, Loading, clip_and_head, processor_for
from sightloop.rewards.user_functions import load_function, names_function
from sightloop.types import Reward

_require_address = late("sightloop.rewards.served.client:require_address")
_CLIP = late("sightloop.rewards.offered:clip")
PICKSCORE_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""PickScore's own page takes words and pixels from there."""


def _whole_address(scheme: str, rest: str) -> object:
    return _require_address(f"{scheme}:{rest}")


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A reward of the library's under a name."""

    does: str
    model: str
    """Folder or hub name of the model if none is given; "" = it has none."""
    load: Callable[[str, Loading], Reward]
    processor: str = ""
    """Where words and pixels are prepared, if not in a folder of its own."""
    has_head: bool = False
    """Its model is named with the file of a head: CLIP+HEAD."""
    function: str = ""
    """What a function of the user's can be in its place, as `NAME:module:function`; "" = nothing."""
    check: Callable[[str], object] | None = None
    """Of one that another program serves: refuses a text that does not say where; None = it runs here."""


OFFERED: dict[str, Offer] = {
    "clip": Offer(
        does="cosine of CLIP (-1 to 1)",
        model="openai/clip-vit-large-patch14",
        load=partial(_CLIP, scale="cosine"),
    ),
    "siglip": Offer(
        does="SigLIP's or SigLIP 2's probability that the two fit (0 to 1)",
        model="google/siglip2-so400m-patch14-384",
        load=partial(_CLIP, scale="probability"),
    ),
    "pickscore": Offer(
        does="PickScore: which drawing people prefer (about 20)",
        model="yuvalkirstain/PickScore_v1",
        load=partial(_CLIP, scale="logit", processor=PICKSCORE_PROCESSOR),
        processor=PICKSCORE_PROCESSOR,
    ),
    "hps": Offer(
        does="HPSv2 as a CLIP: which drawing people prefer (about .2 to .35)",
        model="adams-story/HPSv2-hf",
        load=partial(_CLIP, scale="cosine"),
    ),
    "aesthetic": Offer(
        does="LAION's aesthetic score of the image alone (1 to 10); name CLIP+HEAD",
        model="+",
        load=late("sightloop.rewards.offered:aesthetic"),
        has_head=True,
    ),
    "itm": Offer(
        does="BLIP-2's image-text matching logit (about -1 to 6)",
        model="Salesforce/blip2-itm-vit-g",
        load=late("sightloop.rewards.offered:itm"),
    ),
    "vqa": Offer(
        does="probability of yes to 'does this figure show ...?' (0 to 1)",
        model="Qwen/Qwen2.5-VL-3B-Instruct",
        load=late("sightloop.rewards.offered:vqa"),
    ),
    "facts": Offer(
        does="the same asked about every fact, geometric mean (0 to 1)",
        model="Qwen/Qwen2.5-VL-3B-Instruct",
        load=late("sightloop.rewards.offered:facts"),
    ),
    "ocr": Offer(
        does="whether the words that the text quotes can be read in the image (0 to 1)",
        model="",
        load=late("sightloop.rewards.offered:ocr"),
        function=READER,
    ),
    "class": Offer(
        does="an image classifier's probability of the classes that the text names (0 to 1)",
        model="google/vit-base-patch16-224",
        load=late("sightloop.rewards.offered:classes"),
        function=CLASSIFIER,
    ),
    **{
        scheme: Offer(
            does="score of a judge that another program serves there, asked by POST",
            model="",
            load=partial(late("sightloop.rewards.offered:posted"), scheme=scheme),
            check=partial(_whole_address, scheme),
        )
        for scheme in ("http", "https")
    },
    "openai": Offer(
        does="as vqa, by a chat model that an OpenAI-compatible server has: MODEL@URL",
        model="",
        load=late("sightloop.rewards.offered:served"),
        check=late("sightloop.rewards.served.client:split_model"),
    ),
    "vqascore": Offer(
        does="VQAScore: probability of the answer yes among all words, by a FLAN-T5 (0 to 1)",
        model="Salesforce/instructblip-flan-t5-xl",
        load=late("sightloop.rewards.offered:vqascore"),
    ),
    "jpeg": Offer(
        does="compressibility: minus the size as JPEG in 500 kB",
        model="",
        load=late("sightloop.rewards.offered:jpeg"),
    ),
    "exact": Offer(
        does="1 for the true answer, whatever its case and white space; 0 for any other",
        model="",
        load=late("sightloop.rewards.offered:exact"),
    ),
    "length": Offer(
        does="words of the caption; hackable, for tests",
        model="",
        load=late("sightloop.rewards.offered:length"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Named:
    """One reward as the user named it."""

    short: str
    """What the log calls it."""
    name: str
    weight: float

    @property
    def offer(self) -> Offer | None:
        """The library's reward of this name; None for a user's function."""
        return OFFERED.get(self.name.partition(":")[0])

    @property
    def models(self) -> tuple[str, ...]:
        """Folders or hub names that it loads."""
        if self.offer is None or not self.offer.model or self.is_function:
            return ()
        model = self._model(self.offer)
        return (clip_and_head(model)[0] if self.offer.has_head else model,)

    @property
    def is_function(self) -> bool:
        """Whether a function of the user's is the judge, or a part of it."""
        return self.offer is None or bool(self.offer.function and names_function(self._model(self.offer)))

    @property
    def processor(self) -> str:
        """Folder or hub name of its processor, where that is another's; else ""."""
        return processor_for(self.models[0], self.offer.processor) if self.offer and self.models else ""

    def load(self, how: Loading) -> Reward:
        """The reward itself."""
        offer = self.offer
        return load_reward(self.name) if offer is None else offer.load(self._model(offer), how)

    def _model(self, offer: Offer) -> str:
        return self.name.partition(":")[2] or offer.model


def is_served(named: str) -> bool:
    """Whether a reward with its weight names a judge that another program serves, and no file."""
    offer = OFFERED.get(named.partition(":")[0])
    return offer is not None and offer.check is not None


def read_names(named: Sequence[str], *, taken: Collection[str] = ()) -> list[Named]:
    """Names and weights; nothing but the user's own functions is loaded.

    Raises:
        ValueError: a reward that does not exist, a weight that is not a finite number, the same one twice.
    """
    found: dict[str, Named] = {}
    for text in named:
        name, number = text.rsplit("=", 1) if "=" in text else (text, "1")
        kind, _, rest = name.partition(":")
        if kind not in OFFERED:
            load_reward(name)
        elif (check := OFFERED[kind].check) is not None:
            check(rest)
        elif rest and OFFERED[kind].function and (names_function(rest) or not OFFERED[kind].model):
            load_function(rest, what=OFFERED[kind].function)
        elif rest and not OFFERED[kind].model:
            raise ValueError(f"the reward {kind!r} has no model; leave {':' + rest!r} out")
        short = kind if kind in OFFERED else name.rpartition(":")[2]
        if short in found or short in taken:
            short = name if kind in OFFERED else _qualified(name)
        if short in found or name in {one.name for one in found.values()}:
            raise ValueError(f"the reward {name!r} is named twice; give each one weight")
        found[short] = Named(short=short, name=name, weight=_weight(number, text))
    return list(found.values())


def load_rewards(
    named: Sequence[str], *, taken: Collection[str] = (), how: Loading | None = None
) -> tuple[dict[str, Reward], dict[str, float]]:
    """Rewards and weights of `name=weight`; without `=` the weight is 1.

    A reward is called by its first word or as its function; in full if that name is already `taken`.

    Raises:
        ValueError: as `read_names`; or a model that cannot judge.
    """
    found = read_names(named, taken=taken)
    rewards = {one.short: one.load(how or Loading()) for one in found}
    return rewards, {one.short: one.weight for one in found}


def _qualified(name: str) -> str:
    place, _, function = name.rpartition(":")
    return f"{Path(place).stem if place.endswith('.py') else place}.{function}"


def _weight(number: str, text: str) -> float:
    try:
        weight = float(number)
    except ValueError as error:
        raise ValueError(f"{text!r} has the weight {number!r}; use name=number") from error
    if not math.isfinite(weight):
        raise ValueError(f"{text!r} has the weight {weight}; use a finite number")
    return weight
