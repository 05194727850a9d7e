"""Prompts in, judged drawings out: draw, ask about the drawing, judge the answer. Two turns a sample.

The question goes to a grader: the policy itself as in UniRL (arXiv 2505.23380), a frozen copy, or a moving
average. Answers of another grader than the policy carry no log-probabilities, so that no policy gradient is
taken on them by mistake: train the drawing side alone then. With `second_turn` "truth" the true answer
becomes the second turn, for supervised training, and the grader's answer only says how good the drawing is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sightloop.models.protocols import ImageGenerator
from sightloop.process.time_limit import limited
from sightloop.quizzes.grammar import Quiz
from sightloop.quizzes.stream import QuizBatch
from sightloop.rollouts.join import join_rollouts
from sightloop.rollouts.seeds import further_seed, repeated_seeds
from sightloop.types import (
    Fact,
    Images,
    Judge,
    OtherQuestion,
    Outcome,
    Policy,
    Prompt,
    Rollout,
    Sampling,
    Tokens,
    Turn,
    on_last_token,
)

ImageJudge = Callable[[Images, Sequence[Quiz]], Float[Tensor, " B"]]
"""Says how well each image fulfills its quiz, without a question."""
Answerer = Callable[[ImageGenerator], Policy]
"""Who answers, given the policy."""
NegativeQuestion = Callable[[Sequence[Fact], int], tuple[str, Fact]]
"""A question about a fact that must not hold, and that fact, from true facts and a seed."""
ObjectIdentification = Callable[[Quiz], "tuple[str, tuple[Fact, ...]] | None"]
"""A question about the things that the quiz's own question leaves out, and what must be said; None = none."""
SecondTurn = Literal["answer", "truth"]
_ASK, _BLIND, _NEGATIVE, _IDENTIFICATION = 0xA5C1, 0xB1A2, 0x7A93, 0x3B4D
_GREY = 127


def itself(policy: ImageGenerator) -> Policy:
    """The grader that UniRL uses: the policy in its present state."""
    return policy


def always(policy: Policy) -> Answerer:
    """A grader who stays the same, whatever is trained."""

    def chosen(_: ImageGenerator) -> Policy:
        return policy

    return chosen


class MovingAverage(nn.Module):
    """A grader that follows the policy slowly. Frozen weights are shared with the policy, not copied.

    Saved with a run it lets the run resume exactly. Each call is one step of the average.
    """

    def __init__(self, policy: nn.Module, *, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}; use 0 (the policy itself) to 1 (a frozen copy)")
        frozen = [p for p in policy.parameters() if not p.requires_grad]
        self.average = copy.deepcopy(policy, {id(p): p for p in frozen})
        self.average.requires_grad_(False)
        self.decay = decay

    def moving(self, policy: nn.Module) -> dict[str, Tensor]:
        """The tensors that move, by name: what a checkpoint must hold; the others are the policy's own."""
        shared = {id(parameter) for parameter in policy.parameters()}
        return {name: value for name, value in self.average.named_parameters() if id(value) not in shared}

    @torch.no_grad()
    def forward(self, policy: nn.Module) -> nn.Module:
        """The average after a step towards `policy`."""
        pairs = zip(self.average.parameters(), policy.parameters(), strict=True)
        for mine, theirs in pairs:
            if mine is not theirs:
                mine.lerp_(theirs.to(mine.dtype), 1 - self.decay)
        return self.average


@dataclass(frozen=True, kw_only=True)
class QuizCollector:
    """Draws `per_prompt` images of every quiz, has an answerer asked about them and the answers judged."""

    drawing: Sampling
    answering: Sampling | None = None
    """How the answerer answers; None = nobody is asked."""
    judge: Judge | None = None
    """Of the answers, or of the drawings if nobody is asked; None = `image_judge` alone."""
    image_judge: ImageJudge | None = None
    image_weight: float = 1.0
    image_scale: Callable[[Float[Tensor, "B T"], Outcome], Float[Tensor, "B T"]] | None = None
    """Puts the image judge's scores on another scale before they are weighted; the part stays raw."""
    per_prompt: int = 8
    first: int = 0
    """Number of the first sample of a prompt: ranks that share a prompt must not draw the same images."""
    answerer: Answerer = itself
    second_turn: SecondTurn = "answer"
    negative: NegativeQuestion | None = None
    """Also ask about something absent; answers go to the judge as the outcome's other `negative`."""
    object_identification: ObjectIdentification | None = None
    """Also ask which thing it is where the quiz does not; the outcome's other `identification`."""
    blind: bool = False
    """Also ask about a gray image, greedily; the outcome's other `blind`."""
    encode_anew: bool = False
    """Ask about the image encoded anew, as others see it, where the policy would read the drawn codes:
    codes that only the policy itself takes for what was asked do not pay.
    """
    show: bool = False
    """Also decode the drawings when no judge needs pixels, for galleries."""
    chunk: int | None = None
    """Samples drawn at once, whole prompts at least; None = the whole batch."""

    def __post_init__(self) -> None:
        if self.per_prompt < 1 or self.first < 0:
            raise ValueError(f"per_prompt is {self.per_prompt}, first {self.first}; use at least 1 and 0")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; use None for the whole batch or at least 1")
        if self.second_turn not in ("answer", "truth"):
            raise ValueError(f'second_turn is {self.second_turn!r}; use "answer" or "truth"')
        if self.second_turn == "answer" and self.judge is None and self.image_judge is None:
            raise ValueError("nothing is judged; give a judge or an image_judge")
        if self.answering is None and (
            self.negative is not None or self.blind or self.object_identification is not None
        ):
            raise ValueError(
                "nobody is asked (answering is None): leave negative, object_identification and blind out"
            )

    def __call__(self, policy: ImageGenerator, batch: QuizBatch) -> Rollout:
        """Judged drawings of the batch, the samples of one prompt side by side.

        Gradients are on only while drawing with a relaxation.
        """
        with torch.no_grad():
            answerer = self.answerer(policy)
        size = len(batch) if self.chunk is None else max(1, self.chunk // self.per_prompt)
        rows = [torch.arange(start, min(start + size, len(batch))) for start in range(0, len(batch), size)]
        return join_rollouts([self._collect(policy, answerer, batch.rows(index)) for index in rows])

    def _collect(self, policy: ImageGenerator, answerer: Policy, batch: QuizBatch) -> Rollout:
        quizzes = [quiz for quiz in batch.quizzes for _ in range(self.per_prompt)]
        seeds = repeated_seeds(batch.seeds, self.per_prompt, first=self.first)
        prompt = Prompt(texts=[quiz.prompt for quiz in quizzes], wants="image", seeds=seeds)
        with torch.set_grad_enabled(self.drawing.relaxation is not None):
            codes = policy.sample(prompt, self.drawing)
        group = torch.tensor([index for index in batch.indices for _ in range(self.per_prompt)])
        with torch.no_grad():
            plain = replace(codes, one_hot=None, log_probs=None)
            shown, images = plain if self.answering is None else policy.understanding_input(plain), None
            if isinstance(shown, Images):
                images = shown
            elif self.answering is not None and self.encode_anew:
                images = policy.pixels(plain)
                shown = policy.image_tokens(images)
            drawn = DrawnBatch(
                quizzes=quizzes, seeds=seeds, codes=codes, shown=shown, images=images, group=group
            )
            return self._judged(policy, answerer, Turn(prompt=prompt, tokens=codes), drawn)

    def _judged(self, policy: ImageGenerator, answerer: Policy, drawing: Turn, drawn: DrawnBatch) -> Rollout:
        plain = replace(drawn.codes, one_hot=None)
        pixels = self.show or self.image_judge is not None or self.answering is None
        images = None
        if pixels:
            images = policy.pixels(plain) if drawn.images is None else drawn.images
        outcome = Outcome(
            tokens=plain,
            pieces=[[] for _ in drawn.quizzes],
            ended=torch.ones(len(plain), dtype=torch.bool),
            images=images,
            references=[quiz.answer for quiz in drawn.quizzes],
            sources=[quiz.prompt for quiz in drawn.quizzes],
            questions=[quiz.question for quiz in drawn.quizzes],
            facts=[quiz.facts for quiz in drawn.quizzes],
            group=drawn.group,
        )
        if self.answering is not None:
            outcome = self._asked(policy, answerer, outcome, drawn)
        rewards, parts = self._rewards(outcome, images, drawn)
        # Codes with a gradient keep it on their way to the answer.
        seen = drawn.shown if drawn.codes.one_hot is None else drawn.codes
        asking = Prompt(texts=outcome.questions, images=seen)
        turns, rewards, pieces = self._turns(policy, answerer, (drawing, asking), outcome, rewards)
        return Rollout(
            turns=turns,
            rewards=rewards,
            reward_parts=parts,
            group=drawn.group,
            pieces=pieces,
            sources=outcome.sources,
            references=outcome.references,
            answers=outcome.texts() if self.answering is not None else [],
            drawn=images,
        )

    def _asked(
        self, policy: ImageGenerator, answerer: Policy, outcome: Outcome, drawn: DrawnBatch
    ) -> Outcome:
        assert self.answering is not None
        shown, codes = drawn.shown, drawn.codes
        others: dict[OtherQuestion, Outcome] = {}
        if self.negative is not None:
            negatives = [
                self.negative(quiz.facts, seed) for quiz, seed in zip(drawn.quizzes, drawn.seeds, strict=True)
            ]
            asked = replace(outcome, questions=[t[0] for t in negatives], facts=[(t[1],) for t in negatives])
            others["negative"] = _answered(answerer, asked, shown, self.answering, drawn.seeds_for(_NEGATIVE))
        if self.object_identification is not None:
            others["identification"] = self._named(answerer, outcome, drawn, self.object_identification)
        if self.blind:
            images = torch.full_like(policy.pixels(codes.rows(torch.tensor([0]))).pixels, _GREY)
            grey = policy.image_tokens(Images(pixels=images)).rows(torch.zeros(len(codes), dtype=torch.long))
            greedy = replace(self.answering, temperature=0.0)
            others["blind"] = _answered(answerer, outcome, grey, greedy, drawn.seeds_for(_BLIND))
        answered = _answered(answerer, outcome, shown, self.answering, drawn.seeds_for(_ASK))
        return replace(answered, others=others)

    def _named(
        self,
        answerer: Policy,
        outcome: Outcome,
        drawn: DrawnBatch,
        object_identification: ObjectIdentification,
    ) -> Outcome:
        """Answers of the rows that have such a question; the others have no facts and say nothing."""
        assert self.answering is not None
        asks = [object_identification(quiz) for quiz in drawn.quizzes]
        rows = [row for row, ask in enumerate(asks) if ask is not None]
        pieces: list[list[str]] = [[] for _ in asks]
        if rows:
            index = torch.tensor(rows)
            seeds = drawn.seeds_for(_IDENTIFICATION)
            texts = [ask[0] for ask in asks if ask is not None]
            few = Prompt(texts=texts, images=drawn.shown.rows(index), seeds=[seeds[row] for row in rows])
            for row, said in zip(rows, answerer.decode(answerer.sample(few, self.answering)), strict=True):
                pieces[row] = said
        return replace(
            outcome,
            pieces=pieces,
            questions=["" if ask is None else ask[0] for ask in asks],
            facts=[() if ask is None else ask[1] for ask in asks],
        )

    def _rewards(
        self, outcome: Outcome, images: Images | None, drawn: DrawnBatch
    ) -> tuple[Float[Tensor, "B T"], dict[str, Float[Tensor, " B"]]]:
        mask = outcome.tokens.mask
        rewards, parts = torch.zeros(mask.shape, device=mask.device), {}
        if self.judge is not None:
            rewards, parts = self.judge(outcome)
        if self.image_judge is not None:
            assert images is not None
            with limited("the judge of drawings"):
                scores = self.image_judge(images, drawn.quizzes).to(mask.device).float()
            wrong = (~scores.isfinite()).nonzero()
            if len(wrong):
                row = int(wrong[0])
                raise ValueError(f"the image judge says {scores[row]} about {outcome.sources[row]!r}")
            earned = on_last_token(scores, outcome.tokens)
            if self.image_scale is not None:
                earned = self.image_scale(earned, outcome)
            rewards = rewards + self.image_weight * earned
            parts = parts | {"image": scores}
        return rewards, parts

    def _turns(
        self,
        policy: ImageGenerator,
        answerer: Policy,
        prompts: tuple[Turn, Prompt],
        outcome: Outcome,
        rewards: Tensor,
    ) -> tuple[tuple[Turn, ...], Tensor, list[list[str]]]:
        drawing, asking = prompts
        if self.second_turn == "answer" and self.answering is None:
            return (drawing,), rewards, outcome.pieces
        tokens, pieces = outcome.tokens, outcome.pieces
        if self.second_turn == "truth":
            tokens = policy.encode(outcome.references)
            pieces = policy.decode(tokens)
            rewards = on_last_token(rewards.sum(1), tokens)
        elif answerer is not policy:
            tokens = replace(tokens, log_probs=None)
        return (drawing, Turn(prompt=asking, tokens=tokens)), rewards, pieces


@dataclass(frozen=True, kw_only=True)
class DrawnBatch:
    """Images of a batch, as codes, with what was asked for."""

    quizzes: list[Quiz]
    seeds: list[int]
    codes: Tokens
    shown: Images | Tokens
    """What questions about them read."""
    images: Images | None
    """The decoded images, where reading needed them."""
    group: Tensor

    def seeds_for(self, purpose: int) -> list[int]:
        """Seeds of a further draw about each image."""
        return [further_seed(seed, purpose) for seed in self.seeds]


def _answered(
    answerer: Policy, asked: Outcome, shown: Images | Tokens, sampling: Sampling, seeds: list[int]
) -> Outcome:
    tokens = answerer.sample(Prompt(texts=asked.questions, images=shown, seeds=seeds), sampling)
    pieces = answerer.decode(tokens)
    spelled = torch.tensor([len(row) for row in pieces], device=tokens.mask.device)
    # The end token counts and has no text.
    return replace(asked, tokens=tokens, pieces=pieces, ended=spelled < tokens.mask.sum(1))
