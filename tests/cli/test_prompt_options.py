"""Strings around prompts and questions, chosen by command, told in records, and kept in exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from geneval_painter import prompts_of, some_quizzes
from PIL import Image
from recipes.unirl_runs import train
from transformers import AutoProcessor
from unified_folders import byte_level, byte_model, janus_folder, janus_words, show_o_folders

from sightloop.cli import main
from sightloop.evaluators.geneval_images import Drawing, draw_prompts
from sightloop.models.families import Parts
from sightloop.recipes.image_policies import load_image_policy
from sightloop.world.bundled import WEIGHTS

CPU = torch.device("cpu")


def said(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """What a command that fails says, as one line."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sightloop:")]
    return line


@pytest.fixture(scope="module")
def untold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Janus whose tokenizer knows one of Pro's two roles."""
    words = janus_words(byte_level(byte_model()), added=("<|User|>",))
    return janus_folder(tmp_path_factory.mktemp("hub") / "janus", words=words, sft_format="deepseek")


def test_a_janus_that_does_not_tell_its_roles_is_drawn_and_asked_with_given_ones(
    untold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    drawn = [
        "draw",
        "a dog",
        "--model",
        str(untold),
        "--per-prompt",
        "1",
        "--output",
        str(tmp_path / "drawn"),
    ]
    asked = ["ask", str(picture), "What?", "--model", str(untold), "--max-tokens", "2"]
    roles = ["--prompts.roles", "User", "Assistant"]
    for words in (drawn, asked):
        assert "Name them: --prompts.roles User Assistant" in said(capsys, words)
        main([*words, *roles])
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 2
    wrong = said(capsys, [*asked, "--prompts.template", "What?", "--prompts.drawing", "{prompt}"])
    assert "--prompts.template is 'What?'; it must hold" in wrong


def test_show_o_takes_a_template_and_refuses_what_it_does_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = show_o_folders(tmp_path / "hub")
    parts = ["--magvit", str(folders["magvit"]), "--tokenizer", str(folders["tokenizer"])]
    words = ["draw", "a dog", "--model", str(folders["model"]), "--per-prompt", "1", *parts]
    words += ["--output", str(tmp_path / "drawn"), "--rounds", "2"]
    assert "reads prompts for images as they are" in said(capsys, [*words, "--prompts.drawing", "{prompt}"])
    assert "w-clip-vit) has a system prompt" in said(capsys, [*words, "--prompts.system", "Be brief."])
    ours = tmp_path / "ours"
    template = "Question: {question}\\nAnswer:"
    main(["convert", "show-o", str(folders["model"]), str(ours), *parts, "--prompts.template", template])
    policy: Any = load_image_policy(str(ours), device=CPU)
    assert policy.templates["question template"] == "Question: {question}\nAnswer:"
    with pytest.raises(SystemExit):
        main(["convert", "show-o", str(ours), str(tmp_path / "back"), "--to", "official"])
    assert "'Question: {question}\\nAnswer:'" in capsys.readouterr().err


def test_a_w_clip_vit_show_o_has_its_system_prompt_before_the_image(tmp_path: Path) -> None:
    folders = show_o_folders(tmp_path / "hub", has_tower=True)
    named = {"magvit": folders["magvit"], "tokenizer": folders["tokenizer"], "tower": str(folders["tower"])}
    policy: Any = load_image_policy(str(folders["model"]), device=CPU, parts=Parts(**named))
    assert policy.templates["question template"] == "USER: {question} ASSISTANT:"
    assert policy.templates["system prompt"].startswith("A chat between a curious user")
    assert policy.tokenizer.decode(policy.questions([""])[0]) == "USER:ASSISTANT:"


@pytest.mark.slow
def test_a_run_tells_its_strings_and_its_export_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train("unirl-sft", run, "--world-model", "janus", "--prompts.roles", "User", "Assistant")
    config = json.loads((run / "config.json").read_text())["config"]
    assert config["model"]["prompts"]["roles"] == ["User", "Assistant"]
    told = {
        "drawing template": "User: {prompt}\n\nAssistant:",
        "question template": "User: <image_placeholder>\n{question}\n\nAssistant:",
    }
    assert json.loads((run / "prompts.json").read_text()) == told
    evaluation = json.loads((run / "evaluations" / "joint_step_000002.json").read_text())
    assert told.items() <= evaluation["protocol"].items()
    main(["export", str(run), "--output", str(tmp_path / "exported")])
    policy: Any = load_image_policy(str(tmp_path / "exported"), device=CPU)
    assert policy.templates == told
    processor: Any = AutoProcessor.from_pretrained(tmp_path / "exported")
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    made = processor.apply_chat_template(talk, add_generation_prompt=True)
    assert made == policy.prompts.strings.asking.whole("What?")
    capsys.readouterr()
    assert "leave --magvit, --tokenizer, --tower and strings of prompts out" in said(
        capsys, ["draw", "a", "--model", str(run), "--prompts.system", ""]
    )


def test_the_embedded_worlds_models_state_their_strings() -> None:
    janus: Any = load_image_policy(str(WEIGHTS / "janus"), device=CPU)
    assert janus.templates == {
        "drawing template": "<|User|>: {prompt}\n\n<|Assistant|>:",
        "question template": "<|User|>: <image_placeholder>\n{question}\n\n<|Assistant|>:",
    }
    show_o: Any = load_image_policy(str(WEIGHTS / "show_o"), device=CPU)
    assert show_o.templates == {
        "drawing template": "{prompt}",
        "question template": "USER: \n{question} ASSISTANT:",
    }


def test_genevals_images_say_with_which_template_they_were_drawn(tmp_path: Path) -> None:
    policy: Any = load_image_policy(str(WEIGHTS / "janus"), device=CPU)
    prompts, law = prompts_of(some_quizzes())[:1], policy.default_sampling()
    drawing = Drawing(per_prompt=1)
    draw_prompts(policy, prompts, tmp_path, name="janus", sampling=law, drawing=drawing)
    told = json.loads((tmp_path / "drawing.json").read_text())
    assert told["drawing template"] == "<|User|>: {prompt}\n\n<|Assistant|>:"


def test_a_folder_of_an_older_convert_says_that_it_keeps_no_system_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, picture = Path(shutil.copytree(WEIGHTS / "janus", tmp_path / "older")), tmp_path / "picture.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    ask = ["ask", str(picture), "What color is the circle?", "--model", str(folder)]
    main(ask)
    assert "system prompt" not in capsys.readouterr().err
    (folder / "chat_template.jinja").unlink()
    main(ask)
    told = capsys.readouterr().err
    assert told.count("has no chat template") == 1
    assert "Convert the authors' folder again" in told and "--prompts.system" in told
    main([*ask, "--prompts.system", ""])
    assert "system prompt" not in capsys.readouterr().err
