"""The vocabulary of the library: what flows between policies, rewards, algorithms and the loop.

Shape letters, everywhere: B samples, T tokens of a turn, S tokens of all turns, V vocabulary, H and W pixels.
Masks are boolean and True means "this token counts". Log-probabilities are natural logarithms in float32.
Images are uint8 RGB, channels first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from sightloop.picking import picked

Modality = Literal["text", "image"]
MaskSchedule = Literal["cosine", "linear", "pow", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn, and under which distribution they may be scored; below `top_k` all is about
    images."""

    max_tokens: int
    temperature: float = 1.0
    """0 means greedy: the most likely token."""
    top_k: int | None = None
    """None keeps the whole vocabulary."""
    guidance: float = 0.0
    """Classifier-free guidance; 0 = off. Show-o: (1 + g) c - g u; Janus: u + g (c - u)."""
    decode_steps: int | None = None
    """Masked decoders: number of parallel rounds."""
    schedule: MaskSchedule = "cosine"
    """Masked decoders: how many tokens stay unknown after each round."""
    order_temperature: float = 1.0
    """Masked decoders: noise in the choice of the tokens that a round fixes; falls to 0 over the rounds."""
    relaxation: float | None = None
    """Straight-through Gumbel temperature: tokens also carry one-hot codes with a gradient. None = plain."""
    relaxed_hard: bool = True
    """Relaxed codes are one-hot with a soft gradient; False: the soft codes themselves."""
    relaxed_rounds: int | None = None
    """Masked decoders: so many rounds of each sample, by its seed, carry the gradient; None = all codes."""
    relaxed_round: int | None = None
    """Masked decoders: instead, end with this round, relaxed whole; negative counts from the end."""

    def __post_init__(self) -> None:
        # Programs in Python give what they like.
        is_whole = isinstance(self.max_tokens, int)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not is_whole or self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens!r}; a turn needs at least 1 token")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; use 0 for greedy or a positive value")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; use None for the whole vocabulary or at least 1")
        if self.guidance < 0:
            raise ValueError(f"guidance is {self.guidance}; use 0 (off) or a positive scale")
        if self.decode_steps is not None and not 1 <= self.decode_steps <= self.max_tokens:
            raise ValueError(f"decode_steps is {self.decode_steps}; use 1 to max_tokens ({self.max_tokens})")
        if self.order_temperature < 0:
            raise ValueError(f"order_temperature is {self.order_temperature}; use 0 or a positive value")
        if self.relaxation is not None and self.relaxation <= 0:
            raise ValueError(f"relaxation is {self.relaxation}; use None or a positive temperature")


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images as squares of one size, with the features of frozen towers that were already computed for them.

    A frozen tower sees an image once: whoever runs it returns the same `Images` with the features added
    under the tower's key, and sampler, scorer, critic and judge read them from there.
    """

    pixels: UInt8[Tensor, "B 3 H W"]
    whole: list[UInt8[Tensor, "3 _ _"]] | None = None
    """In their own shapes, for models that prepare them as their authors do; None = squares are all."""
    features: Mapping[str, Float[Tensor, "B ..."]] = field(default_factory=dict[str, Tensor])
    keys: list[bytes] | None = None
    """Of each image, equal where images are; None = the host has not looked at them yet."""
    more: tuple[Images, ...] = ()
    """Second, third and further images of each sample; blank where it has fewer."""
    counts: list[int] | None = None
    """How many images each sample has, 0 for a text alone; None = one each."""

    def __len__(self) -> int:
        return self.pixels.shape[0]

    @property
    def are_single(self) -> bool:
        """Whether every sample has one image."""
        return self.counts is None or all(count == 1 for count in self.counts)

    def rows(self, index: Int[Tensor, " N"]) -> Images:
        """The images at `index`, features included."""
        return Images(**picked(vars(self), index))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each, in its own shape."""
        return [(each.shape[1], each.shape[2]) for each in self.whole or [self.pixels[0]] * len(self)]

    def pictures(self) -> list[Image.Image]:
        """Each as a PIL image, RGB, in its own shape."""
        each = self.pixels.cpu().unbind() if self.whole is None else self.whole
        return [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in each]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A batch of sampled or given discrete tokens of one modality."""

    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    """True up to and including the end token."""
    log_probs: Float[Tensor, "B T"] | None = None
    """Under the distribution that drew them; None if the tokens were given."""
    decode_step: Int[Tensor, "B T"] | None = None
    """Round that fixed each token; None = left to right."""
    one_hot: Float[Tensor, "B T V"] | None = None
    """Straight-through one-hot codes that carry a gradient."""
    keys: list[bytes] | None = None
    """Where these are images: of each, equal where all codes are; None = the host has not looked yet."""

    def __len__(self) -> int:
        return self.ids.shape[0]

    def rows(self, index: Int[Tensor, " N"]) -> Tokens:
        """The samples at `index`."""
        # Keys are the host's, which would wait for an index on the device.
        keys = picked(self.keys, index)
        return Tokens(**picked(vars(self) | {"keys": None}, index.to(self.ids.device)) | {"keys": keys})


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the policy is conditioned on, and what it should produce."""

    texts: list[str]
    images: Images | Tokens | None = None
    """Pixels, or the policy's own image tokens. Where an image is wanted: tokens to keep, if they count."""
    wants: Modality = "text"
    seeds: list[int] | None = None
    """One a sample: the same seed draws the same tokens beside any others. None = global generator."""

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, index: Int[Tensor, " N"]) -> Prompt:
        """The prompts at `index`."""
        parts = {"texts": self.texts, "images": self.images, "seeds": self.seeds}
        return Prompt(wants=self.wants, **picked(parts, index))


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A prompt and the tokens that answered it. They never travel apart."""

    prompt: Prompt
    tokens: Tokens

    @property
    def kind(self) -> Literal["drawing", "answering"]:
        """What was done: `drawing` an image, or `answering` with words."""
        return "drawing" if self.prompt.wants == "image" else "answering"

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, index: Int[Tensor, " N"]) -> Turn:
        """The samples at `index`."""
        return Turn(**picked(vars(self), index))


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """What the weights say of given tokens; 0 where masked. `log_probs` has the gradient; nats."""

    log_probs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]


class Policy(Protocol):
    """A model that draws tokens and scores them. Implementations are `nn.Module`s."""

    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Draw tokens, without gradient unless `sampling.relaxation` asks for one."""
        ...

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """Log-probabilities of the turn's tokens under `under`, or under the model's own distribution if
        None."""
        ...

    def encode(self, texts: list[str]) -> Tokens:
        """Tokens of given texts, end token included."""
        ...

    def decode(self, tokens: Tokens) -> list[list[str]]:
        """The text of each token, special tokens left out; `"".join(pieces)` is the text."""
        ...


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing that a right answer says."""

    kind: Literal["noun", "number", "color", "relation"]
    words: tuple[str, ...]
    """Phrases of which any tells it; the first is the canonical one."""
    about: tuple[str, ...] = ()
    """Names of the noun that the color belongs to, or of the relation's subject; empty: of nothing named."""
    target: tuple[str, ...] = ()
    """Names of the relation's other noun."""
    named: tuple[str, ...] = ()
    """Names of the thing of a color, where the question names none: the answer may use them."""


OtherQuestion = Literal["identification", "negative", "blind"]
"""Which thing it is, something about what is absent, the same question about a blank image."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that a reward may look at: results, never the policy."""

    tokens: Tokens
    """Detached."""
    pieces: list[list[str]]
    """The text of each token that is not special, joined the text of row i; the end token has none."""
    ended: Bool[Tensor, " B"]
    """True where an end token was drawn."""
    images: Images | None
    references: list[str]
    """The true answer, or the prompt; "" if there is none."""
    sources: list[str] = field(default_factory=list[str])
    """Where each image came from (a path), for error messages and rewards that look up a truth."""
    questions: list[str] = field(default_factory=list[str])
    """What was asked about each image."""
    facts: list[tuple[Fact, ...]] = field(default_factory=list[tuple[Fact, ...]])
    """What a right answer says."""
    group: Int[Tensor, " B"] | None = None
    """Samples of one prompt share an id."""
    prompts: list[str] = field(default_factory=list[str])
    """What was asked, where each sample has a prompt of its own."""
    columns: Mapping[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    """What else stands in the rows of the data, by column."""
    others: Mapping[OtherQuestion, Outcome] = field(default_factory=dict["OtherQuestion", "Outcome"])
    """Further answers to compare with, sample by sample."""

    def texts(self) -> list[str]:
        """The captions, stripped of white space at both ends."""
        return ["".join(row).strip() for row in self.pieces]


Reward = Callable[[Outcome], Float[Tensor, "B T"]]
"""What each token earns; what a whole text earns goes on its last token (`on_last_token`)."""

Judge = Callable[[Outcome], tuple[Float[Tensor, "B T"], dict[str, Float[Tensor, " B"]]]]
"""The weighted sum of all rewards per token, and each named reward summed over the tokens, unweighted."""


def on_last_token(values: Float[Tensor, " B"], tokens: Tokens) -> Float[Tensor, "B T"]:
    """A reward of the whole text, put on the last token that counts.

    >>> mask = torch.tensor([[True, True, False], [True, True, True]])
    >>> on_last_token(torch.tensor([5.0, 7.0]), Tokens(ids=mask.long(), mask=mask))
    tensor([[0., 5., 0.],
            [0., 0., 7.]])
    """
    mask = tokens.mask
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    placed = torch.zeros(mask.shape, dtype=values.dtype, device=mask.device)
    return placed.scatter(1, last[:, None], values.to(mask.device)[:, None])


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Judged experience. Rewards belong to the last turn's tokens."""

    turns: tuple[Turn, ...]
    rewards: Float[Tensor, "B T"]
    reward_parts: dict[str, Float[Tensor, " B"]]
    """Each named reward summed over the tokens, unweighted, for the log."""
    group: Int[Tensor, " B"]
    """Samples of one prompt share an id."""
    pieces: list[list[str]] = field(default_factory=list[list[str]])
    """Decoded pieces of the last turn, for galleries."""
    sources: list[str] = field(default_factory=list[str])
    """Where each image came from."""
    baseline: Float[Tensor, " B"] | None = None
    """Total reward of the greedy caption of the same image (SCST); None otherwise."""
    references: list[str] = field(default_factory=list[str])
    """The true answers of a quiz."""
    answers: list[str] = field(default_factory=list[str])
    """The answers that were judged, where the last turn may hold the true ones instead."""
    drawn: Images | None = None
    """Images of the first turn's tokens, for galleries."""
    values: Float[Tensor, "B T"] | None = None
    """What a critic expected of the last turn's tokens before this step's update; None without a critic."""

    def __len__(self) -> int:
        return self.rewards.shape[0]

    def turn_columns(self) -> tuple[slice, ...]:
        """Where the tokens of each turn lie among those of all turns, as credit and losses hold them."""
        widths = [turn.tokens.mask.shape[1] for turn in self.turns]
        return tuple(slice(sum(widths[:i]), sum(widths[: i + 1])) for i in range(len(widths)))

    def rows(self, index: Int[Tensor, " N"]) -> Rollout:
        """The samples at `index`."""
        return Rollout(**picked(vars(self), index))


@dataclass(frozen=True, kw_only=True)
class CriticPass:
    """One pass of a critic over a rollout, from which it learns and is read at once."""

    values: Float[Tensor, "B T"]
    """What it expected of the last turn's tokens, before this step's update."""
    gradients: Mapping[nn.Parameter, Tensor]
    """Of its own loss, on all rows of this rank; the update adds them to the policy's and uses them up."""


@dataclass(frozen=True, kw_only=True)
class Credit:
    """What each token is worth, computed for the whole batch on all ranks before it is split."""

    advantages: Float[Tensor, "B S"]
    loss_weights: Float[Tensor, "B S"]
    """Weight of each token in the batch loss: 0 where it does not count, sum 1 over all ranks' batch."""
    returns: Float[Tensor, "B S"] | None = None
    """Discounted rewards from each token onwards: the target of a critic."""
    unmasking: tuple[Turn, ...] = ()
    """The drawing turn in other orders, equal in weight: scored in its place."""
    old_log_probs: tuple[Float[Tensor, "B _ _"], ...] = ()
    """Of each turn before the first update: sample, order (1 without orders), token; for ratios."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """What credit found out about the batch on all ranks, for the log."""

    def rows(self, index: Int[Tensor, " N"]) -> Credit:
        """The samples at `index`."""
        parts = {name: value for name, value in vars(self).items() if name != "metrics"}
        return Credit(metrics=self.metrics, **picked(parts, index.to(self.advantages.device)))


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """Per-token loss; the loop multiplies by `credit.loss_weights` and sums, once."""

    per_token: Float[Tensor, "B S"]
    metrics: dict[str, Float[Tensor, "B S"]]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a policy achieved on held-out images."""

    metrics: dict[str, float]
    """Figures of the whole set, by plain name (`recall@1`, `length`)."""
    per_sample: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Values whose mean is the figure of the same name, in the order of the set: for paired intervals."""
    samples: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    """What was produced: `source` (path), `caption`, and `truth` where one is known."""
    protocol: dict[str, str] = field(default_factory=dict[str, str])
    """Everything a reader needs to compare: encoder, decoding, crop, number of images."""


class Reduction(Protocol):
    """Sums a tensor over all ranks; the identity on one rank."""

    def __call__(self, tensor: Tensor, /) -> Tensor: ...


def identity_reduction(tensor: Tensor, /) -> Tensor:
    """The reduction of a run on one rank: the tensor itself."""
    return tensor


class Algorithm(Protocol):
    """Turns judged experience into a loss."""

    def credit(self, policy: Policy, rollout: Rollout) -> Credit:
        """Credit for the whole batch, on all ranks, without gradient."""
        ...

    def loss(self, policy: Policy, rollout: Rollout, credit: Credit) -> LossOutput:
        """Per-token loss of any subset of rows."""
        ...
