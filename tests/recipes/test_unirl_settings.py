"""UniRL's settings: presets that fit the policy, and one clear line for what cannot work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes.unirl_runs import REWARDS, small
from tiny_show_o_folders import magvit

from sightloop.cli import main
from sightloop.evaluators.text_judge import same_or_not
from sightloop.models.show_o.checkpoint import write_magvit2
from sightloop.quizzes.asks import QuizSetup
from sightloop.quizzes.grammar import Clause, quiz_of
from sightloop.quizzes.prompt_guard import is_geneval_prompt
from sightloop.quizzes.vocabulary import REAL
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.config_json import config_from_json, config_to_json
from sightloop.recipes.presets import preset_of
from sightloop.recipes.unirl.build import answerer_of, collector_of, image_sampling, load_policy
from sightloop.recipes.unirl.choices import asks_anyone
from sightloop.recipes.unirl.config import (
    GRPO_SHAPES,
    SFT_SHAPES,
    SFT_SHOW_O,
    ObjectiveSettings,
    QuizRewards,
    QuizSettings,
    UniConfig,
)
from sightloop.recipes.unirl.grpo import algorithm_of
from sightloop.recipes.unirl.quizzes import quiz_stream, setup_of
from sightloop.recipes.unirl.rewards import rewards_of
from sightloop.rewards.samples import ImageReward
from sightloop.world.bundled import WEIGHTS
from sightloop.world.quizzes import SHAPES_VOCABULARY

LINE = quiz_of("colors", (Clause(noun="car", color="red"),), REAL).metadata()


def bare(config: UniConfig) -> QuizSetup:
    """What it says about quizzes, without an evaluation."""
    return replace(setup_of(config), asks=[])


def refused(capsys: pytest.CaptureFixture[str], recipe: str, folder: Path, *options: object) -> str:
    """The one line that a run that cannot work says."""
    with pytest.raises(SystemExit) as stopped:
        main(["train", recipe, "--run", str(folder), *small(recipe, *map(str, options))])
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sightloop: ")]
    return line


# -- presets


@pytest.mark.parametrize(
    ("words", "preset"),
    [
        ([], "shapes"),
        (["--world-model", "janus"], "shapes-janus"),
        (["--world_model=janus", "--steps", "3"], "shapes-janus"),
        (["--world-model=show-o"], "shapes"),
        (["--model", "nowhere"], "paper"),
        (["--model=JANUS"], "paper-janus"),
        (["--model", "JANUS", "--preset", "paper"], "paper"),
        (["--preset=shapes-janus"], "shapes-janus"),
    ],
)
@pytest.mark.parametrize("model_type", ["janus", "multi_modality"])
def test_the_preset_follows_the_policy(
    words: list[str], preset: str, model_type: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    given = [word.replace("JANUS", str(tmp_path)) for word in words]
    for recipe in ("unirl-grpo", "unirl-sft"):
        assert preset_of(RECIPES[recipe].presets, given) == preset


def test_a_folder_that_cannot_be_read_is_left_to_whoever_loads_it(tmp_path: Path) -> None:
    presets = RECIPES["unirl-grpo"].presets
    for text in ("[1]", "{", '{"model_type": ["janus"]}'):
        (tmp_path / "config.json").write_text(text)
        assert preset_of(presets, ["--model", str(tmp_path)]) == "paper"
    with pytest.raises(ValueError, match="preset 'none' does not exist; there are: shapes, shapes-janus"):
        preset_of(presets, ["--preset", "none"])
    # The recipe of captions has no presets of Janus.
    assert preset_of(RECIPES["vlrm"].presets, ["--world-model", "janus"]) == "shapes"


@pytest.mark.parametrize("recipe", ["unirl-grpo", "unirl-sft"])
def test_every_preset_survives_json(recipe: str) -> None:
    for preset in RECIPES[recipe].presets.values():
        saved = json.loads(json.dumps(config_to_json(preset)))
        assert config_from_json(RECIPES[recipe].config, saved) == preset


# -- what cannot work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--group", "1"], "group is 1; GRPO compares the drawings of a prompt, use at least 2"),
        (["--batch", "0"], "--batch is 0; use at least 1"),
        (["--updates", "2"], "updates is 2, but algorithm 'unirl' has no old policy"),
        (["--updates", "2", "--algorithm", "rloo"], "updates is 2, but algorithm 'rloo' has no old policy"),
        (["--updates", "0", "--algorithm", "grpo"], "updates is 0; use at least 1"),
        (["--clip-high", "0.2"], "--clip-high is 0.2, which has no effect here: it belongs to --algorithm"),
        (["--joint.per-category", "1"], "--joint.per-category is 1; a prompt is drawn 4 times"),
        (
            ["--answer.answerer", "frozen"],
            "answer.answerer is 'frozen': its answers are not the policy's own",
        ),
        (["--answer.max-tokens", "1"], "--answer.max-tokens is 1; an answer has a word and an end"),
        (["--objectives.balance", "--objectives.answering", "0"], "drawing weighs 1.0 and answering 0.0"),
        (
            ["--objectives.drawing", "0", "--objectives.answering", "0"],
            "every reward weight is 0|both sides have",
        ),
        (["--world-model", "janus", "--likelihood.unmasking", "remasked"], "Janus draws from left to right"),
        (["--world-model", "janus", "--draw.rounds", "4"], "draw.rounds is 4; Janus draws code by code"),
        (
            ["--rewards.object-identification", "0", "--rewards.all-facts", "0"],
            "every reward weight is 0; give at least one a weight",
        ),
        (["--rewards.text-judge", "1"], "judge.text_model is empty; name a language model"),
        (
            ["--judge.text-model", "some"],
            "--judge.text-model is 'some', which has no effect here: it belongs to the reward text_judge",
        ),
        (
            [
                "--judge.subtract-blind-baseline",
                "--rewards.share",
                "0",
                "--rewards.all-facts",
                "0",
                "--rewards.negative-questions",
                "1",
            ],
            "subtract-blind-baseline is True, which has no effect here: it belongs to the rewards points",
        ),
        (["--judge.colors", "clip", "--rewards.detector", "1"], "colors is 'clip' without a detector"),
        (["--custom-rewards", "nowhere.py:it"], "nowhere.py"),
        (["--model", "no/such/folder"], "no/such/folder is not a folder"),
        (["--quizzes.position", "-1"], "quizzes.position is -1.0; use 0 or more"),
        (
            ["--batch", "2", "--draw.temperature", "0"],
            "under.temperature is 0: greedy tokens have no gradient",
        ),
    ],
)
def test_a_grpo_run_that_cannot_work_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], message: str
) -> None:
    said = refused(capsys, "unirl-grpo", tmp_path / "run", "--joint.per-category", 0, *options)
    assert any(part in said for part in message.split("|")), said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--micro-batch", "3"], "micro_batch is 3, a rank draws 4 (batch x group); raise micro_batch"),
        (["--filter", "best_of_group", "--group", "1"], "filter is 'best_of_group' and group is 1"),
        (["--relaxation.temperature", "0"], "relaxation.temperature is 0.0; use more than 0"),
        (["--relaxation.round", "3"], "only 'one-round' has a use for it"),
        (["--relaxation.codes", "some-rounds"], "relaxation.number is None; 'some-rounds' needs it"),
        (
            ["--relaxation.codes", "one-round", "--relaxation.round", "16"],
            "relaxed_round is 16; there are 16",
        ),
        (["--world-model", "janus", "--relaxation.codes", "one-round"], "Janus has no rounds; leave it out"),
        (["--kl-weight", "-1"], "--kl-weight is -1.0; use 0"),
        (["--objectives.answering", "0"], "both sides have weight 0"),
        (["--objectives.balance"], "drawing weighs 0.0 and answering 1.0"),
    ],
)
def test_supervised_training_that_cannot_work_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], message: str
) -> None:
    said = refused(capsys, "unirl-sft", tmp_path / "run", "--joint.per-category", 0, *options)
    assert message in said


def test_a_policy_that_cannot_draw_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    blip2 = tmp_path / "blip2"
    blip2.mkdir()
    (blip2 / "config.json").write_text(json.dumps({"model_type": "blip-2"}))
    said = refused(capsys, "unirl-grpo", tmp_path / "run", "--model", blip2)
    assert f"{blip2} is a BLIP-2 captioner, not a Show-o, MAGVIT-v2 or Janus" in said
    write_magvit2(magvit(), tmp_path / "magvit", official=True)
    said = refused(capsys, "unirl-sft", tmp_path / "other", "--model", tmp_path / "magvit")
    assert (
        f"{tmp_path / 'magvit'} is MAGVIT-v2 alone, which cannot draw from prompts; give the folder of"
        in said
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "line 2: field 'answer' is missing"),
        ({"tag": "counts"}, "line 2: unknown category 'counts'; use one of single_object, two_object"),
        ({"tag": "counts", "question": None}, "line 2: unknown category 'counts'"),
    ],
)
def test_a_broken_line_of_quizzes_is_named_with_its_number(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    wrong = {name: value for name, value in (LINE | change).items() if value is not None}
    file = tmp_path / "quizzes.jsonl"
    file.write_text(json.dumps(LINE) + "\n" + json.dumps(wrong) + "\n")
    for option in ("--quiz-file", "--joint.quiz-file"):
        said = refused(capsys, "unirl-grpo", tmp_path / option, option, file)
        assert f"{file} {message}" in said


def test_a_file_of_excluded_prompts_alone_leaves_nothing_to_draw(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    quizzes, excluded = tmp_path / "quizzes.jsonl", tmp_path / "excluded.txt"
    quizzes.write_text(json.dumps(LINE))
    excluded.write_text("the RED CAR.\n")
    options = ("--quiz-file", quizzes, "--quizzes.excluded", excluded, "--joint.per-category", 0)
    assert "holds only excluded prompts" in refused(capsys, "unirl-grpo", tmp_path / "run", *options)


def test_genevals_test_prompts_are_left_out_of_real_quizzes_unless_allowed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "quizzes.jsonl"
    # A test prompt, with its clauses the other way round.
    line = {
        "tag": "two_object",
        "prompt": "an image of the computer mouse and the toilet",
        "question": "Which two objects?",
        "answer": "There is a toilet and a computer mouse",
        "include": [{"class": "toilet", "count": 1}, {"class": "computer mouse", "count": 1}],
    }
    file.write_text(json.dumps(line))
    options = ("--quiz-file", file, "--joint.per-category", 0, "--quizzes.vocabulary", "real")
    said = refused(capsys, "unirl-grpo", tmp_path / "run", *options)
    assert "holds only excluded prompts" in said and "--quizzes.geneval-prompts" in said
    allowed = QuizSettings(file=str(file), vocabulary="real", geneval_prompts="allow")
    config = replace(GRPO_SHAPES, policy="elsewhere", quizzes=allowed)
    assert next(quiz_stream(config, bare(config))).quizzes[0].prompt == line["prompt"]


def test_real_quizzes_of_the_grammar_meet_no_test_prompt_of_geneval() -> None:
    config = replace(GRPO_SHAPES, policy="elsewhere", quizzes=QuizSettings(vocabulary="real"))
    allowed = replace(config, quizzes=replace(config.quizzes, geneval_prompts="allow"))
    guarded, plain = quiz_stream(config, bare(config)), quiz_stream(allowed, bare(allowed))
    drawn = [quiz for _ in range(250) for quiz in next(plain).quizzes]
    assert sum(map(is_geneval_prompt, drawn)) > len(drawn) / 20
    assert not any(is_geneval_prompt(quiz) for _ in range(250) for quiz in next(guarded).quizzes)


@pytest.mark.parametrize(
    ("name", "message"),
    [("broken", "mine.py:broken' says nan about"), ("raising", "out of paper")],
)
def test_a_reward_that_fails_stops_the_run_and_is_no_zero(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(REWARDS)
    options = ("--custom-rewards", f"{tmp_path / 'mine.py'}:{name}", "--joint.per-category", 0)
    assert message in refused(capsys, "unirl-grpo", tmp_path / "run", "--world-model", "janus", *options)


# -- what settings mean


def test_the_drawing_side_rests_end_to_end_unless_it_is_given_a_weight() -> None:
    assert SFT_SHOW_O.end_to_end and SFT_SHOW_O.drawing_weight == 0
    assert replace(SFT_SHAPES, end_to_end=False).drawing_weight == 1
    assert replace(SFT_SHAPES, objectives=ObjectiveSettings(drawing=0.5)).drawing_weight == 0.5
    assert GRPO_SHAPES.drawing_weight == 1


def test_silent_groups_and_what_is_asked_about_follow_the_settings_before_the_method() -> None:
    policy = load_policy(GRPO_SHAPES, torch.device("cpu"))
    law = image_sampling(GRPO_SHAPES, policy)
    assert (law.guidance, law.decode_steps) == (1.0, 16)

    def skips(**changes: Any) -> bool:
        return algorithm_of(replace(GRPO_SHAPES, **changes), policy, law).drop_zero_variance_groups

    assert not skips() and skips(drop_zero_variance_groups=True) and skips(algorithm="dapo")
    assert not skips(algorithm="dapo", drop_zero_variance_groups=False)
    judges, answerer = rewards_of(GRPO_SHAPES, in_world=True), answerer_of(GRPO_SHAPES, policy)[0]
    for input in ("reencoded", "codes"):
        config = replace(GRPO_SHAPES, answer=replace(GRPO_SHAPES.answer, input=input))
        collect = collector_of(
            config, judges, SHAPES_VOCABULARY, sampling=law, answerer=answerer, second_turn="answer"
        )
        assert collect.encode_anew == (input == "reencoded")


def test_nobody_is_asked_when_a_detector_alone_is_the_reward_of_drawings() -> None:
    alone = QuizRewards(points=0.0, detector=1.0)
    drawing = replace(GRPO_SHAPES, rewards=alone, objectives=ObjectiveSettings(answering=0.0))
    judges = rewards_of(drawing, in_world=True)
    assert not asks_anyone(drawing) and judges.judge is None and judges.image is not None
    assert asks_anyone(replace(drawing, objectives=ObjectiveSettings(answering=1.0)))
    assert asks_anyone(replace(drawing, rewards=replace(alone, text_judge=0.5)))


@pytest.mark.parametrize(("reply", "score"), [("Same.", 1.0), ("not same", 0.0)])
def test_a_text_model_judges_answers_and_equal_ones_once(reply: str, score: float) -> None:
    asked: list[str] = []

    def ask(text: str) -> str:
        asked.append(text)
        return reply

    judge = same_or_not(ask, "some/model")
    assert [judge("How many?", "two cats", "2 cats") for _ in range(3)] == [score] * 3
    assert len(asked) == 1 and "two cats" in asked[0] and "2 cats" in asked[0]


def test_a_text_model_that_says_something_else_is_an_error() -> None:
    judge = same_or_not(lambda text: "What a lovely image", "some/model")
    with pytest.raises(ValueError, match="some/model replied neither 'same' nor 'not same'"):
        judge("How many?", "two cats", "2 cats")


def test_rewards_of_images_judge_the_prompt_and_not_the_answer() -> None:
    custom = (f"clip:{WEIGHTS / 'clip'}=0.5",)
    config = replace(GRPO_SHAPES, rewards=QuizRewards(points=0.0, share=1.0), custom_rewards=custom)
    judges = rewards_of(config, in_world=True)
    reward = judges.answers["clip"]
    assert isinstance(reward, ImageReward) and reward.text == "prompt"
    assert judges.weights == {"share": 1.0, "clip": 0.5, "all_facts": 0.0}
