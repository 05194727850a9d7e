"""What the commands `caption` and `evaluate` do once their options are read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from sightloop.api.caption_file import CaptionFile
from sightloop.api.model import caption_images, writing_of
from sightloop.cli.evaluation_options import (
    BrokenImages,
    CaptionMeasureOptions,
    CaptionOptions,
    RecallOptions,
)
from sightloop.data.decode import Decoding
from sightloop.data.images import ImageSet, OnBroken, UnreadableImageError
from sightloop.data.sources import FileSource, open_named_images, open_source
from sightloop.evaluation.captions import caption_measures, truth_measures
from sightloop.evaluation.chair import chair
from sightloop.evaluation.clip_score import clip_score
from sightloop.evaluation.intervals import bootstrap_interval
from sightloop.evaluation.object_files import read_objects
from sightloop.evaluation.pairs import caption_set, image_key, read_captions, refuse_empty
from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluation.retrieval import clip_recall_of_files
from sightloop.evaluators.held_out_captions import Writing
from sightloop.evaluators.settings import HeldOutSettings
from sightloop.models.clip import ClipEncoder
from sightloop.models.named_models import model_config
from sightloop.models.protocols import Captioner, sees_whole
from sightloop.rewards.phrases import contains_bad_phrase, load_phrases
from sightloop.runs.identity import require_same_inputs
from sightloop.runs.restore import open_captioner, read_config
from sightloop.terminal import one_line, say
from sightloop.text_files import form_of
from sightloop.training import distributed
from sightloop.training.run_files import is_run
from sightloop.types import Evaluation
from sightloop.world.boundary import require_world_images
from sightloop.world.bundled import WEIGHTS, is_bundled
from sightloop.world.image_folder import truth_of


def pairs_of(policy: Captioner, images: ImageSet, writing: Writing) -> Iterator[tuple[str, str]]:
    """Path and caption of each image, in order.

    Raises:
        ValueError: an image is broken.
    """
    try:
        yield from caption_images(policy, images, writing, instead=_GREEDY)
    except UnreadableImageError as error:
        raise ValueError(f"{error}, or leave such images out with --on-broken leave-out") from error


_ON_BROKEN: dict[BrokenImages, OnBroken] = {"leave-out": "leave out", "stop": "raise"}
_GREEDY = "write greedily: --beams 1 --no-repeat-ngram 0 --min-tokens 1"
_NUM_NAMED = 5
"""Images left out that are named at the end."""


def write_captions(options: CaptionOptions) -> None:
    """Caption files, folders and globs; one line an image as soon as it is there, or .jsonl.

    A file that holds captions of the same model, written in the same way, is gone on with.

    Raises:
        ValueError: nothing to caption, an image that cannot be read, or a file of other captions.
    """
    if not options.images:
        raise ValueError("name the images to caption: files, folders or globs")
    paths = [path for spec in options.images for path in _paths(spec)]
    if not options.model:
        require_world_images(paths, what="captioner", option="--model")
    writing = writing_of(options.model, asdict(options.decode) | {"fit": options.fit})
    file = None
    if options.output is not None:
        file = CaptionFile.opened(options.output, {"model": options.model, **asdict(writing)})
        paths = [path for path in paths if os.path.abspath(path) not in file.done]
        if file.done:
            say(f"{len(file.done)} captions are in {file.path} already; {len(paths)} to go", is_error=True)
        if not paths:
            return
    policy = open_captioner(options.model, device=distributed.device(options.device), dtype=options.dtype)
    source = FileSource(spec=", ".join(options.images), paths=tuple(paths))
    decoding = Decoding(size=policy.image_size, fit=options.fit, whole=sees_whole(policy))
    images = _image_set(source, decoding, on_broken=options.on_broken)
    pairs = pairs_of(policy, images, writing)
    if file is None:
        for path, caption in pairs:
            say(f"{one_line(path)}\t{one_line(caption)}")
    else:
        number = _written(file, pairs, images, paths)
        say(f"wrote {number} captions to {file.path}", is_error=True)
    _tell_left_out(images)


def _image_set(
    source: FileSource, decoding: Decoding, *, on_broken: BrokenImages, limit: int | None = None
) -> ImageSet:
    return ImageSet(
        source,
        decoding,
        batch_size=32,
        limit=limit,
        on_broken=_ON_BROKEN[on_broken],
    )


def _written(
    file: CaptionFile, pairs: Iterator[tuple[str, str]], images: ImageSet, paths: Sequence[str]
) -> int:
    try:
        return file.write(pairs)
    except ValueError:
        if file.done and len(images.left_out) == len(paths):
            # Of a file that is gone on with, broken images alone are left.
            return 0
        raise


def _tell_left_out(images: ImageSet) -> None:
    if not images.left_out:
        return
    say(f"left out {len(images.left_out)} broken images:", is_error=True)
    for one in images.left_out[:_NUM_NAMED]:
        say(f"  {one_line(one.source)}: {one_line(one.reason)}", is_error=True)
    if len(images.left_out) > _NUM_NAMED:
        say(f"  and {len(images.left_out) - _NUM_NAMED} others", is_error=True)


def _paths(spec: str) -> list[str]:
    if Path(spec).is_file():
        return [spec]
    source = open_source(spec, files_only=True)
    assert isinstance(source, FileSource)
    return list(source.paths)


def measured_recall(options: RecallOptions) -> Evaluation:
    """CLIP Recall, both directions.

    Raises:
        ValueError: neither captions nor images are named, or they do not fit together.
    """
    device = distributed.device(options.device)
    if options.captions is not None:
        if options.dtype is not None:
            raise ValueError(
                f"--dtype {options.dtype} is of a captioner, and --captions names captions that are there"
            )
        given = read_captions(options.captions, image_root=_root_of(options))
        refuse_empty(given, allowed=options.allow_empty)
        return clip_recall_of_files(_encoder(options, given.sources, device), given, ties=options.ties)
    if not options.images:
        raise ValueError(
            "name what to evaluate: --captions FILE, or --images (and --model for another captioner)"
        )
    named = HeldOutSettings(images=options.images, image_root=options.image_root, split=options.split)
    source = open_named_images(named, files_only=True)
    assert isinstance(source, FileSource)
    if not options.model:
        require_world_images(source.paths, what="captioner", option="--model")
    encoder = _encoder(options, source.paths, device)
    policy = open_captioner(options.model, device=device, dtype=options.dtype)
    writing = writing_of(options.model, asdict(options.decode))
    decoding = Decoding(size=policy.image_size, fit=writing.fit, whole=sees_whole(policy))
    images = _image_set(source, decoding, on_broken=options.on_broken, limit=options.limit)
    written = caption_set(list(pairs_of(policy, images, writing)))
    _tell_left_out(images)
    refuse_empty(written, allowed=options.allow_empty)
    return writing.recall(policy, clip_recall_of_files(encoder, written, ties=options.ties))


def _root_of(options: RecallOptions) -> str | None:
    """The folder that the names of a captions file start from; None = the file's own."""
    if options.model:
        raise ValueError(
            "--captions names captions that are there, and --model one that writes others; name one"
        )
    if options.images and options.image_root:
        raise ValueError("with --captions, --images and --image-root name the same folder; name one of them")
    if options.images and not Path(options.images).is_dir():
        raise ValueError(
            f"{options.images!r} is no folder; with --captions, --images is the one that names start from"
        )
    return options.images or options.image_root or None


def _encoder(options: RecallOptions, sources: Sequence[str], device: torch.device) -> ClipEncoder:
    """The CLIP that is named, else the one that measured the run, else the embedded world's for its own."""
    clip = options.clip
    if not clip and options.captions is None and options.model and is_run(options.model):
        run = Path(options.model)
        config = read_config(run)
        require_same_inputs(config, run, of=lambda setting: setting == "held_out.clip")
        clip = config.held_out.clip
    elif not clip and options.captions is None and options.model and not is_bundled(options.model):
        raise ValueError(
            f"no --clip: {options.model!r} is no run, which would name the CLIP that measures it; name one "
            "with --clip"
        )
    if not clip:
        require_world_images(sources, what="CLIP", option="--clip")
        clip = str(WEIGHTS / "clip")
    model_config(clip)
    return ClipEncoder.from_pretrained(clip, device=device)


def measured_captions(options: CaptionMeasureOptions) -> Evaluation:
    """Caption measures of a file: agreement with references, CHAIR, facts of scenes, CLIPScore.

    Raises:
        ValueError: an empty caption, or files that do not fit together.
    """
    looked_at = bool(options.clip or options.objects or options.scenes)
    given = read_captions(options.captions, image_root=options.image_root or None, must_exist=looked_at)
    refuse_empty(given, allowed=options.allow_empty)
    listed = load_phrases(options.phrases)
    wanted = None
    if options.references is not None:
        wanted = _references(options.references, given.sources, options.image_root)
    parts = [
        caption_measures(
            given.captions, references=wanted, flag=lambda text: contains_bad_phrase(text, listed)
        )
    ]
    if options.objects is not None:
        held = read_objects(options.objects, image_root=options.image_root or None).of(given.sources)
        with form_of(str(options.objects)):
            parts.append(chair(given.captions, held, references=wanted))
    if options.clip:
        model_config(options.clip)
        encoder = ClipEncoder.from_pretrained(options.clip, device=distributed.device(options.device))
        embedded = encoder.images(given.images)[given.target]
        parts.append(clip_score(encoder, embedded, given.captions, references=wanted))
    if options.scenes is not None:
        truth = truth_of(options.scenes)
        facts = [truth(s, text) for s, text in zip(given.sources, given.captions, strict=True)]
        parts.append(truth_measures(facts))
    return _joined(parts)


def _joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Figures side by side, under one protocol."""
    metrics: dict[str, float] = {}
    per_sample: dict[str, list[float]] = {}
    protocol: dict[str, str] = {}
    samples: list[dict[str, str]] = []
    for part in parts:
        metrics |= part.metrics
        per_sample |= part.per_sample
        protocol |= {name: value for name, value in part.protocol.items() if name != "hash"}
        samples = samples or part.samples
    if protocol:
        protocol["hash"] = protocol_hash(protocol)
    return Evaluation(metrics=metrics, per_sample=per_sample, samples=samples, protocol=protocol)


def _references(file: Path, sources: list[str], image_root: str) -> list[list[str]]:
    given = read_captions(file, image_root=image_root or None, several=True, must_exist=False)
    # Files of others name images that need not be here.
    key = image_key if given.by_number else os.path.realpath
    by_source: dict[str, list[str]] = {}
    for source, caption in zip(given.sources, given.captions, strict=True):
        by_source.setdefault(key(source), []).append(caption)
    missing = [source for source in sources if key(source) not in by_source]
    if missing:
        raise ValueError(f"{file} has no reference for {len(missing)} images, the first is {missing[0]}")
    return [by_source[key(source)] for source in sources]


def evaluation_table(evaluation: Evaluation) -> str:
    """Figures, with 95% intervals where they are means over captions, and the protocol."""
    width = max(map(len, evaluation.metrics))
    lines = []
    for name, value in evaluation.metrics.items():
        values = evaluation.per_sample.get(name, [])
        interval = ""
        if len(values) > 1:
            found = bootstrap_interval(values)
            interval = f"  [{found.low:.4f}, {found.high:.4f}]"
        lines.append(f"{name:<{width}}  {value:>9.4f}{interval}")
    lines += [f"{key}: {value}" for key, value in evaluation.protocol.items()]
    return "\n".join(lines)


def save_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Everything as JSON; of several ranks, which all have it, the first writes."""
    if distributed.rank():
        return
    record = {
        "metrics": evaluation.metrics,
        "protocol": evaluation.protocol,
        "per_sample": evaluation.per_sample,
        "samples": evaluation.samples,
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
