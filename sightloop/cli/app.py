"""The command line: `sightloop demo | train | evaluate | caption | draw | ask | report | view | export ...`.

Networks are imported when a command needs them, so that help comes at once.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sightloop import __version__
from sightloop.cli.completion import completion_command
from sightloop.cli.demo import DEMOS, run_demo
from sightloop.cli.doctor import doctor_command
from sightloop.cli.evaluate import EVALUATIONS
from sightloop.cli.evaluation_options import CaptionOptions
from sightloop.cli.help import with_help
from sightloop.cli.images import ask_command, convert_command, draw_command
from sightloop.cli.parse import parsed
from sightloop.cli.timing import RANK_RANGE, timing_given
from sightloop.cli.view import view_command
from sightloop.former_names import current_options
from sightloop.other_libraries import COMMANDS as CALLED_ELSEWHERE
from sightloop.other_libraries import refuse_names_of_others
from sightloop.process import ranks
from sightloop.process.boundary import only_one_speaks, work_shared_by_ranks
from sightloop.process.long_work import LOG_SECONDS, at_work
from sightloop.process.time_limit import REWARD_SECONDS
from sightloop.ranges import NotNegative, Positive, require_ranges
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.choices import refuse_idle
from sightloop.recipes.inputs import inputs_given, settings_of_run
from sightloop.recipes.presets import preset_of
from sightloop.recipes.words import taken, taken_flag
from sightloop.runs.changes import MAY_CHANGE, changed_settings
from sightloop.terminal import say

Positional = tyro.conf.Positional
Start = Callable[[], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Where a run lives, and how it starts."""

    preset: str = ""
    """Starting point of all settings below."""
    run: Path | None = None
    """Run folder; default runs/<recipe>-<preset>."""
    overwrite: bool = False
    """Replace an older run in that folder."""
    plan: bool = False
    """Print parameters, memory and FLOPs of a step and stop; loads no weights."""
    fit: str = ""
    """With --plan: the memory of a GPU, such as 24GB; prints the options with which the run fits it."""
    log_every_seconds: Positive = LOG_SECONDS
    """Where there is no terminal, a line of progress so often; also with --resume."""
    reward_timeout_seconds: NotNegative = REWARD_SECONDS
    """A reward or judge that takes longer for a batch ends the run, 0 = none does; also with --resume."""
    rank_timeout_seconds: Annotated[float, RANK_RANGE] = ranks.RANK_SECONDS
    """With several ranks: one that gives no sign for so long ends the run, as does one that keeps the others
    waiting so long and three times their own time; also with --resume."""

    track_project: str = "sightloop"
    """Project of the trackers of --track."""
    track_group: str = ""
    """Group of runs there (wandb, trackio)."""
    track_name: str = ""
    """Name of the run there; default its folder's."""
    track_tags: str = ""
    """Tags of the run there, with commas between them."""

    def __post_init__(self) -> None:
        require_ranges(self)


def train_command(words: list[str]) -> None:
    """Train a recipe, resume a run, or replay a configuration."""
    if ranks.num_processes() > 1:
        import_module("sightloop.training.distributed").connect()
    # All ranks read the same words: what is wrong with them is said once.
    with only_one_speaks() as quiet, timing_given(words) as rest:
        start = _chosen(rest)
        quiet.close()
        if start is not None:
            start()


def _chosen(words: list[str]) -> Start | None:
    """What the words ask for; None if that is done already."""
    trusted, words = taken_flag("--trust-rewards", words)
    for option, start in (("--resume", resume), ("--config", replay)):
        named, _ = taken(option, words)
        if named is not None:
            if named and not Path(named).exists():
                import_module("sightloop.training.run_folder").recover(Path(named))
            if not trusted:
                import_module("sightloop.runs.trust").require_trust(option, named)
            return start(words)
    if not words or words[0] not in RECIPES:
        _fail_or_help("train", words, {name: RECIPES[name].does for name in RECIPES}, _TRAIN_NOTE)
    name, *rest = words
    refuse_names_of_others(rest, name)
    recipe = RECIPES[name]
    preset = preset_of(recipe.presets, rest)
    config_type = Annotated[recipe.config, tyro.conf.arg(name="")]
    fields: list[Any] = [
        ("options", Annotated[TrainOptions, tyro.conf.arg(name="")], TrainOptions(preset=preset)),
        ("settings", config_type, recipe.presets[preset]),
    ]
    command = dataclasses.make_dataclass("Train", fields, frozen=True, kw_only=True)
    chosen: Any = parsed(
        command,
        args=rest,
        prog=f"sightloop train {name}",
        description=f"{recipe.config.__doc__} Defaults shown are those of --preset {preset} "
        f"(there are: {', '.join(recipe.presets)}).",
    )
    refuse_idle(chosen.settings, recipe.config.choices, starts=[recipe.presets[preset]])
    options: TrainOptions = chosen.options
    if options.plan:
        from sightloop.planning.summary import print_plan

        print_plan(chosen.settings, fit=options.fit, is_paper=preset.startswith("paper"))
        return None
    if options.fit:
        raise ValueError(f"--fit {options.fit} has no effect without --plan; add it, or leave --fit out")
    folder = options.run or Path("runs") / f"{name}-{preset}"
    return partial(_start, folder, chosen.settings, run=folder, overwrite=options.overwrite)


def resume(words: list[str]) -> Start:
    """Go on with a run from its newest checkpoint, longer or on another machine if that is asked for."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Resume:
        """Go on with a run exactly where its newest checkpoint left it."""

        resume: Path

    given, rest = taken("--resume", words)
    folder = given or ""
    if not folder or folder.startswith("-"):
        parsed(Resume, args=words, prog="sightloop train")
    name, config = settings_of_run(Path(folder))
    if rest and rest[0] in RECIPES:
        if rest[0] != name:
            raise ValueError(f"{folder} is a run of {name}, not of {rest[0]}")
        rest = rest[1:]
    chosen: Any = parsed(
        type(config),
        args=rest,
        default=config,
        prog=f"sightloop train --resume {folder}",
        description=f"Go on with a run of {name}. Of its settings, shown as they are, these may change: "
        f"{', '.join(MAY_CHANGE)}.",
    )
    refuse_idle(chosen, chosen.choices, starts=[config])
    changes = changed_settings(config, chosen, run=Path(folder))
    return partial(_start, Path(folder), resume=folder, trust_rewards=True, **changes)


def replay(words: list[str]) -> Start:
    """Start a new run from a saved configuration."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Replay:
        """Start a new run with the configuration of another (its config.json)."""

        config: Path
        run: Path
        overwrite: bool = False

    named = [word for word in words if word in RECIPES]
    chosen = parsed(Replay, args=[word for word in words if word not in named], prog="sightloop train")
    name, config = settings_of_run(chosen.config)
    if named not in ([], [name]):
        raise ValueError(f"{chosen.config} is a configuration of {name}, not of {named[0]}")
    return partial(_start, chosen.run, config, run=chosen.run, overwrite=chosen.overwrite)


def _start(folder: Path, *given: Any, **how: Any) -> None:
    from sightloop.api.train import train

    trained = train(*given, **how)
    # Whoever sent a signal counts the seconds.
    if not (trained.stopped or ranks.is_other_rank()):
        _show_report(folder)


def evaluate_command(words: list[str]) -> None:
    """Measure captions, answers or drawn images."""
    if not words or words[0] not in EVALUATIONS:
        _fail_or_help(
            "evaluate", words, {name: _sentence(kind) for name, (kind, _) in EVALUATIONS.items()}, ""
        )
    kind, run = EVALUATIONS[words[0]]
    run(parsed(kind, args=words[1:], prog=f"sightloop evaluate {words[0]}"))


def caption_command(words: list[str]) -> None:
    """Write captions of images."""
    options = parsed(CaptionOptions, args=words, prog="sightloop caption")
    from sightloop.cli.captions import write_captions

    write_captions(options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """One self-contained page about a run, or about several beside each other, and the same figures in the
    terminal.
    """

    run: Positional[tuple[Path, ...]]
    """Run folders."""
    output: Path | None = None
    """Page to write about several runs; default comparison.html beside the first of them."""
    all: bool = False
    """Print all figures of the run, by their full names."""


def report(words: list[str]) -> None:
    """Write the page and print the table."""
    options = parsed(ReportOptions, args=words, prog="sightloop report")
    first, *others = options.run or (None,)
    if first is None:
        raise ValueError("not given: a run folder, as in `sightloop report runs/NAME`")
    if others:
        if options.all:
            raise ValueError("--all has no effect for several runs, which show all figures; leave it out")
        return _show_comparison([first, *others], options.output)
    if options.output is not None:
        raise ValueError("--output has no effect for one run, whose page is its report.html; leave it out")
    _show_report(first, all_figures=options.all)


def _show_comparison(folders: Sequence[Path], output: Path | None) -> None:
    from sightloop.report.compare import compare_runs
    from sightloop.report.comparison import write_comparison

    say(compare_runs(folders))
    page = output or Path(os.path.realpath(folders[0])).parent / "comparison.html"
    say(f"comparison: {write_comparison(folders, page)}")


def _show_report(folder: Path, *, all_figures: bool = False) -> None:
    from sightloop.report.page import write_report
    from sightloop.report.tables import before_after_table
    from sightloop.report.terminal_summary import run_summary

    # First what needs nothing written: a run may lie where nobody may write.
    say(before_after_table(folder) if all_figures else run_summary(folder))
    say(f"report: {write_report(folder)}")
    say(f"in the browser: sightloop view {folder}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """A run's model without sightloop: BLIP-2 as a plain folder or as VLRM's 257 tensors, any other captioner
    as adapters for peft, Janus as a plain folder; Show-o as a folder of its parts.
    """

    run: Positional[Path]
    output: Path | None = None
    """Folder (form "folder"), or file (.pt or .safetensors) to write; with --push default exported/NAME."""
    form: Literal["folder", "merged", "tensors"] = "folder"
    """A folder of transformers or adapters, the whole with adapters merged, or VLRM's tensors in a file."""
    step: str = "best"
    """Checkpoint: "best", "last" or a step number."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Precision of the weights; adapters for peft are always float32."""
    license: str = ""
    """License named in the model card; default that of the base model's card, if it is in its folder."""
    push: str = ""
    """Repository of the hub, ORGANIZATION/NAME, that the folder is uploaded to."""
    dry_run: bool = False
    """With --push: upload nothing, print what would go there."""
    private: bool = False
    """With --push: a repository that is made is private."""


def export(words: list[str]) -> None:
    """Export a run."""
    options = parsed(ExportOptions, args=words, prog="sightloop export")
    output = _export_place(options)
    from sightloop.runs.export import export_run
    from sightloop.runs.push import push_folder, require_repository, what_would_go

    if options.push:
        require_repository(options.push)
    export_run(
        options.run,
        output,
        form=options.form,
        step=options.step,
        dtype=options.dtype,
        license_name=options.license,
    )
    say(f"wrote {output}")
    if options.dry_run:
        say(what_would_go(output, options.push))
    elif options.push:
        say(f"pushed to {push_folder(output, options.push, is_private=options.private)}")


def _export_place(options: ExportOptions) -> Path:
    if not options.push and (options.dry_run or options.private):
        raise ValueError("--dry-run and --private have no effect without --push; leave them out")
    if options.push and options.form == "tensors":
        raise ValueError("--push uploads a folder; leave --form tensors out")
    if options.output is None and not options.push:
        raise ValueError("name the folder or file to write with --output")
    return options.output or Path("exported") / options.push.rpartition("/")[2]


def demo(words: list[str]) -> None:
    """Train something small and show what changed."""
    if not words or words[0] not in DEMOS:
        _fail_or_help("demo", words, {name: _sentence(kind) for name, kind in DEMOS.items()}, "")
    run_demo(words, _show_report)


_TRAIN_NOTE = (
    "sightloop train --resume RUN [--steps 200 ...]      go on with a run, longer if you like\n"
    "sightloop train --config FILE --run RUN      start a run with another's configuration\n"
    "    (--trust-rewards: run the functions that it names, which may be anybody's code)\n\n"
    "Where a run is named, here and in evaluate, export, caption, draw and ask:\n"
    "  --relocate OLD=NEW          files that the run was made of lie elsewhere now\n"
    "  --allow-changed-inputs      go on though its models or data are others than they were"
)
COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "demo": (demo, "minutes of training without a download (unirl, vlrm), with images before and after"),
    "train": (train_command, "train a model on what a judge sees (vlrm, grpo, unirl-grpo, unirl-sft)"),
    "evaluate": (evaluate_command, "measure captions, answers, drawings (clip-recall, geneval, joint ...)"),
    "caption": (caption_command, "write captions of images"),
    "draw": (draw_command, "draw images of a prompt (Show-o, Janus)"),
    "ask": (ask_command, "ask a question about an image (Show-o, Janus)"),
    "report": (report, "one page and one table about a run, or about several beside each other"),
    "view": (view_command, "the same in the browser while runs go on; own images to try"),
    "doctor": (doctor_command, "is everything well that a run depends on: computer, judges, rewards"),
    "export": (export, "a run's model as a folder of its own, without adapters or sightloop"),
    "convert": (
        convert_command,
        "checkpoints of Show-o, MAGVIT-v2, Janus, from their authors' form and back",
    ),
    "completion": (completion_command, "words that a shell completes: sightloop completion bash"),
}


def run_command(words: list[str]) -> None:
    """Run one command."""
    if words and words[0] in {"--version", "-V"}:
        return say(f"sightloop {__version__}")
    if words[:2] == ["completion", "words"]:
        # What was typed so far may ask for help; that is not asked here.
        return completion_command(words[1:])
    if not words or words[0] not in COMMANDS:
        _fail_or_help("", words, {name: does for name, (_, does) in COMMANDS.items()}, "")
    trains, shares = words[0] in ("train", "demo"), words[0] in ("evaluate", "caption", "draw", "ask")
    if ranks.is_other_rank() and not (trains or shares):
        return None
    sharing = work_shared_by_ranks() if shares else nullcontext()
    with sharing, inputs_given(words) as left, at_work(words[0], told_after=LOG_SECONDS):
        with_help(COMMANDS[words[0]][0], current_options(words[0], left[1:]), name=words[0])


def _sentence(options: type) -> str:
    """The first sentence of a class of options, in one line."""
    first, *_ = cleandoc(str(options.__doc__)).split("\n\n")
    return " ".join(first.split())


def _fail_or_help(group: str, words: list[str], choices: dict[str, str], note: str) -> None:
    prog = f"sightloop {group}".strip()
    lines = [f"usage: {prog} COMMAND ... (COMMAND --help tells its options)", ""]
    lines += [f"  {name:<12} {does}" for name, does in choices.items()]
    if not group:
        papers = "VLRM, arXiv 2404.01911; UniRL, arXiv 2505.23380"
        lines.insert(0, f"Vision-language models learn from what they see ({papers}).")
    text = "\n".join([*lines, *(["", note] if note else [])])
    if not words or words[0] in {"-h", "--help", "help"}:
        say(text)
        raise SystemExit(0 if words else 2)
    close = get_close_matches(words[0], choices, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    if not group and words[0] in CALLED_ELSEWHERE:
        hint = f"; here it is {CALLED_ELSEWHERE[words[0]]!r}"
    say(f"{prog}: unknown command {words[0]!r}{hint}\n\n{text}", is_error=True)
    raise SystemExit(2)
