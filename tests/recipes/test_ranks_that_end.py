"""Whatever ends one of two ranks ends both: rank 0 says why and how to go on, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training.toy_run import traces

from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import write_images

HERE = Path(__file__).resolve().parent
# In the second step of a first run, rank 1 raises or waits; a file says that it is there.
REWARD = """
import os, time
from pathlib import Path
import torch
from sightloop.evaluators.held_out_captions import HeldOut

calls = []

def here(name):
    Path(__file__).with_name(name).write_text("")

def second(name, texts):
    # Rewards are tried on fewer texts before all begins.
    calls.extend([1] * (len(texts) > 2))
    is_here = len(calls) == 2 and os.environ["RANK"] == "1" and not Path(__file__).with_name(name).exists()
    if is_here:
        here(name)
    return is_here

def plain(completions):
    return [len(text) / 10 for text in completions]

def raises(completions):
    return {}["no such judge"] if second("raises", completions) else plain(completions)

def waits(completions, name="waits"):
    time.sleep(100 * second(name, completions))
    return plain(completions)

def waits_too(completions):
    return waits(completions, "waits_too")

def waits_then(completions):
    return waits(completions, "waits_then")

written = HeldOut.captions

def captions(self, policy):
    if calls and os.environ["RANK"] == "1":
        here("evaluates")
        time.sleep(100)
    return written(self, policy)

def memory(self, policy):
    if os.environ["RANK"] == "1":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. Of the allocated")
    return written(self, policy)

def fills(completions):
    HeldOut.captions = memory
    return plain(completions)

def evaluates(completions):
    calls.extend([1] * (len(completions) > 2))
    HeldOut.captions = captions
    return plain(completions)
"""


SCRIPT = """
import sightloop

def short(completions):
    return [-len(text) / 10 for text in completions]

how = {"held_out": "{held}", "held_out__clip": "{weights}/clip", "held_out__max_tokens": 4}
how |= {"preset": "shapes", "model": "{weights}/captioner", "judge": "{weights}/judge", "images": "{pics}"}
how |= {"batch": 6, "draw__max_tokens": 4, "steps": 1, "rewards": {"similarity": 1, "short": short}}
for name in ("one", "two"):
    run = sightloop.train("vlrm", run="{place}/script-" + name, **how)
    print(len(run.metrics("eval")))
sightloop.train("vlrm", run="{place}/script-three", **how | {"images": "{place}/nowhere"})
print("never")
"""


def cases(place: Path) -> dict[str, dict[str, Any]]:
    """Command lines, and what is done to which rank."""

    def train(name: str, reward: str, *more: str) -> list[str]:
        images = ["--images", str(place / "pics"), "--held-out.images", str(place / "held")]
        models = {"model": "captioner", "judge": "judge", "held-out.clip": "clip"}
        words = ["train", "vlrm", "--preset", "shapes", "--run", str(place / name), *images]
        for option, folder in models.items():
            words += [f"--{option}", str(WEIGHTS / folder)]
        words += ["--batch", "6", "--draw.max-tokens", "4", "--held-out.max-tokens", "4", "--steps", "3"]
        words += ["--save-every", "9", "--custom-rewards", f"{place / 'mine.py'}:{reward}=0.1"]
        return [*words, *more]

    def sent(number: str, rank: int, mark: str) -> dict[str, Any]:
        return {"signal": number, "rank": rank, "mark": str(place / mark)}

    return {
        "undisturbed": {"words": train("undisturbed-run", "plain")},
        "typo": {"words": train("typo-run", "plain", "--no-such-option")},
        "raises": {"words": train("raises-run", "raises")},
        "raises-resumed": {"words": ["train", "--resume", str(place / "raises-run")]},
        "killed": {"words": train("killed-run", "waits"), **sent("SIGKILL", 1, "waits")},
        "first-killed": {"words": train("first-run", "waits"), **sent("SIGKILL", 0, "waits")},
        "stopped": {
            "words": train("stopped-run", "waits", "--rank-timeout-seconds", "3"),
            **sent("SIGSTOP", 1, "waits"),
        },
        "hangs": {"words": train("hangs-run", "waits_too", "--rank-timeout-seconds", "3")},
        "told": {"words": train("told-run", "waits"), **sent("SIGTERM", 1, "waits")},
        "told-spread": {
            "words": train("told-spread-run", "waits_then", "--shard-optimizer"),
            **sent("SIGTERM", 1, "waits_then"),
        },
        "evaluation": {
            "words": train("evaluation-run", "evaluates", "--eval-every", "1"),
            **sent("SIGUSR1", 1, "evaluates"),
        },
        "memory": {"words": train("memory-run", "fills", "--eval-every", "1")},
        "broken": {"words": train("broken-run", "plain", "--held-out.images", str(place / "broken"))},
        "script": {"script": str(place / "script.py")},
        "rs": {
            "words": train(
                "rs-run",
                "plain",
                "--preset",
                "shapes-rs",
                "--judge.retrieval-clip",
                str(WEIGHTS / "clip_retrieval"),
            )
        },
        "alone-unset": {"words": ["train", "vlrm", "--rank-timeout-seconds", "1"]},
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and rewards, and the runs."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(place: Path) -> dict[str, dict[str, Any]]:
    """How each of them ended."""
    write_images(place / "pics", number=8, seed=0)
    write_images(place / "held", number=4, seed=1)
    shutil.copytree(place / "held", place / "broken")
    (place / "broken" / "00003.png").write_bytes(b"not an image")
    (place / "mine.py").write_text(REWARD)
    script = SCRIPT
    for name, path in {
        "held": place / "held",
        "pics": place / "pics",
        "place": place,
        "weights": WEIGHTS,
    }.items():
        script = script.replace("{" + name + "}", str(path))
    (place / "script.py").write_text(script)
    file = place / "said" / "cases.json"
    file.parent.mkdir()
    file.write_text(json.dumps(cases(place)))
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "forked_ranks.py"), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(file.with_suffix(".found").read_text())


def last_words(case: dict[str, Any], *, of: int = 0) -> list[str]:
    """What one rank says as the end of the command; the other one says nothing at all."""
    assert case[f"err_{1 - of}"].count("sightloop: ") == 0, case
    assert "Traceback" not in case[f"err_{of}"]
    return [line for line in case[f"err_{of}"].splitlines() if line.startswith("sightloop: ")]


def go_on(place: Path, name: str, *, step: int = 1) -> str:
    return f"; step {step} is saved; go on with: sightloop train --resume {place / name}"


def same_as_undisturbed(place: Path, name: str) -> bool:
    """Whether a run that went on is the undisturbed one to the last bit, but for the reward's name."""
    ours, theirs = (traces(place / run) for run in (f"{name}-run", "undisturbed-run"))
    files = ("trainable.safetensors", "optimizer.pt", "random.pt")
    named = {"reward/plain", "reward/raises"}
    figures = [
        [{key: value for key, value in line.items() if key not in named} for line in run["metrics.jsonl"]]
        for run in (ours, theirs)
    ]
    last = "checkpoints/step_000003"
    weights = [[run[f"{last}/{file}"] for file in files] for run in (ours, theirs)]
    return figures[0] == figures[1] and weights[0] == weights[1]


def test_a_mistyped_word_is_told_once(found: dict[str, dict[str, Any]]) -> None:
    case = found["typo"]
    assert case["codes"] == [2, 2]
    (told,) = last_words(case)
    assert "--no-such-option" in told
    assert case["out_1"] == case["err_1"] == ""
    case = found["alone-unset"]
    assert case["codes"] == [2, 2]
    assert last_words(case) == ["sightloop: --rank-timeout-seconds is 1; use at least 2 and at most 86400"]


def test_what_one_rank_raises_rank_0_tells_with_how_to_go_on(
    found: dict[str, dict[str, Any]], place: Path
) -> None:
    case = found["raises"]
    assert case["codes"] == [2, 2]
    assert case["err_1"] == ""
    (cause,) = last_words(case)
    assert cause.startswith(f"sightloop: rank 1: reward '{place / 'mine.py'}:raises' failed on ")
    assert "KeyError: 'no such judge' (" in cause and "mine.py, line " in cause
    assert cause.endswith(go_on(place, "raises-run"))
    assert found["raises-resumed"]["codes"] == [0, 0]
    assert same_as_undisturbed(place, "raises")


def test_a_killed_rank_is_named_and_its_steps_are_kept(found: dict[str, dict[str, Any]], place: Path) -> None:
    case = found["killed"]
    assert case["codes"] == [2, -9] and case["seconds"] < 25
    (cause,) = last_words(case)
    assert "rank 1 (last seen: step 2, samples are drawn and judged) ended without a word" in cause
    assert cause.endswith(go_on(place, "killed-run"))


def test_where_rank_0_is_lost_the_next_one_speaks(found: dict[str, dict[str, Any]], place: Path) -> None:
    case = found["first-killed"]
    assert case["codes"] == [-9, 2] and case["seconds"] < 25
    (cause,) = last_words(case, of=1)
    assert "rank 0 (last seen: step 2, " in cause and "ended without a word" in cause
    assert cause.endswith(f"; go on with: sightloop train --resume {place / 'first-run'}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stopped", "gave no sign for "),
        ("hangs", "has kept the others waiting for "),
    ],
)
def test_a_rank_that_stops_answering_ends_the_others_in_time(
    name: str, said: str, found: dict[str, dict[str, Any]], place: Path
) -> None:
    case = found[name]
    assert all(case["codes"]) and case["seconds"] < 60
    (cause,) = last_words(case)
    where = "rank 1 (last seen: step 2, samples are drawn and judged)"
    assert f"{where} {said}" in cause and "--rank-timeout-seconds" in cause
    assert cause.endswith(go_on(place, f"{name}-run"))


@pytest.mark.parametrize(
    ("name", "signal", "work", "step"),
    [
        ("told", "SIGTERM", "step", 1),
        ("told-spread", "SIGTERM", "step", 1),
        ("evaluation", "SIGUSR1", "evaluation", 1),
    ],
)
def test_a_signal_to_one_rank_stops_all_at_the_same_point(
    name: str, signal: str, work: str, step: int, found: dict[str, dict[str, Any]], place: Path
) -> None:
    case = found[name]
    assert case["codes"] == [0, 0] and case["seconds"] < 20
    assert f"{signal}: saving, without the {work} in flight" in case["err_0"]
    folder = place / f"{name}-run"
    assert f"stopped after step {step}; go on with: sightloop train --resume {folder}" in case["err_0"]
    assert case["err_1"] == ""
    saved = folder / "checkpoints" / f"step_{step:06d}"
    assert saved.is_dir()
    # Of spread moments each rank has written its own, though they take part in nothing common any more.
    parts = {path.name for path in saved.glob("optimizer*")}
    assert parts == ({"optimizer_0.pt", "optimizer_1.pt"} if "spread" in name else {"optimizer.pt"})


def test_memory_that_ends_on_one_rank_is_told_with_what_would_fit(
    found: dict[str, dict[str, Any]], place: Path
) -> None:
    case = found["memory"]
    assert case["codes"] == [2, 2]
    (cause,) = last_words(case)
    assert cause.startswith(
        "sightloop: rank 1: out of memory in step 0 while the policy was evaluated: CUDA out"
    )
    assert cause.count("rank 1") == 1


def test_an_image_that_one_rank_cannot_read_is_named(found: dict[str, dict[str, Any]], place: Path) -> None:
    case = found["broken"]
    assert all(case["codes"])
    (cause,) = last_words(case)
    assert str(place / "broken" / "00003.png") in cause


def test_a_script_trains_twice_and_its_error_is_one_sentence(
    found: dict[str, dict[str, Any]], place: Path
) -> None:
    case = found["script"]
    assert case["codes"] == [2, 2]
    assert case["out_0"] == case["out_1"] == "2\n2\n"
    (cause,) = last_words(case)
    assert cause.startswith(f"sightloop: no images found in '{place / 'nowhere'}'")
    assert case["err_1"] == ""


def test_the_two_stages_of_rs_run_on_two_ranks(found: dict[str, dict[str, Any]]) -> None:
    assert found["rs"]["codes"] == [0, 0], found["rs"]
