"""Rewards that hang are named, and a log without a terminal is readable by itself."""

from __future__ import annotations

import logging
import re
import signal
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch

from sightloop.cli import main
from sightloop.models.clip import ClipEncoder
from sightloop.process.time_limit import limited, reward_timeout
from sightloop.rewards.combine import combine
from sightloop.rewards.functions import load_reward
from sightloop.training.progress import Progress, logged_every
from sightloop.types import Outcome, Tokens
from sightloop.world.bundled import WEIGHTS

REWARD = "import time\n\n\ndef slow(completions):\n    while True:\n        time.sleep(0.05)\n"


def test_a_reward_that_hangs_is_named_with_the_users_own_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(REWARD)
    judge = combine({"mine": load_reward(f"{file}:slow")}, {"mine": 1.0})
    tokens = Tokens(ids=torch.ones(1, 2, dtype=torch.long), mask=torch.ones(1, 2, dtype=torch.bool))
    outcome = Outcome(
        tokens=tokens, pieces=[["a", "b"]], ended=torch.tensor([True]), images=None, references=[""]
    )
    said = r"reward 'mine' took longer than 0\.3 s \(\S+mine\.py, line 6, in slow: time\.sleep\(0\.05\)\)"
    with pytest.raises(ValueError, match=said), reward_timeout(0.3):
        judge(outcome)


def test_a_model_loads_without_the_bars_of_libraries(capfd: pytest.CaptureFixture[str]) -> None:
    ClipEncoder.from_pretrained(str(WEIGHTS / "clip"), device=torch.device("cpu"))
    assert capfd.readouterr() == ("", "")


def test_the_hubs_client_does_not_tell_each_of_its_tries(capfd: pytest.CaptureFixture[str]) -> None:
    import_module("sightloop.models.open")
    logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
    assert capfd.readouterr().err == ""


def test_a_limit_leaves_no_trace(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR2)
    with reward_timeout(0.2), limited("reward 'a'"), limited("the same again"):
        time.sleep(0.01)
    time.sleep(0.3)
    assert signal.getsignal(signal.SIGUSR2) is before
    with (
        pytest.raises(ValueError, match=r"reward 'a' took longer than 0\.1 s"),
        reward_timeout(0.1),
        limited("reward 'a'"),
    ):
        while True:
            time.sleep(0.01)


@pytest.mark.parametrize("option", ["--log-every-seconds", "--reward-timeout-seconds"])
@pytest.mark.parametrize("value", ["-1", "nan", "soon"])
def test_times_are_numbers_of_seconds(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "vlrm", f"{option}={value}"])
    assert end.value.code == 2 and option in capsys.readouterr().err


def test_lines_come_so_often_also_within_a_long_step(capfd: pytest.CaptureFixture[str]) -> None:
    with logged_every(0.2):
        progress = Progress(first=1, steps=900, visible=True)
    figures = {"reward/total": 1.0, "tokens/length": 9.0, "seconds/collect": 0.05, "memory/peak_gib": 1.25}
    for _ in range(5):
        time.sleep(0.05)
        progress.step(figures)
    progress.working("step 6, samples are drawn and judged")
    time.sleep(0.7)
    progress.close()
    lines = capfd.readouterr().err.splitlines()

    assert re.fullmatch(
        r"step \d of 900: reward 1\.00, length 9\.0, 0\.05 s a step, 1\.2 GiB, .*left", lines[0]
    ), lines
    assert re.fullmatch(r"step 6, samples are drawn and judged: \d s so far", lines[1]), lines
