"""Drawing in few operations gives what transformers' own layers give, from the weights as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_janus import tiny_janus
from tiny_show_o import NUM_TOKENS, pictures, show_o
from tiny_show_o import stirred as stirred_show_o
from torch import Tensor, nn

from benchmarks.device_counts import counted
from sightloop.models.decoding.fused_decoder import Scratch, SideBySide, is_plain
from sightloop.models.janus.body import few_rows
from sightloop.models.janus.policy import Janus
from sightloop.models.show_o.fused_rounds import still_unknown, unknown_columns
from sightloop.models.show_o.policy import ShowO
from sightloop.recipes.image_policies import load_image_policy
from sightloop.types import Images, Prompt, Sampling, Tokens, Turn

TEXTS = ["a cat", "two red dogs", "", "a cat"]
MAKERS: list[Callable[..., Any]] = [tiny_janus, lambda: stirred_show_o(show_o())]


def layers_of(policy: Any) -> Any:
    """The layers of its language model."""
    return decoder_of(policy).layers


def decoder_of(policy: Any) -> nn.Module:
    """The layers, by transformers."""
    return policy.model.model.language_model if isinstance(policy, Janus) else policy.model.model


@contextmanager
def own_layers(policy: Any) -> Iterator[None]:
    """While inside, a hook that does nothing makes the policy draw through transformers' layers."""
    hook = layers_of(policy)[0].register_forward_hook(lambda *_: None)
    try:
        yield
    finally:
        hook.remove()


def asked(texts: list[str] = TEXTS, **changes: Any) -> Prompt:
    """A prompt for images."""
    return Prompt(texts=texts, wants="image", seeds=list(range(3, 3 + len(texts))), **changes)


def same_as_own(policy: Any, prompt: Prompt, law: Sampling, atol: float = 1e-4) -> Tokens:
    """What is drawn, which is what transformers' layers draw."""
    drawn = policy.sample(prompt, law)
    with own_layers(policy):
        assert not is_plain(decoder_of(policy))
        wanted = policy.sample(prompt, law)
    assert torch.equal(drawn.ids, wanted.ids)
    assert torch.equal(drawn.mask, wanted.mask)
    if wanted.decode_step is not None:
        assert torch.equal(drawn.decode_step, wanted.decode_step)
    if wanted.log_probs is not None:
        torch.testing.assert_close(drawn.log_probs, wanted.log_probs, atol=atol, rtol=0)
    return drawn


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"guidance": 0.0}, {"guidance": 2.5, "top_k": 7, "temperature": 1.3}, {"temperature": 0.0}],
)
def test_what_is_drawn_is_what_the_own_layers_draw(make: Callable[[], Any], changes: dict[str, Any]) -> None:
    policy = make()
    for texts in (TEXTS, ["a cat"] * 3):
        same_as_own(policy, asked(texts), policy.default_sampling(**changes))


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_drawn_follows_training(make: Callable[[], Any]) -> None:
    policy = make()
    law = policy.default_sampling()
    before = same_as_own(policy, asked(), law)
    for weight in policy.trainable_module().parameters():
        weight.data += 0.1 * torch.randn(weight.shape)
    after = same_as_own(policy, asked(), law)
    assert not torch.equal(before.ids, after.ids)
    with policy.adapters_off():
        plain = same_as_own(policy, asked(), law)
    assert not torch.equal(plain.ids, after.ids)


def test_all_weights_may_be_trained() -> None:
    for policy in (tiny_janus(trained="full"), show_o(trained="full")):
        law = policy.default_sampling()
        same_as_own(policy, asked(), law)
        for weight in decoder_of(policy).parameters():
            weight.data *= 1.1
        same_as_own(policy, asked(), law)


def test_only_some_layers_may_have_adapters() -> None:
    same_as_own(policy := tiny_janus(lora_targets=("k_proj", "up_proj")), asked(), policy.default_sampling())
    same_as_own(
        policy := stirred_show_o(show_o(lora_targets=("v_proj",))), asked(), policy.default_sampling()
    )


@pytest.mark.parametrize("order_temperature", [0.0, 1.0])
def test_codes_that_are_given_are_kept_in_few_operations_too(order_temperature: float) -> None:
    policy = stirred_show_o(show_o())
    given = policy.image_tokens(pictures(4))
    mask = torch.zeros_like(given.mask)
    mask[0, :5], mask[1, ::2], mask[2], mask[3, 1:] = True, True, True, True
    prompt = asked(images=replace(given, mask=mask))
    for steps in (1, 3, NUM_TOKENS):
        law = policy.default_sampling(decode_steps=steps, order_temperature=order_temperature)
        drawn = same_as_own(policy, prompt, law)
        assert torch.equal(drawn.ids[mask], given.ids[mask])


def test_equal_scores_are_kept_together() -> None:
    columns = torch.tensor([[1, 2, 3, 4], [4, 2, 9, 9], [9, 9, 9, 9]])
    scores = torch.tensor([[2.0, 1.0, 1.0, 0.0], [5.0, 4.0, 0.0, 0.0], [0.0] * 4])
    left = still_unknown(columns, scores, wanted=2, width=3, unread=9)
    # The second and third are as sure as each other: both are kept. One of two stays; nothing stays nothing.
    assert left.tolist() == [[4, 9, 9], [2, 9, 9], [9, 9, 9]]
    # Two must stay unknown, or one where two are: a row of one unknown column keeps it so to the last round.
    alone = still_unknown(torch.tensor([[3, 9]]), torch.zeros(1, 2), wanted=0, width=2, unread=9)
    assert alone.tolist() == [[3, 9]]
    known = torch.tensor([[True, False, False], [False, True, True]])
    assert unknown_columns(known, 2, 7).tolist() == [[2, 3], [1, 7]]


def test_layers_side_by_side_are_the_layers() -> None:
    linears = [nn.Linear(6, width, bias=width != 3).double() for width in (4, 3, 5)]
    inputs = torch.randn(7, 6, dtype=torch.float64)
    with torch.no_grad():
        wanted = torch.cat([linear(inputs) for linear in linears], 1)
        torch.testing.assert_close(SideBySide(Scratch(), *linears)(inputs), wanted)


@pytest.mark.parametrize("rows", [1, 8, 16, 17])
def test_a_large_head_gives_few_rows_what_the_layer_gives(rows: int) -> None:
    torch.manual_seed(0)
    layer, hidden = torch.nn.Linear(512, 8192), torch.randn(rows, 512)
    found = few_rows(layer, hidden)
    torch.testing.assert_close(found, layer(hidden), rtol=1e-5, atol=1e-5)
    assert found.is_contiguous()


def test_hooks_of_others_are_obeyed() -> None:
    for make in MAKERS:
        policy = make()
        before = policy.sample(asked(), policy.default_sampling())
        hook = layers_of(policy)[1].mlp.register_forward_hook(lambda _part, _args, out: 3 * out)
        after = policy.sample(asked(), policy.default_sampling())
        hook.remove()
        assert not torch.equal(before.ids, after.ids)
        assert torch.equal(before.ids, policy.sample(asked(), policy.default_sampling()).ids)


@pytest.mark.parametrize("family", ["janus", "show-o"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_near_what_was_recorded(family: Any, dtype: torch.dtype) -> None:
    policy = load_image_policy("", world_model=family, device=torch.device("cpu"), dtype=dtype)
    prompt, law = asked(["a red circle", "two blue squares"]), policy.default_sampling()
    drawn = policy.sample(prompt, law)
    scored = policy.score(Turn(prompt=prompt, tokens=drawn), law).log_probs.detach()
    assert drawn.log_probs is not None
    apart = (scored - drawn.log_probs).abs()
    assert float(apart.mean()) < (1e-4 if dtype == torch.float32 else 0.15)


PROMPTS = ["a red circle", "two blue squares", "a green triangle", "a red circle above a blue square"]


def budget(policy: Janus | ShowO, prompt: Prompt, law: Sampling, units: int) -> tuple[float, float, Tensor]:
    """Launches and waits of a code or round, and what was drawn."""
    with counted() as counts:
        drawn = policy.sample(prompt, law)
    return sum(counts.launches.values()) / units, sum(counts.waits.values()) / units, drawn.ids.cpu()


def test_janus_launches_less_than_half_of_what_transformers_does(emulated: torch.device) -> None:
    policy: Any = load_image_policy("", world_model="janus", device=emulated)
    law = policy.default_sampling()
    row = torch.tensor([policy.prompts.drawing_row(PROMPTS[0])], device=emulated)
    with counted() as counts, torch.no_grad():
        policy.model.generate(
            row,
            attention_mask=torch.ones_like(row),
            generation_mode="image",
            num_return_sequences=4,
            do_sample=True,
            guidance_scale=law.guidance,
            top_k=0,
        )
    theirs = sum(counts.launches.values()) / policy.num_image_tokens
    on_cpu = load_image_policy("", world_model="janus", device=torch.device("cpu"))
    for texts in (PROMPTS, PROMPTS[:1] * 4):
        launches, waits, ids = budget(policy, asked(texts), law, policy.num_image_tokens)
        assert launches <= 0.45 * theirs, (launches, theirs)
        assert waits == 0
        assert torch.equal(ids, on_cpu.sample(asked(texts), law).ids)


def test_show_o_launches_a_third_of_705_operations_a_round(emulated: torch.device) -> None:
    policy: Any = load_image_policy("", world_model="show-o", device=emulated)
    on_cpu = load_image_policy("", world_model="show-o", device=torch.device("cpu"))
    law = policy.default_sampling(decode_steps=16)
    for texts in (PROMPTS, PROMPTS[:1] * 4):
        launches, waits, ids = budget(policy, asked(texts), law, 16)
        assert launches <= 705 / 3, launches
        assert waits <= 0.15
        assert torch.equal(ids, on_cpu.sample(asked(texts), law).ids)


@pytest.mark.parametrize("family", ["janus", "show-o"])
def test_answers_ask_the_host_seldom(emulated: torch.device, family: Any) -> None:
    policy: Any = load_image_policy("", world_model=family, device=emulated)
    pixels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    prompt = Prompt(
        texts=["what is there?"] * 4, images=policy.encode_images(Images(pixels=pixels)), seeds=[1, 2, 3, 4]
    )
    # So hot that answers are long.
    with counted() as counts:
        words = policy.sample(prompt, Sampling(max_tokens=24, temperature=30.0))
    assert sum(counts.waits.values()) / words.ids.shape[1] <= 0.3
