"""Retrieval ranks and figures on the golden embeddings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sightloop.evaluation.ranking import rank_images, rank_texts, recall_metrics


@pytest.fixture(scope="module")
def cases(oracles: Path) -> list[dict]:
    """The golden cases, each with its embeddings."""
    listed = json.loads((oracles / "recall" / "cases.json").read_text())
    with np.load(oracles / "recall" / "embeddings.npz") as arrays:
        for case in listed:
            image, text, target = (
                torch.from_numpy(arrays[f"{name}_{case['i']}"]) for name in ("image", "text", "target")
            )
            if case["normalize"]:
                image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
            case["embeddings"] = (image, text, target.long())
    return listed


def test_every_rank_and_figure_of_text_to_image(cases: list[dict]) -> None:
    assert {case["kind"] for case in cases} == {"rand", "exact", "dup", "const", "one"}
    for case in cases:
        ranks = rank_texts(*case["embeddings"])
        for ties, wanted in case["text_to_image"].items():
            places = ranks.places(ties)
            assert places.tolist() == wanted["ranks"], (case["i"], ties)
            found = recall_metrics(places)
            assert found == pytest.approx({name: wanted[name] for name in found}, abs=1e-12), (
                case["i"],
                ties,
            )


def test_every_rank_and_figure_of_image_to_text(cases: list[dict]) -> None:
    for case in cases:
        wanted = case["image_to_text"]
        assert case["embeddings"][2].unique().tolist() == wanted["images"], case["i"]
        places = rank_images(*case["embeddings"]).places()
        assert places.tolist() == wanted["ranks"], case["i"]
        found = recall_metrics(places)
        assert found == pytest.approx({name: wanted[name] for name in found}, abs=1e-12), case["i"]


def test_ties_are_seen_where_images_repeat_and_not_where_they_do_not(cases: list[dict]) -> None:
    for case in cases:
        share = rank_texts(*case["embeddings"]).share_of_ties
        if case["kind"] in ("rand", "one"):
            assert share == 0, case["i"]
        if case["kind"] == "dup":
            assert share > 0.8, case["i"]
