"""Our policies behind lmms-eval: the plain part always, the interface where lmms-eval is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_runs import STARTS, made_run
from PIL import Image

import sightloop.integrations.lmms_eval as adapter
from sightloop.integrations.answerer import AnswererSettings, Asked, Respondent, settings_from
from sightloop.integrations.lmms_eval import asked_of, flat_images, generated
from sightloop.recipes.image_policies import WORLD_MODELS
from sightloop.runs.restore import restore
from sightloop.types import Images, Prompt, Sampling, Turn
from sightloop.world.bundled import WEIGHTS
from sightloop.world.scenes import render, sample_scene

QUESTION = "Which two objects are shown, and what are their colors?"


def scenes(number: int = 3) -> list[Image.Image]:
    """Images of the embedded world; the last one is larger."""
    rng = np.random.default_rng(0)
    found = [Image.fromarray(render(sample_scene(rng), rng)) for _ in range(number)]
    return [*found[:-1], found[-1].resize((64, 64))]


@pytest.fixture(scope="module")
def respondent() -> Respondent:
    """The embedded world's Show-o."""
    return Respondent.from_name("", device="cpu")


def test_answers_are_those_of_the_policy_for_each_image_alone(respondent: Respondent) -> None:
    pictures = scenes()
    asked = [Asked(picture=picture, question=QUESTION) for picture in pictures]
    told = respondent.answers(asked, AnswererSettings(max_tokens=8))
    for picture, answer in zip(pictures, told, strict=True):
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        prompt = Prompt(texts=[QUESTION], images=Images(pixels=pixels))
        tokens = respondent.policy.sample(prompt, Sampling(max_tokens=8, temperature=0.0))
        assert answer == "".join(respondent.policy.decode(tokens)[0]).strip()
    assert all(told)
    word = told[0].split()[1]
    assert word not in respondent.answers(asked[:1], AnswererSettings(max_tokens=8, stops=(word,)))[0]


def test_the_likelihood_is_that_of_the_texts_own_tokens(respondent: Respondent) -> None:
    asked = Asked(picture=scenes()[0], question=QUESTION)
    (said,) = respondent.answers([asked], AnswererSettings(max_tokens=8))
    likely = respondent.likelihood(asked, said)
    assert likely.is_greedy and likely.log_prob < 0
    pixels = torch.from_numpy(np.array(asked.picture)).permute(2, 0, 1)[None]
    tokens = respondent.policy.encode([said])
    turn = Turn(prompt=Prompt(texts=[QUESTION], images=Images(pixels=pixels)), tokens=tokens)
    with torch.no_grad():
        scores = respondent.policy.score(turn).log_probs[0]
    # Without the end of the text.
    assert likely.log_prob == pytest.approx(float(scores[:-1].sum()), abs=1e-4)
    other = respondent.likelihood(asked, " ".join(reversed(said.split())))
    assert not other.is_greedy and other.log_prob < likely.log_prob
    with pytest.raises(ValueError, match="'' has no tokens"):
        respondent.likelihood(asked, "")


@pytest.mark.parametrize("name", [str(WORLD_MODELS["janus"]), str(WEIGHTS / "captioner")])
def test_every_family_answers(name: str) -> None:
    respondent = Respondent.from_name(name, device="cpu")
    asked = [Asked(picture=picture, question="") for picture in scenes(2)]
    told = respondent.answers(asked, AnswererSettings(max_tokens=6))
    assert len(told) == 2 and told[0]
    assert respondent.likelihood(asked[0], told[0]).log_prob < 0


def test_a_run_of_a_drawing_model_answers_with_what_it_learned(
    respondent: Respondent, tmp_path: Path
) -> None:
    run = made_run(tmp_path / "run", STARTS["show-o"])
    trained = Respondent.from_name(str(run), device="cpu")
    asked = Asked(picture=scenes()[0], question=QUESTION)
    found = trained.likelihood(asked, "a circle").log_prob
    pixels = torch.from_numpy(np.array(asked.picture)).permute(2, 0, 1)[None]
    prompt = Prompt(texts=[QUESTION], images=Images(pixels=pixels))
    policy = restore(run, "best", device=torch.device("cpu")).policy
    with torch.no_grad():
        scores = policy.score(Turn(prompt=prompt, tokens=policy.encode(["a circle"]))).log_probs[0]
    assert found == pytest.approx(float(scores[:-1].sum()), abs=1e-4)
    assert found != pytest.approx(respondent.likelihood(asked, "a circle").log_prob, abs=1e-3)


def test_requests_are_answered_in_their_order_whatever_the_batch(respondent: Respondent) -> None:
    pictures = scenes()
    requests: list[Any] = [
        (f"<image> {QUESTION}", {"max_new_tokens": 6 if row % 2 else 8, "until": ["\n"]}, [pictures[row % 3]])
        for row in range(5)
    ]
    one = generated(respondent, requests)
    assert generated(respondent, requests, batch=3) == one
    assert (
        one[0]
        == respondent.answers(
            [Asked(picture=pictures[0], question=QUESTION)], AnswererSettings(max_tokens=8)
        )[0]
    )


def test_settings_of_tasks_are_kept_or_refused() -> None:
    settings = settings_from(
        {"until": ["\n", "."], "max_new_tokens": 16, "temperature": 0.5, "do_sample": True}
    )
    assert settings == AnswererSettings(max_tokens=16, temperature=0.5, stops=("\n", "."))
    assert settings_from({}, max_tokens=9) == AnswererSettings(max_tokens=9)
    assert settings_from({"temperature": 0.7, "do_sample": False, "top_p": None}).temperature == 0
    for given in ({"num_beams": 5}, {"top_p": 0.9}, {"repetition_penalty": 1.2}):
        with pytest.raises(ValueError, match=f"{next(iter(given))}=.* is not known to our policies"):
            settings_from(given)


def test_a_question_has_one_image() -> None:
    picture = scenes(1)[0]
    assert asked_of("What?", flat_images([[picture]])).picture is picture
    for shown, told in (
        (None, "comes with nothing"),
        ([picture, picture], "comes with Image, Image"),
        (["a"], "str"),
    ):
        with pytest.raises(ValueError, match=told):
            asked_of("What?", flat_images(shown))


def test_the_model_is_one_of_lmms_evals() -> None:
    pytest.importorskip("lmms_eval.api.model", reason="lmms-eval is not installed; pip install lmms-eval")
    from lmms_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
    from lmms_eval.models.registry_v2 import ModelRegistryV2  # pyright: ignore[reportMissingImports]

    registry = ModelRegistryV2()
    registry.register_manifest(adapter.manifest())
    model = registry.get_model_class("sightloop").create_from_arg_string(
        "world_model=show-o,max_new_tokens=8", {"batch_size": 2, "max_batch_size": None, "device": "cpu"}
    )
    docs = [{"picture": picture, "answer": "a circle"} for picture in scenes()]
    model.task_dict["world"] = {"test": docs}

    def instance(kind: str, place: int, second: Any) -> Any:
        given = (QUESTION, second, lambda doc: [doc["picture"]], place, "world", "test")
        about = {"task": "world", "doc_id": place, "repeats": 1}
        return Instance(request_type=kind, arguments=given, idx=0, metadata=about)

    told = model.generate_until([instance("generate_until", i, {"until": ["\n"]}) for i in range(3)])
    plain = Respondent.from_name("", device="cpu")
    asked = [Asked(picture=doc["picture"], question=QUESTION) for doc in docs]
    assert told == plain.answers(asked, AnswererSettings(max_tokens=8))
    likely = model.loglikelihood(
        [instance("loglikelihood", 0, told[0]), instance("loglikelihood", 1, lambda doc: doc["answer"])]
    )
    assert likely[0][1] is True
    assert likely[1][0] == pytest.approx(plain.likelihood(asked[1], "a circle").log_prob, abs=1e-4)
    with pytest.raises(NotImplementedError, match="one question at a time"):
        model.generate_until_multi_round([])
    kind = registry.get_model_class("sightloop")
    with pytest.raises(ValueError, match="--model_args has 'folder'"):
        kind.create_from_arg_string("folder=x")
    with pytest.raises(ValueError, match="batch_size is 'auto'"):
        kind.create_from_arg_string("", {"batch_size": "auto"})


def test_without_lmms_eval_nothing_else_is_missing() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'SomethingElse'"):
        _ = adapter.SomethingElse
