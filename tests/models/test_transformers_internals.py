"""What differs between versions of transformers, on the installed one: no warning, and the same numbers."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from models import tiny_blip2, tiny_janus, tiny_show_o
from torch import Tensor

from sightloop.models.transformers_internals import (
    Cache,
    StandInCache,
    cache_argument,
    given_cache,
    growing_cache,
    roomy_cache,
    static_cache,
)


def decoders() -> dict[str, Any]:
    """A language model of each family that is run part by part."""
    return {
        "opt": tiny_blip2.captioner().model.language_model.model.decoder,
        "llama": tiny_janus.tiny_janus().model.model.language_model,
        "phi": tiny_show_o.show_o().body.phi,
    }


def filled(cache: Cache, states: Tensor, *, layer: int = 0) -> Cache:
    """The cache after one update."""
    cache.update(states, states + 1, layer)
    return cache


@pytest.mark.parametrize("family", ["opt", "llama", "phi"])
def test_models_and_layers_take_a_cache_by_the_name_it_is_handed_over_under(family: str) -> None:
    decoder = decoders()[family]
    (name,) = cache_argument(None)
    for part in (decoder, decoder.layers[0]):
        assert name in inspect.signature(part.forward).parameters


@pytest.mark.parametrize("family", ["opt", "llama", "phi"])
def test_a_cache_gives_what_the_whole_pass_gives_and_warns_of_nothing(family: str) -> None:
    decoder = decoders()[family]
    embeds = torch.randn(2, 5, decoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
    cache = growing_cache(len(decoder.layers))
    with torch.no_grad():
        whole = decoder(inputs_embeds=embeds, use_cache=False).last_hidden_state
        decoder(inputs_embeds=embeds[:, :3], use_cache=True, **cache_argument(cache))
        rest = decoder(inputs_embeds=embeds[:, 3:], use_cache=True, **cache_argument(cache)).last_hidden_state
    torch.testing.assert_close(rest, whole[:, 3:], rtol=1e-4, atol=1e-5)


def test_what_a_layer_is_given_as_its_cache_is_found_again() -> None:
    cache = growing_cache(1)
    assert given_cache({"other": 1, **cache_argument(cache)}) is cache
    assert given_cache({"other": 1}) is None


def test_a_stand_in_takes_every_form_of_the_call() -> None:
    class Doubled(StandInCache):
        def extend(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
            return keys * 2, values * layer

    states = torch.ones(1, 1, 1, 1)
    # As up to 5.23, and as from 5.24 on.
    for more in ({}, {"kwargs": {"is_causal": True}}):
        keys, values = Doubled().update(states, states, 3, **more)
        assert (keys.item(), values.item()) == (2, 3)


def test_the_roomy_cache_holds_what_the_plain_one_holds() -> None:
    plain, roomy = growing_cache(1), roomy_cache(1, 9)
    for length in (4, 1, 1):
        keys, values = torch.randn(3, 2, length, 5), torch.randn(3, 2, length, 5)
        for one, other in zip(roomy.update(keys, values, 0), plain.update(keys, values, 0), strict=True):
            assert torch.equal(one, other)
        assert roomy.get_seq_length() == plain.get_seq_length()
    kept = torch.tensor([0, 2])
    plain.batch_select_indices(kept)
    roomy.batch_select_indices(kept)
    keys, values = torch.randn(2, 2, 1, 5), torch.randn(2, 2, 1, 5)
    for one, other in zip(roomy.update(keys, values, 0), plain.update(keys, values, 0), strict=True):
        assert torch.equal(one, other)


def test_a_static_cache_begins_as_another_and_writes_where_the_place_says() -> None:
    before, new = torch.randn(1, 1, 2, 3), torch.randn(1, 1, 1, 3)
    place = torch.tensor([2])
    emptied = filled(roomy_cache(1, 2), before)
    cache = static_cache(emptied, 4, place)
    keys, values = cache.update(new, new + 1, 0)
    assert emptied.layers == []
    assert torch.equal(keys, torch.cat([before, new, torch.zeros(1, 1, 1, 3)], 2))
    assert torch.equal(values, torch.cat([before + 1, new + 1, torch.zeros(1, 1, 1, 3)], 2))
