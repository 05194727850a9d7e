"""What `sightloop evaluate geneval` does: from images to detections, verdicts and scores."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import PIL

from sightloop.evaluation.intervals import Interval
from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluators.geneval_images import PROMPT_KEY, drawing_record
from sightloop.evaluators.geneval_options import GenEvalOptions
from sightloop.evaluators.open_detector import ObjectChecker, open_judge
from sightloop.geneval.detectors import (
    DetectionsFile,
    DetectorImage,
    detections_line,
    read_detections,
)
from sightloop.geneval.folder import PromptImages, read_folder
from sightloop.geneval.prompts import GenEvalPrompt, read_geneval_prompts
from sightloop.geneval.results import (
    RateChanges,
    Result,
    Summary,
    check_results,
    protocol_warning,
    rate_changes,
    read_protocol,
    read_results,
    result_of,
    save_record,
    summarize,
    write_results,
)
from sightloop.geneval.rules import Detection, verdict_of
from sightloop.image_files import open_image, read_regular
from sightloop.process.long_work import at_work, counted
from sightloop.text_files import form_of, read_whole
from sightloop.training import distributed


@dataclass(frozen=True, kw_only=True)
class GenEvalRun:
    """An evaluation that is done."""

    results: list[Result]
    summary: Summary
    protocol: dict[str, str]
    """Empty where nobody wrote down how a results file was made."""


def run_geneval(options: GenEvalOptions) -> GenEvalRun:
    """Evaluate a folder of images; goes on where it was stopped.

    Raises:
        ValueError: anything that would make the number another than the benchmark's, named.
    """
    folder, output = options.folder, options.results_file
    expected = None if options.prompts is None else read_geneval_prompts(options.prompts)
    shown = read_folder(folder, expected=expected)
    judge = open_judge(options.judge)
    judge.require_fit([each.prompt for each in shown])
    protocol = _protocol(judge, shown)
    distributed.first_rank_does(lambda: output.parent.mkdir(parents=True, exist_ok=True))
    results = [
        result_of(str(folder / file), prompt, verdict_of(prompt, seen, rules=judge.rules))
        for prompt, file, seen in _seen(options, shown, judge, protocol)
    ]
    summary = summarize(results)
    if distributed.rank() == 0:
        write_results(results, output)
        save_record(record_path(output), protocol, summary, drawing=drawing_record(folder))
    return GenEvalRun(results=results, summary=summary, protocol=protocol)


def read_geneval_run(results: Path, *, prompts: Path | None = None) -> GenEvalRun:
    """A results file that is there already, such as the official evaluator's.

    Raises:
        ValueError: it is no results file, or does not hold exactly the `prompts` of a file (None = the 553
            official ones), each with as many images.
    """
    lines = read_results(results)
    expected = None if prompts is None else read_geneval_prompts(prompts)
    with form_of(str(results)):
        check_results(lines, expected=expected)
    return GenEvalRun(
        results=lines, summary=summarize(lines), protocol=read_protocol(record_path(results)) or {}
    )


def detections_path(output: Path) -> Path:
    """Where what was detected is kept."""
    return output.with_name(f"{output.stem}.detections.jsonl")


def record_path(output: Path) -> Path:
    """Where the figures and the protocol of a results file are."""
    return output.with_name(f"{output.stem}.protocol.json")


def geneval_table(run: GenEvalRun) -> str:
    """Counts, rates and intervals by task, and the protocol."""
    summary = run.summary
    per_prompt = summary.images // summary.prompts
    detector = [run.protocol[key] for key in ("detector", "detector_checkpoint") if key in run.protocol]
    name = " ".join(detector) or "unknown detector"
    title = f"geneval ({name}): {summary.prompts} prompts, {per_prompt} images each"
    width = max(len("overall"), *map(len, summary.tasks))
    lines = [title, "", f"{'task':<{width}}  {'right':>5}  {'of':>5}  rate    95% interval"]
    for tag, score in summary.tasks.items():
        lines.append(f"{tag:<{width}}  {score.right:>5}  {score.images:>5}  {_rate(score.rate)}")
    lines.append(f"{'overall':<{width}}  {'':>5}  {'':>5}  {_rate(summary.overall)}")
    lines += [
        "",
        "overall: the mean of the task rates; intervals: 10000 bootstrap draws of prompts",
        f"images right: {summary.image_rate:.4f}",
        f"prompts with any right image: {summary.prompt_rate:.4f}",
        *(f"{name}: {value}" for name, value in run.protocol.items()),
        f"hash: {protocol_hash(run.protocol)}"
        if run.protocol
        else "no protocol record beside the results file: nobody knows what its figures compare with",
    ]
    return "\n".join(lines)


def compared(before: Path, after: Path) -> str:
    """The change from one results file to another as a table, with a warning if they do not compare.

    Raises:
        ValueError: a file is missing, or they are about different prompts.
    """
    change = rate_changes(read_results(before), read_results(after))
    protocols = [read_protocol(record_path(file)) for file in (before, after)]
    warning = protocol_warning(*protocols)
    lines = [f"warning: {warning}"] * bool(warning)
    return "\n".join([*lines, change_table(change)])


def change_table(change: RateChanges) -> str:
    """Changes of the rates by task, after minus before."""
    width = max(len("overall"), *map(len, change.tasks))
    rows = {**change.tasks, "overall": change.overall}
    head = f"{'task':<{width}}  change   95% interval, paired by prompt"
    return "\n".join([head, *(f"{name:<{width}}  {_rate(value, sign='+')}" for name, value in rows.items())])


def _seen(
    options: GenEvalOptions, shown: Sequence[PromptImages], judge: ObjectChecker, protocol: Mapping[str, str]
) -> Iterator[tuple[GenEvalPrompt, str, list[Detection]]]:
    """Prompt, file and colored detections of every image in order; each is written down as it is made."""
    folder, detector = options.folder, judge.detector
    todo = [(each.prompt, file) for each in shown for file in each.files]
    if isinstance(detector, DetectionsFile):
        for prompt, file in counted(todo, "looked at", total=len(todo), unit="images"):
            image, _ = _opened(folder, prompt, file)
            yield prompt, file, judge.colored(prompt, image, detector.detect([image])[0])
        return
    kept = _DetectionCache(detections_path(options.results_file), protocol)

    def detected(some: list[tuple[GenEvalPrompt, str]]) -> list[_Found]:
        opened = [_opened(folder, *each) for each in some]
        fresh = [row for row, each in enumerate(opened) if not kept.holds(some[row][0], *each)]
        found = detector.detect([opened[row][0] for row in fresh])
        return [
            kept.found(some[row][0], *opened[row], judge.colored(some[row][0], opened[row][0], seen))
            for row, seen in zip(fresh, found, strict=True)
        ]

    parts = [todo[start : start + options.batch] for start in range(0, len(todo), options.batch)]
    with at_work("looked at", total=len(todo), unit="images") as work:
        for some, found in zip(parts, distributed.in_turns(parts, detected), strict=True):
            for each in found:
                kept.add(each)
            work.advance(len(some))
            for prompt, file in some:
                yield prompt, file, kept.of(file)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What was detected in an image, and the line that tells it."""

    file: str
    key: str
    line: str
    seen: list[Detection]


class _DetectionCache:
    """Detections on disk, so that a stopped evaluation goes on."""

    def __init__(self, path: Path, protocol: Mapping[str, str]) -> None:
        self._path = path
        self._seen: dict[str, tuple[str, list[Detection]]] = {}
        if not distributed.first_rank_does(lambda: self._tidied(protocol)):
            return
        header, records = read_detections(path)
        if header != dict(protocol):
            raise ValueError(
                f"{path} and this evaluation were {protocol_warning(header, protocol)}; name another "
                "--output or remove the file"
            )
        file = DetectionsFile(path)
        for name, record in records.items():
            self._seen[name] = (record.get("picture", ""), file.all_of(name))

    def _tidied(self, protocol: Mapping[str, str]) -> bool:
        """Whether there are detections already; what a crash cut off in a line is made again."""
        if not self._path.exists():
            self._path.write_text(json.dumps({"protocol": dict(protocol)}) + "\n", encoding="utf-8")
            return False
        text = read_whole(self._path)
        self._path.write_bytes(text[: text.rfind(b"\n") + 1])
        return True

    def holds(self, prompt: GenEvalPrompt, image: DetectorImage, digest: str) -> bool:
        """True if exactly this image was seen for this prompt."""
        return image.file in self._seen and self._seen[image.file][0] == _key(prompt, digest)

    def found(
        self, prompt: GenEvalPrompt, image: DetectorImage, digest: str, found: list[Detection]
    ) -> _Found:
        """What was seen, as it will be written down."""
        if image.file in self._seen:
            raise ValueError(
                f"{self._path} holds detections of another {image.file}; images or prompts changed "
                "since: name another --output or remove it"
            )
        key = _key(prompt, digest)
        line = detections_line(image, found, extra={"picture": key})
        return _Found(file=image.file, key=key, line=line, seen=[replace(one, mask=None) for one in found])

    def add(self, found: _Found) -> None:
        """Write down what was seen; of several ranks the first writes."""
        if distributed.rank() == 0:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(found.line + "\n")
        self._seen[found.file] = (found.key, found.seen)

    def of(self, file: str) -> list[Detection]:
        """What was seen."""
        return self._seen[file][1]


def _key(prompt: GenEvalPrompt, digest: str) -> str:
    written = json.dumps(prompt.metadata, sort_keys=True)
    return hashlib.sha256(f"{digest} {written}".encode()).hexdigest()[:16]


def _opened(root: Path, prompt: GenEvalPrompt, file: str) -> tuple[DetectorImage, str]:
    """The image, and a digest of its file."""
    image = open_image(root / file)
    written = image.info.get(PROMPT_KEY)
    if written is not None and written != prompt.text:
        raise ValueError(
            f"{root / file} was drawn for {written!r}, but its metadata says {prompt.text!r}; the folder "
            "mixes two sets"
        )
    digest = hashlib.sha256(read_regular(root / file)).hexdigest()
    return DetectorImage(file=file, image=image, names=prompt.names), digest


def _protocol(judge: ObjectChecker, shown: Sequence[PromptImages]) -> dict[str, str]:
    prompts = json.dumps([each.prompt.metadata for each in shown], sort_keys=True)
    # The detector first: one that reads a file tells the whole protocol of whoever wrote it.
    return {
        **judge.detector.protocol,
        "benchmark": "geneval",
        "prompts": str(len(shown)),
        "prompts_digest": hashlib.sha256(prompts.encode()).hexdigest()[:12],
        "images_per_prompt": str(len(shown[0].files)),
        **(judge.colors.protocol if judge.colors else {}),
        **{name: str(value) for name, value in asdict(judge.rules).items()},
        "pillow": PIL.__version__,
    }


def _rate(found: Interval, *, sign: str = "") -> str:
    value = f"{found.value:{sign}.4f}"
    return value if math.isnan(found.low) else f"{value}  [{found.low:{sign}.4f}, {found.high:{sign}.4f}]"
