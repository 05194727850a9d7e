"""Converting checkpoints by command: there and back, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models.tiny_janus import tiny_model as tiny_janus_model
from models.tiny_janus import tokenizer as janus_tokenizer
from tiny_show_o_folders import magvit, official_folder, official_tensors, tokenizer

from sightloop.cli import main
from sightloop.models.janus.checkpoint import write_official_janus
from sightloop.models.show_o.checkpoint import read_show_o, write_magvit2
from sightloop.models.weight_files import read_weights


def refused(capsys: pytest.CaptureFixture[str], words: list[object]) -> str:
    """The one line that a refused conversion says."""
    with pytest.raises(SystemExit) as stopped:
        main(["convert", *map(str, words)])
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sightloop:")]
    return line


def equal(folder: Path, other: Path) -> bool:
    """Both hold the same tensors, bit for bit."""
    given, wanted = read_weights(folder), read_weights(other)
    return given.keys() == wanted.keys() and all(torch.equal(given[name], wanted[name]) for name in wanted)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """The authors' three folders: Show-o, MAGVIT-v2 and the tokenizer."""
    official_folder(tmp_path / "theirs")
    write_magvit2(magvit(), tmp_path / "magvit", official=True)
    tokenizer().save_pretrained(tmp_path / "words")
    return tmp_path


def test_show_o_there_and_back(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, ours, back = parts / "theirs", parts / "ours", parts / "back"
    extras = ["--magvit", str(parts / "magvit"), "--tokenizer", str(parts / "words")]
    main(["convert", "show-o", str(theirs), str(ours), *extras, "--max-text-tokens", "64"])
    assert capsys.readouterr().out == f"wrote {ours}\n"
    assert read_show_o(ours).sizes.max_text_tokens == 64
    main(["convert", "show-o", str(ours), str(back), "--to", "official"])
    assert equal(back, theirs)


def test_magvit2_there_and_back(parts: Path) -> None:
    main(["convert", "magvit2", str(parts / "magvit"), str(parts / "ours")])
    assert (parts / "ours" / "model.safetensors").is_file()
    main(["convert", "magvit2", str(parts / "ours"), str(parts / "back"), "--to", "official"])
    assert (parts / "back" / "pytorch_model.bin").is_file()
    assert equal(parts / "back", parts / "magvit")


def test_janus_there_and_back(tmp_path: Path) -> None:
    theirs, ours, back = tmp_path / "theirs", tmp_path / "ours", tmp_path / "back"
    write_official_janus(tiny_janus_model(), theirs, tokenizer=janus_tokenizer())
    main(["convert", "janus", str(theirs), str(ours)])
    main(["convert", "janus", str(ours), str(back), "--to", "official"])
    assert equal(back, theirs)


def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(
    parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, out = parts / "theirs", parts / "out"
    magvit2 = ["--magvit", parts / "magvit"]
    with_all = [*magvit2, "--tokenizer", parts / "words"]
    assert "name the folder of MAGVIT-v2" in refused(capsys, ["show-o", theirs, out])
    assert "with --tokenizer" in refused(capsys, ["show-o", theirs, out, *magvit2])
    assert "has that form already" in refused(capsys, ["show-o", theirs, out, "--to", "official"])
    assert "holds show-o, not janus" in refused(capsys, ["janus", theirs, out])
    assert "is not a folder" in refused(capsys, ["show-o", parts / "nowhere", out, *with_all])
    assert "no such options: --tokenizer" in refused(
        capsys, ["magvit2", parts / "magvit", out, "--tokenizer", parts / "words"]
    )
    tensors = official_tensors()
    del tensors["showo.model.final_layernorm.bias"]
    torch.save(tensors, theirs / "pytorch_model.bin")
    line = refused(capsys, ["show-o", theirs, out, *with_all])
    assert "model.final_layernorm.bias is missing" in line
    assert "is not empty" in refused(capsys, ["magvit2", parts / "magvit", theirs])
    assert sorted(path.name for path in parts.iterdir()) == ["magvit", "theirs", "words"]
