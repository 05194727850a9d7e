"""The library's own rewards by name, each with what it loads; `custom` names them."""

from __future__ import annotations

from sightloop.rewards.clip_family import AestheticReward, ClipSimilarity, Scale
from sightloop.rewards.image_classes import ImageClassifier, NamedClasses
from sightloop.rewards.loading import CLASSIFIER, READER, Loading, clip_and_head, processor_for
from sightloop.rewards.plain import JpegSize, caption_length, exact_answer
from sightloop.rewards.samples import ImageReward
from sightloop.rewards.served.judges import PostedJudge, ServedYesNo
from sightloop.rewards.similarity import ItmSimilarity
from sightloop.rewards.user_functions import load_function, names_function
from sightloop.rewards.written_words import WrittenWords, rapid_reader
from sightloop.rewards.yes_no import AskedFacts, YesNoJudge
from sightloop.types import Reward


def clip(model: str, how: Loading, *, scale: Scale, processor: str = "") -> Reward:
    """A model of CLIP's family on one of its scales."""
    loaded = ClipSimilarity.from_pretrained(
        model,
        dtype=how.dtype,
        device=how.device,
        processor=processor_for(model, processor),
        scale=scale,
    )
    return ImageReward(rewards=loaded.rewards, text=how.text)


def aesthetic(model: str, how: Loading) -> Reward:
    """LAION's head on a CLIP."""
    clip, head = clip_and_head(model)
    if not clip or not head:
        raise ValueError(f"the aesthetic score {model!r} needs a CLIP and the file of its head: CLIP+HEAD")
    loaded = AestheticReward.from_pretrained(clip, head, dtype=how.dtype, device=how.device)
    return ImageReward(rewards=loaded.rewards, text="caption")


def itm(model: str, how: Loading) -> Reward:
    """BLIP-2's image-text matcher."""
    loaded = ItmSimilarity.from_pretrained(model, dtype=how.dtype, device=how.device)
    return ImageReward(rewards=loaded.rewards, text=how.text)


def vqa(model: str, how: Loading) -> Reward:
    """A model that is asked whether the text fits."""
    loaded = YesNoJudge.from_pretrained(model, dtype=how.dtype, device=how.device)
    return ImageReward(rewards=loaded.rewards, text=how.text)


def vqascore(model: str, how: Loading) -> Reward:
    """The same as VQAScore has it: yes against all words."""
    loaded = YesNoJudge.from_pretrained(model, dtype=how.dtype, device=how.device, against="all words")
    return ImageReward(rewards=loaded.rewards, text=how.text)


def posted(model: str, how: Loading, *, scheme: str) -> Reward:
    """A judge that answers a plain POST."""
    return ImageReward(rewards=PostedJudge.at(f"{scheme}:{model}").rewards, text=how.text)


def served(model: str, how: Loading) -> Reward:
    """A chat model behind an OpenAI-compatible server."""
    return ImageReward(rewards=ServedYesNo.at(model).rewards, text=how.text)


def facts(model: str, how: Loading) -> Reward:
    """The same, asked about every fact."""
    return AskedFacts(judge=YesNoJudge.from_pretrained(model, dtype=how.dtype, device=how.device))


def ocr(model: str, how: Loading) -> Reward:
    """Words that can be read in the image."""
    read = load_function(model, what=READER) if model else rapid_reader()
    words = WrittenWords(read=read, must_quote=how.text != "caption")
    return ImageReward(rewards=words.rewards, text=how.text)


def classes(model: str, how: Loading) -> Reward:
    """Probability of the classes that a text names."""
    classify = (
        load_function(model, what=CLASSIFIER)
        if names_function(model)
        else ImageClassifier.from_pretrained(model, dtype=how.dtype, device=how.device)
    )
    named = NamedClasses(classify=classify, must_name=how.text != "caption")
    return ImageReward(rewards=named.rewards, text=how.text)


def jpeg(model: str, how: Loading) -> Reward:
    """Compressibility."""
    return ImageReward(rewards=JpegSize().rewards)


def exact(model: str, how: Loading) -> Reward:
    """Whether the true answer was given."""
    return exact_answer


def length(model: str, how: Loading) -> Reward:
    """Words of the caption."""
    return caption_length
