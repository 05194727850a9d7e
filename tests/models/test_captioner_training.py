"""What of an image-to-text model is trained, and what a critic reads of it, on tiny random models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_captioners import (
    FAMILIES,
    IMAGE,
    LAW,
    Make,
    noise,
    prompt,
    random_weights,
)
from torch import Tensor

from sightloop.models.captioners.critic import TrunkCritic
from sightloop.types import Images, Prompt, Tokens, Turn


def test_new_adapters_change_nothing_and_trained_ones_only_the_policy(make: Make) -> None:
    captioner = make("llava", stirred=False)
    asked = prompt(captioner)
    tokens = captioner.encode(["a cat", "two", "red"])
    turn = Turn(prompt=asked, tokens=tokens)

    def judged() -> tuple[Tensor, Tensor, Tensor]:
        return (
            captioner.score(turn).log_probs.detach(),
            captioner.reference_log_probs(tokens),
            captioner.hidden_states(turn),
        )

    with captioner.adapters.switched(True):
        on = captioner.hidden_states(turn)
    score, reference, hidden = judged()
    random_weights(captioner.adapters, seed=5)
    stirred_score, stirred_reference, stirred_hidden = judged()

    torch.testing.assert_close(on, hidden, atol=0, rtol=0)
    assert (stirred_score - score).abs().max() > 0.1
    torch.testing.assert_close(stirred_reference, reference, atol=0, rtol=0)
    torch.testing.assert_close(stirred_hidden, hidden, atol=0, rtol=0)


def test_adapters_sit_in_the_language_model_only(make: Make) -> None:
    # LLaVA's vision tower has layers named q_proj, k_proj and v_proj too.
    captioner = make("llava", lora_targets=("q_proj", "v_proj"))
    adapted = {name.replace("/", ".") for name in captioner.adapters.down}

    assert adapted == {f"layers.{i}.self_attn.{name}_proj" for i in (0, 1) for name in "qv"}
    assert len(captioner.trunk_linears()) == 14
    assert {name for name, p in captioner.named_parameters() if p.requires_grad} == {
        f"adapters.{name}" for name, _ in captioner.adapters.named_parameters()
    }
    images = Images(pixels=noise(2))
    with captioner.adapters.switched(True):
        seen = captioner.encode_images(images).features
    for key, value in captioner.encode_images(images).features.items():
        torch.testing.assert_close(value, seen[key], atol=0, rtol=0)


def test_the_gradient_is_the_slope_of_the_score(make: Make) -> None:
    captioner = make("llava")
    turn = Turn(prompt=prompt(captioner), tokens=captioner.encode(["a cat", "two", "red"]))
    captioner.score(turn).log_probs.sum().backward()
    weight = captioner.adapters.up["layers/0/self_attn/q_proj"]
    assert weight.grad is not None
    at = divmod(int(weight.grad.abs().argmax()), weight.shape[1])
    slope = float(weight.grad[at])

    def score(step: float) -> float:
        with torch.no_grad():
            weight[at] += step
            total = float(captioner.score(turn).log_probs.double().sum())
            weight[at] -= step
        return total

    assert (score(2e-3) - score(-2e-3)) / 4e-3 == pytest.approx(slope, rel=2e-2)
    assert all(p.grad is None for p in captioner.model.parameters())


@pytest.mark.parametrize("reuse", [True, False])
def test_a_critic_reads_the_reference_and_trains_only_itself(make: Make, reuse: bool) -> None:
    captioner = make("llava", reuse_features=reuse)
    critic = TrunkCritic(captioner, widths=(1,), rank=2)
    random_weights(critic.adapters, seed=9)
    turn = Turn(prompt=prompt(captioner), tokens=captioner.encode(["a cat", "two", "red"]))
    before = captioner.score(turn).log_probs.detach()
    values = critic(turn)
    values.square().sum().backward()

    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in critic.parameters())
    assert all(p.grad is None for p in captioner.parameters())
    torch.testing.assert_close(captioner.score(turn).log_probs.detach(), before, atol=0, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_the_model_before_or_after_each_token(make: Make, family: str) -> None:
    captioner = make(family)
    asked = prompt(captioner)
    ids = torch.randint(IMAGE + 1, 30, (3, 4))
    turn = Turn(prompt=asked, tokens=Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool)))
    before, after = captioner.hidden_states(turn), captioner.hidden_states(turn, "post")
    reference = make(family, stirred=False)
    law = (before @ reference.model.get_output_embeddings().weight.T).log_softmax(-1)

    assert before.shape == (3, 4, captioner.hidden_size)
    torch.testing.assert_close(after[:, :-1], before[:, 1:])
    expected = reference.score(Turn(prompt=prompt(reference), tokens=turn.tokens)).log_probs
    torch.testing.assert_close(law.gather(2, ids[..., None])[..., 0], expected, atol=1e-4, rtol=0)


def test_recomputing_layers_gives_the_same_gradients(make: Make) -> None:
    def gradients(recompute: bool) -> list[Tensor]:
        captioner = make("llava")
        critic = TrunkCritic(captioner, widths=(1,), rank=2)
        for number, part in enumerate((critic.adapters, critic.head, captioner.adapters)):
            random_weights(part, seed=number)
        if recompute:
            captioner.enable_gradient_checkpointing(critic.adapters.checkpoint_contexts)
        turn = Turn(prompt=prompt(captioner), tokens=captioner.encode(["a cat", "two", "red"]))
        # One backward pass over both: each layer is recomputed with the adapters of its own pass.
        (captioner.score(turn).log_probs.sum() + critic(turn).sum()).backward()
        return [p.grad for m in (captioner.adapters, critic) for p in m.parameters() if p.grad is not None]

    plain, recomputed = gradients(False), gradients(True)
    assert len(plain) == 28 + 28 + 4
    for one, other in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_recomputing_keeps_less_in_memory(make: Make) -> None:
    captioner = make("llava")
    turn = Turn(prompt=prompt(captioner), tokens=captioner.encode(["a cat", "two", "red"]))

    def kept() -> int:
        sizes: list[int] = []

        def note(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            captioner.score(turn)
        return sum(sizes)

    before = kept()
    captioner.enable_gradient_checkpointing()
    assert kept() < before / 3


def test_half_precision_keeps_adapters_in_float32(make: Make) -> None:
    captioner = make("llava", dtype=torch.bfloat16)
    asked = prompt(captioner)
    tokens = captioner.sample(asked, LAW)
    scores = captioner.score(Turn(prompt=asked, tokens=tokens), under=LAW)
    scores.log_probs.sum().backward()

    assert {p.dtype for p in captioner.adapters.parameters()} == {torch.float32}
    assert {p.dtype for p in captioner.model.parameters()} == {torch.bfloat16}
    assert tokens.log_probs is not None and scores.log_probs.dtype == torch.float32
    assert (scores.log_probs - tokens.log_probs).abs().mean() < 0.1
    assert all(p.grad is not None for p in captioner.adapters.parameters())


def test_the_reference_is_the_language_model_on_text_alone(make: Make) -> None:
    captioner = make("llava")
    tokens = captioner.encode(["a cat", "two"])
    reference = captioner.reference_log_probs(tokens)

    ids = torch.cat([torch.full((1, 1), 1), tokens.ids[:1]], 1)
    law = captioner.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    torch.testing.assert_close(reference[0], law.gather(1, tokens.ids[0, :, None])[:, 0])
    assert reference[1, 4:].tolist() == [0, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_of_one_image_share_its_prompt_and_nothing_changes(make: Make, family: str) -> None:
    captioner = make(family)
    seen = captioner.encode_images(Images(pixels=noise(2)))
    each = torch.tensor([0, 1, 0, 0, 1])
    texts = ["describe", "why?", "describe", "what is this?", "why?"]
    asked = Prompt(texts=texts, images=seen.rows(each), seeds=list(range(5)))
    tokens = captioner.sample(asked, LAW)
    together = Turn(prompt=asked, tokens=tokens)
    widths: list[int] = []
    core = captioner.model.base_model.get_decoder()
    core.register_forward_hook(lambda module, args, out: widths.append(len(out.last_hidden_state)))

    scores = captioner.score(together).log_probs
    assert widths == [3, 5]
    weights = torch.arange(1.0, scores.numel() + 1).view_as(scores)
    (scores * weights).sum().backward()
    shared = [parameter.grad.clone() for parameter in captioner.adapters.parameters()]  # pyright: ignore
    captioner.adapters.zero_grad()
    for row in range(5):
        alone = together.rows(torch.tensor([row]))
        score = captioner.score(alone).log_probs
        torch.testing.assert_close(score[0], scores[row], atol=1e-5, rtol=0)
        (score * weights[row]).sum().backward()
        drawn = captioner.sample(alone.prompt, LAW)
        assert drawn.ids[drawn.mask].tolist() == tokens.ids[row][tokens.mask[row]].tolist()
    for parameter, gradient in zip(captioner.adapters.parameters(), shared, strict=True):
        assert parameter.grad is not None
        assert (parameter.grad - gradient).norm() < 1e-4 * gradient.norm()


def test_drawing_leaves_the_weights_and_the_law_as_they_were(make: Make) -> None:
    captioner = make("llava")
    before = {name: tensor.clone() for name, tensor in captioner.model.state_dict().items()}
    asked = prompt(captioner)
    tokens = captioner.sample(asked, LAW)
    captioner.all_ranks_finished = lambda done: (
        done
    )  # as with sharded weights: adapters stay beside the weights

    assert captioner.sample(asked, LAW).ids.tolist() == tokens.ids.tolist()
    for name, tensor in captioner.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    with pytest.raises(ValueError, match="seeds"):
        captioner.sample(replace(asked, seeds=[1]), LAW)
    assert torch.equal(captioner.model.state_dict()["lm_head.weight"], before["lm_head.weight"])
