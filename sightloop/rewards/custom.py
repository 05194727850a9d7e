"""Rewards by name, as the command line has them: `clip:FOLDER=0.5`, `length`, `module:function=2`.

`OFFERED` lists the library's own. Every other name is a function of the user's (see `functions`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sightloop.rewards.clip_family import AestheticScore, ClipSimilarity, Scale
from sightloop.rewards.functions import load_reward
from sightloop.rewards.picture_classes import ImageClassifier, NamedClasses
from sightloop.rewards.plain import JpegSize, caption_length
from sightloop.rewards.samples import Judged, PictureReward
from sightloop.rewards.similarity import ItmSimilarity
from sightloop.rewards.user_functions import load_function, names_function
from sightloop.rewards.written_words import WrittenWords, rapid_reader
from sightloop.rewards.yes_no import AskedFacts, YesNoJudge
from sightloop.types import Reward

_READER, _CLASSIFIER = "reader", "classifier"
PICKSCORE_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""PickScore's own page takes words and pixels from there."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How reward models are loaded, and which text they judge."""

    text: Judged = "caption"
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A reward of the library's under a name."""

    does: str
    model: str
    """Folder or hub name of the model if none is given; "" = it has none."""
    load: Callable[[str, Loading], Reward]
    processor: str = ""
    """Where words and pixels are prepared, if not in a folder of its own."""
    function: str = ""
    """What a function of the user's can be in its place, as `NAME:module:function`; "" = nothing."""


def _processor_of(model: str, processor: str) -> str:
    """Another's processor, unless the folder has one of its own."""
    here = any((Path(model) / f"{part}_config.json").is_file() for part in ("preprocessor", "processor"))
    return "" if here else processor


def _clip(scale: Scale, processor: str = "") -> Callable[[str, Loading], Reward]:
    def load(model: str, how: Loading) -> Reward:
        loaded = ClipSimilarity.from_pretrained(
            model,
            dtype=how.dtype,
            device=how.device,
            processor=_processor_of(model, processor),
            scale=scale,
        )
        return PictureReward(scores=loaded.scores, text=how.text)

    return load


def _clip_and_head(named: str) -> tuple[str, str]:
    """Both names of `CLIP+HEAD`, which may have plus signs too: `sac+logos+ava1-l14-linearMSE.pth`."""
    for place, character in enumerate(named):
        if character == "+" and Path(named[place + 1 :]).is_file():
            return named[:place], named[place + 1 :]
    clip, _, head = named.partition("+")
    return clip, head


def _aesthetic(model: str, how: Loading) -> Reward:
    clip, head = _clip_and_head(model)
    if not clip or not head:
        raise ValueError(f"the aesthetic score {model!r} needs a CLIP and the file of its head: CLIP+HEAD")
    loaded = AestheticScore.from_pretrained(clip, head, dtype=how.dtype, device=how.device)
    return PictureReward(scores=loaded.scores, text="caption")


def _itm(model: str, how: Loading) -> Reward:
    loaded = ItmSimilarity.from_pretrained(model, dtype=how.dtype, device=how.device)
    return PictureReward(scores=loaded.scores, text=how.text)


def _vqa(model: str, how: Loading) -> Reward:
    loaded = YesNoJudge.from_pretrained(model, dtype=how.dtype, device=how.device)
    return PictureReward(scores=loaded.scores, text=how.text)


def _facts(model: str, how: Loading) -> Reward:
    return AskedFacts(judge=YesNoJudge.from_pretrained(model, dtype=how.dtype, device=how.device))


def _ocr(model: str, how: Loading) -> Reward:
    read = load_function(model, what=_READER) if model else rapid_reader()
    words = WrittenWords(read=read, must_quote=how.text != "caption")
    return PictureReward(scores=words.scores, text=how.text)


def _class(model: str, how: Loading) -> Reward:
    classify = (
        load_function(model, what=_CLASSIFIER)
        if names_function(model)
        else ImageClassifier.from_pretrained(model, dtype=how.dtype, device=how.device)
    )
    classes = NamedClasses(classify=classify, must_name=how.text != "caption")
    return PictureReward(scores=classes.scores, text=how.text)


def _jpeg(model: str, how: Loading) -> Reward:
    return PictureReward(scores=JpegSize().scores)


def _length(model: str, how: Loading) -> Reward:
    return caption_length


OFFERED: dict[str, Offer] = {
    "clip": Offer(
        does="cosine of CLIP (-1 to 1)", model="openai/clip-vit-large-patch14", load=_clip("cosine")
    ),
    "siglip": Offer(
        does="SigLIP's or SigLIP 2's probability that the two fit (0 to 1)",
        model="google/siglip2-so400m-patch14-384",
        load=_clip("probability"),
    ),
    "pickscore": Offer(
        does="PickScore: which drawing people prefer (about 20)",
        model="yuvalkirstain/PickScore_v1",
        load=_clip("logit", PICKSCORE_PROCESSOR),
        processor=PICKSCORE_PROCESSOR,
    ),
    "hps": Offer(
        does="HPSv2 as a CLIP: which drawing people prefer (about .2 to .35)",
        model="adams-story/HPSv2-hf",
        load=_clip("cosine"),
    ),
    "aesthetic": Offer(
        does="LAION's aesthetic score of the picture alone (1 to 10); name CLIP+HEAD",
        model="+",
        load=_aesthetic,
    ),
    "itm": Offer(
        does="BLIP-2's image-text matching logit (about -1 to 6)",
        model="Salesforce/blip2-itm-vit-g",
        load=_itm,
    ),
    "vqa": Offer(
        does="probability of yes to 'does this figure show ...?' (0 to 1)",
        model="Qwen/Qwen2.5-VL-3B-Instruct",
        load=_vqa,
    ),
    "facts": Offer(
        does="the same asked about every fact, geometric mean (0 to 1)",
        model="Qwen/Qwen2.5-VL-3B-Instruct",
        load=_facts,
    ),
    "ocr": Offer(
        does="whether the words that the text quotes can be read in the picture (0 to 1)",
        model="",
        load=_ocr,
        function=_READER,
    ),
    "class": Offer(
        does="an image classifier's probability of the classes that the text names (0 to 1)",
        model="google/vit-base-patch16-224",
        load=_class,
        function=_CLASSIFIER,
    ),
    "jpeg": Offer(does="compressibility: minus the size as JPEG in 500 kB", model="", load=_jpeg),
    "length": Offer(does="words of the caption; hackable, for tests", model="", load=_length),
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
        return (_clip_and_head(model)[0] if self.offer.load is _aesthetic else model,)

    @property
    def is_function(self) -> bool:
        """Whether a function of the user's is the judge, or a part of it."""
        return self.offer is None or bool(self.offer.function and names_function(self._model(self.offer)))

    @property
    def processor(self) -> str:
        """Folder or hub name of its processor, where that is another's; else ""."""
        return _processor_of(self.models[0], self.offer.processor) if self.offer and self.models else ""

    def load(self, how: Loading) -> Reward:
        """The reward itself."""
        offer = self.offer
        return load_reward(self.name) if offer is None else offer.load(self._model(offer), how)

    def _model(self, offer: Offer) -> str:
        return self.name.partition(":")[2] or offer.model


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
