"""Drawing against transformers' own loop, scoring against plain softmax, and what the loop leaves out."""

from collections.abc import Callable

import pytest
import torch
from models import tiny_blip2
from torch import Tensor

from sightloop.models.decoding import growing_texts
from sightloop.models.decoding import sampling as generation
from sightloop.models.decoding.sampling import (
    TextDecoder,
    alone,
    draw,
    draw_tokens,
    token_log_probs,
    uniform_numbers,
)
from sightloop.types import Prompt, Sampling, Tokens

LAWS = [
    None,
    Sampling(max_tokens=1),
    Sampling(max_tokens=1, temperature=0.7),
    Sampling(max_tokens=1, temperature=2.0, top_k=6),
    Sampling(max_tokens=1, temperature=0.5, top_k=1),
    Sampling(max_tokens=1, top_k=400),
]


def plain_scores(hidden: Tensor, head: Tensor, ids: Tensor, under: Sampling | None) -> tuple[Tensor, Tensor]:
    """The textbook way, in double precision, with the gradient that autograd finds."""
    logits = hidden @ head.T / (1.0 if under is None else under.temperature)
    if under is not None and under.top_k is not None and under.top_k < logits.shape[1]:
        worst = logits.sort(dim=1, descending=True).values[:, under.top_k - 1 : under.top_k]
        logits = logits.masked_fill(logits < worst, -torch.inf)
    law = logits.log_softmax(-1)
    entropy = -(law.exp() * law.clamp(min=-1e4)).sum(-1)
    return law.gather(1, ids[:, None])[:, 0], entropy


def likely_ids(hidden: Tensor, head: Tensor, rank: int) -> Tensor:
    """The token of each row that has this rank."""
    return (hidden @ head.T).argsort(dim=1, descending=True)[:, rank]


@pytest.mark.parametrize("law", LAWS)
def test_scores_are_those_of_a_plain_softmax_and_so_is_their_gradient(law) -> None:
    hidden, head = torch.randn(9, 8, dtype=torch.float64), torch.randn(20, 8, dtype=torch.float64)
    top_k = 20 if law is None or law.top_k is None else min(20, law.top_k)
    ids = torch.stack([likely_ids(hidden, head, row % top_k)[row] for row in range(9)])
    weights = torch.randn(9)
    exact = hidden.clone().requires_grad_()
    expected, expected_entropy = plain_scores(exact, head, ids, law)
    (expected * weights).sum().backward()
    ours = hidden.float().requires_grad_()
    found, entropy = token_log_probs(ours, head.float(), ids, under=law)
    (found * weights).sum().backward()
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy.double(), expected_entropy, atol=1e-5, rtol=0)
    assert exact.grad is not None
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad.double(), exact.grad, atol=1e-5, rtol=0)
    assert not entropy.requires_grad


@pytest.mark.parametrize("num_rows", [1, 4, 5, 8, 9, 100])
def test_scores_do_not_depend_on_how_many_rows_are_taken_at_once(num_rows, monkeypatch) -> None:
    hidden, head, ids = torch.randn(9, 8), torch.randn(20, 8), torch.randint(20, (9,))
    law = Sampling(max_tokens=1, temperature=2.0, top_k=6)

    def scores() -> tuple[Tensor, Tensor, Tensor]:
        mine = hidden.clone().requires_grad_()
        log_probs, entropy = token_log_probs(mine, head, ids, under=law)
        log_probs.square().sum().backward()
        assert mine.grad is not None
        return log_probs.detach(), entropy, mine.grad

    whole = scores()
    monkeypatch.setattr(generation, "_LOGITS_IN_MEMORY", num_rows * 20 + 19)
    for one, other in zip(scores(), whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_no_rows_have_no_scores() -> None:
    log_probs, entropy = token_log_probs(
        torch.randn(0, 8), torch.randn(20, 8), torch.zeros(0, dtype=torch.long)
    )
    assert log_probs.shape == entropy.shape == (0,)


def test_no_gradient_is_prepared_where_none_is_wanted() -> None:
    log_probs, _ = token_log_probs(torch.randn(3, 8), torch.randn(20, 8), torch.tensor([1, 2, 3]))
    assert not log_probs.requires_grad


def test_scoring_in_half_precision_stays_close_and_answers_in_float32() -> None:
    hidden, head, ids = torch.randn(6, 16), torch.randn(30, 16), torch.randint(30, (6,))
    exact = hidden.clone().requires_grad_()
    expected, expected_entropy = token_log_probs(exact, head, ids)
    expected.sum().backward()
    half = hidden.bfloat16().requires_grad_()
    found, entropy = token_log_probs(half, head.bfloat16(), ids)
    found.sum().backward()
    assert found.dtype == entropy.dtype == torch.float32
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.detach(), atol=0.15, rtol=0)
    torch.testing.assert_close(entropy, expected_entropy, atol=0.15, rtol=0)
    torch.testing.assert_close(half.grad.float(), exact.grad, atol=0.15, rtol=0)


def test_a_token_that_rounding_pushed_out_of_the_top_counts_as_the_last_of_them() -> None:
    head = torch.eye(4)
    hidden = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(2, 1)
    law = Sampling(max_tokens=1, top_k=2)
    found, entropy = token_log_probs(hidden, head, torch.tensor([1, 2]), under=law)
    expected = torch.tensor([[3.0, 2.0], [3.0, 1.0]]).log_softmax(1)
    torch.testing.assert_close(found, expected[:, 1])
    torch.testing.assert_close(entropy, -(expected.exp() * expected).sum(1))


def test_ties_at_the_edge_of_the_top_leave_exactly_k_candidates() -> None:
    head, law = torch.eye(5), Sampling(max_tokens=1, top_k=2)
    hidden = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]]).repeat(3, 1).requires_grad_()
    found, _ = token_log_probs(hidden, head, torch.tensor([1, 2, 3]), under=law)
    torch.testing.assert_close(found, torch.tensor([2.0, 1.0]).log_softmax(0)[1].repeat(3))
    found.sum().backward()
    assert hidden.grad is not None
    share = float(torch.tensor([2.0, 1.0]).softmax(0)[0])
    expected = torch.tensor([[-share, share, 0, 0, 0], [-share, 0, share, 0, 0], [-share, 0, 0, share, 0]])
    torch.testing.assert_close(hidden.grad, expected)


def test_trainable_heads_and_greedy_laws_are_refused() -> None:
    hidden, ids = torch.randn(2, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="trainable"):
        token_log_probs(hidden, torch.randn(5, 4, requires_grad=True), ids)
    with pytest.raises(ValueError, match="greedy"):
        token_log_probs(hidden, torch.randn(5, 4), ids, under=Sampling(max_tokens=1, temperature=0))


@pytest.mark.parametrize("law", [law for law in LAWS if law is not None])
def test_evenly_spread_numbers_draw_each_token_as_often_as_it_is_likely(law) -> None:
    logits = torch.randn(12) * 2
    number = 20_000
    uniform = (torch.arange(number) + 0.5) / number
    drawn, log_probs = draw(logits.expand(number, -1), law, uniform)
    expected = logits / law.temperature
    if law.top_k is not None and law.top_k < 12:
        worst = expected.sort(descending=True).values[law.top_k - 1]
        expected = expected.masked_fill(expected < worst, -torch.inf)
    shares = drawn.bincount(minlength=12) / number
    torch.testing.assert_close(shares, expected.softmax(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(log_probs, expected.log_softmax(0)[drawn], atol=1e-5, rtol=0)


def test_the_first_and_the_last_number_draw_possible_tokens() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).repeat(2, 1)
    for top_k in (None, 2):
        drawn, log_probs = draw(logits, Sampling(max_tokens=1, top_k=top_k), torch.tensor([0.0, 1 - 2**-24]))
        assert sorted(drawn.tolist()) == [1, 2]
        assert log_probs.isfinite().all()


def test_greedy_drawing_takes_the_likeliest_whatever_the_number() -> None:
    drawn, log_probs = draw(
        torch.tensor([[0.0, 2.0, 1.0]]).repeat(2, 1),
        Sampling(max_tokens=1, temperature=0.0, top_k=1),
        torch.tensor([0.0, 0.99]),
    )
    assert drawn.tolist() == [1, 1]
    assert log_probs.tolist() == [2, 2], "greedy drawing has no distribution: the logit"


def test_a_stream_of_numbers_belongs_to_its_seed() -> None:
    numbers = uniform_numbers(3, 40, [5, 2**63 - 1, 5])
    assert torch.equal(numbers[0], numbers[2])
    assert not torch.equal(numbers[0], numbers[1])
    assert torch.equal(uniform_numbers(1, 7, [5])[0], numbers[0, :7])
    assert ((numbers >= 0) & (numbers < 1)).all()
    with pytest.raises(ValueError, match="2 seeds for 3 samples"):
        uniform_numbers(3, 4, [1, 2])


@pytest.mark.parametrize(
    "texts", [[""] * 5, ["", "a red", "circle", "a small blue cross", ""]], ids=["even", "ragged"]
)
def test_greedy_drawing_is_transformers_own(texts) -> None:
    policy = tiny_blip2.captioner()
    prompt = Prompt(texts=texts, images=tiny_blip2.pictures(5))
    tokens = policy.sample(prompt, Sampling(max_tokens=12, temperature=0.0))
    context, mask = policy._context(prompt)
    theirs = policy.model.language_model.generate(
        inputs_embeds=context,
        attention_mask=torch.ones(context.shape[:2], dtype=torch.long) if mask is None else mask.long(),
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=list(policy.ends),
        pad_token_id=policy.pad,
    )
    assert (mask is None) == (texts == [""] * 5)
    assert torch.equal(tokens.ids.masked_fill(~tokens.mask, policy.pad), theirs)
    assert len(set(map(tuple, theirs.tolist()))) > 1


class PlannedText:
    """A model that writes the texts of a plan; counts the rows that it runs.

    Row r writes 10 r + 10, 10 r + 11, ... and after its length the end token 9: tokens name their place.
    """

    def __init__(self, lengths: list[int], *, width: int = 8) -> None:
        self.lengths = lengths
        rows = [
            [9 if k == n - 1 else 10 * row + 10 + k for k in range(width)] for row, n in enumerate(lengths)
        ]
        # Row 0 is what an ended text writes on.
        self.plan = torch.tensor([[9] * width, *rows])
        self.rows_run: list[int] = []

    def draw(self, all_ranks_finished: Callable[[bool], bool] = alone) -> Tokens:
        """The texts as `draw_tokens` gets them."""
        writer = TextDecoder(
            decoder=self.decoder,
            embed=lambda ids: torch.stack([ids // 10, ids % 10 + 1], -1).float(),
            head=self.head,
            num_layers=0,
            ends=(9,),
            pad=0,
            all_ranks_finished=all_ranks_finished,
        )
        numbers = torch.arange(1, len(self.plan)).float()
        context = torch.stack([numbers, torch.zeros_like(numbers)], 1)[:, None]
        law = Sampling(max_tokens=self.plan.shape[1])
        return draw_tokens(writer, context, mask=None, sampling=law, seeds=None)

    def decoder(self, embeds: Tensor, mask: Tensor | None, cache: object) -> Tensor:
        """Row and place, as they come."""
        self.rows_run.append(len(embeds))
        return embeds

    def head(self, hidden: Tensor) -> Tensor:
        """Certainty of the planned token."""
        row, place = hidden.long().unbind(1)
        return torch.nn.functional.one_hot(self.plan[row, place % self.plan.shape[1]], 100).float() * 1000

    def check(self, tokens: Tokens) -> None:
        """The texts are the planned ones, padded behind their end."""
        assert tokens.mask.sum(1).tolist() == self.lengths
        # Behind the last look the width is the limit.
        plan = self.plan[1:, : tokens.ids.shape[1]]
        assert torch.equal(tokens.ids, plan.masked_fill(~tokens.mask, 0))
        assert tokens.log_probs is not None
        assert (tokens.log_probs == 0).all()


def test_finished_rows_leave_the_batch_and_the_others_go_on_undisturbed(monkeypatch) -> None:
    monkeypatch.setattr(growing_texts, "LOOK_EVERY", 1)
    monkeypatch.setattr(growing_texts, "LEAVE_SHARE", 1 / 8)
    model = PlannedText([1, 5, 2, 7, 2, 3])
    model.check(model.draw())
    assert model.rows_run == [6, 5, 3, 2, 2, 1, 1]


def test_few_finished_rows_stay_because_leaving_copies_the_cache(monkeypatch) -> None:
    monkeypatch.setattr(growing_texts, "LOOK_EVERY", 1)
    monkeypatch.setattr(growing_texts, "LEAVE_SHARE", 0.5)
    model = PlannedText([1, 5, 2, 7, 2, 3])
    model.check(model.draw())
    assert model.rows_run == [6, 6, 3, 3, 3, 1, 1]


def test_a_rank_that_is_done_keeps_step_with_the_others() -> None:
    asked: list[bool] = []

    def others_need_two_more(done: bool) -> bool:
        asked.append(done)
        return asked.count(True) > 2

    model = PlannedText([2, 3])
    model.check(model.draw(others_need_two_more))
    # Asked at the eighth token, which is the last one.
    assert asked == [True]
    assert model.rows_run == [2] * 8


def test_rows_leave_every_few_tokens_and_the_batch_stops_when_all_have_ended() -> None:
    model = PlannedText([1, 9, 2, 3], width=10)
    model.check(model.draw())
    assert model.rows_run == [4] * 8 + [1]
    model = PlannedText([1, 3, 2], width=10)
    model.check(model.draw())
    assert model.rows_run == [3] * 3


def test_leaving_rows_change_no_text_of_a_real_model(monkeypatch) -> None:
    policy = tiny_blip2.captioner()
    prompt = Prompt(
        texts=["", "a red", "", "circle", "", "a"], images=tiny_blip2.pictures(6), seeds=[1, 2, 3, 4, 5, 6]
    )
    law = Sampling(max_tokens=25, temperature=3.0)
    leaving = policy.sample(prompt, law)
    monkeypatch.setattr(growing_texts, "LEAVE_SHARE", 2.0)
    staying = policy.sample(prompt, law)
    assert len(leaving.mask.sum(1).unique()) > 2
    assert torch.equal(leaving.mask, staying.mask)
    assert torch.equal(leaving.ids[leaving.mask], staying.ids[staying.mask])
