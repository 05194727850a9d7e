"""Orders of unmasking as data: which codes count, and which are known when they are predicted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sightloop.algorithms.unmasking import (
    FreshMasks,
    SomeRounds,
    fresh_masks,
    shared_ratios,
    some_rounds,
    true_rounds,
)
from sightloop.types import Prompt, Tokens, Turn

STEPS = torch.tensor([[0, 0, 1, 3, 3, 3], [2, 2, 2, 2, 2, 2], [-1, 0, 1, 2, 3, -1]])


def turn(texts: tuple[str, ...] = ("a", "b", "a")) -> Turn:
    """Three images of six codes; of the third, two codes were given."""
    ids = torch.arange(18).view(3, 6)
    tokens = Tokens(ids=ids, mask=STEPS >= 0, decode_step=STEPS, log_probs=-torch.ones(3, 6))
    return Turn(prompt=Prompt(texts=list(texts), wants="image"), tokens=tokens)


def test_true_rounds_are_the_turn_as_it_was_drawn() -> None:
    drawn = turn()
    assert true_rounds(drawn) == [drawn]
    bare = replace(turn(), tokens=replace(turn().tokens, decode_step=None))
    with pytest.raises(ValueError, match="decode_step"):
        true_rounds(bare)


def test_some_rounds_keep_whole_rounds_and_no_more_than_there_are() -> None:
    for seed in range(20):
        (kept,) = some_rounds(turn(), number=2, generator=torch.Generator().manual_seed(seed))
        tokens = kept.tokens
        assert tokens.decode_step is STEPS
        for row, rounds in enumerate((2, 1, 2)):
            chosen = STEPS[row][tokens.mask[row]].unique()
            assert len(chosen) == rounds
            assert torch.equal(tokens.mask[row], torch.isin(STEPS[row], chosen))
    (every,) = some_rounds(turn(), number=9)
    assert torch.equal(every.tokens.mask, turn().tokens.mask)


def test_sums_over_some_rounds_times_their_weight_are_those_over_all_on_average() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]] * 3)
    generator = torch.Generator().manual_seed(0)
    rounds = torch.tensor([3.0, 1.0, 4.0])
    sums = [
        (some_rounds(turn(), number=1, generator=generator)[0].tokens.mask * values).sum(1)
        for _ in range(3000)
    ]
    found = torch.stack(sums).mean(0) * rounds
    torch.testing.assert_close(found, (turn().tokens.mask * values).sum(1), rtol=0.05, atol=0)


def test_ratios_are_shared_by_a_group_and_spread_as_in_training() -> None:
    generator = torch.Generator().manual_seed(1)
    ratios = shared_ratios(["a", "b", "a", "c"], number=2000, generator=generator)
    assert ratios.shape == (2000, 4)
    assert torch.equal(ratios[:, 0], ratios[:, 2])
    assert not torch.equal(ratios[:, 0], ratios[:, 1])
    assert ((ratios >= 0) & (ratios <= 1)).all()
    # The mean of cos(pi t / 2) is 2 / pi.
    assert float(ratios[:, [0, 1, 3]].mean()) == pytest.approx(2 / math.pi, abs=0.01)


def test_fresh_masks_hide_the_share_of_codes_that_count() -> None:
    ratios = torch.tensor([[0.5, 0.5, 0.5], [1.0, 0.0, 1.0]])
    half, extreme = fresh_masks(turn(), ratios)
    assert half.tokens.mask.sum(1).tolist() == [3, 3, 2]
    assert extreme.tokens.mask.sum(1).tolist() == [6, 1, 4]
    for order in (half, extreme):
        assert order.tokens.decode_step is not None
        assert torch.equal(order.tokens.decode_step, order.tokens.mask.long() - 1)
        assert not (order.tokens.mask & ~turn().tokens.mask).any(), "a given code is hidden"
        assert order.tokens.log_probs is None
        assert torch.equal(order.tokens.ids, turn().tokens.ids)
        assert order.prompt.texts == ["a", "b", "a"]


def test_samples_of_a_group_hide_other_codes_at_one_ratio() -> None:
    same = turn(("a", "a", "b"))
    wide = torch.zeros(3, 200, dtype=torch.int64)
    tokens = Tokens(ids=wide, mask=wide == 0, decode_step=wide)
    (order,) = FreshMasks()(replace(same, tokens=tokens))
    counts = order.tokens.mask.sum(1)
    assert counts[0] == counts[1] != counts[2]
    assert not torch.equal(order.tokens.mask[0], order.tokens.mask[1])


ORDERS = (SomeRounds(number=1), SomeRounds(number=2), FreshMasks(), FreshMasks(number=3))


def seeded(size: int = 6, *, first: int = 0, texts: str = "aabbab") -> Turn:
    """Drawings of 20 codes in five rounds, each with its own seed."""
    places = torch.arange(20)
    steps = torch.stack([(places * (row % 4 + 1)) % 5 for row in range(size)])
    tokens = Tokens(ids=steps, mask=steps >= 0, decode_step=steps)
    seeds = [9 + 7 * (first + row) for row in range(size)]
    return Turn(prompt=Prompt(texts=list(texts[:size]), wants="image", seeds=seeds), tokens=tokens)


def masks(turns: list[Turn]) -> torch.Tensor:
    return torch.stack([order.tokens.mask for order in turns], 1)


@pytest.mark.parametrize("unmasking", ORDERS)
def test_any_split_over_ranks_hides_the_codes_that_one_process_hides(
    unmasking: SomeRounds | FreshMasks,
) -> None:
    whole = seeded()
    expected = masks(unmasking(whole))
    # Groups lie on both ranks: "a" on rows 0, 1 and 4.
    for parts in ([[0, 1, 2], [3, 4, 5]], [[1, 4, 5], [0, 2, 3]], [[5], [4, 3, 2, 1, 0]]):
        rows = [whole.rows(torch.tensor(part)) for part in parts]
        known: list[dict[str, int]] = []
        for turn in rows:
            mine: dict[str, int] = {}
            for text, seed in zip(turn.prompt.texts, turn.prompt.seeds or [], strict=True):
                mine[text] = min(seed, mine.get(text, seed))
            known.append(mine)
        shared = (
            replace(unmasking, gather=lambda _, known=known: known)
            if hasattr(unmasking, "gather")
            else unmasking
        )
        for part, turn in zip(parts, rows, strict=True):
            torch.manual_seed(len(part))
            assert torch.equal(masks(shared(turn)), expected[part])


@pytest.mark.parametrize("unmasking", ORDERS)
def test_other_seeds_hide_other_codes_and_the_global_generator_is_left_alone(
    unmasking: SomeRounds | FreshMasks,
) -> None:
    before = torch.random.get_rng_state()
    found = [masks(unmasking(seeded(first=first))) for first in (0, 50)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(*found)
    # All seeds of a prompt decide: its drawings hide other codes than each other.
    assert len(found[0].flatten(1).unique(dim=0)) > 2


def test_ratios_differ_by_step_and_prompt_and_are_those_of_the_group() -> None:
    counts = torch.stack([masks(FreshMasks()(seeded(first=10 * step)))[:, 0].sum(1) for step in range(30)])
    assert torch.equal(counts[:, 0], counts[:, 1]) and torch.equal(counts[:, 0], counts[:, 4])
    assert len(counts[:, 0].unique()) > 8
    assert float((counts[:, 0] == counts[:, 2]).float().mean()) < 0.5


def test_orders_without_seeds_come_from_the_global_generator() -> None:
    for unmasking, number in ((SomeRounds(number=1), 1), (FreshMasks(number=3), 3)):
        torch.manual_seed(4)
        first = unmasking(turn())
        torch.manual_seed(4)
        again = unmasking(turn())
        assert len(first) == number
        assert all(torch.equal(a.tokens.mask, b.tokens.mask) for a, b in zip(first, again, strict=True))


def test_no_rounds_and_no_ratios_are_refused() -> None:
    for make in (lambda: SomeRounds(number=0), lambda: FreshMasks(number=0)):
        with pytest.raises(ValueError, match="at least 1"):
            make()
    with pytest.raises(ValueError, match="at least 1"):
        some_rounds(turn(), number=0)
    with pytest.raises(ValueError, match="at least 1"):
        shared_ratios(["a"], number=0)
