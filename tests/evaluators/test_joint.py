"""The evaluation of both sides: fixed prompts and seeds, rows that do not depend on their company, and fixed
images from a folder.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sightloop.evaluators.image_checks import WorldCheck, open_check
from sightloop.evaluators.joint import FixedImages, JointEvaluator, imbalance_of
from sightloop.evaluators.open_joint import joint_evaluator, read_fixed
from sightloop.evaluators.settings import JointSettings
from sightloop.models.show_o.policy import ShowO
from sightloop.quizzes.asks import fixed_asks, kept_out
from sightloop.quizzes.grammar import CATEGORIES, Clause, quiz_of
from sightloop.quizzes.prompt_guard import normalized_prompt
from sightloop.quizzes.vocabulary import REAL
from sightloop.recipes.image_policies import load_image_policy
from sightloop.recipes.unirl.config import GRPO_SHAPES, GRPO_SHOW_O
from sightloop.recipes.unirl.quizzes import quiz_stream, setup_of
from sightloop.training.randomness import untouched_randomness
from sightloop.world.held_out_scenes import held_out_scenes, images_of
from sightloop.world.quizzes import SHAPES_VOCABULARY

ASKS = fixed_asks(SHAPES_VOCABULARY, per_category=4, per_prompt=4)


@pytest.fixture(scope="module")
def policy() -> ShowO:
    """The embedded world's Show-o."""
    policy = load_image_policy("", device=torch.device("cpu"))
    assert isinstance(policy, ShowO)
    return policy


@pytest.fixture(scope="module")
def evaluator() -> JointEvaluator:
    """Two drawings of each category, and images of scenes."""
    asks = [ask for ask in ASKS if ask.number < 2]
    quizzes = [ask.quiz for ask in asks]
    fixed = FixedImages(images=images_of(held_out_scenes(quizzes)), quizzes=quizzes)
    return JointEvaluator(asks=asks, check=WorldCheck(), fixed=fixed, max_answer=12)


def test_every_call_draws_the_same_whatever_is_drawn_together(
    policy: ShowO, evaluator: JointEvaluator
) -> None:
    first = evaluator(policy)
    torch.rand(7)
    other = replace(evaluator, chunk=5)(policy)
    assert first.per_sample == other.per_sample and first.samples == other.samples
    assert first.metrics == other.metrics and first.protocol == other.protocol
    drawn, answered = first.per_sample["drawn"], first.per_sample["answered"]
    assert len(drawn) == 12 and 0 < sum(drawn) < 12
    assert first.per_sample["both"] == [d * a for d, a in zip(drawn, answered, strict=True)]
    assert first.metrics["gap"] == pytest.approx(sum(answered) / 12 - sum(drawn) / 12)
    table = imbalance_of(first).outcomes
    assert table.both + table.only_drawn + table.only_answered + table.neither == 12
    assert table.both == sum(first.per_sample["both"])


def test_other_seeds_draw_other_images_and_another_protocol(policy: ShowO, evaluator: JointEvaluator) -> None:
    few = replace(evaluator, asks=evaluator.asks[-4:], fixed=None)
    other = replace(few, seed=2)
    assert [one.answer for one in few.seen(policy)] != [one.answer for one in other.seen(policy)]
    hashes = {each.protocol(policy)["hash"] for each in (few, other, replace(few, max_answer=9), evaluator)}
    assert len(hashes) == 4


def test_the_protocol_tells_other_images_of_the_same_quizzes_apart(evaluator: JointEvaluator) -> None:
    assert evaluator.fixed is not None
    quizzes = evaluator.fixed.quizzes
    other = FixedImages(images=images_of(held_out_scenes(quizzes), seed=9), quizzes=quizzes)
    assert evaluator.fixed.described() != other.described() and other.described().startswith("12, ")


def test_every_category_has_its_drawings_and_a_prompt_has_four() -> None:
    for vocabulary in (SHAPES_VOCABULARY, REAL):
        asks = fixed_asks(vocabulary, per_category=10, per_prompt=4)
        assert Counter(ask.quiz.category for ask in asks) == dict.fromkeys(CATEGORIES, 10)
        assert set(Counter(ask.quiz.prompt for ask in asks).values()) == {5}
    assert {ask.number for ask in ASKS} == {0, 1, 2, 3}


def test_prompts_of_the_evaluation_stay_out_of_training_where_there_are_others() -> None:
    held = {normalized_prompt(prompt, SHAPES_VOCABULARY) for prompt in kept_out(ASKS, SHAPES_VOCABULARY)}
    assert len(held) >= 5
    config = replace(GRPO_SHAPES, batch=150)
    stream = quiz_stream(config, replace(setup_of(config), asks=ASKS))
    batch = next(stream)
    drawn = [normalized_prompt(quiz.prompt, SHAPES_VOCABULARY) for quiz in batch.quizzes]
    assert not held & set(drawn)
    assert {quiz.category for quiz in batch.quizzes} == set(CATEGORIES)


def test_a_file_is_drawn_four_times_a_prompt(tmp_path: Path) -> None:
    quiz = quiz_of("counting", (Clause(noun="cat", count=3),), REAL)
    (tmp_path / "quizzes.jsonl").write_text(json.dumps(quiz.metadata()))
    asks = fixed_asks(REAL, file=str(tmp_path / "quizzes.jsonl"), per_category=48, per_prompt=4)
    assert [(ask.quiz, ask.number) for ask in asks] == [(quiz, number) for number in range(4)]


# -- fixed images


def geneval_folder(folder: Path, *, pictures: int = 2) -> Path:
    """Two prompts in GenEval's form, without questions; every image has its own grey."""
    cats = quiz_of("counting", (Clause(noun="cat", count=3),), REAL).metadata()
    car = quiz_of("colors", (Clause(noun="car", color="red"),), REAL).metadata()
    for number, record in enumerate((cats, car)):
        place = folder / f"{number:05d}"
        (place / "samples").mkdir(parents=True)
        bare = {name: record[name] for name in record if name not in ("question", "answer")}
        (place / "metadata.jsonl").write_text(json.dumps(bare))
        for sample in range(pictures):
            grey = 10 * (2 * number + sample)
            Image.new("RGB", (40, 20), (grey,) * 3).save(place / "samples" / f"{sample:04}.png")
    return folder


def test_fixed_images_are_read_from_genevals_folder(tmp_path: Path) -> None:
    fixed = read_fixed(geneval_folder(tmp_path), REAL)
    assert [quiz.answer for quiz in fixed.quizzes] == ["three cats"] * 2 + ["red"] * 2
    assert fixed.images.pixels.shape == (4, 3, 384, 384)
    assert fixed.images.pixels[:, 0, 9, 9].tolist() == [0, 10, 20, 30]
    assert fixed.quizzes[0].exclude[0].count == 4 and fixed.quizzes[0].question


def test_a_policy_is_asked_about_fixed_images_of_any_size(
    policy: ShowO, evaluator: JointEvaluator, tmp_path: Path
) -> None:
    fixed = read_fixed(geneval_folder(tmp_path), REAL)
    told = replace(evaluator, fixed=fixed, chunk=3).answers_about_fixed(policy)
    assert told == replace(evaluator, fixed=fixed).answers_about_fixed(policy) and len(told) == 4


def test_folders_without_sound_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no 00000/metadata\.jsonl; give images in GenEval's"):
        read_fixed(tmp_path, REAL)
    with pytest.raises(ValueError, match=r"holds metadata and no samples/0000\.png"):
        read_fixed(geneval_folder(tmp_path / "empty", pictures=0), REAL)
    broken = geneval_folder(tmp_path / "broken")
    (broken / "00001" / "samples" / "0001.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"00001/samples/0001\.png: "):
        read_fixed(broken, REAL)
    (broken / "00000" / "metadata.jsonl").write_text('{"tag": "counts"}')
    with pytest.raises(ValueError, match=r"00000/metadata\.jsonl: unknown category 'counts'"):
        read_fixed(broken, REAL)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("quiz_file", JointSettings(quiz_file="given")), ("fixed", JointSettings(fixed="given"))],
)
def test_images_and_files_that_nothing_would_judge_are_refused(name: str, settings: JointSettings) -> None:
    setup = replace(setup_of(replace(GRPO_SHOW_O, policy="somewhere")), asks=ASKS)
    with pytest.raises(ValueError, match=f"{name} is 'given', but nothing judges drawings"):
        joint_evaluator(settings, setup, max_answer=32, device="cpu")
    assert joint_evaluator(JointSettings(), setup, max_answer=32, device="cpu") is None
    assert open_check("", "", in_world=True, device="cpu") == WorldCheck()


def test_an_evaluation_leaves_the_random_numbers_of_training_alone(
    policy: ShowO, evaluator: JointEvaluator
) -> None:
    few = replace(evaluator, asks=evaluator.asks[:2], fixed=None)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with untouched_randomness():
        few(policy)
    assert torch.equal(torch.rand(3), expected)
