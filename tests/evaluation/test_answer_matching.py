"""Answers compared with true ones: exact match, a text model as judge, the files they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sightloop.evaluation.answer_files import read_answers, yes_no_truth
from sightloop.evaluation.answer_matching import (
    Answered,
    ExactMatch,
    TextModelComparison,
    answer_measures,
    read_verdict,
)
from sightloop.evaluation.text_model import TextModel

ROWS = [
    Answered(question="How many cats?", truth="Three grey cats.", answer="the 3 gray cats"),
    Answered(question="What is it?", truth="a bench", answer="A Bench!"),
    Answered(question="What is it?", truth="a bench", answer="a park bench"),
    Answered(question="What color?", truth="red", answer=""),
]


def test_exact_match_forgives_case_articles_punctuation_and_number_words() -> None:
    found = answer_measures(ROWS, judge=ExactMatch())
    assert found.per_sample["accuracy"] == [1, 1, 0, 0]
    assert found.metrics == {"accuracy": 0.5, "unparsable": 0}
    assert found.protocol["judge"] == "exact-match" and found.samples[2]["verdict"] == "wrong"


def test_a_text_model_judges_and_what_it_mumbles_is_counted() -> None:
    asked: list[str] = []

    def ask(text: str) -> str:
        asked.append(text)
        answer = text.split("Given answer: ")[1].split("\n")[0]
        return {"the 3 gray cats": "Same.", "A Bench!": "not same", "a park bench": "same"}.get(answer, "Hm?")

    found = answer_measures([*ROWS, ROWS[0]], judge=TextModelComparison(ask))
    assert found.per_sample["accuracy"] == [1, 0, 1, 0, 1]
    assert found.per_sample["unparsable"] == [0, 0, 0, 1, 0]
    assert len(asked) == 4
    assert "How many cats?" in asked[0] and "Three grey cats." in asked[0]
    # As UniRL reads replies, "Same." is no "same".
    literal = answer_measures(ROWS, judge=TextModelComparison(ask, literal=True))
    assert literal.per_sample["accuracy"] == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("same", True),
        ("  SAME ", True),
        ("Not the same.", False),
        ("not same", False),
        ("different", False),
        ("", None),
        ("The truth is red", None),
    ],
)
def test_replies_are_read_or_said_to_be_unreadable(reply: str, verdict: bool | None) -> None:
    assert read_verdict(reply) is verdict


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random causal language model of the hub's format; its generation settings ask for sampling."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("hub") / "words"
    vocabulary = {
        word: place for place, word in enumerate(["<unk>", "</s>", "same", "not", "red", "a", "dog"])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained(
        path
    )
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "vocab_size": 7, "eos_token_id": 1, "bos_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    model.generation_config.do_sample = True
    model.generation_config.temperature = 5.0
    model.save_pretrained(path)
    return path


def test_a_language_model_of_a_folder_replies_with_its_likeliest_words(folder: Path) -> None:
    model = TextModel.from_pretrained(folder, max_tokens=3)
    reply = model("a red dog")
    ids = model.tokenizer("a red dog", return_tensors="pt")["input_ids"]
    wanted: list[int] = []
    for _ in range(3):
        ids = torch.cat([ids, model.model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
        wanted.append(int(ids[0, -1]))
        if wanted[-1] == 1:
            break
    assert reply == model.tokenizer.decode(wanted, skip_special_tokens=True).strip()
    assert model("a red dog") == reply
    judge = TextModelComparison(model, protocol=model.protocol)
    found = answer_measures(ROWS[:1], judge=judge)
    assert found.protocol["text_model"] == "words" and "transformers" in found.protocol
    with pytest.raises(ValueError, match="max_tokens is 0"):
        TextModel.from_pretrained(folder, max_tokens=0)


def test_a_chat_template_frames_the_text(folder: Path) -> None:
    model = TextModel.from_pretrained(folder, max_tokens=2)
    framed = "red {text} same"
    plain = model(framed.format(text="a dog"))
    model.tokenizer.chat_template = "red {{ messages[0]['content'] }} same"
    assert model("a dog") == plain


def written(path: Path, *rows: dict[str, Any]) -> Path:
    """A file of these lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_answers_of_one_file_or_of_popes_two(tmp_path: Path) -> None:
    one = written(
        tmp_path / "one.jsonl",
        {"question": "Is there a dog?", "label": "yes", "answer": "Yes."},
        {"question": "Is there a cat?", "truth": "No", "answer": "no"},
    )
    rows = read_answers(one)
    assert rows[0] == Answered(question="Is there a dog?", truth="yes", answer="Yes.")
    assert yes_no_truth(rows) == [True, False]
    assert yes_no_truth(ROWS) is None
    asked = written(
        tmp_path / "asked.jsonl",
        {"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"},
        {"question_id": 2, "image": "a.jpg", "text": "Is there a cat?", "label": "no"},
    )
    # By id the order does not matter; by question it has to be the same.
    by_id = written(
        tmp_path / "by_id.jsonl", {"question_id": 2, "text": "no"}, {"question_id": 1, "text": "Yes."}
    )
    assert [row.answer for row in read_answers(by_id, questions=asked)] == ["Yes.", "no"]
    in_order = written(
        tmp_path / "in_order.jsonl",
        {"question": "Is there a dog?", "answer": "Yes."},
        {"question": "Is there a cat?", "answer": "no"},
    )
    assert [row.truth for row in read_answers(in_order, questions=asked)] == ["yes", "no"]


def test_lmms_evals_samples_are_answers_too(tmp_path: Path) -> None:
    samples = written(
        tmp_path / "samples.jsonl",
        {"doc_id": 0, "input": "Is it red?", "target": "Yes", "filtered_resps": ["yes"], "right": 1.0},
        {"doc_id": 1, "input": "Is it blue?", "target": "No", "filtered_resps": "a cat"},
    )
    rows = read_answers(samples)
    assert rows[0] == Answered(question="Is it red?", truth="Yes", answer="yes")
    assert rows[1].answer == "a cat" and yes_no_truth(rows) == [True, False]


def test_files_that_do_not_fit_are_refused_by_line(tmp_path: Path) -> None:
    asked = written(
        tmp_path / "asked.jsonl",
        {"question_id": 1, "text": "Is there a dog?", "label": "yes"},
        {"question_id": 2, "text": "Is there a cat?", "label": "no"},
    )
    answers = tmp_path / "answers.jsonl"
    for rows, told in (
        ([{"question": "Is there a cat?", "answer": "a"}, {"question": "Is there a dog?", "answer": "b"}],
         "answers.jsonl line 1 answers 'Is there a cat.', .* the files are in another order"),
        ([{"question": "Is there a dog?", "answer": "a"}], "1 answers to 2 questions"),
        ([{"question_id": 1, "answer": "a"}], "no answer to 1 questions, the first is question_id 2"),
        ([{"question_id": n, "answer": "a"} for n in (1, 2, 3)], "answers question_id 3, which"),
        ([{"question_id": n, "answer": "a"} for n in (1, 2, 2)], "question_id 2 more than once"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            read_answers(written(answers, *rows), questions=asked)
    for text, told in (
        ("{", "line 1 is not JSON"),
        ("[1]\n", "line 1 holds a list, not an object; write one JSON object"),
        ('{"question": "q", "truth": "yes"}\n', "line 1 has no 'answer' or 'response' or 'filtered_resps'"),
        ('{"question": "q", "answer": "yes"}\n', "line 1 has no 'truth' or 'label' or 'target'"),
        ("\n", "holds no lines"),
    ):
        answers.write_text(text)
        with pytest.raises(ValueError, match=told):
            read_answers(answers)
    with pytest.raises(ValueError, match="cannot be read"):
        read_answers(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="no answers"):
        answer_measures([], judge=ExactMatch())
    with pytest.raises(ValueError, match=r"answer 0 .*has no true answer"):
        answer_measures([Answered(question="q", truth=" ", answer="a")], judge=ExactMatch())
