from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sightloop.rewards.combine import combine
from sightloop.rewards.custom import load_rewards
from sightloop.rewards.functions import COLUMNS, load_reward
from sightloop.rewards.samples import rows_of
from sightloop.rewards.user_functions import give_function
from sightloop.types import Fact, Images, Outcome, Tokens

TEXTS = ["a red dog", "cat", ""]
MODULE = """
import asyncio

import torch

def long(outcome):
    return torch.tensor([float(len(text)) for text in outcome.texts()])

def by_token(outcome):
    return outcome.tokens.mask.float()

def trl(prompts, completions, **columns):
    return [len(prompt) + 10 * len(text) for prompt, text in zip(prompts, completions)]

def trl_short(completions, references, **kwargs):
    return [float(text == true) for text, true in zip(completions, references)]

def red(images, prompts, facts):
    return [image.getpixel((0, 0))[0] / 255 + len(facts[k]) for k, image in enumerate(images)]

def sometimes_none(completions, **kwargs):
    return [1.0 if text else None for text in completions]

def none_of_outcome(outcome):
    return [None for _ in outcome.pieces]

def broken(completions, **kwargs):
    return [1 / len(text) for text in completions]

def together(completions, **kwargs):
    if len(completions) > 1:
        raise RuntimeError("too many")
    return [1.0]

def not_a_number(completions, **kwargs):
    return [float("nan") if text == "cat" else 1.0 for text in completions]

def too_few(completions, **kwargs):
    return [1.0]

def words(completions, **kwargs):
    return ["good"] * len(completions)

def nothing(completions, **kwargs):
    pass

def wrong_shape(outcome):
    return torch.zeros(2, 2)

def two(first, second):
    return []

def rated(images, solution):
    return []

async def later(completions, **kwargs):
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]

async def later_broken(completions, **kwargs):
    return [1 / len(text) for text in completions]

class Kind:
    def __call__(self, outcome):
        return self

price = 3

def everything(prompts, completions, **columns):
    everything.seen = {"prompts": prompts, "completions": completions, **columns}
    return [0] * len(prompts)
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MODULE)
    return str(tmp_path / "mine.py")


def outcome(*, drawn: bool = False) -> Outcome:
    pieces = [[f" {word}" for word in text.split()] for text in TEXTS]
    mask = torch.tensor([[True, True, True, True], [True, True, False, False], [True, False, False, False]])
    pixels = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    pixels[:, 0] = torch.tensor([255, 0, 51], dtype=torch.uint8)[:, None, None]
    fact = Fact(kind="noun", words=("dog",))
    return Outcome(
        tokens=Tokens(ids=torch.arange(12).view(3, 4), mask=mask),
        pieces=pieces,
        ended=torch.tensor([True, True, False]),
        images=Images(pixels=pixels) if drawn else None,
        references=["a red dog", "a cat", "none"],
        sources=["one.png", "two.png", "three.png"],
        questions=["what?"] * 3 if drawn else [],
        facts=[(fact,), (), (fact, fact)] if drawn else [],
        group=torch.tensor([0, 0, 1]),
    )


def test_a_function_of_the_outcome_goes_on_the_last_token(mine: str) -> None:
    assert load_reward(f"{mine}:long")(outcome()).tolist() == [[0, 0, 0, 9], [0, 3, 0, 0], [0, 0, 0, 0]]


def test_a_function_may_say_one_number_a_token(mine: str) -> None:
    assert torch.equal(load_reward(f"{mine}:by_token")(outcome()), outcome().tokens.mask.float())


def test_functions_as_in_trl_get_prompts_completions_and_columns(mine: str) -> None:
    # Captions have no prompt; drawings have the prompt as their source, 7 or 9 letters long.
    assert load_reward(f"{mine}:trl")(outcome()).sum(1).tolist() == [90, 30, 0]
    assert load_reward(f"{mine}:trl")(outcome(drawn=True)).sum(1).tolist() == [97, 37, 9]
    assert load_reward(f"{mine}:trl_short")(outcome()).sum(1).tolist() == [1, 0, 0]


def test_what_trl_says_nothing_about_earns_nothing(mine: str) -> None:
    assert load_reward(f"{mine}:sometimes_none")(outcome()).sum(1).tolist() == [1, 1, 0]


def test_async_functions_are_waited_for_also_where_a_loop_runs(mine: str) -> None:
    reward = load_reward(f"{mine}:later")
    assert reward(outcome()).sum(1).tolist() == [9, 3, 0]

    async def in_a_notebook() -> list[float]:
        return reward(outcome()).sum(1).tolist()

    assert asyncio.run(in_a_notebook()) == [9, 3, 0]


def test_functions_of_a_program_are_rewards_under_the_name_they_are_given() -> None:
    name = give_function("double", lambda completions, **_: [2.0 * len(text) for text in completions])
    rewards, weights = load_rewards([f"{name}=0.5"])
    assert weights == {"double": 0.5}
    assert rewards["double"](outcome()).sum(1).tolist() == [18, 6, 0]
    with pytest.raises(ValueError, match="use letters, digits and underscores"):
        give_function("two words", len)


def test_functions_of_images_get_pil_images_prompts_and_facts(mine: str) -> None:
    found = load_reward(f"{mine}:red")(outcome(drawn=True)).sum(1)
    torch.testing.assert_close(found, torch.tensor([2.0, 0.0, 2.2]))


def test_columns_hold_one_entry_a_sample(mine: str) -> None:
    reward = load_reward(f"{mine}:everything")
    reward(outcome(drawn=True))
    seen = reward.function.seen
    assert set(seen) == set(COLUMNS) and {len(values) for values in seen.values()} == {3}
    assert seen["answers"] == seen["completions"] == TEXTS
    assert seen["completion_ids"] == [[0, 1, 2, 3], [4, 5], [8]]
    assert isinstance(seen["images"][0], Image.Image) and seen["images"][2].getpixel((1, 1)) == (51, 0, 0)
    assert np.array(seen["image"][0]).shape == (2, 2, 3)
    reward(outcome())
    assert "images" not in reward.function.seen and "facts" not in reward.function.seen


def test_modules_are_found_in_the_folder_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rewards_of_somebody.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    assert load_reward("rewards_of_somebody:long")(outcome()).sum() == 12


def test_a_file_that_fails_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "half_written.py"
    file.write_text("def long(outcome):\n    return [1.0] * len(outcome.pieces)\n\n1 / 0\n")
    with pytest.raises(ValueError, match=r"cannot be imported: Zero.*half_written\.py, line 4"):
        load_reward(f"{file}:long")
    file.write_text(file.read_text().replace("1 / 0", ""))
    assert load_reward(f"{file}:long")(outcome()).sum() == 3


def test_weights_follow_an_equals_sign_and_names_stay_apart(mine: str, tmp_path: Path) -> None:
    (tmp_path / "yours.py").write_text(MODULE)
    named = [f"{mine}:long=0.5", f"{mine}:trl", f"{tmp_path / 'yours.py'}:trl=-2"]
    rewards, weights = load_rewards(named, taken=("similarity", "long"))
    assert weights == {"mine.long": 0.5, "trl": 1.0, "yours.trl": -2.0}
    total, parts = combine(rewards, weights)(outcome())
    assert total.sum(1).tolist() == [0.5 * 9 + 90 - 180, 0.5 * 3 + 30 - 60, 0]
    assert parts["mine.long"].tolist() == [9, 3, 0]


def test_rows_of_an_outcome_keep_everything_together() -> None:
    one = rows_of(outcome(drawn=True), torch.tensor([2, 0]))
    assert one.texts() == ["", "a red dog"] and one.sources == ["three.png", "one.png"]
    assert one.images is not None and one.images.pixels[0, 0, 0, 0] == 51
    assert [len(facts) for facts in one.facts] == [2, 1] and one.ended.tolist() == [False, True]
    assert one.group is not None and one.group.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", r"broken' failed on three\.png: ZeroDivisionError"),
        ("together", r"together' failed on a batch of 3 .* first is one\.png.*: RuntimeError: too many"),
        ("not_a_number", r"not_a_number' says nan about two\.png, text 'cat'"),
        ("none_of_outcome", r"None \(not applicable\) for one\.png"),
        ("later_broken", r"later_broken' failed on three\.png: ZeroDivisionError"),
        ("too_few", "returned 1 numbers for 3 samples"),
        ("words", "returned str 'good' for one.png"),
        ("nothing", "returned NoneType None; return one number a sample"),
        ("wrong_shape", r"says \(2, 2\) numbers about tokens \(3, 4\)"),
        ("red", "asks for 'facts', of which these samples have none"),
    ],
)
def test_what_goes_wrong_names_the_function_and_the_sample(mine: str, function: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_reward(f"{mine}:{function}")(outcome())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "'nothing' names no reward; use module:function"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("no_such_file.py:f", r"no file 'no_such_file\.py'"),
        ("MINE:absent", "has no 'absent'; it holds: long, by_token"),
        ("MINE:price", "is int 3; name a function"),
        ("MINE:Kind", "name a function, or an object to call"),
        ("MINE:two", "takes .first, second.; a reward takes one Outcome"),
        ("MINE:rated", "asks for 'solution'; the columns are prompts"),
        ("python:never_given", r"'never_given' was given in Python .* rewards=."),
    ],
)
def test_names_that_lead_nowhere_are_refused(mine: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_reward(name.replace("MINE", mine))


@pytest.mark.parametrize(
    ("weight", "message"), [("=much", "weight 'much'"), ("=", "weight ''"), ("=inf", "weight inf")]
)
def test_weights_that_are_no_numbers_are_refused(mine: str, weight: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_rewards([f"{mine}:long{weight}"])


def test_one_reward_named_twice_is_refused(mine: str) -> None:
    with pytest.raises(ValueError, match="named twice"):
        load_rewards([f"{mine}:long", f"{mine}:long=2"])


def test_a_reward_that_fails_shows_its_own_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import json\n\n\ndef judge(completions):\n    return ask(completions)\n\n\n"
        "def ask(texts):\n    return json.loads('{')\n\n\ndef leave(completions):\n    raise SystemExit(3)\n"
    )
    with pytest.raises(ValueError, match=r"JSONDecodeError: .*mine\.py, line 9, in ask: return json\.loads"):
        load_reward(f"{file}:judge")(outcome())
    with pytest.raises(ValueError, match=r"SystemExit: 3 \(.*mine\.py, line 13, in leave"):
        load_reward(f"{file}:leave")(outcome())
