"""What `sightloop evaluate geneval` does: from pictures to detections, verdicts and scores."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import PIL
from tqdm import tqdm

from sightloop.evaluation.intervals import Interval
from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluators.geneval_images import PROMPT_KEY, drawing_record
from sightloop.evaluators.open_detector import (
    GenEvalJob,
    check_detector,
    colour_judge,
    coloured_as_needed,
    open_detector,
)
from sightloop.geneval.colours import ColourClassifier
from sightloop.geneval.detectors import (
    DetectionsFile,
    Detector,
    Picture,
    detections_line,
    read_detections,
)
from sightloop.geneval.folder import Drawn, read_folder
from sightloop.geneval.prompts import GenEvalPrompt, read_prompts
from sightloop.geneval.rules import Detection, Rules, verdict
from sightloop.geneval.scores import (
    Change,
    Result,
    Summary,
    change_between,
    check_results,
    protocol_warning,
    read_protocol,
    read_results,
    result_of,
    save_record,
    summarise,
    write_results,
)
from sightloop.image_files import open_picture, read_regular


@dataclass(frozen=True, kw_only=True)
class GenEvalRun:
    """An evaluation that is done."""

    results: list[Result]
    summary: Summary
    protocol: dict[str, str]
    """Empty where nobody wrote down how a results file was made."""


def run_geneval(job: GenEvalJob) -> GenEvalRun:
    """Evaluate a folder of pictures; goes on where it was stopped.

    Raises:
        ValueError: anything that would make the number another than the benchmark's, named.
    """
    expected = None if job.prompts is None else read_prompts(job.prompts)
    drawn = read_folder(job.images, expected=expected)
    detector = open_detector(job)
    check_detector(detector, job.rules, [each.prompt for each in drawn])
    judge = colour_judge(job, detector)
    protocol = _protocol(job.rules, drawn, detector, judge)
    job.output.parent.mkdir(parents=True, exist_ok=True)
    results = [
        result_of(str(job.images / file), prompt, verdict(prompt, seen, rules=job.rules))
        for prompt, file, seen in _seen(job, drawn, detector, judge, protocol)
    ]
    summary = summarise(results)
    write_results(results, job.output)
    save_record(record_path(job.output), protocol, summary, drawing=drawing_record(job.images))
    return GenEvalRun(results=results, summary=summary, protocol=protocol)


def read_run(results: Path, *, prompts: Path | None = None) -> GenEvalRun:
    """A results file that is there already, such as the official evaluator's.

    Raises:
        ValueError: it is no results file, or does not hold exactly the `prompts` of a file (None = the 553
            official ones), each with as many pictures.
    """
    lines = read_results(results)
    check_results(lines, expected=None if prompts is None else read_prompts(prompts))
    return GenEvalRun(
        results=lines, summary=summarise(lines), protocol=read_protocol(record_path(results)) or {}
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
    eyes = [run.protocol[key] for key in ("detector", "detector_checkpoint") if key in run.protocol]
    name = " ".join(eyes) or "unknown detector"
    title = f"geneval ({name}): {summary.prompts} prompts, {per_prompt} pictures each"
    width = max(len("overall"), *map(len, summary.tasks))
    lines = [title, "", f"{'task':<{width}}  {'right':>5}  {'of':>5}  rate    95% interval"]
    for tag, score in summary.tasks.items():
        lines.append(f"{tag:<{width}}  {score.right:>5}  {score.images:>5}  {_rate(score.rate)}")
    lines.append(f"{'overall':<{width}}  {'':>5}  {'':>5}  {_rate(summary.overall)}")
    lines += [
        "",
        "overall: the mean of the task rates; intervals: 10000 bootstrap draws of prompts",
        f"pictures right: {summary.image_rate:.4f}",
        f"prompts with any right picture: {summary.prompt_rate:.4f}",
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
    change = change_between(read_results(before), read_results(after))
    protocols = [read_protocol(record_path(file)) for file in (before, after)]
    warning = protocol_warning(*protocols)
    lines = [f"warning: {warning}"] * bool(warning)
    return "\n".join([*lines, change_table(change)])


def change_table(change: Change) -> str:
    """Changes of the rates by task, after minus before."""
    width = max(len("overall"), *map(len, change.tasks))
    rows = {**change.tasks, "overall": change.overall}
    head = f"{'task':<{width}}  change   95% interval, paired by prompt"
    return "\n".join([head, *(f"{name:<{width}}  {_rate(value, sign='+')}" for name, value in rows.items())])


def _seen(
    job: GenEvalJob,
    drawn: Sequence[Drawn],
    detector: Detector,
    judge: ColourClassifier | None,
    protocol: Mapping[str, str],
) -> Iterator[tuple[GenEvalPrompt, str, list[Detection]]]:
    """Prompt, file and coloured detections of every picture in order; each is written down as it is made."""
    todo = [(each.prompt, file) for each in drawn for file in each.files]
    if isinstance(detector, DetectionsFile):
        for prompt, file in tqdm(todo, desc="pictures", unit="picture", disable=None):
            picture, _ = _opened(job.images, prompt, file)
            yield (
                prompt,
                file,
                coloured_as_needed(prompt, picture, detector.detect([picture])[0], job.rules, judge),
            )
        return
    kept = _Kept(detections_path(job.output), protocol)
    with tqdm(total=len(todo), desc="pictures", unit="picture", disable=None) as bar:
        for start in range(0, len(todo), job.batch):
            some = todo[start : start + job.batch]
            opened = [_opened(job.images, *each) for each in some]
            fresh = [row for row, each in enumerate(opened) if not kept.holds(some[row][0], *each)]
            found = detector.detect([opened[row][0] for row in fresh])
            for row, seen in zip(fresh, found, strict=True):
                prompt, picture = some[row][0], opened[row][0]
                coloured = coloured_as_needed(prompt, picture, seen, job.rules, judge)
                kept.add(prompt, *opened[row], coloured)
            bar.update(len(some))
            for prompt, file in some:
                yield prompt, file, kept.of(file)


class _Kept:
    """Detections on disk, so that a stopped evaluation goes on."""

    def __init__(self, path: Path, protocol: Mapping[str, str]) -> None:
        self._path = path
        self._seen: dict[str, tuple[str, list[Detection]]] = {}
        if not path.exists():
            path.write_text(json.dumps({"protocol": dict(protocol)}) + "\n", encoding="utf-8")
            return
        text = path.read_bytes()
        # What a crash cut off in the middle of a line is made again.
        path.write_bytes(text[: text.rfind(b"\n") + 1])
        header, records = read_detections(path)
        if header != dict(protocol):
            raise ValueError(
                f"{path} and this evaluation were {protocol_warning(header, protocol)}; name another "
                "--output or remove the file"
            )
        file = DetectionsFile(path)
        for name, record in records.items():
            self._seen[name] = (record.get("picture", ""), file.all_of(name))

    def holds(self, prompt: GenEvalPrompt, picture: Picture, digest: str) -> bool:
        """True if exactly this picture was seen for this prompt."""
        return picture.file in self._seen and self._seen[picture.file][0] == _key(prompt, digest)

    def add(self, prompt: GenEvalPrompt, picture: Picture, digest: str, found: list[Detection]) -> None:
        """Write down what was seen."""
        if picture.file in self._seen:
            raise ValueError(
                f"{self._path} holds detections of another {picture.file}; pictures or prompts changed "
                "since: name another --output or remove it"
            )
        line = detections_line(picture, found, extra={"picture": _key(prompt, digest)})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._seen[picture.file] = (_key(prompt, digest), [replace(seen, mask=None) for seen in found])

    def of(self, file: str) -> list[Detection]:
        """What was seen."""
        return self._seen[file][1]


def _key(prompt: GenEvalPrompt, digest: str) -> str:
    told = json.dumps(prompt.metadata, sort_keys=True)
    return hashlib.sha256(f"{digest} {told}".encode()).hexdigest()[:16]


def _opened(root: Path, prompt: GenEvalPrompt, file: str) -> tuple[Picture, str]:
    """The picture, and a digest of its file."""
    image = open_picture(root / file)
    told = image.info.get(PROMPT_KEY)
    if told is not None and told != prompt.text:
        raise ValueError(
            f"{root / file} was drawn for {told!r}, but its metadata says {prompt.text!r}; the folder mixes "
            "two sets"
        )
    digest = hashlib.sha256(read_regular(root / file)).hexdigest()
    return Picture(file=file, image=image, names=prompt.names), digest


def _protocol(
    rules: Rules, drawn: Sequence[Drawn], detector: Detector, judge: ColourClassifier | None
) -> dict[str, str]:
    prompts = json.dumps([each.prompt.metadata for each in drawn], sort_keys=True)
    # The detector first: one that reads a file tells the whole protocol of whoever wrote it.
    return {
        **detector.protocol,
        "benchmark": "geneval",
        "prompts": str(len(drawn)),
        "prompts_digest": hashlib.sha256(prompts.encode()).hexdigest()[:12],
        "images_per_prompt": str(len(drawn[0].files)),
        **(judge.protocol if judge else {}),
        **{name: str(value) for name, value in asdict(rules).items()},
        "pillow": PIL.__version__,
    }


def _rate(found: Interval, *, sign: str = "") -> str:
    value = f"{found.value:{sign}.4f}"
    return value if math.isnan(found.low) else f"{value}  [{found.low:{sign}.4f}, {found.high:{sign}.4f}]"
