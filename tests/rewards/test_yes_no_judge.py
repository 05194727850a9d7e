"""Probabilities of yes against single forward passes of tiny models that transformers loads."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.classic_folders import CLASSIC
from models.tiny_captioners import SIDE, idefics3, llava, random_weights
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from sightloop.rewards.custom import load_rewards
from sightloop.rewards.samples import outcome_of_texts
from sightloop.rewards.yes_no import AskedFacts, YesNoJudge, facts_asked, mean_of
from sightloop.types import Fact, Images

WORDS = ["yes", "Yes", "no"]
QUESTIONS = ["is it red?", "is there a cat?", "why?"]


def knows_yes_and_no(folder: Path) -> Path:
    """The same tiny model with single tokens for yes, Yes and no."""
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder),
    )
    processor.tokenizer.add_tokens(WORDS)
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    random_weights(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def pictures(number: int = 3) -> Images:
    return Images(pixels=torch.randint(256, (number, 3, SIDE, SIDE), dtype=torch.uint8))


@torch.no_grad()
def one_at_a_time(folder: Path, images: Images, prompts: list[str]) -> Tensor:
    """p(yes) + p(Yes) over that and p(no), of the last logits of a forward pass without any padding."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor: Any = AutoProcessor.from_pretrained(folder)
    yes, also, no = processor.tokenizer.convert_tokens_to_ids(WORDS)
    found = []
    for pixels, prompt in zip(images.pixels, prompts, strict=True):
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        inputs = processor(text=prompt, images=[picture], return_tensors="pt", add_special_tokens=False)
        chance = model(**inputs).logits[0, -1].double().softmax(0)
        found.append((chance[yes] + chance[also]) / (chance[yes] + chance[also] + chance[no]))
    return torch.stack(found).float()


def chat(question: str) -> str:
    return f"<s>User: <image>{question}<turn>Assistant:"


@pytest.mark.parametrize("make", [llava, idefics3])
def test_the_probability_of_yes_is_that_of_a_forward_pass_without_padding(tmp_path: Path, make: Any) -> None:
    folder, images = knows_yes_and_no(make(tmp_path)), pictures()
    wanted = one_at_a_time(folder, images, [chat(question) for question in QUESTIONS])
    judge = YesNoJudge.from_pretrained(folder)
    torch.testing.assert_close(judge.log_yes(images, QUESTIONS).exp(), wanted, rtol=1e-4, atol=1e-5)
    judge.batch = 1
    torch.testing.assert_close(judge.log_yes(images, QUESTIONS).exp(), wanted, rtol=1e-4, atol=1e-5)
    judge._keeps = False
    torch.testing.assert_close(judge.log_yes(images, QUESTIONS).exp(), wanted, rtol=1e-4, atol=1e-5)
    assert wanted.std() > 1e-3


@pytest.mark.parametrize("name", ["blip2_t5", "instructblip_t5"])
def test_a_flan_t5_judges_as_vqascore_has_it(name: str, tmp_path: Path) -> None:
    folder, images = knows_yes_and_no(CLASSIC[name](tmp_path)), pictures()
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    processor: Any = AutoProcessor.from_pretrained(folder)
    yes, also, no = processor.tokenizer.convert_tokens_to_ids(WORDS)
    texts = ["a cat", "two", "red"]
    law = []
    for picture, text in zip(images.pictures(), texts, strict=True):
        asked = f'Does this figure show "{text}"? Please answer yes or no.'
        inputs = processor(images=picture, text=asked, return_tensors="pt")
        start = torch.tensor([[model.generation_config.decoder_start_token_id]])
        with torch.no_grad():
            law.append(model(**inputs, decoder_input_ids=start).logits[0, -1].softmax(0))
    chances = torch.stack(law)
    wanted = chances[:, yes] + chances[:, also]
    rewards, _ = load_rewards([f"vqascore:{folder}", f"vqa:{folder}"])
    outcome = outcome_of_texts(images, texts)
    torch.testing.assert_close(rewards["vqascore"](outcome).sum(1), wanted, rtol=1e-4, atol=1e-6)
    among = wanted / (wanted + chances[:, no])
    torch.testing.assert_close(rewards["vqa"](outcome).sum(1), among, rtol=1e-4, atol=1e-5)
    assert wanted.std() > 1e-5


def test_a_template_of_ones_own_and_the_question_about_a_whole_text(tmp_path: Path) -> None:
    folder, images = knows_yes_and_no(llava(tmp_path, chat=False)), pictures()
    judge = YesNoJudge.from_pretrained(folder, template="<s>Q: <image>{question}", question="is it {text}?")
    wanted = one_at_a_time(folder, images, [f"<s>Q: <image>is it {text}?" for text in ("a", "bb", "ccc")])
    torch.testing.assert_close(judge.rewards(images, ["a", "bb", "ccc"]), wanted, rtol=1e-4, atol=1e-5)
    plain = YesNoJudge.from_pretrained(folder)
    bare = one_at_a_time(folder, images, ["<image>why?"] * 3)
    torch.testing.assert_close(plain.log_yes(images, ["why?"] * 3).exp(), bare, rtol=1e-4, atol=1e-5)


def test_facts_are_asked_one_by_one_and_averaged_as_told(tmp_path: Path) -> None:
    folder, images = knows_yes_and_no(llava(tmp_path)), pictures(2)
    judge = YesNoJudge.from_pretrained(folder)
    cat, two = Fact(kind="noun", words=("cat",)), Fact(kind="number", words=("two",), about=("cat",))
    outcome = replace(outcome_of_texts(images, ["a", "b c"]), facts=[(cat, two), (cat,)])
    asked = facts_asked(outcome)
    assert asked[0] == [
        "Is there a cat in the picture? Please answer yes or no.",
        "Is the number of objects of the kind 'cat' two? Please answer yes or no.",
    ]
    first, second = (judge.log_yes(images.rows(torch.tensor([0])), [q]).exp().item() for q in asked[0])
    third = judge.log_yes(images.rows(torch.tensor([1])), asked[1]).exp().item()
    geometric = AskedFacts(judge=judge)(outcome)
    assert geometric.sum(1).tolist() == pytest.approx([math.sqrt(first * second), third], rel=1e-4)
    assert (geometric != 0).nonzero().tolist() == [[0, 1], [1, 2]]
    arithmetic = AskedFacts(judge=judge, mean="arithmetic")(outcome).sum(1)
    assert arithmetic.tolist() == pytest.approx([(first + second) / 2, third], rel=1e-4)
    own = AskedFacts(judge=judge, questions=lambda o: [[text] for text in o.texts()])(outcome).sum(1)
    torch.testing.assert_close(own, judge.log_yes(images, ["a", "b c"]).exp(), rtol=1e-4, atol=1e-5)


def test_names_of_the_command_line_ask(tmp_path: Path) -> None:
    folder, images = knows_yes_and_no(llava(tmp_path)), pictures(2)
    rewards, _ = load_rewards([f"vqa:{folder}", f"facts:{folder}=2"])
    judge = YesNoJudge.from_pretrained(folder)
    outcome = replace(
        outcome_of_texts(images, ["a cat", "no"]), facts=[(Fact(kind="noun", words=("cat",)),)] * 2
    )
    torch.testing.assert_close(rewards["vqa"](outcome).sum(1), judge.rewards(images, ["a cat", "no"]))
    torch.testing.assert_close(rewards["facts"](outcome), AskedFacts(judge=judge)(outcome))


def test_means_of_probabilities_by_hand() -> None:
    log_probs, owner = torch.tensor([0.9, 0.4, 0.5]).log(), torch.tensor([0, 0, 1])
    assert mean_of(log_probs, owner, "geometric").tolist() == pytest.approx([0.6, 0.5])
    assert mean_of(log_probs, owner, "arithmetic").tolist() == pytest.approx([0.65, 0.5])
    sure = torch.tensor([0.0, -200.0])
    assert mean_of(sure, torch.tensor([0, 0]), "geometric").tolist() == pytest.approx(
        [math.exp(-100)], abs=1e-44
    )


def test_models_and_questions_that_cannot_work_are_refused(tmp_path: Path) -> None:
    silent = llava(tmp_path / "silent")
    with pytest.raises(ValueError, match=r"has the tokens \[\] for yes and \[\] for no"):
        YesNoJudge.from_pretrained(silent)
    folder = knows_yes_and_no(llava(tmp_path / "llava"))
    with pytest.raises(ValueError, match=r"the question 'is it red\?' has no \{text\}"):
        YesNoJudge.from_pretrained(folder, question="is it red?")
    judge = YesNoJudge.from_pretrained(folder)
    with pytest.raises(ValueError, match="mean is 'median'"):
        AskedFacts(judge=judge, mean="median")  # pyright: ignore[reportArgumentType]
    outcome = outcome_of_texts(pictures(2), ["a", "b"])
    with pytest.raises(ValueError, match="no facts to ask about"):
        AskedFacts(judge=judge)(outcome)
    with pytest.raises(ValueError, match="no question about image 1, text 'b'"):
        AskedFacts(judge=judge)(replace(outcome, facts=[(Fact(kind="noun", words=("cat",)),), ()]))
