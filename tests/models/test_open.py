"""Models that are not whole, through the commands that open them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import tiny_captioners
from damaged_folders import change_json, change_tensors, copy_of, pictures, refusal, without
from transformers import LlamaConfig, LlamaForCausalLM

from sightloop.cli import main
from sightloop.evaluation.text_model import TextModel
from sightloop.shapes.models import WEIGHTS

TRAIN = ("train", "vlrm", "--preset", "shapes", "--steps", "1", "--batch", "4", "--held-out.limit", "8")


@pytest.mark.parametrize("lost", ["text_model", "text_projection", "logit_scale"])
def test_a_clip_without_some_of_its_weights_measures_nothing(
    lost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path)
    folder, captions = without(copy_of("clip", tmp_path), lost), str(tmp_path / "captions.jsonl")

    for words in (["clip-recall", "--captions", captions], ["captions", captions]):
        told = refusal(capsys, "evaluate", *words, "--clip", str(folder))
        assert "lacks" in told and lost in told and "they would be random" in told


def test_a_clip_whose_tensors_have_a_prefix_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path)
    folder = copy_of("clip", tmp_path)
    change_tensors(folder, lambda tensors: {f"model.clip.{name}": value for name, value in tensors.items()})

    captions = str(tmp_path / "captions.jsonl")
    assert "lacks" in refusal(capsys, "evaluate", "captions", captions, "--clip", str(folder))


def test_the_clip_that_watches_a_training_must_be_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = without(copy_of("clip", tmp_path), "text_model")

    told = refusal(capsys, *TRAIN, "--run", str(tmp_path / "run"), "--held-out.clip", str(folder))
    assert "text_model" in told and "they would be random" in told


def test_a_clip_without_its_tokenizer_reads_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path)
    bare = copy_of("clip", tmp_path / "bare", without=("tokenizer.json", "tokenizer_config.json"))
    small = copy_of("clip", tmp_path / "small", without=("tokenizer.json",))
    (small / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    (small / "merges.txt").write_text("#version: 0.2\n")
    (small / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')

    captions = str(tmp_path / "captions.jsonl")
    assert "holds no tokenizer" in refusal(capsys, "evaluate", "captions", captions, "--clip", str(bare))
    told = refusal(capsys, "evaluate", "captions", captions, "--clip", str(small))
    assert "2 tokens" in told and "32 rows" in told


@pytest.mark.parametrize("lost", [("qformer", "language_projection"), ("lm_head", "embed_tokens")])
def test_a_blip2_without_some_of_its_weights_is_no_policy(
    lost: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = pictures(tmp_path)
    folder = without(copy_of("captioner", tmp_path), *lost)

    told = refusal(capsys, "caption", str(shown), "--model", str(folder))
    assert "lacks" in told and lost[0] in told
    told = refusal(capsys, *TRAIN, "--run", str(tmp_path / "run"), "--policy", str(folder))
    assert "lacks" in told and lost[0] in told


def test_a_matcher_is_no_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown, judge = pictures(tmp_path), str(WEIGHTS / "judge")

    for words in (
        ["caption", str(shown), "--model", judge],
        [*TRAIN, "--run", str(tmp_path / "run"), "--policy", judge],
    ):
        told = refusal(capsys, *words)
        assert "lacks" in told and "name a checkpoint of the class Blip2ForConditionalGeneration" in told


@pytest.mark.parametrize("lost", ["multi_modal_projector", "lm_head"])
def test_a_llava_without_some_of_its_weights_is_no_policy(
    lost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = pictures(tmp_path)
    folder = without(tiny_captioners.llava(tmp_path / "llava"), lost)

    assert lost in refusal(capsys, "caption", str(shown), "--model", str(folder))
    told = refusal(capsys, *TRAIN, "--run", str(tmp_path / "run"), "--policy", str(folder))
    assert lost in told and "they would be random" in told


def test_language_models_must_be_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = tiny_captioners.tokenizer()
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **tiny_captioners.SIZES)).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    TextModel.from_pretrained(tmp_path)
    without(tmp_path, "layers.1.")

    told = refusal(capsys, *TRAIN, "--run", str(tmp_path / "run"), "--judge.reference-model", str(tmp_path))
    assert "layers.1." in told and "they would be random" in told
    with pytest.raises(ValueError, match=r"lacks .*layers\.1\."):
        TextModel.from_pretrained(tmp_path)


EVIL = 'open({marker!r}, "a").write("ran\\n")\nfrom transformers import PreTrainedConfig as Evil\n'


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_code_of_a_model_folder_is_never_run(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, marker = pictures(tmp_path), tmp_path / "marker"
    monkeypatch.setattr("builtins.input", lambda *_: marker.write_text("asked") and "y")
    folder = tiny_captioners.llava(tmp_path / "llava")
    (folder / "evil.py").write_text(EVIL.format(marker=str(marker)))
    kind = {"config.json": "AutoConfig", "processor_config.json": "AutoProcessor"}.get(place, "AutoTokenizer")
    told = {"auto_map": {kind: [None, "evil.Evil"] if kind == "AutoTokenizer" else "evil.Evil"}}
    if place == "config.json":
        told |= {"model_type": "evil", "architectures": ["Evil"]}
    else:
        told |= {"processor_class": "Evil", "tokenizer_class": "Evil"}
    change_json(folder / place, lambda given: given.update(told))

    train = [*TRAIN, "--run", str(tmp_path / "run")]
    for words in (
        ["caption", str(shown), "--model", str(folder)],
        [*train, "--policy", str(folder)],
        [*train, "--judge.reference-model", str(folder)],
        ["evaluate", "captions", str(tmp_path / "captions.jsonl"), "--clip", str(folder)],
    ):
        with suppress(SystemExit):
            main(words)
        assert not marker.exists()
        said = capsys.readouterr().err
        assert place != "config.json" or "wants to run code of its own, which is never done" in said
