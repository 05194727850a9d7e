"""Drawing and asking by command: what is written and printed, and every wrong input as one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models.tiny_janus import tiny_model as tiny_janus_model
from models.tiny_janus import tokenizer as janus_tokenizer
from PIL import Image
from tiny_show_o_folders import magvit, official_folder, tokenizer

from sightloop.api.drawing_sheet import SIDE, labelled_sheet
from sightloop.api.model import image_pixels
from sightloop.cli import main
from sightloop.cli.draw import answers_of, generate_images
from sightloop.cli.image_options import AskOptions, DrawOptions, ModelOptions
from sightloop.models.janus.checkpoint import write_janus
from sightloop.models.show_o.checkpoint import read_show_o, write_magvit2, write_show_o
from sightloop.recipes.image_policies import load_image_policy

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def show_o(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Show-o in a folder of ours."""
    folder = tmp_path_factory.mktemp("show_o")
    weights = read_show_o(official_folder(folder / "theirs"))
    write_show_o(weights, folder / "ours", tokenizer=tokenizer(), magvit=magvit())
    return folder / "ours"


@pytest.fixture(scope="module")
def janus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Janus in transformers' form."""
    folder = tmp_path_factory.mktemp("janus") / "ours"
    write_janus(tiny_janus_model(), folder, tokenizer=janus_tokenizer())
    return folder


def said(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """What a command that fails says, as one line."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    told = "".join(capsys.readouterr())
    (line,) = [line for line in told.splitlines() if line.startswith("sightloop:")]
    return line


def test_images_and_their_sheet_are_written_and_their_paths_printed(
    show_o: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        [
            "draw",
            "a red circle",
            "--model",
            str(show_o),
            "--per-prompt",
            "3",
            "--output",
            str(tmp_path / "out"),
        ]
    )
    names = ["0001.png", "0002.png", "0003.png", "sheet_0001-0003.png"]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "out" / name) for name in names]
    record = "sheet_0001-0003.json"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*names, record])
    told = json.loads((tmp_path / "out" / record).read_text(encoding="utf-8"))
    assert told["seed"] == 0 and told["rounds"] > 0
    assert told["images"][1] == {"image": "0002.png", "prompt": "a red circle", "place": 1}
    with Image.open(tmp_path / "out" / "0001.png") as picture:
        assert picture.size == (8, 8) and picture.mode == "RGB"
        assert picture.info["prompt"] == "a red circle"


def test_numbers_go_on_and_an_image_does_not_depend_on_how_many_are_drawn(
    show_o: Path, tmp_path: Path
) -> None:
    source = ModelOptions(model=str(show_o))
    options = DrawOptions(prompt="the square", number=1, output=tmp_path, steps=2, source=source)
    many = generate_images(replace(options, number=5))
    one, other = generate_images(options), generate_images(replace(options, seed=1))
    assert [path.name for path in (*many[:5], one[0], other[0])] == [f"{n:04}.png" for n in range(1, 8)]
    pixels = {path: Image.open(path).tobytes() for path in (many[0], many[1], one[0], other[0])}
    assert pixels[many[0]] == pixels[one[0]]
    assert len({pixels[many[0]], pixels[many[1]], pixels[other[0]]}) == 3


def test_the_sheet_shows_every_image_in_a_size_that_can_be_seen(tmp_path: Path) -> None:
    colors = [(50 * number + 5, 0, 0) for number in range(5)]
    drawings = [(tmp_path / f"{number}.png", "a prompt" * (1 + number // 3)) for number in range(5)]
    for (path, _), color in zip(drawings, colors, strict=True):
        Image.new("RGB", (6, 8), color).save(path)
    sheet = labelled_sheet(drawings, "seed 0")
    counted = {color: count for count, color in sheet.getcolors(1 << 16) or []}
    assert [counted[color] for color in colors] == [SIDE * SIDE * 6 // 8] * 5
    assert sheet.width > 3 * SIDE and sheet.height > 2 * SIDE


def test_prompts_come_from_a_file_too(
    show_o: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n\nthe square\n", encoding="utf-8")
    words = ["draw", "--prompt-file", str(tmp_path / "prompts.txt"), "--model", str(show_o)]
    main([*words, "--per-prompt", "2", "--output", str(tmp_path / "out")])
    main(
        ["draw", "the square", "--model", str(show_o), "--per-prompt", "1", "--output", str(tmp_path / "one")]
    )
    of_file, alone = (Image.open(tmp_path / name) for name in ("out/0003.png", "one/0001.png"))
    assert of_file.info["prompt"] == "the square" and of_file.tobytes() == alone.tobytes()
    assert (tmp_path / "out" / "sheet_0001-0004.png").is_file()
    capsys.readouterr()
    assert "leave one out" in said(capsys, [*words[:1], "a", *words[1:]])
    (tmp_path / "prompts.txt").write_text("\n")
    assert "holds no prompts" in said(capsys, words)


@pytest.mark.parametrize("family", ["show_o", "janus"])
@pytest.mark.parametrize(
    ("mode", "size"), [("RGB", (8, 8)), ("RGBA", (31, 20)), ("L", (5, 17)), ("I;16", (9, 9)), ("P", (40, 3))]
)
def test_an_image_of_any_mode_and_size_is_asked_about(
    request: pytest.FixtureRequest, tmp_path: Path, family: str, mode: str, size: tuple[int, int]
) -> None:
    Image.new(mode, size).save(tmp_path / "picture.png")
    file = tmp_path / "picture.png"
    assert image_pixels(file).shape == (size[1], size[0], 3)
    source = ModelOptions(model=str(request.getfixturevalue(family)))
    options = AskOptions(image=file, question=("what is it",), max_tokens=3, source=source)
    assert answers_of(options) == answers_of(options)


def test_the_answer_is_printed(show_o: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (12, 9), "red").save(tmp_path / "picture.png")
    words = ["ask", str(tmp_path / "picture.png"), "what color is it", "--model", str(show_o)]
    main([*words, "--max-tokens", "4"])
    told = capsys.readouterr().out
    source = ModelOptions(model=str(show_o))
    options = AskOptions(
        image=tmp_path / "picture.png", question=("what color is it",), max_tokens=4, source=source
    )
    ((_, answer),) = answers_of(options)
    assert told == f"{answer}\n"


def test_several_questions_are_answered_as_each_alone(
    show_o: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (12, 9), "red").save(tmp_path / "picture.png")
    (tmp_path / "more.txt").write_text("how many\n", encoding="utf-8")
    model = ["--model", str(show_o), "--max-tokens", "4"]
    words = ["ask", str(tmp_path / "picture.png"), "what color is it", "what is it"]
    main([*words, "--question-file", str(tmp_path / "more.txt"), *model])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [question for question, _ in lines] == ["what color is it", "what is it", "how many"]
    for question, answer in lines:
        main(["ask", words[1], question, *model])
        assert capsys.readouterr().out == f"{answer}\n"
    main([*words, *model, "--output", str(tmp_path / "answers.jsonl")])
    first = json.loads((tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first == {"image": words[1], "question": "what color is it", "answer": lines[0][1]}


def test_an_official_folder_is_drawn_with_when_its_parts_are_named(show_o: Path, tmp_path: Path) -> None:
    official_folder(tmp_path / "theirs")
    write_magvit2(magvit(), tmp_path / "magvit", official=True)
    tokenizer().save_pretrained(tmp_path / "words")
    parts = ["--magvit", str(tmp_path / "magvit"), "--tokenizer", str(tmp_path / "words")]
    common = ["draw", "a circle", "--per-prompt", "1", "--output"]
    main([*common, str(tmp_path / "a"), "--model", str(tmp_path / "theirs"), *parts])
    main([*common, str(tmp_path / "b"), "--model", str(show_o)])
    first, second = (Image.open(tmp_path / folder / "0001.png").tobytes() for folder in "ab")
    assert first == second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([" "], "the prompt is empty"),
        (["a", "--per-prompt", "0"], "--per-prompt is 0; use at least 1"),
        (["a", "--guidance", "-1"], "guidance is -1.0; use 0"),
        (["a", "--rounds", "5"], "decode_steps is 5; use 1 to max_tokens (4)"),
        (["a", "--temperature", "-2"], "temperature is -2.0"),
    ],
)
def test_wrong_settings_of_a_drawing_are_one_line(
    show_o: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    out = tmp_path / "out"
    assert message in said(capsys, ["draw", *options, "--model", str(show_o), "--output", str(out)])
    assert not out.exists()


def test_settings_that_a_family_lacks_are_one_line(
    janus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["draw", "a", "--model", str(janus), "--output", str(tmp_path / "out")]
    assert "Janus draws one token after another" in said(capsys, [*words, "--rounds", "3"])
    assert "leave --magvit and --tower out" in said(capsys, [*words, "--magvit", str(tmp_path)])


def test_wrong_models_are_one_line_that_names_what_was_found(
    show_o: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["draw", "a", "--output", str(tmp_path / "out"), "--model"]
    assert "nowhere is not a folder" in said(capsys, [*words, "nowhere"])
    assert "config.json cannot be read: it does not exist" in said(capsys, [*words, str(tmp_path)])
    (tmp_path / "config.json").write_text('{"model_type": "blip-2"}')
    assert "is a BLIP-2 captioner, not a Show-o, MAGVIT-v2 or Janus" in said(capsys, [*words, str(tmp_path)])
    assert "is MAGVIT-v2 alone, which cannot draw" in said(capsys, [*words, str(show_o / "magvit2")])


def test_images_that_cannot_be_asked_about_are_one_line(
    show_o: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(show_o)]
    assert "does not exist or is no file" in said(capsys, ["ask", str(tmp_path / "x.png"), "what", *common])
    (tmp_path / "x.png").write_bytes(b"no image")
    assert "x.png: not an image of a known format" in said(
        capsys, ["ask", str(tmp_path / "x.png"), "what", *common]
    )
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    assert "the question is empty" in said(capsys, ["ask", str(tmp_path / "x.png"), " ", *common])


def test_without_a_model_the_embedded_worlds_draws_and_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["draw", "a photo of a red circle", "--per-prompt", "1", "--output", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "0001.png")
    main(["ask", str(tmp_path / "0001.png"), "is there a circle?"])
    assert capsys.readouterr().out.strip()
    with pytest.raises(ValueError, match="world_model is 'bagel'; there are: show-o, janus"):
        load_image_policy("", device=CPU, world_model="bagel")  # pyright: ignore[reportArgumentType]
