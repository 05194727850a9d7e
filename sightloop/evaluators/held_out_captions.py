"""What a captioner achieves on held-out pictures: CLIP Recall, caption measures, and the world's truth."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sightloop.data.decode import Decoding
from sightloop.data.images import ImageSet
from sightloop.data.sources import FileSource, open_pictures
from sightloop.evaluation.captions import caption_measures, truth_measures
from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluation.retrieval import clip_recall
from sightloop.evaluators.settings import HeldOutSettings
from sightloop.models.clip import ClipEncoder
from sightloop.models.protocols import Captioner, SupportsBeams, require_members
from sightloop.rewards.phrases import contains_bad_phrase
from sightloop.training import distributed
from sightloop.types import Evaluation, Images, Prompt, Sampling
from sightloop.world.bundled import MANIFEST
from sightloop.world.image_folder import read_scenes, truth_of
from sightloop.world.language import full_caption, parses

_CHUNK = 64
_BEAMS, _GREEDY = "beam search", "write greedily: beams 1, no_repeat_ngram 0, min_tokens 1"


@dataclass(frozen=True, kw_only=True)
class HeldOutImages:
    """Held-out pictures as the captioner sees them, and who they are."""

    pixels: Tensor
    sources: list[str]
    references: list[list[str]]
    """What people wrote about each; empty lists where nothing is known."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Captions the pictures with the current weights and measures the captions."""

    settings: HeldOutSettings
    prompt: str
    pictures: HeldOutImages
    encoder: ClipEncoder
    embeddings: Tensor
    shared_work: bool = True
    """The ranks caption a part of the pictures each; sharded weights need every rank to caption all."""

    def __call__(self, policy: Captioner) -> Evaluation:
        """CLIP Recall, caption measures, and precision of the facts told where scenes are known."""
        captions = self.captions(policy)
        recall = clip_recall(self.encoder, self.embeddings, captions)
        references = self.pictures.references if all(self.pictures.references) else None
        parts = [recall, caption_measures(captions, references=references, flag=contains_bad_phrase)]
        samples = [
            {"source": source, "caption": caption}
            for source, caption in zip(self.pictures.sources, captions, strict=True)
        ]
        folder = Path(self.settings.images)
        if (folder / MANIFEST).is_file():
            truth, scenes = truth_of(folder), read_scenes(folder)
            for sample in samples:
                sample["truth"] = full_caption(scenes[Path(sample["source"]).name])
            counts = [truth(sample["source"], sample["caption"]) for sample in samples]
            parts.append(truth_measures(counts))
            grammatical = [float(parses(caption)) for caption in captions]
            share = sum(grammatical) / len(grammatical)
            parts.append(Evaluation(metrics={"grammatical": share}, per_sample={"grammatical": grammatical}))
        return Evaluation(
            metrics={name: value for part in parts for name, value in part.metrics.items()},
            per_sample={name: values for part in parts for name, values in part.per_sample.items()},
            samples=samples,
            protocol=self._protocol(recall.protocol),
        )

    def captions(self, policy: Captioner) -> list[str]:
        """A caption of each picture; the ranks share the work."""
        rows = torch.arange(len(self.pictures.sources))
        if self.shared_work:
            rows = rows[distributed.rank() :: distributed.num_ranks()]
        mine = {
            int(row): caption
            for chunk in rows.split(_CHUNK)
            for row, caption in zip(chunk, self._write(policy, self.pictures.pixels[chunk]), strict=True)
        }
        everyones = {row: caption for part in distributed.gather(mine) for row, caption in part.items()}
        return [everyones[row] for row in range(len(everyones))]

    def require(self, policy: Captioner) -> None:
        """Refuse a captioner that cannot write as the settings ask.

        Raises:
            ValueError: it has no beam search, and the settings want it.
        """
        if not self._is_greedy:
            require_members(policy, SupportsBeams, what=_BEAMS, instead=_GREEDY)

    @property
    def _is_greedy(self) -> bool:
        settings = self.settings
        return is_greedy(settings.beams, settings.no_repeat_ngram, settings.min_tokens)

    def _write(self, policy: Captioner, pixels: Tensor) -> list[str]:
        settings = self.settings
        images = policy.look(Images(pixels=pixels))
        if self._is_greedy:
            return greedy_captions(policy, images, prompt=self.prompt, max_tokens=settings.max_tokens)
        writer: SupportsBeams = require_members(policy, SupportsBeams, what=_BEAMS, instead=_GREEDY)
        return writer.write(
            images,
            prompt=self.prompt,
            beams=settings.beams,
            no_repeat_ngram=settings.no_repeat_ngram,
            min_tokens=settings.min_tokens,
            max_tokens=settings.max_tokens,
        )

    def _protocol(self, recall: dict[str, str]) -> dict[str, str]:
        decoding = {
            key: str(value)
            for key, value in dataclasses.asdict(self.settings).items()
            if key in {"beams", "no_repeat_ngram", "min_tokens", "max_tokens", "fit", "split", "limit"}
        }
        protocol = recall | decoding | {"prompt": self.prompt}
        protocol.pop("hash")
        return protocol | {"hash": protocol_hash(protocol)}


def is_greedy(beams: int, no_repeat_ngram: int, min_tokens: int) -> bool:
    """Whether these rules of beam search change nothing: the likeliest word is written each time."""
    return beams <= 1 and not no_repeat_ngram and min_tokens <= 1


def greedy_captions(policy: Captioner, images: Images, *, prompt: str, max_tokens: int) -> list[str]:
    """The likeliest word after word, which every captioner can write."""
    greedy = Sampling(max_tokens=max_tokens, temperature=0.0)
    tokens = policy.sample(Prompt(texts=[prompt] * len(images), images=images), greedy)
    return ["".join(pieces).strip() for pieces in policy.decode(tokens)]


def held_out_of(
    settings: HeldOutSettings,
    *,
    prompt: str,
    image_size: int,
    device: torch.device,
    shared_work: bool = True,
) -> HeldOut | None:
    """The evaluation that the settings name; None if they name no pictures."""
    if not settings.images:
        return None
    encoder = ClipEncoder.from_pretrained(settings.clip, device=device)
    pictures = load_pictures(settings, size=image_size)
    same = settings.fit == "crop" and encoder.size == image_size
    seen = pictures if same else load_pictures(dataclasses.replace(settings, fit="crop"), size=encoder.size)
    return HeldOut(
        settings=settings,
        prompt=prompt,
        pictures=pictures,
        encoder=encoder,
        embeddings=encoder.images(seen.pixels),
        shared_work=shared_work,
    )


def load_pictures(settings: HeldOutSettings, *, size: int) -> HeldOutImages:
    """All held-out pictures in the order of their source."""
    decoding = Decoding(size=size, fit=settings.fit)
    source = open_pictures(settings)
    batches = list(ImageSet(source, decoding, limit=settings.limit))
    sources = [name for batch in batches for name in batch.sources]
    known = source.all_references if isinstance(source, FileSource) else None
    references = [[] for _ in sources] if known is None else [list(texts) for texts in known[: len(sources)]]
    return HeldOutImages(
        pixels=torch.cat([batch.images.pixels for batch in batches]),
        sources=sources,
        references=references,
    )
