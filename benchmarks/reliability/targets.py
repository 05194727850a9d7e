"""Ways in: files as users have them, which of them are mutated, and the command that reads them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability.command_lines import lines_and_options
from benchmarks.reliability.examples import BRIEF, command
from benchmarks.reliability.mutations import ODD_PATHS, damage_file, damaged_words, replace_file
from benchmarks.reliability.programs import called, requested
from benchmarks.reliability.tiny_models import CLASSIC, DETECTORS
from benchmarks.reliability.tiny_runs import train_words
from sightloop.data.decode import Decoding
from sightloop.data.encoded import load
from sightloop.data.sources import open_source
from sightloop.evaluation.chair import read_object_words
from sightloop.process.boundary import ended_in_one_sentence
from sightloop.quizzes.grammar import user_quizzes
from sightloop.quizzes.prompt_guard import read_prompts
from sightloop.recipes.catalog import read_run_config

FURTHER = 10_000
"""From this number on, inputs are of the ways in that came later: older numbers stay what they were."""
_ONE_STEP = ("--steps", "1", "--eval-every", "9", "--save-every", "9", "--sample-every", "9")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A way in."""

    source: str
    """What is copied, below the folder of examples."""
    words: tuple[str, ...] = ()
    """The command; `{}` stands for the copy, `<>` for the folder of examples."""
    reads: Callable[[Path], object] | None = None
    """A reader instead, which is given the mutated file."""
    files: str = "**/*"
    """Those that are mutated."""
    weight: float = 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One mutated input."""

    target: str
    told: str
    """What is done, for whoever repeats it."""
    names: tuple[str, ...]
    """One of them has to be in a refusal; none = anything said will do."""
    work: Callable[[], object]


def targets() -> dict[str, Target]:
    """Those that a number below `FURTHER` chooses from."""
    found = {name: target for group in grouped().values() for name, target in group.items()}
    return {name: target for name, target in found.items() if name not in _further()}


def num_whole() -> int:
    """How many inputs there are that nobody touched."""
    return len(targets()) + len(_further())


def grouped() -> dict[str, dict[str, Target]]:
    """The same by what is read."""
    return {
        "texts": {**_texts(), **_asked()},
        "images": _images(),
        "run folders": _runs(),
        "models": {**_models(), **_further()},
    }


def _of(files: str, *words: str, source: str = "texts", weight: float = 4) -> Target:
    return Target(source=source, files=files, words=words, weight=weight)


def _texts() -> dict[str, Target]:
    """What evaluations read."""
    measure = ("evaluate", "captions", "{}/captions.jsonl")
    geneval = ("evaluate", "geneval", "--images", "{}/images", "--prompt-file", "{}/prompts.jsonl")
    seen = (*geneval, "--detections", "{}/results.detections.jsonl")
    found = {
        f"captions {suffix}": _of(f"captions.{suffix}", "evaluate", "captions", f"{{}}/captions.{suffix}")
        for suffix in ("json", "jsonl", "csv")
    }
    found |= {
        f"{option} {file}": _of(file, *measure, f"--{option}", f"{{}}/{file}")
        for option, file in (
            ("references", "references.json"),
            ("references", "references.jsonl"),
            ("objects", "objects.jsonl"),
            ("objects", "objects.json"),
            ("objects", "instances.json"),
            ("phrases", "phrases.txt"),
        )
    }
    asked = ("evaluate", "answers", "{}/said.jsonl", "--question-file", "{}/questions.jsonl")
    spoken = ("evaluate", "geneval", "--results", "{}/results.jsonl", "--prompt-file", "{}/prompts.jsonl")
    recall = ("evaluate", "clip-recall", "--captions", "{}/captions.jsonl", "--clip", "<>/models/clip")
    return found | {
        "scenes": _of("images/scenes.jsonl", *measure, "--scenes", "{}/images"),
        "answers": _of("answers.jsonl", "evaluate", "answers", "{}/answers.jsonl"),
        "POPE": _of("[sq]*.jsonl", *asked),
        "results": _of("results.jsonl", *spoken, source="geneval"),
        "compared": _of("before.jsonl", *spoken, "--compare", "{}/before.jsonl", source="geneval"),
        "protocols": _of("*.protocol.json", *spoken, "--compare", "{}/before.jsonl", source="geneval"),
        "detections": _of("results.detections.jsonl", *seen, source="geneval"),
        "GenEval's folder": _of("**/*", *geneval, "--detector", "shapes", source="geneval"),
        "recall": _of("[ci]*.jsonl", *recall, weight=1),
    }


def _asked() -> dict[str, Target]:
    """What trainings and models are given to read."""
    model, captioner = ("--model", "<>/models/show_o"), ("--model", "<>/models/captioner")
    draws = (*train_words("grpo show-o", Path("<>"), Path("{}-run")), *_ONE_STEP)
    train = (*train_words("a2c", Path("<>"), Path("{}-run")), *_ONE_STEP)
    draw = ("draw", *model, "--output", "{}-out", "--per-prompt", "1", "--rounds", "1")
    ask = ("ask", "{}/images/00000.png", *model, "--question-file", "{}/plain.txt")
    go_on = ("caption", "{}/images", *captioner, "--output", "{}/written.jsonl", *BRIEF)
    joint = ("evaluate", "joint", *model, "--detector", "shapes", "--against", "none")
    joint += ("--vocabulary", "shapes", "--max-tokens", "4", "--file", "{}/quizzes.jsonl")
    return {
        "quiz file": _of("quizzes.jsonl", *draws, "--quiz-file", "{}/quizzes.jsonl", weight=0.4),
        "excluded": _of("prompts.txt", *draws, "--quizzes.excluded", "{}/prompts.txt", weight=0.2),
        "a reward": _of("mine.py", *train, "--custom-rewards", "{}/mine.py:short=1", weight=0.5),
        "phrases of a judge": _of("phrases.txt", *train, "--judge.phrases", "{}/phrases.txt", weight=0.3),
        "prompts to draw": _of("plain.txt", *draw, "--prompt-file", "{}/plain.txt", weight=1),
        "questions": _of("plain.txt", *ask, weight=1),
        "captions that go on": _of("written.json*", *go_on, weight=1),
        "quizzes of an evaluation": _of("quizzes.jsonl", *joint, weight=0.3),
        "quizzes": Target(source="texts", files="quizzes.jsonl", reads=user_quizzes, weight=4),
        "prompts": Target(source="texts", files="prompts.txt", reads=read_prompts, weight=2),
        "words": Target(source="texts", files="words.txt", reads=read_object_words, weight=2),
        "configuration": Target(source="captions_run", files="config.json", reads=read_run_config, weight=4),
    }


def _images() -> dict[str, Target]:
    shards = ("pictures.tar", "pictures.parquet", "raw.parquet", "moving.mp4")
    show_o = ("--model", "<>/models/show_o")
    caption = ("caption", "{}", "--model", "<>/models/captioner", *BRIEF)
    karpathy = ("evaluate", "clip-recall", "--model", "<>/models/captioner", "--images", "{}/dataset.json")
    karpathy += ("--split", "train+test+val", "--clip", "<>/models/clip")
    train = ("train", "vlrm", "--preset", "shapes", "--images", "{}", "--batch", "2", "--run", "{}-run")
    bundled = ("--model", "<>/models/captioner", "--judge", "<>/models/judge", *_ONE_STEP)
    return {
        "formats": Target(source="formats", reads=_decoded, weight=24),
        **{file: Target(source="shards", files=file, reads=_decoded, weight=8) for file in shards},
        "caption": Target(source="formats", words=caption, weight=3),
        "ask": Target(source="formats", files="jpeg.jpg", words=("ask", "{}/jpeg.jpg", "what?", *show_o)),
        "Karpathy": Target(source="texts", files="dataset.json", words=(*karpathy, *BRIEF), weight=2),
        "Karpathy read": Target(source="texts", files="dataset.json", reads=_decoded, weight=4),
        "images of training": Target(source="formats", words=(*train, *bundled), weight=0.5),
    }


def _runs() -> dict[str, Target]:
    captions, drawings = ("captions_run", "drawings_run")
    image = "<>/texts/images/00000.png"
    found: dict[str, Target] = {}
    for run in (captions, drawings):
        found[f"report of {run}"] = Target(source=run, files="[cmaesb]*", words=("report", "{}"), weight=4)
        found[f"samples of {run}"] = Target(source=run, files="[es]*/**/*", words=("report", "{}"), weight=4)
        for checkpoint in ("", " checkpoints"):
            files = "checkpoints/**/*" if checkpoint else "*.json*"
            found[f"resume{checkpoint} of {run}"] = Target(
                source=run, files=files, words=("train", "--resume", "{}", "--trust-rewards"), weight=1
            )
            found[f"export{checkpoint} of {run}"] = Target(
                source=run, files=files, words=("export", "{}", "--output", "{}-out"), weight=1
            )
    return found | {
        "caption by a run": Target(source=captions, words=("caption", image, "--model", "{}", *BRIEF)),
        "ask a run": Target(source=drawings, words=("ask", image, "what?", "--model", "{}")),
        "longer": Target(
            source=captions, files="*.json*", words=("train", "--resume", "{}", "--steps", "3"), weight=0.5
        ),
        "again": Target(
            source=captions,
            files="config.json",
            words=("train", "--config", "{}/config.json", "--run", "{}-2"),
            weight=0.5,
        ),
    }


def _models() -> dict[str, Target]:
    image = "<>/texts/images/00000.png"

    def of(name: str, *words: str, weight: float = 0.6) -> Target:
        return Target(source=f"models/{name}", words=words, weight=weight)

    draw = ("draw", "a red circle", "--per-prompt", "1", "--model", "{}", "--output", "{}-out")
    found = {
        name: of(name, "caption", image, "--model", "{}", *BRIEF, weight=2)
        for name in ("captioner", "sharded", "pickled", "llava")
    }
    words = train_words("a2c", Path("<>"), Path("{}-run"))
    words[words.index("--judge") + 1] = "{}"
    more = (*train_words("a2c", Path("<>"), Path("{}-run")), *_ONE_STEP, "--custom-rewards")
    head = (*more, "aesthetic:<>/models/clip+{}/head.pth=0.1")
    asked, classes = (*more, "vqa:{}=0.1"), (*more, "class:{}=0.1")
    measure = ("evaluate", "captions", "<>/texts/captions.jsonl")
    theirs = ("--magvit", "<>/models/magvit_official", "--tokenizer", "<>/models/show_o/tokenizer")
    return found | {
        "judge": of("judge", *words, *_ONE_STEP),
        "a head": of("head", *head),
        "a model that is asked": of("llava", *asked),
        "a classifier": of("classifier", *classes),
        "adapters": of("adapters", "caption", image, "--model", "{}", *BRIEF),
        "CLIP": of("clip", *measure, "--clip", "{}", weight=2),
        "language model": of("language", "evaluate", "answers", "<>/texts/answers.jsonl", "--judge", "{}"),
        "Show-o": of("show_o", *draw, "--rounds", "1", weight=2),
        "Janus": of("janus", *draw),
        "Janus answers": of("janus", "ask", image, "what?", "--model", "{}"),
        "doctor": of("clip", "doctor", "--check", "clip:{}", weight=0.3),
        "convert Show-o": of("show_o_official", "convert", "show-o", "{}", "{}-out", *theirs),
        "convert Janus": of("janus_official", "convert", "janus", "{}", "{}-out"),
        "convert MAGVIT-v2": of("magvit_official", "convert", "magvit2", "{}", "{}-out"),
        "plan": of("captioner", "train", "vlrm", "--preset", "paper", "--plan", "--model", "{}"),
    }


def _further() -> dict[str, Target]:
    """Detectors, and captioners whose images do not stand among the words."""
    image = "<>/texts/images/00000.png"
    drawn = ("evaluate", "geneval", "--images", "<>/geneval/images", "--output", "{}-out.jsonl")
    drawn += ("--prompt-file", "<>/geneval/prompts.jsonl", "--detector")
    found = {
        name: Target(source=f"models/{name}", words=("caption", image, "--model", "{}", *BRIEF))
        for name in CLASSIC
    }
    found |= {name: Target(source=f"models/{name}", words=(*drawn, "{}")) for name in DETECTORS}
    mine = Target(source="texts", files="finds.py", words=(*drawn, "{}/finds.py:detect"), weight=2)
    return found | {"a detector of the user's": mine}


def case_of(number: int, examples: Path, place: Path, *, seed: int = 0) -> Case:
    """The mutated input of this number, written below `place`; below 0: one that nobody touched."""
    chance = random.Random(f"{seed} {number}")
    known = targets()
    if number < 0:
        every = {**_further(), **known}
        name = list(every)[number]
        return mutated(name, every[name], examples, place, chance=None)
    if number >= FURTHER:
        return _further_case(examples, place, chance)
    if chance.random() < 0.3:
        lines, options = lines_and_options()
        name = chance.choice(list(lines))
        words = damaged_words(list(lines[name]), options[name], chance)
        # Without it a whole training would begin.
        words += ["--model", "/nowhere"] if words[:1] == ["train"] and "/nowhere" not in words else []
        return Case(target="command lines", told=repr(words), names=(), work=lambda: command(words))
    name = chance.choices(list(known), [each.weight for each in known.values()])[0]
    return mutated(name, known[name], examples, place, chance=chance)


def _further_case(examples: Path, place: Path, chance: random.Random) -> Case:
    kind = chance.random()
    if kind < 0.35:
        told, work = called(examples, place, chance)
        return Case(target="calls in Python", told=told, names=(), work=work)
    if kind < 0.55:
        told, work = requested(examples, chance)
        return Case(target="requests to view", told=told, names=(), work=work)
    known = _further()
    name = chance.choices(list(known), [each.weight for each in known.values()])[0]
    return mutated(name, known[name], examples, place, chance=chance)


def mutated(name: str, target: Target, examples: Path, place: Path, *, chance: random.Random | None) -> Case:
    """A copy of the target's files below `place` with one of them mutated; none = left as it is."""
    copy = place / Path(target.source).name
    shutil.copytree(examples / target.source, copy, symlinks=True)
    files = sorted(file for file in copy.glob(target.files) if file.is_file() and file.name != "run.lock")
    file, done = files[0], "as it is"
    if chance is not None:
        file = chance.choice(files)
        done = (damage_file if chance.random() < 0.85 else replace_file)(file, chance)
    names = (file.name, copy.name, *ODD_PATHS)
    if target.reads is not None:
        reads = target.reads
        return Case(
            target=name, told=f"{file} {done}", names=names, work=lambda: _in_one_sentence(reads, file)
        )
    words = [word.replace("{}", str(copy)).replace("<>", str(examples)) for word in target.words]
    return Case(target=name, told=f"{words} with {file} {done}", names=names, work=lambda: command(words))


def _in_one_sentence(reads: Callable[[Path], object], file: Path) -> None:
    with ended_in_one_sentence([str(file)]):
        reads(file)


def _decoded(path: Path) -> None:
    """Every image, as training reads it; those that are broken are counted there."""
    for picture in open_source(str(path)).pictures():
        load(picture, Decoding(size=16))
