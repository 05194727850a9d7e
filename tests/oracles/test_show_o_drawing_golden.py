"""Every round of the official Show-o sampler: inputs, distributions, draws, what is kept, final codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from show_o_golden import Golden, load_golden, numbers, runs_of, same
from torch import Tensor

from sightloop.models.show_o.layout import drawing_prompt, drawing_rows
from sightloop.models.show_o.likelihood import DecodingState, canvas_of, score_codes
from sightloop.models.show_o.sampling import Noise, draw_codes, gumbel_of, official_noise
from sightloop.types import Sampling, Tokens


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each golden run, whatever it is called."""
    if "run" in metafunc.fixturenames:
        metafunc.parametrize("run", runs_of(metafunc, "t2i_generate"), indirect=True, scope="module")


@pytest.fixture(scope="module")
def golden(oracles: Path) -> Golden:
    """The golden model."""
    return load_golden(oracles / "show_o")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One golden run with what our sampler needs to repeat it."""

    golden: Golden
    facts: dict
    tensors: dict[str, Tensor]
    canvas: DecodingState
    known: Tokens
    sampling: Sampling

    @property
    def shape(self) -> tuple[int, int, int]:
        """Samples, codes, kinds of codes."""
        return len(self.known), self.golden.num_image, self.golden.vocabulary.num_codes


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, golden: Golden) -> Run:
    """Each golden run."""
    facts = golden.facts["t2i_generate"][request.param]
    tensors, words = golden.tensors("t2i_generate", f"{request.param}."), golden.vocabulary
    texts = [numbers(text) for text in facts["texts"]]
    image = tensors["input_ids"][:, golden.max_text + 2 : -1]
    known = Tokens(
        ids=(image - words.first_code).masked_fill(image == words.mask, 0), mask=image != words.mask
    )
    prompts = [drawing_prompt(text, words, max_text=golden.max_text) for text in texts]
    same(drawing_rows(prompts, image, words, max_text=golden.max_text), tensors["input_ids"])
    if "uncond_input_ids" in tensors:
        free = [drawing_prompt([], words, max_text=golden.max_text)] * len(texts)
        same(drawing_rows(free, image, words, max_text=golden.max_text), tensors["uncond_input_ids"])
    sampling = Sampling(
        max_tokens=golden.num_image,
        decode_steps=facts["timesteps"],
        guidance=facts["guidance_scale"],
        order_temperature=facts["temperature"],
        schedule=facts["schedule"],
        temperature=0.0 if "argmax" in facts["sampling"] else 1.0,
    )
    canvas = canvas_of(golden.body, texts, max_text=golden.max_text, guidance=sampling.guidance)
    return Run(golden=golden, facts=facts, tensors=tensors, canvas=canvas, known=known, sampling=sampling)


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Writes down what each round looked at and which distributions it found."""

    run: Run
    inputs: list[Tensor] = field(default_factory=list)
    unknown: list[Tensor] = field(default_factory=list)
    probs: list[Tensor] = field(default_factory=list)

    def look(self, codes: Tensor, unknown: Tensor) -> tuple[Tensor, ...]:
        """The sampler's view; the distributions of all positions are computed beside it."""
        words = self.run.golden.vocabulary
        self.inputs.append(torch.where(unknown, words.mask, codes + words.first_code))
        self.unknown.append(unknown)
        everywhere = self.run.canvas.hidden_states(codes, unknown, torch.ones_like(unknown))
        law = self.run.canvas.logits_of(*everywhere).softmax(-1)
        self.probs.append(law.view(self.run.shape))
        return self.run.canvas.hidden_states(codes, unknown)


def injected(run: Run) -> Iterator[Noise]:
    """The golden noise."""
    for step in range(run.facts["timesteps"]):
        exponential = run.tensors.get(f"step{step}.exponential", torch.ones(run.shape))
        yield Noise(order=run.tensors[f"step{step}.gumbel"], exponential=exponential)


def seeded(run: Run) -> Iterator[Noise]:
    """The noise that the official code draws from its generator."""
    return official_noise(run.shape, run.facts["timesteps"], torch.Generator().manual_seed(run.facts["seed"]))


@pytest.mark.parametrize("noise", [injected, seeded])
@torch.no_grad()
def test_codes_and_rounds_are_the_official_ones(run: Run, noise) -> None:
    if noise is seeded and run.sampling.temperature == 0:
        noise = injected  # the golden run draws no codes there
    watch = Watch(run=run)
    drawn = draw_codes(watch.look, run.canvas.logits_of, run.known, sampling=run.sampling, noise=noise(run))
    same(drawn.ids, run.tensors["output_ids"])
    first, size = run.golden.max_text + 2, len(run.known)
    steps = run.facts["timesteps"]
    assert len(watch.inputs) == steps
    for step in range(steps):
        wanted = {name: run.tensors[f"step{step}.{name}"] for name in ("probs", "masking", "model_input")}
        for branch in wanted["model_input"][:, first:-1].split(size):
            same(watch.inputs[step], branch)
        same(watch.probs[step], wanted["probs"])
        _same_draws(run, step, watch)
        masked = (
            watch.unknown[step + 1] if step + 1 < steps else run.tensors["final_input_ids"][:, first:-1]
            == run.golden.vocabulary.mask
        )  # fmt: skip
        same(masked, wanted["masking"])
        assert drawn.decode_step is not None
        kept = watch.unknown[step] & ((drawn.decode_step == step) | (drawn.decode_step < 0))
        if step + 1 < steps:
            assert torch.equal(kept, watch.unknown[step] & ~wanted["masking"].bool())
            count = run.tensors[f"step{step}.mask_len"]
            assert torch.equal(watch.unknown[step + 1].sum(1, keepdim=True), count)
    assert torch.equal(drawn.mask, ~run.known.mask)
    assert torch.equal(drawn.ids[run.known.mask], run.known.ids[run.known.mask])


def _same_draws(run: Run, step: int, watch: Watch) -> None:
    """Every draw of a round, of known positions too, and how sure it was of it."""
    law, unknown = watch.probs[step].flatten(0, 1), watch.unknown[step]
    if run.sampling.temperature == 0:
        picked = law.argmax(-1)
    else:
        exponential = run.tensors[f"step{step}.exponential"]
        everywhere = torch.arange(len(law))
        picked = Noise(order=torch.zeros(unknown.shape), exponential=exponential).pick(law, everywhere)
    same(picked.view(unknown.shape), run.tensors[f"step{step}.sampled_raw"])
    sure = law.gather(1, picked[:, None]).view(unknown.shape)
    same(sure.masked_fill(~unknown, torch.finfo(sure.dtype).max), run.tensors[f"step{step}.selected_probs"])


@torch.no_grad()
def test_recorded_log_probs_are_the_golden_laws_and_those_that_score_finds(run: Run) -> None:
    drawn = draw_codes(
        run.canvas.hidden_states, run.canvas.logits_of, run.known, sampling=run.sampling, noise=injected(run)
    )
    assert drawn.decode_step is not None
    golden = torch.zeros(drawn.ids.shape)
    for step in range(run.facts["timesteps"]):
        law = run.tensors[f"step{step}.probs"].gather(2, drawn.ids[..., None])[..., 0].log()
        golden = torch.where(drawn.decode_step == step, law, golden)
    # The temperature changes the draws of the deterministic run, not the distribution it is compared with.
    natural = replace(run.sampling, temperature=1.0)
    scored = score_codes(run.canvas, drawn, natural).log_probs
    same(scored, golden, atol=2e-5)
    if drawn.log_probs is None:
        assert run.sampling.temperature == 0
    else:
        same(drawn.log_probs, golden, atol=2e-5)


def test_golden_noise_is_gumbel_noise_of_the_generator(run: Run) -> None:
    if "step0.exponential" not in run.tensors:
        return
    for step, numbers_ in enumerate(seeded(run)):
        same(numbers_.order, run.tensors[f"step{step}.gumbel"])
        assert numbers_.exponential is not None
        assert torch.equal(numbers_.exponential, run.tensors[f"step{step}.exponential"])
    assert gumbel_of(torch.zeros(1)).isfinite().all()
