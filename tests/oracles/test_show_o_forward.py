"""Sequences, masks, logits and losses equal those of the official Show-o code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from show_o_golden import Golden, load_golden, numbers, runs_of, same
from torch import Tensor

from sightloop.models.show_o.layout import (
    begun,
    caption_rows,
    drawing_prompt,
    drawing_rows,
    image_prefix,
    pads,
    text_rows,
)
from sightloop.models.show_o.losses import (
    Masking,
    Rows,
    caption_example,
    drawing_example,
    losses_of,
    text_example,
    without_conditions,
)
from sightloop.models.show_o.masks import answer_mask, causal, drawing_mask


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each golden run, whatever it is called."""
    if "run" in metafunc.fixturenames:
        metafunc.parametrize("run", runs_of(metafunc, "losses"))


@pytest.fixture(scope="module")
def golden(oracles: Path) -> Golden:
    """The golden model."""
    return load_golden(oracles / "show_o")


def same_mask(golden: Golden, found: Tensor, wanted: dict[str, Tensor]) -> None:
    """The official mask, and the numbers that the official code adds to scores for it."""
    mask = wanted["mask_allowed"]
    same(found.expand(len(mask), -1, -1, -1), mask)
    added = torch.zeros(mask.shape).masked_fill(~mask.bool(), golden.facts["forward"]["additive_min"])
    same(added.unique(), wanted["mask_additive_unique"])


def test_special_ids_are_the_official_ones(golden: Golden) -> None:
    words, facts = golden.vocabulary, golden.facts["vocab"]
    ids = facts["special_ids"]
    assert (words.pad, words.soi, words.eoi) == (ids["<|pad|>"], ids["<|soi|>"], ids["<|eoi|>"])
    assert (words.t2i, words.mmu, words.end) == (ids["<|t2i|>"], ids["<|mmu|>"], ids["<|eot|>"])
    assert (words.first_code, words.mask) == (facts["image_token_offset"], facts["mask_token_id"])
    assert words.size == facts["vocab_size"]


@torch.no_grad()
def test_drawings_have_the_official_rows_masks_states_and_logits(golden: Golden) -> None:
    wanted = golden.tensors("forward", "t2i.")
    words, start = golden.vocabulary, golden.max_text + 1
    codes = wanted["input_ids"][:, start + 1 : -1]
    prompts = [
        drawing_prompt(numbers(text), words, max_text=golden.max_text)
        for text in golden.facts["forward"]["t2i_texts"]
    ]
    ids = drawing_rows(prompts, codes, words, max_text=golden.max_text)
    same(ids, wanted["input_ids"])
    mask = drawing_mask(pads(ids, words), first=start)
    same_mask(golden, mask, wanted)
    same(drawing_mask(torch.zeros_like(ids, dtype=torch.bool), first=start).expand_as(mask),
         wanted["mask_allowed_without_pad_removal"])  # fmt: skip
    body = golden.body
    states = []
    hooks = [
        layer.register_forward_hook(lambda _module, _args, out: states.append(out))
        for layer in golden.model.model.layers[:-1]
    ]
    embeds = body.embed(ids)
    hidden = body(embeds, torch.arange(ids.shape[1])[None], mask=mask)
    for hook in hooks:
        hook.remove()
    for layer, found in enumerate([embeds, *states, hidden]):
        same(found, wanted[f"hidden_states.{layer}"])
    assert len([name for name in wanted if name.startswith("hidden_states.")]) == len(states) + 2
    same(body.logits(hidden), wanted["logits"])


@torch.no_grad()
def test_texts_and_captions_have_the_official_rows_masks_and_logits(golden: Golden) -> None:
    facts, words, body = golden.facts["forward"], golden.vocabulary, golden.body
    length = golden.max_text + golden.num_image + 3
    wanted = golden.tensors("forward", "lm.")
    ids, labels = text_rows([numbers(text) for text in facts["lm_texts"]], words, length=length)
    same(ids, wanted["input_ids"])
    same(labels, wanted["labels"])
    same_mask(golden, causal(length), wanted)
    places = torch.arange(length)[None]
    same(body.logits(body(body.embed(ids), places, mask=causal(length))), wanted["logits"])
    # Without a mask, left to right is the kernel's own.
    same(body.logits(body(body.embed(ids), places, is_causal=True)), wanted["logits"])

    wanted = golden.tensors("forward", "mmu_train.")
    codes = wanted["input_ids"][:, 2 : 2 + golden.num_image]
    texts = [numbers(text) for text in facts["mmu_texts"]]
    ids, labels = caption_rows(codes, texts, words, max_text=golden.max_text)
    same(ids, wanted["input_ids"])
    same(labels, wanted["labels"])
    mask = answer_mask(length, last=golden.num_image + 2)
    same_mask(golden, mask, wanted)
    same(body.logits(body(body.embed(ids), places, mask=mask)), wanted["logits"])


@torch.no_grad()
def test_questions_have_the_official_rows_masks_and_logits(golden: Golden) -> None:
    wanted, words, body = golden.tensors("forward", "mmu_infer."), golden.vocabulary, golden.body
    given = wanted["input_ids"]
    prefix = image_prefix(given[:, 2 : 2 + golden.num_image], words)
    questions = given[:, golden.num_image + 4 :].tolist()
    ids = torch.cat([prefix, torch.tensor([begun(question, words) for question in questions])], 1)
    same(ids, given)
    mask = answer_mask(ids.shape[1], last=golden.num_image + 2)
    same_mask(golden, mask, wanted)
    other = drawing_mask(torch.zeros_like(ids, dtype=torch.bool), first=1, last=golden.num_image + 2)
    same(other.expand(len(ids), -1, -1, -1), wanted["mask_allowed_by_predict_next"])
    hidden = body(body.embed(ids), torch.arange(ids.shape[1])[None], mask=mask)
    same(body.logits(hidden), wanted["logits"])


def test_losses_and_their_gradients_are_the_official_ones(golden: Golden, run: str) -> None:
    wanted, facts = golden.tensors("losses", f"{run}."), golden.facts["losses"][run]
    words, max_text = golden.vocabulary, golden.max_text
    codes = wanted["image_codes_offset"] - words.first_code
    size, num_text, num_answer = facts["batch_t2i"], facts["batch_lm"], facts["batch_mmu"]

    masking = Masking(progress=wanted["rand_timesteps"], keys=wanted["rand_perm_keys"])
    same(masking.share(min_share=facts["min_masking_rate"]), wanted["mask_prob"])
    hidden = masking.hidden(min_share=facts["min_masking_rate"])
    masked = wanted["image_codes_offset"].masked_fill(hidden, words.mask)
    same(masked, wanted["masked_image_ids"])
    same(wanted["image_codes_offset"].masked_fill(~hidden, -100), wanted["image_labels"])
    texts = without_conditions(
        [numbers(text) for text in facts["texts"]],
        wanted["rand_cond_dropout"],
        probability=facts["cond_dropout_prob"],
    )
    drawing = drawing_example(texts, codes, hidden, words, max_text=max_text)
    rest = golden.facts["forward"]
    text = text_example(
        [numbers(t) for t in rest["lm_texts"]], words, max_text=max_text, num_image=golden.num_image
    )
    about = wanted["input_ids"][size + num_text :, 2 : 2 + golden.num_image] - words.first_code
    answer = caption_example(about, [numbers(t) for t in rest["mmu_texts"]], words, max_text=max_text)
    assert len(text.ids) == num_text
    assert len(answer.ids) == num_answer
    same(torch.cat([rows.ids for rows in (drawing, text, answer)]), wanted["input_ids"])
    same(torch.cat([rows.labels for rows in (drawing, text, answer)]), wanted["labels"])
    masks = _masks(golden, drawing, num_text, num_answer)
    same(masks, wanted["mask_allowed"])

    golden.model.requires_grad_(True).zero_grad()
    losses = losses_of(golden.body, max_text=max_text, drawing=drawing, text=text, answer=answer)
    weights = facts["coeff_t2i_lm_mmu"]
    total = losses.total(drawing=weights[0], text=weights[1], answer=weights[2])
    for name, found in {
        "loss_t2i": losses.drawing,
        "loss_lm": losses.text,
        "loss_mmu": losses.answer,
        "loss_total": total,
    }.items():
        assert found is not None
        same(found.detach(), wanted[name])
    total.backward()
    for name, norm in (("loss_t2i", losses.drawing), ("loss_lm", losses.text), ("loss_mmu", losses.answer)):
        assert float(norm.detach()) == pytest.approx(facts[name], abs=1e-5)  # pyright: ignore
    gradients = {f"showo.{name}": p.grad for name, p in golden.model.named_parameters() if p.grad is not None}
    assert facts["grad_norms"].keys() == gradients.keys()
    for name, norm in facts["grad_norms"].items():
        assert float(gradients[name].norm()) == pytest.approx(norm, rel=1e-5), name
        if f"grad.{name}" in wanted:
            same(gradients[name], wanted[f"grad.{name}"])
    golden.model.zero_grad()
    golden.model.requires_grad_(False)


def _masks(golden: Golden, drawing: Rows, num_text: int, num_answer: int) -> Tensor:
    length = drawing.ids.shape[1]
    first = drawing_mask(pads(drawing.ids, golden.vocabulary), first=golden.max_text + 1)
    last = answer_mask(length, last=golden.num_image + 2)
    return torch.cat([first, *[causal(length)] * num_text, *[last] * num_answer])


def test_no_golden_tensor_is_left_out(golden: Golden) -> None:
    read = "".join(file.read_text() for file in Path(__file__).parent.glob("test_show_o_*.py"))
    parts = {"forward": ("t2i", "lm", "mmu_train", "mmu_infer")}
    parts |= {name: tuple(golden.facts[f"{name}_generate"]) for name in ("t2i", "mmu")}
    parts |= {"losses": tuple(golden.facts["losses"])}
    for part, runs in parts.items():
        for name in golden.tensors("t2i_generate" if part == "t2i" else part):
            run, rest = name.split(".", 1)
            assert run in runs or name.startswith("vit."), name
            told = {rest, rest.rsplit(".", 1)[-1]}
            known = any(f'"{one}"' in read or f'.{one}"' in read for one in told)
            assert known or rest.startswith(("hidden_states.", "grad.")), name
