"""What a captioner achieves on held-out images: CLIP Recall, caption measures, and the world's truth."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sightloop.data.decode import Decoding, Fit
from sightloop.data.images import ImageSet
from sightloop.data.sources import FileSource, open_named_images
from sightloop.evaluation.captions import caption_measures, truth_measures
from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluation.retrieval import clip_recall
from sightloop.evaluators.settings import HeldOutSettings
from sightloop.models.clip import ClipEncoder, SeenImages
from sightloop.models.protocols import Captioner, SupportsBeams, require_members, sees_whole
from sightloop.rewards.phrases import contains_bad_phrase
from sightloop.training import distributed
from sightloop.training.gallery import NUM_EVALUATION_IMAGES, save_image
from sightloop.types import Evaluation, Images, Prompt, Sampling
from sightloop.world.bundled import MANIFEST
from sightloop.world.image_folder import read_scenes, truth_of
from sightloop.world.language import full_caption, parses

_BEAMS, GREEDY = "beam search", "write greedily: beams 1, no_repeat_ngram 0, min_tokens 1"


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How captions are written that are then measured, in training and by command alike."""

    prompt: str
    beams: int
    no_repeat_ngram: int
    min_tokens: int
    max_tokens: int
    fit: Fit
    """How images become the captioner's squares."""

    @staticmethod
    def of(settings: HeldOutSettings, prompt: str) -> Writing:
        """As a run is evaluated."""
        return Writing(
            prompt=prompt,
            beams=settings.beams,
            no_repeat_ngram=settings.no_repeat_ngram,
            min_tokens=settings.min_tokens,
            max_tokens=settings.max_tokens,
            fit=settings.fit,
        )

    @property
    def is_greedy(self) -> bool:
        """Whether the rules of beam search change nothing: every captioner can write the likeliest words."""
        return self.beams <= 1 and not self.no_repeat_ngram and self.min_tokens <= 1

    def __call__(self, policy: Captioner, images: Images, *, instead: str = GREEDY) -> list[str]:
        """A caption of each image; `instead` is what to do about a captioner without beam search.

        Raises:
            ValueError: the captioner has no beam search, and the rules want it.
        """
        if self.is_greedy:
            greedy = Sampling(max_tokens=self.max_tokens, temperature=0.0)
            tokens = policy.sample(Prompt(texts=[self.prompt] * len(images), images=images), greedy)
            return ["".join(pieces).strip() for pieces in policy.decode(tokens)]
        writer: SupportsBeams = require_members(policy, SupportsBeams, what=_BEAMS, instead=instead)
        return writer.write(
            images,
            prompt=self.prompt,
            beams=self.beams,
            no_repeat_ngram=self.no_repeat_ngram,
            min_tokens=self.min_tokens,
            max_tokens=self.max_tokens,
        )

    def recall(self, policy: Captioner, measured: Evaluation) -> Evaluation:
        """CLIP Recall of such captions under the protocol that holds all it depends on: `measured` names
        CLIP, images and counts.
        """
        ours = {name: str(value) for name, value in dataclasses.asdict(self).items()}
        size = "whole" if sees_whole(policy) else str(policy.image_size)
        ours |= {"captioner_size": size, "captioner_dtype": _frozen_dtype(policy)}
        protocol = measured.protocol | ours
        return dataclasses.replace(measured, protocol=protocol | {"hash": protocol_hash(protocol)})


def _frozen_dtype(policy: Captioner) -> str:
    """What its frozen weights are kept in, by name."""
    parameters = policy.parameters() if isinstance(policy, nn.Module) else ()
    kept = {str(each.dtype).removeprefix("torch.") for each in parameters if not each.requires_grad}
    return ", ".join(sorted(kept)) or "unknown"


@dataclass(frozen=True, kw_only=True)
class HeldOutImages:
    """Held-out images as the captioner sees them, and who they are."""

    pixels: Tensor
    sources: list[str]
    references: list[list[str]]
    """What people wrote about each; empty lists where nothing is known."""
    whole: list[Tensor] | None = None
    """The images in their own shapes, for captioners that see them so."""

    def chunk(self, rows: Tensor) -> Images:
        """Some of them."""
        return Images(pixels=self.pixels, whole=self.whole).rows(rows)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Captions the images with the current weights and measures the captions."""

    settings: HeldOutSettings
    prompt: str
    pictures: HeldOutImages
    encoder: ClipEncoder
    seen: SeenImages
    shared_work: bool = True
    """The ranks caption a part of the images each; sharded weights need every rank to caption all."""
    folder: Path | None = None
    """The run, which keeps those of the first images that are no files of their own; None = none are kept."""

    def __call__(self, policy: Captioner) -> Evaluation:
        """CLIP Recall, caption measures, and precision of the facts told where scenes are known."""
        captions = self.captions(policy)
        recall = self.writing.recall(policy, clip_recall(self.encoder, self.seen, captions))
        references = self.pictures.references if all(self.pictures.references) else None
        parts = [recall, caption_measures(captions, references=references, flag=contains_bad_phrase)]
        samples = [
            {"source": source, "caption": caption} | self._kept(row)
            for row, (source, caption) in enumerate(zip(self.pictures.sources, captions, strict=True))
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
            protocol=recall.protocol,
        )

    def captions(self, policy: Captioner) -> list[str]:
        """A caption of each image; the ranks share the work."""
        rows = torch.arange(len(self.pictures.sources))
        if self.shared_work:
            rows = rows[distributed.rank() :: distributed.num_ranks()]
        mine = {
            int(row): caption
            for chunk in rows.split(self.settings.draw_batch)
            # More ranks than images leave some without any.
            if len(chunk)
            for row, caption in zip(chunk, self._write(policy, self.pictures.chunk(chunk)), strict=True)
        }
        everyones = {row: caption for part in distributed.gather(mine) for row, caption in part.items()}
        return [everyones[row] for row in range(len(everyones))]

    @property
    def writing(self) -> Writing:
        """How the captions are written."""
        return Writing.of(self.settings, self.prompt)

    def _kept(self, row: int) -> dict[str, str]:
        """Where the run keeps an image of a program, an archive or a video."""
        is_file = Path(self.pictures.sources[row]).is_file()
        if self.folder is None or row >= NUM_EVALUATION_IMAGES or is_file or distributed.rank():
            return {}
        return {"image": save_image(self.folder, self.pictures.pixels[row])}

    def _write(self, policy: Captioner, images: Images) -> list[str]:
        return self.writing(policy, policy.encode_images(images))


def held_out_of(
    settings: HeldOutSettings,
    *,
    prompt: str,
    captioner: Captioner,
    device: torch.device,
    shared_work: bool = True,
    folder: Path | None = None,
) -> HeldOut | None:
    """The evaluation that the settings name; None if they name no images.

    Raises:
        ValueError: the captioner has no beam search, and the settings want it.
    """
    if not settings.images:
        return None
    if not Writing.of(settings, prompt).is_greedy:
        require_members(captioner, SupportsBeams, what=_BEAMS, instead=GREEDY)
    encoder = ClipEncoder.from_pretrained(settings.clip, device=device)
    images = load_images(settings, size=captioner.image_size, whole=sees_whole(captioner))
    same = settings.fit == "crop" and encoder.size == captioner.image_size
    seen = images if same else load_images(dataclasses.replace(settings, fit="crop"), size=encoder.size)
    return HeldOut(
        settings=settings,
        prompt=prompt,
        pictures=images,
        encoder=encoder,
        seen=encoder.see(seen.pixels),
        shared_work=shared_work,
        folder=folder,
    )


def load_images(settings: HeldOutSettings, *, size: int, whole: bool = False) -> HeldOutImages:
    """All held-out images in the order of their source."""
    decoding = Decoding(size=size, fit=settings.fit, whole=whole)
    source = open_named_images(settings)
    batches = list(ImageSet(source, decoding, limit=settings.limit))
    sources = [name for batch in batches for name in batch.sources]
    known = source.all_references if isinstance(source, FileSource) else None
    references = [[] for _ in sources] if known is None else [list(texts) for texts in known[: len(sources)]]
    return HeldOutImages(
        pixels=torch.cat([batch.images.pixels for batch in batches]),
        sources=sources,
        references=references,
        whole=[each for batch in batches for each in batch.images.whole or []] or None,
    )
