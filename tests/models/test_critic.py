"""Value head and adapters: off outside the critic's pass, gradients apart, values where they belong."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from models import tiny_blip2
from torch import Tensor, nn

from sightloop.algorithms.a2c import A2C
from sightloop.models.captioners.blip2 import Blip2Captioner
from sightloop.models.captioners.critic import TrunkCritic, ValueHead
from sightloop.models.lora import Adapters
from sightloop.types import Credit, Prompt, Rollout, Sampling, Turn


def stirred(critic: TrunkCritic) -> TrunkCritic:
    """Adapters and head as after some training: new adapters add nothing, new heads see next to nothing."""
    generator = torch.Generator().manual_seed(4)
    for parameter in critic.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return critic


def pair(**settings: Any) -> tuple[Blip2Captioner, TrunkCritic]:
    policy = tiny_blip2.captioner()
    return policy, stirred(TrunkCritic(policy, widths=(1,), rank=2, **settings))


def turn_of(policy: Blip2Captioner, texts: list[str] | None = None) -> Turn:
    texts = ["a red circle", "a blue cross top-left on white", "a"] if texts is None else texts
    prompt = Prompt(texts=[""] * len(texts), images=policy.encode_images(tiny_blip2.pictures(len(texts))))
    return Turn(prompt=prompt, tokens=policy.encode(texts))


def rollout_and_credit(turn: Turn) -> tuple[Rollout, Credit]:
    mask = turn.tokens.mask
    generator = torch.Generator().manual_seed(8)
    numbers = torch.randn(mask.shape, generator=generator).masked_fill(~mask, 0)
    rollout = Rollout(
        turns=(turn,),
        rewards=numbers,
        reward_parts={},
        group=torch.arange(len(mask)),
        values=torch.zeros_like(numbers),
    )
    return rollout, Credit(advantages=numbers, loss_weights=mask / mask.sum(), returns=numbers * 2)


# -- adapters


def test_an_adapter_adds_its_low_rank_product_only_while_it_is_on() -> None:
    linear = nn.Linear(3, 2)
    adapters = Adapters({"layers.0.fc1": linear}, rank=1, alpha=6.0)
    adapters.down["layers/0/fc1"].data = torch.tensor([[1.0, 0.0, -1.0]])
    adapters.up["layers/0/fc1"].data = torch.tensor([[2.0], [0.5]])
    x = torch.tensor([[5.0, 1.0, 2.0]])
    plain = linear(x)
    with adapters.switched(True):
        # (5 - 2) * up * alpha / rank
        torch.testing.assert_close(linear(x) - plain, torch.tensor([[36.0, 9.0]]))
        with adapters.switched(False):
            assert torch.equal(linear(x), plain)
        assert not torch.equal(linear(x), plain)
    assert torch.equal(linear(x), plain)


def test_new_adapters_change_nothing() -> None:
    policy = tiny_blip2.captioner()
    critic = TrunkCritic(policy, widths=(1,), rank=2)
    turn = turn_of(policy)
    plain = policy.hidden_states(turn)
    with critic.adapters.switched(True):
        assert torch.equal(policy.hidden_states(turn), plain)


def test_adapters_go_off_when_the_critics_pass_fails(monkeypatch) -> None:
    policy, critic = pair()

    def fail(*_: object) -> Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(policy, "hidden_states", fail)
    with pytest.raises(RuntimeError):
        critic(turn_of(policy))
    assert not critic.adapters.active


def test_a_rank_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="rank is 0"):
        Adapters({"one": nn.Linear(2, 2)}, rank=0, alpha=1.0)


def test_outside_the_critic_the_policy_is_bit_equal_to_one_without() -> None:
    alone = tiny_blip2.captioner()
    policy, critic = pair()
    prompt = Prompt(texts=["", "a", ""], images=tiny_blip2.pictures(3), seeds=[1, 2, 3])
    turn = turn_of(policy)
    law = Sampling(max_tokens=8)
    critic(turn).sum().backward()
    mine, other = policy.sample(prompt, law), alone.sample(prompt, law)
    assert torch.equal(mine.ids, other.ids)
    assert mine.log_probs is not None
    assert other.log_probs is not None
    assert torch.equal(mine.log_probs, other.log_probs)
    assert torch.equal(policy.score(turn).log_probs, alone.score(turn).log_probs)
    assert torch.equal(policy.reference_log_probs(turn.tokens), alone.reference_log_probs(turn.tokens))
    assert torch.equal(policy.hidden_states(turn), alone.hidden_states(turn))
    assert policy.write(tiny_blip2.pictures(3)) == alone.write(tiny_blip2.pictures(3))
    assert policy.state_dict().keys() == alone.state_dict().keys()


def test_inside_the_critic_the_adapters_matter() -> None:
    policy, critic = pair()
    turn = turn_of(policy)
    with_adapters = critic(turn)
    for up in critic.adapters.up.values():
        up.data.zero_()
    assert (critic(turn) - with_adapters).abs().max() > 1e-3


# -- the head


def test_the_head_is_a_perceptron_with_widths_in_hidden_sizes() -> None:
    head = ValueHead(4, (2, 4, 8))
    shapes = [tuple(part.weight.shape) for part in head.layers if isinstance(part, nn.Linear)]
    assert shapes == [(8, 4), (16, 8), (32, 16), (1, 32)]
    sizes = [p.numel() for p in head.parameters()]
    assert sum(sizes) == (4 * 8 + 8) + (8 * 16 + 16) + (16 * 32 + 32) + (32 + 1)
    assert sum(isinstance(part, nn.GELU) for part in head.layers) == 3


def test_without_widths_the_head_is_one_linear_layer() -> None:
    head = ValueHead(4, ())
    assert sum(p.numel() for p in head.parameters()) == 5
    hidden = torch.randn(3, 4)
    (linear,) = head.layers
    assert torch.equal(head(hidden), linear(hidden)[:, 0])


def test_a_new_head_starts_near_0_and_answers_half_precision_in_float32() -> None:
    values = ValueHead(16)(torch.randn(50, 16).bfloat16())
    assert values.dtype == torch.float32
    assert 0 < values.abs().max() < 0.1


# -- values


def test_values_are_0_where_masked_and_blind_to_padding_and_neighbors() -> None:
    policy, critic = pair()
    turn = turn_of(policy)
    values = critic(turn)
    assert values.dtype == torch.float32
    assert (values[~turn.tokens.mask] == 0).all()
    assert (values[turn.tokens.mask] != 0).all()
    tokens = turn.tokens
    wider = replace(
        tokens,
        ids=torch.nn.functional.pad(tokens.ids.masked_fill(~tokens.mask, 7), (0, 3), value=8),
        mask=torch.nn.functional.pad(tokens.mask, (0, 3)),
    )
    torch.testing.assert_close(
        critic(replace(turn, tokens=wider))[:, : values.shape[1]], values, atol=1e-5, rtol=0
    )
    for row in range(3):
        alone = critic(turn.rows(torch.tensor([row])))
        torch.testing.assert_close(alone, values[row : row + 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("position", "first_changed"), [("pre", 3), ("post", 2)])
def test_a_value_is_read_before_its_token_or_after_it(position, first_changed) -> None:
    policy, critic = pair(position=position)
    one = critic(turn_of(policy, ["a red circle top-left"]))[0]
    other = critic(turn_of(policy, ["a red cross top-left"]))[0]
    changed = ((one - other).abs() > 1e-6).tolist()
    assert changed == [False] * first_changed + [True] * (5 - first_changed)


def test_values_depend_on_the_image() -> None:
    policy, critic = pair()
    values = critic(turn_of(policy, ["a red circle"] * 3))
    assert (values[0] - values[1]).abs().max() > 1e-3


# -- gradients


def test_policy_and_critic_losses_reach_disjoint_parameters() -> None:
    policy, critic = pair()
    turn = turn_of(policy)
    rollout, credit = rollout_and_credit(turn)
    bridge, own = set(policy.trainable_module().parameters()), set(critic.parameters())
    assert not bridge & own

    def reached(loss: Tensor) -> set[nn.Parameter]:
        for module in (policy, critic):
            module.zero_grad(set_to_none=True)
        loss.backward()
        everything = {*policy.parameters(), *critic.parameters()}
        return {p for p in everything if p.grad is not None and p.grad.abs().max() > 0}

    scores = policy.score(turn).log_probs
    from_policy = reached((scores.exp() * credit.advantages * credit.loss_weights).sum())
    from_critic = reached((critic(turn) - rollout.rewards).square().sum())
    assert from_policy
    assert from_policy <= bridge
    assert {id(p) for p in own} == {id(p) for p in from_critic}
    algorithm = A2C(critic=critic)
    assert algorithm.critic_pass(rollout).gradients.keys() == from_critic
    assert (
        reached((algorithm.loss(policy, rollout, credit).per_token * credit.loss_weights).sum())
        == from_policy
    )


def gradients_of(*, checkpointing: bool, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
    policy, critic = pair()
    if checkpointing:
        policy.enable_gradient_checkpointing(critic.adapters.checkpoint_contexts)
    runs = [0, 0]

    def count(which: int) -> Any:
        def hook(*_: object) -> None:
            runs[which] += 1

        return hook

    # Inside the layers: what is recomputed does not pass through their own hooks.
    made: Any = policy.model
    made.language_model.model.decoder.layers[0].self_attn.register_forward_pre_hook(count(0))
    made.qformer.encoder.layer[0].attention.register_forward_pre_hook(count(1))
    images = policy.encode_images(tiny_blip2.pictures(3))
    turn = Turn(prompt=Prompt(texts=texts, images=images), tokens=turn_of(policy).tokens)
    rollout, credit = rollout_and_credit(turn)
    of_critic = A2C(critic=critic).critic_pass(rollout).gradients
    loss = A2C(critic=critic).loss(policy, rollout, credit)
    (loss.per_token * credit.loss_weights).sum().backward()
    assert not any(part.training for part in policy.model.modules())
    named = policy.trainable_module().named_parameters()
    found = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
    return found | {name: of_critic[parameter] for name, parameter in critic.named_parameters()}, runs


@pytest.mark.parametrize("texts", [["", "", ""], ["", "a red", "a"]], ids=["even", "ragged"])
def test_recomputed_layers_give_the_same_gradients(texts) -> None:
    plain, runs = gradients_of(checkpointing=False, texts=texts)
    # The language model runs for the policy and for the critic; the critic's Q-Former keeps no gradient.
    assert runs == [2, 2]
    recomputed, runs = gradients_of(checkpointing=True, texts=texts)
    assert runs == [4, 3]
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-6, rtol=1e-4)
    assert any("adapters" in name for name in plain)


def test_drawing_goes_on_while_layers_are_recomputed() -> None:
    policy, critic = pair()
    prompt = Prompt(texts=[""] * 3, images=tiny_blip2.pictures(3), seeds=[1, 2, 3])
    before = policy.sample(prompt, Sampling(max_tokens=6))
    policy.enable_gradient_checkpointing(critic.adapters.checkpoint_contexts)
    after = policy.sample(prompt, Sampling(max_tokens=6))
    assert torch.equal(before.ids, after.ids)
    assert policy.write(tiny_blip2.pictures(2)) == tiny_blip2.captioner().write(tiny_blip2.pictures(2))
