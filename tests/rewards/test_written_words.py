from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sightloop.rewards.custom import load_rewards, read_names
from sightloop.rewards.loading import Loading
from sightloop.rewards.samples import outcome_of_texts
from sightloop.rewards.written_words import WrittenWords, edit_distance, quoted, share_read
from sightloop.types import Images

IMAGES = Images(pixels=torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
PROMPTS = ['a sign that says "Open"', 'a card “Happy Birthday” and a door "EXIT"']
READER = """
def read(images):
    return ["0pen" if image.size == (8, 8) else "" for image in images]

def lines(images):
    return [["open"] for image in images]
"""


def test_words_are_compared_by_the_characters_that_are_wrong() -> None:
    assert edit_distance("", "abc") == 3 and edit_distance("flaw", "lawn") == 2
    assert edit_distance("abc", "abc") == 0 and edit_distance("abc", "") == 3
    # One of four letters is wrong; nothing is right; case, blanks and lines do not matter.
    assert share_read("open", "0pen") == 0.75
    assert share_read("open", "shut") == 0.0
    assert share_read("Happy Birthday", "HAPPY\n birth day!") == 1.0
    # As in Flow-GRPO, a long text around a word that is not quite right costs all of it.
    assert share_read("open", "we are 0pen every day") == 0.0


def test_only_what_is_in_double_quotes_is_wanted() -> None:
    assert quoted(PROMPTS[1]) == ["happybirthday", "exit"]
    assert quoted('the dog\'s "" and " " and \'bone\'') == []


def test_several_quotations_share_the_score() -> None:
    words = WrittenWords(read=lambda pictures: ["OPEN", "happy birthday exlt"])
    assert words.rewards(IMAGES, PROMPTS).tolist() == [1.0, 0.5]


def test_a_prompt_without_words_is_refused_and_a_caption_earns_nothing() -> None:
    with pytest.raises(ValueError, match="'a dog' has no words in double quotes, which the reward `ocr`"):
        WrittenWords(read=lambda pictures: ["", ""]).rewards(IMAGES, [PROMPTS[0], "a dog"])
    captions = WrittenWords(read=lambda pictures: ["open"] * len(pictures), must_quote=False)
    assert captions.rewards(IMAGES, ["a dog", 'it says "open"']).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["open"], "the reader gave 1 answers about 2 images"),
        ("open", "the reader said str 'open' about 2 images"),
        (["open", None], "the reader said None about an image"),
    ],
)
def test_a_reader_that_says_no_texts_is_refused(said: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        WrittenWords(read=lambda pictures: said).rewards(IMAGES, PROMPTS)


def test_a_reader_of_ones_own_is_named_behind_the_reward(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(READER)
    name = f"ocr:{tmp_path / 'mine.py'}:read"
    rewards, weights = load_rewards([f"{name}=0.5"], how=Loading(text="prompt"))
    drawn = outcome_of_texts(IMAGES, ["yes", "no"], drawn_from=['"open"', '"open door"'])
    assert weights == {"ocr": 0.5}
    assert rewards["ocr"](drawn).sum(1).tolist() == [0.75, 0.375]
    assert read_names([name])[0].models == ()
    with pytest.raises(ValueError, match=r"mine\.py' has no 'speak'; it holds: read, lines"):
        read_names([f"ocr:{tmp_path / 'mine.py'}:speak"])
    wrong, _ = load_rewards([f"ocr:{tmp_path / 'mine.py'}:lines"])
    with pytest.raises(ValueError, match="give one text an image"):
        wrong["ocr"](outcome_of_texts(IMAGES, ['"open"', "no"]))


def test_the_library_that_reads_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    with pytest.raises(ValueError, match=r"pip install 'sightloop\[ocr\]', or name a reader of your own"):
        load_rewards(["ocr"])
