"""Rewards that need no image model, on pairs of texts of which the better one is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from sightloop.doctor.findings import Finding
from sightloop.doctor.probes import Probe
from sightloop.models.protocols import Captioner
from sightloop.rewards.functions import CustomReward
from sightloop.rewards.phrases import load_phrases
from sightloop.rewards.samples import outcome_of_texts
from sightloop.types import Fact, Outcome, Reward

_PART = "rewards"
_NUMBER = 4
"""Pairs of each test."""
_TOLD = (
    Fact(kind="noun", words=("circle", "circles")),
    Fact(kind="color", words=("red",), about=("circle",)),
)
_VARIED = (
    "a red circle",
    "Two large blue squares, one on the left and one on the right, below a small green triangle.",
    "THERE IS A SIGN THAT SAYS STOP!",
    "is it a photo of 3 dogs that are running in the park in 2024? a dog a dog a dog",
)
"""Texts of unlike length and wording: true captions of one kind can all earn the same of a good reward."""
_ABSENT = Fact(kind="color", words=("blue",), about=("circle",))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Samples of which the good ones must earn more than the bad ones."""

    good: Outcome
    bad: Outcome
    difference: str
    """What is wrong with the bad ones."""


def examine_rewards(
    rewards: Mapping[str, Reward], probe: Probe, policy: Captioner | None = None
) -> list[Finding]:
    """Each reward that has a known pair; a user's function is only run, and says how it sees the probe."""
    findings: list[Finding] = []
    for name, reward in rewards.items():
        if isinstance(reward, CustomReward):
            findings.append(_custom(name, reward, probe))
        elif name in PAIRS:
            findings.append(_paired(name, reward, PAIRS[name](probe, policy)))
    return findings


def _paired(name: str, reward: Reward, pair: Pair) -> Finding:
    try:
        good, bad = reward(pair.good).sum(1), reward(pair.bad).sum(1)
    except ValueError as error:
        return Finding(part=_PART, name=name, mark="fail", says=str(error), fix="correct what is named above")
    share = float((good > bad).float().mean())
    figures = {"right": share, "margin": float((good - bad).mean())}
    if share == 1:
        says = f"right texts earn more than those with {pair.difference}, by {figures['margin']:.3g}"
        return Finding(part=_PART, name=name, mark="pass", says=says, figures=figures)
    return Finding(
        part=_PART,
        name=name,
        mark="fail",
        says=f"only {share:.0%} of the right texts earn more than those with {pair.difference}",
        fix="look at its settings: its sign is turned, or it does not see what it should punish",
        figures=figures,
    )


def _custom(name: str, reward: CustomReward, probe: Probe) -> Finding:
    """It must answer about each image with its true and its first false caption, and about other texts."""
    false = [texts[0] for texts in probe.false]
    try:
        good = reward(outcome_of_texts(probe.images, probe.true)).sum(1)
        bad = reward(outcome_of_texts(probe.images, false)).sum(1)
        one = probe.images.rows(torch.zeros(len(_VARIED), dtype=torch.long))
        other = reward(outcome_of_texts(one, list(_VARIED))).sum(1)
    except ValueError as error:
        return Finding(
            part=_PART, name=name, mark="fail", says=str(error), fix=f"correct the function {reward.name}"
        )
    share = float((good > bad).float().mean())
    if bool((torch.cat([good, bad, other]) == good[0]).all()):
        return Finding(
            part=_PART,
            name=name,
            mark="warn",
            says=f"says {float(good[0]):.3g} about every image and text of the test",
            fix="a reward that never differs teaches nothing; see whether it reads what it should",
        )
    says = f"runs; the true caption earns more than a false one for {share:.0%} of the images"
    return Finding(part=_PART, name=name, mark="pass", says=says, figures={"right": share})


def _captions(probe: Probe, good: list[str], bad: list[str], difference: str) -> Pair:
    images = probe.images.rows(torch.arange(len(good)))
    return Pair(good=outcome_of_texts(images, good), bad=outcome_of_texts(images, bad), difference=difference)


def _reversed_words(probe: Probe, policy: Captioner | None) -> Pair:
    good = probe.true[:_NUMBER]
    pair = _captions(probe, good, [" ".join(reversed(text.split())) for text in good], "their words reversed")
    if policy is None:
        return pair
    return replace(pair, good=_in_tokens(pair.good, policy), bad=_in_tokens(pair.bad, policy))


def _in_tokens(outcome: Outcome, policy: Captioner) -> Outcome:
    """The same texts in the policy's own tokens, which its likelihoods are of."""
    tokens = policy.encode(outcome.texts())
    return replace(outcome, tokens=tokens, pieces=policy.decode(tokens))


def _no_end(probe: Probe, policy: Captioner | None) -> Pair:
    pair = _captions(probe, probe.true[:_NUMBER], probe.true[:_NUMBER], "no end")
    return replace(pair, bad=replace(pair.bad, ended=torch.zeros_like(pair.bad.ended)))


def _bad_phrase(probe: Probe, policy: Captioner | None) -> Pair:
    phrase, good = load_phrases()[0], probe.true[:_NUMBER]
    return _captions(probe, good, [f"{text} {phrase}" for text in good], f"a bad phrase ({phrase})")


def _repeats(probe: Probe, policy: Captioner | None) -> Pair:
    good = probe.true[:_NUMBER]
    return _captions(probe, good, [f"{text} window window window" for text in good], "a word three times")


def _answers(probe: Probe, policy: Captioner | None) -> Pair:
    images = probe.images.rows(torch.arange(1))

    def answered(text: str, negative: str) -> Outcome:
        plain = replace(outcome_of_texts(images, [text]), facts=[_TOLD])
        blind = replace(outcome_of_texts(images, ["nothing"]), facts=[_TOLD])
        asked = replace(outcome_of_texts(images, [negative]), facts=[(_ABSENT,)])
        return replace(plain, others={"blind": blind, "negative": asked})

    return Pair(
        good=answered("a red circle", "no"), bad=answered("a blue square", "yes"), difference="wrong facts"
    )


PAIRS: dict[str, Callable[[Probe, Captioner | None], Pair]] = {
    "reference": _reversed_words,
    "missing_end": _no_end,
    "bad_phrases": _bad_phrase,
    "repeats": _repeats,
    "points": _answers,
    "share": _answers,
    "all_facts": _answers,
    "negative_questions": _answers,
}
