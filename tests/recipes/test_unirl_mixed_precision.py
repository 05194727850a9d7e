"""All weights of a unified model trained in bfloat16: masters in float32, products under an autocast."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes.device_runs import assert_same
from recipes.unirl_runs import Folders, official_folders, resumed, train, weights_of
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sightloop.cli import main
from sightloop.models.protocols import ImageGenerator
from sightloop.planning.image_plan import ImagePlan
from sightloop.recipes.unirl.build import load_policy, reference_of
from sightloop.recipes.unirl.config import GRPO_SHAPES, GRPO_SHAPES_JANUS, GrpoConfig, PolicySettings
from sightloop.types import Prompt, Sampling, Turn

CPU = torch.device("cpu")
FULL = PolicySettings(trained="full")
STARTS: dict[str, GrpoConfig] = {
    "show-o": replace(GRPO_SHAPES, model=FULL, dtype="bfloat16"),
    "janus": replace(GRPO_SHAPES_JANUS, model=FULL, dtype="bfloat16"),
}
MIXED = (
    "--model.trained",
    "full",
    "--dtype",
    "bfloat16",
    "--learning-rate",
    "0.001",
    "--answer.max-tokens",
    "6",
)
WORDS = Sampling(max_tokens=12)


class Products(TorchDispatchMode):
    """In which precisions matrix products and attention are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.split(".")[0]
        if name in ("mm", "addmm", "bmm", "addmm_") or (
            name.startswith("_scaled_dot_product") and not name.endswith("backward")
        ):
            self.seen[next(value.dtype for value in args if isinstance(value, Tensor))] += 1
        return function(*args, **(kwargs or {}))


def turns_of(policy: ImageGenerator) -> tuple[Turn, Turn]:
    """A drawing and an answer about it, as the policy samples them."""
    drawing = Prompt(texts=["a red circle", "two blue squares"], wants="image", seeds=[1, 2])
    drawn = policy.sample(drawing, policy.default_sampling())
    shown = policy.understanding_input(replace(drawn, log_probs=None))
    asking = Prompt(texts=["What color is the circle?"] * 2, images=shown, seeds=[3, 4])
    return Turn(prompt=drawing, tokens=drawn), Turn(prompt=asking, tokens=policy.sample(asking, WORDS))


def scored(policy: ImageGenerator, turns: tuple[Turn, Turn]) -> list[Tensor]:
    """Log-probabilities of both turns under the distributions that drew them."""
    laws = (policy.default_sampling(), WORDS)
    return [policy.score(turn, law).log_probs for turn, law in zip(turns, laws, strict=True)]


def gradient(policy: ImageGenerator, turns: tuple[Turn, Turn]) -> Tensor:
    """Of the log-likelihood of both turns."""
    sum(found.mean() for found in scored(policy, turns)).backward()  # pyright: ignore
    found = [p.grad for p in policy.trainable_module().parameters() if p.grad is not None]
    assert {part.dtype for part in found} == {torch.float32}
    return torch.cat([part.flatten() for part in found])


@pytest.mark.parametrize("family", STARTS)
def test_products_are_computed_in_bfloat16_from_weights_in_float32(family: str) -> None:
    policy = load_policy(STARTS[family], CPU)
    assert {p.dtype for p in policy.trainable_module().parameters() if p.requires_grad} == {torch.float32}
    with Products() as seen:
        gradient(policy, turns_of(policy))
    assert set(seen.seen) == {torch.bfloat16} and seen.seen[torch.bfloat16] > 100


@pytest.mark.parametrize("family", STARTS)
def test_sampled_is_scored_and_both_are_near_float32(family: str) -> None:
    policy = load_policy(STARTS[family], CPU)
    exact = load_policy(replace(STARTS[family], dtype="float32"), CPU)
    turns = turns_of(policy)
    with torch.no_grad():
        both = zip(turns, scored(policy, turns), scored(exact, turns), strict=True)
    for turn, found, wanted in both:
        recorded = turn.tokens.log_probs
        assert recorded is not None
        # Products of eight bits of mantissa; guidance multiplies what they round.
        assert float((found - recorded).abs().mean()) < 0.02
        assert float((found - wanted).abs().mean()) < 0.02
        assert not torch.equal(found, wanted)
    one, other = gradient(policy, turns), gradient(exact, turns)
    assert float(torch.cosine_similarity(one, other, dim=0)) > 0.995


@pytest.mark.parametrize("family", STARTS)
def test_a_frozen_reference_keeps_matrices_in_bfloat16_and_scores_bit_by_bit_the_same(family: str) -> None:
    policy = load_policy(STARTS[family], CPU)
    reference: Any = reference_of(policy)
    turns = turns_of(policy)
    for mine, theirs in zip(scored(policy, turns), scored(reference, turns), strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(reference.sample(turns[1].prompt, WORDS).ids, turns[1].tokens.ids)
    kept = {id(p): p for p in reference.trainable_module().parameters()}.values()
    config = replace(STARTS[family], kl_weight=0.1)
    sizes = {part.name: part.size for part in ImagePlan(config).plan(1).parts}
    assert sizes["reference: a copy of what is trained"] == pytest.approx(
        sum(p.numel() * p.element_size() for p in kept)
    )
    assert {p.dtype for p in policy.trainable_module().parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("rounds", [{"relaxed_round": 1}, {"relaxed_rounds": 2}, {}])
def test_relaxed_drawings_send_their_gradient_to_all_weights(rounds: dict[str, int]) -> None:
    # Rounds before the relaxed one cast the same weights without a gradient.
    family = "show-o" if rounds else "janus"
    reached: list[list[str]] = []
    for dtype in ("bfloat16", "float32"):
        policy = load_policy(replace(STARTS[family], dtype=dtype), CPU)
        law = replace(policy.default_sampling(), relaxation=1.0, **rounds)
        one_hot = policy.sample(Prompt(texts=["a red circle"], wants="image", seeds=[1]), law).one_hot
        assert one_hot is not None
        (one_hot * torch.randn(one_hot.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
        parts = policy.trainable_module().named_parameters()
        reached.append([name for name, p in parts if p.grad is not None and bool(p.grad.any())])
    assert reached[0] == reached[1] and len(reached[0]) > 20


def test_frozen_eyes_see_the_same_inside_an_autocast() -> None:
    for family, config in STARTS.items():
        policy: Any = load_policy(config, CPU)
        turns = turns_of(policy)
        pixels = policy.pixels(turns[0].tokens)
        codes = policy.image_tokens(pixels).ids
        with policy.mixed.active(CPU):
            assert torch.equal(policy.pixels(turns[0].tokens).pixels, pixels.pixels), family
            assert torch.equal(policy.image_tokens(pixels).ids, codes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A tiny Show-o and a tiny Janus as their authors write them."""
    return official_folders(tmp_path_factory.mktemp("official"))


@pytest.mark.parametrize(
    ("family", "recipe", "options"),
    [
        ("show-o", "unirl-grpo", ""),
        ("janus", "unirl-grpo", "--gradient-checkpointing"),
        ("show-o", "unirl-sft", "--end-to-end --kl-weight 0.5"),
        ("janus", "unirl-sft", "--end-to-end"),
    ],
)
def test_a_run_is_resumed_bit_by_bit_and_leaves_float32(
    folders: Folders, tmp_path: Path, family: str, recipe: str, options: str
) -> None:
    rounds = ("--draw.rounds", "3") if family == "show-o" else ()
    words = [
        *folders.policy(family),
        *MIXED,
        *rounds,
        *folders.rewards("letters", "bright"),
        *options.split(),
    ]
    records = train(recipe, tmp_path / "run", *words)
    resumed(tmp_path / "run", tmp_path / "cut")
    assert_same(tmp_path / "run", tmp_path / "cut")
    figure = "answering/loss"
    if recipe == "unirl-grpo":
        figure = "drawing/log_prob"
        assert records[0]["drawing/kl"] == 0 and records[1]["drawing/kl"] > 0
    plain = train(recipe, tmp_path / "plain", *words, "--dtype", "float32")
    assert records[0][figure] == pytest.approx(plain[0][figure], rel=0.02)
    assert records[0][figure] != plain[0][figure]
    assert {value.dtype for value in weights_of(tmp_path / "run", 2).values()} == {torch.float32}
    told = (tmp_path / "run" / "environment.json").read_text()
    assert "language model: products: bfloat16" in told
    main(
        [
            "export",
            str(tmp_path / "run"),
            "--output",
            str(tmp_path / "out"),
            "--step",
            "last",
            "--dtype",
            "float32",
        ]
    )
    trained = weights_of(tmp_path / "run", 2)
    exported = {
        name: value
        for path in (tmp_path / "out").rglob("*.safetensors")
        for name, value in load_file(path).items()
    }
    for name, value in trained.items():
        assert any(torch.equal(value, other) for other in exported.values()), name


def test_masters_are_read_as_the_file_has_them_and_not_rounded_first(folders: Folders) -> None:
    words: dict[str, Any] = {"policy": str(folders.place / "janus"), "dtype": "bfloat16", "model": FULL}
    policy = load_policy(GrpoConfig(**words), CPU)
    exact = load_policy(replace(GrpoConfig(**words), dtype="float32"), CPU)
    pairs = zip(policy.trainable_module().parameters(), exact.trainable_module().parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_the_plan_tells_what_is_computed_in_which_precision(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "unirl-grpo", "--preset", "paper", "--plan"])
    told = capsys.readouterr().out
    assert "language model: products" in told and "matrices of frozen copies of it" in told
    main(["train", "unirl-grpo", "--preset", "paper", "--dtype", "float32", "--plan"])
    assert "language model: products" not in capsys.readouterr().out
