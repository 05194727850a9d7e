"""What is counted without weights is what torch's own counter and real passes say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaModel, OPTConfig, OPTModel

from sightloop.models.lora import Adapters
from sightloop.planning.captioner_networks import tower_pass
from sightloop.planning.counting import count, language_of, on_meta, passing

SIZES = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 100}
OPT = OPTConfig(**SIZES, ffn_dim=128, word_embed_proj_dim=64)
LLAMA = LlamaConfig(**SIZES, intermediate_size=128, num_key_value_heads=2)


def counted(run: Callable[[], Tensor]) -> tuple[float, float]:
    """FLOPs forward and backward, by torch's counter."""
    with FlopCounterMode(display=False) as forward:
        out = run()
    with FlopCounterMode(display=False) as back:
        out.backward(torch.empty_like(out))
    return forward.get_total_flops(), back.get_total_flops()


def decoder(config: OPTConfig | LlamaConfig) -> Any:
    model = on_meta(lambda: OPTModel(config) if isinstance(config, OPTConfig) else LlamaModel(config))
    return model.decoder if isinstance(config, OPTConfig) else model


@pytest.mark.parametrize("config", [OPT, LLAMA])
@pytest.mark.parametrize("adapted", [False, True])
def test_any_length_of_a_language_model_takes_what_torchs_counter_says(
    config: OPTConfig | LlamaConfig, adapted: bool
) -> None:
    model = decoder(config)
    with torch.device("meta"):
        linears = {n: p for n, p in model.named_modules() if isinstance(p, nn.Linear)}
        adapters = Adapters(linears, rank=4, alpha=1.0)
    with adapters.switched(adapted):
        language = language_of(model, width=64, dtype=torch.float32, gradient_from_below=not adapted)
        for length in (10, 200):
            embeds = torch.empty(1, length, 64, device="meta", requires_grad=not adapted)
            forward, back = counted(lambda embeds=embeds: model(inputs_embeds=embeds).last_hidden_state)
            assert language.read(length, length) == pytest.approx(forward)
            assert language.learn(length, length, recomputed=False) == pytest.approx(forward + back)
            assert language.learn(length, length, recomputed=True) == pytest.approx(2 * forward + back)
    heads = 4 if config is OPT else 2
    assert language.cached == 6 * 2 * heads * 16 * 4


def test_bytes_that_wait_for_the_backward_pass_are_those_of_a_real_pass() -> None:
    layers = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8)]
    real = nn.Sequential(*layers)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter) and tensor._base is None:
            kept[tensor.data_ptr()] = tensor.numel() * 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = real(torch.ones(5, 64))
    model = on_meta(lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8)))
    model.requires_grad_(True)
    found = passing(lambda: model(torch.empty(5, 64, device="meta")), model, learns=True)
    # The input and the last output live, too; the first linear layer's output is gone once rectified.
    assert sum(kept.values()) + out.numel() * 4 <= found.live
    assert found.live <= sum(kept.values()) + 4 * 5 * (256 + 8)
    assert found.forward == 2 * 5 * (64 * 256 + 256 * 8)
    # Nobody asks for a gradient of the input.
    assert found.backward == 2 * 5 * (64 * 256 + 2 * 256 * 8)
    assert count(model, None) == 64 * 256 + 256 + 256 * 8 + 8


def test_layers_are_counted_off_two_depths_only_where_they_are_alike() -> None:
    deep = on_meta(lambda: LlamaModel(LLAMA))
    embeds = torch.empty(1, 7, 64, device="meta")
    alike = passing(lambda: deep(inputs_embeds=embeds).last_hidden_state, deep)
    assert len(deep.layers) == 6
    deep.layers[3].mlp.register_parameter("more", nn.Parameter(torch.empty(3, device="meta")))
    unlike = passing(lambda: deep(inputs_embeds=embeds).last_hidden_state, deep)
    assert alike == unlike


def test_what_cannot_run_without_values_is_named() -> None:
    class Choosy(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return input[input > 0]

    model = on_meta(lambda: Choosy(2, 2))
    with pytest.raises(ValueError, match="the plan cannot run Choosy without its weights"):
        passing(lambda: model(torch.empty(2, 2, device="meta")), model)


def test_a_tower_that_cannot_run_is_estimated_close_to_one_that_can() -> None:
    given = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    tower = on_meta(lambda: CLIPVisionModel(given), torch.bfloat16)
    pixels = torch.empty(1, 3, 336, 336, dtype=torch.bfloat16, device="meta")
    real = passing(lambda: tower(pixel_values=pixels).last_hidden_state, tower)
    told = tower_pass(count(tower), given.to_dict(), pixels.numel(), torch.bfloat16)
    assert told.forward == pytest.approx(real.forward, rel=0.02)
    assert told.live == pytest.approx(real.live, rel=0.05)
