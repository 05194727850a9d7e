"""Greedy answers of the official Show-o code, token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from show_o_golden import Golden, load_golden, runs_of, same
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from sightloop.models.show_o.answers import AnsweredImages, draw_answers
from sightloop.models.show_o.masks import answer_mask
from sightloop.models.show_o.vision import ShowOVision, new_projector
from sightloop.types import Sampling, Tokens


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each golden run, whatever it is called."""
    if "run" in metafunc.fixturenames:
        metafunc.parametrize("run", runs_of(metafunc, "mmu_generate"))


@pytest.fixture(scope="module")
def golden(oracles: Path) -> Golden:
    """The golden model."""
    return load_golden(oracles / "show_o")


class Watched:
    """The head over the whole vocabulary, which remembers its logits."""

    def __init__(self, golden: Golden) -> None:
        self.golden, self.logits = golden, []

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits of the last position."""
        self.logits.append(self.golden.body.logits(hidden))
        return self.logits[-1]


def answers(golden: Golden, runs: list[str]) -> tuple[Tokens, list[Tensor]]:
    """Answers to the questions of `runs` in one batch, and the logits of every step."""
    ids = [golden.tensors("mmu", f"{run}.")["input_ids"][0] for run in runs]
    body, width, head = golden.body, golden.num_image + 3, Watched(golden)
    prefixes = torch.stack([row[:width] for row in ids]).unique(dim=0, return_inverse=True)
    facts = golden.facts["mmu_generate"][runs[0]]
    tokens = draw_answers(
        body,
        AnsweredImages(embeds=body.embed(prefixes[0]), row_of=prefixes[1]),
        [row[width:].tolist() for row in ids],
        sampling=Sampling(max_tokens=facts["max_new_tokens"], temperature=0.0),
        seeds=None,
        head=head,
        end=-1 if facts["eot"] is None else facts["eot"],
    )
    return tokens, head.logits


@torch.no_grad()
def test_answers_and_their_logits_are_the_official_ones(golden: Golden, run: str) -> None:
    wanted = golden.tensors("mmu", f"{run}.")
    if not wanted.keys() >= {"input_ids"}:
        pytest.skip("an answer about features of a tower, which has a test of its own")
    tokens, logits = answers(golden, [run])
    assert tokens.ids[0].tolist() == wanted["tokens"].tolist()
    assert tokens.mask.all()
    same(torch.cat(logits), wanted["last_logits"])


@torch.no_grad()
def test_questions_that_end_alike_are_answered_together(golden: Golden) -> None:
    facts = golden.facts["mmu_generate"]
    ending: dict[tuple[int | None, int], list[str]] = {}
    for run in facts:
        if golden.tensors("mmu", f"{run}.").keys() >= {"input_ids"}:
            ending.setdefault((facts[run]["eot"], facts[run]["max_new_tokens"]), []).append(run)
    together = [runs for runs in ending.values() if len(runs) > 1]
    assert together, "no two golden questions can be asked in one batch"
    for runs in together:
        tokens, logits = answers(golden, runs)
        for row, run in enumerate(runs):
            wanted = golden.tensors("mmu", f"{run}.")
            assert tokens.ids[row, tokens.mask[row]].tolist() == wanted["tokens"].tolist()
            if facts[run]["eot"] is None:  # who has ended leaves the batch, and rows move up
                same(torch.stack([step[row] for step in logits]), wanted["last_logits"])


@torch.no_grad()
def test_features_of_a_tower_are_read_as_in_the_official_code(golden: Golden) -> None:
    wanted, weights = (
        golden.tensors("mmu", "vit."),
        load_file(golden.folder / "mm_projector_weights.safetensors"),
    )
    weights = {name.removeprefix("mm_projector."): value for name, value in weights.items()}
    width, width_in = weights["0.weight"].shape
    projector = new_projector(width_in, width)
    projector.load_state_dict(weights)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=32
    )
    vision = ShowOVision(CLIPVisionModel(config), projector)
    words, body = golden.vocabulary, golden.body
    ids, features = wanted["input_ids"][0].tolist(), wanted["clip_features"]
    start = ids.index(words.soi)
    assert ids[start + 1] == words.eoi
    pictures = vision.image_rows(body, features, ids[1:start], row_of=torch.tensor([0]))
    first = wanted["projected_first8"]
    same(pictures.embeds[:, start + 1 :][:, : first.shape[1]], first)
    question = ids[start + 2 :]
    rows, length = wanted["rows"], pictures.embeds.shape[1] + len(question)
    assert pictures.last is not None
    mask = answer_mask(length, first=pictures.first, last=pictures.last)[0, 0]
    same(mask[rows], wanted["mask_allowed_rows"])
    same(mask.sum(1), wanted["mask_allowed_row_sums"])
    same(mask.sum(0), wanted["mask_allowed_col_sums"])
    embeds = torch.cat([pictures.embeds, body.embed(torch.tensor([question]))], 1)
    hidden = body(embeds, torch.arange(length)[None], mask=mask[None, None])
    same(body.logits(hidden[:, rows]), wanted["logits_rows"])

    facts, head = golden.facts["mmu_generate"]["vit_greedy"], Watched(golden)
    greedy = golden.tensors("mmu", "vit_greedy.")
    tokens = draw_answers(
        body,
        pictures,
        [question],
        sampling=Sampling(max_tokens=facts["max_new_tokens"], temperature=0.0),
        seeds=None,
        head=head,
        end=-1 if facts["eot"] is None else facts["eot"],
    )
    assert tokens.ids[0].tolist() == greedy["tokens"].tolist()
    same(torch.cat(head.logits), greedy["last_logits"])
