"""Faults planted in copies of the bundled judges, and found with their causes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from sightloop.doctor.findings import Finding, is_healthy
from sightloop.doctor.models import ModelToExamine, digest, examine, record
from sightloop.doctor.record import BUNDLED
from sightloop.world.bundled import WEIGHTS

Kind = Literal["itm", "clip"]
JUDGES: list[tuple[str, Kind]] = [("judge", "itm"), ("clip", "clip")]
both = pytest.mark.parametrize(("name", "kind"), JUDGES)


def examined(folder: Path, kind: Kind) -> list[Finding]:
    return examine(
        ModelToExamine(name="similarity", model=str(folder), kind=kind),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def failure(findings: list[Finding]) -> Finding:
    failed = [finding for finding in findings if finding.mark == "fail"]
    assert failed and not is_healthy(findings)
    return failed[0]


def copy_of(name: str, folder: Path) -> Path:
    shutil.copytree(WEIGHTS / name, folder / name)
    return folder / name


def change_json(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("model", BUNDLED, ids=lambda model: model.name)
def test_bundled_judges_are_well_and_their_scores_on_record(model: ModelToExamine) -> None:
    findings = examine(model, dtype=torch.float32, device=torch.device("cpu"))
    assert [finding.mark for finding in findings] == ["pass"] * 5
    assert digest(model.model) in record()


def test_swapped_classes_are_found(tmp_path: Path) -> None:
    def swap(tensors: dict[str, torch.Tensor]) -> None:
        for part in ("weight", "bias"):
            tensors[f"itm_head.{part}"] = tensors[f"itm_head.{part}"].flip(0)

    folder = copy_of("judge", tmp_path)
    change_tensors(folder, swap)
    found = failure(examined(folder, "itm"))
    assert "classes of its head are in the other order" in found.says and "first for 0%" in found.says
    assert "swap the two rows of its head" in found.fix


@both
def test_swapped_channels_are_found(tmp_path: Path, name: str, kind: Kind) -> None:
    def swap(tensors: dict[str, torch.Tensor]) -> None:
        patches = next(key for key in tensors if key.endswith("patch_embedding.weight"))
        tensors[patches] = tensors[patches].flip(1)

    folder = copy_of(name, tmp_path)
    change_tensors(folder, swap)
    found = failure(examined(folder, kind))
    assert "with red and blue swapped it would be right: the model reads BGR" in found.says


@both
def test_a_wrong_activation_is_found_though_the_ranking_stays_right(
    tmp_path: Path, name: str, kind: Kind
) -> None:
    folder, part = copy_of(name, tmp_path), "qformer_config" if kind == "itm" else "text_config"

    def quick(config: dict[str, Any]) -> None:
        config["vision_config"]["hidden_act"] = config[part]["hidden_act"] = "quick_gelu"

    change_json(folder / "config.json", quick)
    findings = examined(folder, kind)
    recorded = next(finding for finding in findings if finding.name == "scores on record")
    assert recorded.mark == "fail" and findings[-1].mark == "pass"
    assert "vision_config.hidden_act is 'quick_gelu', not 'gelu'" in recorded.says
    if kind == "itm":
        assert "this family was trained with gelu" in failure(findings).says


def test_a_wrong_activation_of_one_tower_of_anybodys_clip_is_found(tmp_path: Path) -> None:
    folder = copy_of("clip", tmp_path)
    change_tensors(folder, lambda tensors: tensors.update(logit_scale=torch.tensor(2.0)))
    change_json(folder / "config.json", lambda config: config["text_config"].update(hidden_act="quick_gelu"))
    found = failure(examined(folder, "clip"))
    assert "text_config.hidden_act is 'quick_gelu'; this family was trained with gelu" in found.says
    assert "write 'gelu' there in config.json" in found.fix
    shutil.move(folder, tmp_path / "openai-clip")
    change_json(
        tmp_path / "openai-clip" / "config.json", lambda c: c["text_config"].update(hidden_act="gelu")
    )
    assert "trained with quick_gelu" in failure(examined(tmp_path / "openai-clip", "clip")).says


@both
def test_a_wrong_image_size_is_found(tmp_path: Path, name: str, kind: Kind) -> None:
    folder = copy_of(name, tmp_path)

    def smaller(processor: dict[str, Any]) -> None:
        size = processor["image_processor"]["crop_size" if kind == "clip" else "size"]
        size.update(height=24, width=24)

    change_json(folder / "processor_config.json", smaller)
    found = failure(examined(folder, kind))
    assert "makes images of 24 x 24 pixels, the model sees 32 x 32" in found.says


def test_a_model_of_another_image_size_than_its_weights_is_found(tmp_path: Path) -> None:
    folder = copy_of("clip", tmp_path)
    change_json(folder / "config.json", lambda config: config["vision_config"].update(image_size=64))
    says = failure(examined(folder, "clip")).says
    assert "position_embedding.weight with the shape (17, 96), its config.json wants (65, 96)" in says


def test_images_cut_at_their_edges_are_found(tmp_path: Path) -> None:
    folder = copy_of("clip", tmp_path)

    def zoom(processor: dict[str, Any]) -> None:
        processor["image_processor"]["size"]["shortest_edge"] = 64

    change_json(folder / "processor_config.json", zoom)
    findings = examined(folder, "clip")
    assert "brought to 64 pixels and cut to 32" in findings[1].says
    assert "shortest edge is 64, not 32" in failure(findings).says


@both
def test_missing_weights_are_found(tmp_path: Path, name: str, kind: Kind) -> None:
    folder = copy_of(name, tmp_path)
    lost = "itm_head.weight" if kind == "itm" else "visual_projection.weight"
    change_tensors(folder, lambda tensors: tensors.__delitem__(lost))
    found = failure(examined(folder, kind))
    assert found.name == "loads" and "lacks 1 of" in found.says and lost in found.says


def test_weights_that_know_nothing_are_found(tmp_path: Path) -> None:
    folder = copy_of("clip", tmp_path)

    def forget(tensors: dict[str, torch.Tensor]) -> None:
        tensors["visual_projection.weight"].normal_(std=0.1)

    change_tensors(folder, forget)
    found = failure(examined(folder, "clip"))
    assert "do not train on it" in found.fix


def test_a_folder_that_is_not_there_is_one_failure(tmp_path: Path) -> None:
    findings = examined(tmp_path / "nothing", "clip")
    assert len(findings) == 1 and findings[0].mark == "fail"
