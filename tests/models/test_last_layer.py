"""The last layer where it is read: the same numbers and gradients as a full pass, for less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import tiny_blip2
from torch import Tensor

from sightloop.models.captioners.last_layer import READ_FROM
from sightloop.models.transformers_internals import cache_argument, roomy_cache

LENGTH, FIRST = 9, 5


def decoder_and_inputs(gap: int) -> tuple[Any, Tensor, Tensor | None]:
    """A decoder, embedded positions, and a mask whose second row has `gap` empty places at its left."""
    decoder: Any = tiny_blip2.captioner().model.language_model.model.decoder
    embeds = torch.randn(
        2, LENGTH, decoder.embed_tokens.embedding_dim, generator=torch.Generator().manual_seed(1)
    )
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, :gap] = 0
    return decoder, embeds, mask if gap else None


@pytest.mark.parametrize("gap", [0, 2])
def test_states_and_gradients_are_those_of_a_full_pass(gap: int) -> None:
    decoder, embeds, mask = decoder_and_inputs(gap)

    def read(**options: Any) -> tuple[Tensor, Tensor]:
        given = embeds.clone().requires_grad_()
        states = decoder(
            inputs_embeds=given, attention_mask=mask, use_cache=False, **options
        ).last_hidden_state
        states = states[:, FIRST - LENGTH :]
        (slope,) = torch.autograd.grad(states.square().sum(), given)
        return states, slope

    for part, whole in zip(read(**{READ_FROM: FIRST}), read(), strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gap", [0, 2])
def test_a_cache_goes_on_as_after_a_full_pass(gap: int) -> None:
    decoder, embeds, mask = decoder_and_inputs(gap)

    def draw(**options: Any) -> Tensor:
        cache = roomy_cache(len(decoder.layers), LENGTH)
        before = None if mask is None else mask[:, :-1]
        call = {"use_cache": True, **cache_argument(cache)}
        decoder(inputs_embeds=embeds[:, :-1], attention_mask=before, **call, **options)
        return decoder(inputs_embeds=embeds[:, -1:], attention_mask=mask, **call).last_hidden_state

    torch.testing.assert_close(draw(**{READ_FROM: FIRST}), draw(), rtol=1e-4, atol=1e-5)


def test_only_the_last_layer_leaves_positions_out() -> None:
    decoder, embeds, _ = decoder_and_inputs(0)
    seen: list[int] = []
    for layer in decoder.layers:
        layer.self_attn.q_proj.register_forward_hook(lambda _part, args, _out: seen.append(args[0].shape[1]))
    out = decoder(inputs_embeds=embeds, use_cache=False, **{READ_FROM: FIRST})
    assert seen == [LENGTH] * (len(decoder.layers) - 1) + [LENGTH - FIRST]
    assert out.last_hidden_state.shape[1] == LENGTH - FIRST
