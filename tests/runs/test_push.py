"""What goes to the hub is shown before it goes; names that it cannot have are refused first."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightloop.cli import main
from sightloop.runs.export import _hub_name, _license_of
from sightloop.runs.push import what_would_go


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command says about a mistake."""
    with pytest.raises(SystemExit) as stopped:
        main(["export", *words])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_the_files_their_sizes_and_the_card_are_shown(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(2_500_000))
    (tmp_path / "README.md").write_text("# A captioner\n", encoding="utf-8")
    told = what_would_go(tmp_path, "me/captioner").splitlines()
    assert told[0] == "would go to me/captioner (0.00 GB):"
    assert told[2].split() == ["2.5", "MB", "model.safetensors"]
    assert told[-1] == "# A captioner"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--push", "me/my model"], "--push 'me/my model' is no name of a repository"),
        (["--push", "captioner"], "names no owner; give ORGANIZATION/NAME"),
        (["--output", "x", "--dry-run"], "--dry-run and --private have no effect without --push"),
        (["--push", "me/mine", "--form", "tensors"], "leave --form tensors out"),
        ([], "name the folder or file to write with --output"),
    ],
)
def test_what_cannot_be_pushed_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in refused(capsys, str(tmp_path), *words)


def test_a_base_is_called_as_the_hub_calls_it(tmp_path: Path) -> None:
    cached = tmp_path / "models--Salesforce--blip2-opt-2.7b" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    assert _hub_name(str(cached)) == "Salesforce/blip2-opt-2.7b"
    (tmp_path / "config.json").write_text('{"_name_or_path": "llava-hf/llava-1.5-7b-hf"}', encoding="utf-8")
    assert _hub_name(str(tmp_path)) == "llava-hf/llava-1.5-7b-hf"
    assert _hub_name("llava-hf/llava-1.5-7b-hf") == ""
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\ntags: [x]\n---\nlicense: none\n", encoding="utf-8"
    )
    assert _license_of(str(tmp_path)) == "mit" and _license_of(str(cached)) == ""
