"""Settings of how UniRL's recipes score drawings, and how these carry a gradient.

Light to import: the command line reads it before any network is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from sightloop.ranges import Count, Positive, Range


@dataclass(frozen=True, kw_only=True)
class LikelihoodSettings:
    """Which log-probabilities of a drawing are pushed (docs/likelihoods.md)."""

    unmasking: Literal["trajectory", "subsampled", "remasked"] = "remasked"
    """Masked decoders: all rounds as drawn, some of them, or codes hidden anew (UniRL's training code)."""
    number: Count = 1
    """Rounds kept, or ratios of hidden codes."""
    guided: bool = False
    """The distribution that drew the codes, guidance included; False = the model's own distribution, at half
    the cost."""


@dataclass(frozen=True, kw_only=True)
class RelaxationSettings:
    """Straight-through codes that let the answer's loss reach the drawing side."""

    temperature: Positive = 1.0
    """Temperature of the relaxed codes; lower = nearer to single codes."""
    hard: bool = True
    """One-hot codes with a soft gradient; False = the soft codes themselves."""
    codes: Literal["one-round", "some-rounds", "all"] | None = None
    """Which codes carry the gradient. `one-round`: those still unknown in round `round` of a masked decoder,
    with which the drawing ends; `some-rounds`: of a finished drawing those of `number` of its rounds, others
    in each drawing; `all`: all of a finished drawing. None = `one-round`, or `all` without rounds (Janus).
    """
    number: Count | None = None
    """Rounds of `some-rounds`."""
    round: Annotated[int, Range()] | None = None
    """Round of `one-round`; negative counts from the end, None = the middle one."""

    def require_sense(self) -> None:
        """Check the settings against each other.

        Raises:
            ValueError: a setting of a choice that was not made.
        """
        if (self.number is None) == (self.codes == "some-rounds"):
            raise ValueError(
                f"relaxation.codes is {self.codes!r} and relaxation.number is {self.number}; 'some-rounds' "
                "needs it, the others have no use for it"
            )
        if self.round is not None and self.codes != "one-round":
            raise ValueError(
                f"relaxation.round is {self.round} and relaxation.codes is {self.codes!r}; only 'one-round' "
                "has a use for it"
            )
