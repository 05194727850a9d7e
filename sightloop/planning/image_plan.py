"""The resource plan of UniRL: what is resident, and what every phase of a step computes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForUniversalSegmentation

from sightloop.algorithms.methods import METHODS
from sightloop.models.precision import DTYPES
from sightloop.models.transformers_internals import is_language_model
from sightloop.planning.counting import count, on_meta
from sightloop.planning.networks import is_relaxed, networks_of
from sightloop.planning.precision import is_mixed
from sightloop.planning.published import config_of, downloads
from sightloop.planning.resources import LEARNED, Part, Plan, Work, moments_on
from sightloop.recipes.unirl.choices import asks_anyone
from sightloop.recipes.unirl.config import GrpoConfig, SftConfig, UniConfig
from sightloop.rewards.custom import read_names
from sightloop.rewards.user_functions import names_function

PROMPT, QUESTION = 16, 24
"""Assumed tokens of a prompt, and of a question with its frame."""
ANSWER_SHARE = 0.5
"""Assumed mean length of answers, as a share of the limit."""
_CATEGORIES = 6
"""Kinds of quizzes."""
_POSITIONS_AT_ONCE = 8192
"""Positions in one pass of a score without gradient."""


class ImagePlan:
    """Networks of a configuration, counted once; a plan for any number of ranks."""

    def __init__(self, config: UniConfig, *, is_paper: bool = False) -> None:
        """Raises ValueError if a model does not exist."""
        self.config, self.networks = config, networks_of(config, is_paper=is_paper)
        nets = self.networks
        likelihood = config.likelihood if isinstance(config, GrpoConfig | SftConfig) else None
        self._names = judges_named(config)
        self.judges = {title: _judge(name) for title, name in self._names.items()}
        self.asks = asks_anyone(config)
        self.answer = ANSWER_SHARE * config.answer.max_tokens
        guidance = nets.guidance if config.draw.guidance is None else config.draw.guidance
        self.guided = 2 if guidance > 0 else 1
        number = 1 if likelihood is None else likelihood.number
        drawn = likelihood is None or likelihood.unmasking == "trajectory"
        self.scored = nets.rounds if drawn else min(number, nets.rounds)
        relaxed = is_relaxed(config)
        if isinstance(config, SftConfig) and relaxed:
            some = config.relaxation.number or nets.rounds
            one = config.relaxation.codes in (None, "one-round")
            self.scored = 1 if one else min(some, nets.rounds)
        self.score_guided = self.guided if relaxed or (likelihood and likelihood.guided) else 1
        self.learns_drawing = config.drawing_weight > 0 or relaxed
        self.learns_answer = config.objectives.answering > 0
        # A model that draws in rounds reads the prompt of a group once.
        self.prompt = PROMPT / config.group if nets.by_rounds else PROMPT

    def plan(self, num_ranks: int) -> Plan:
        """The resources of one rank of several."""
        config, nets = self.config, self.networks
        learned = "adapters, which learn" if nets.has_adapters else "  of these learn"
        judges = {name: count(model) for name, model in self.judges.items()}
        notes = (
            ["what judges of rewards and detectors compute is not counted, their weights are"]
            if judges
            else []
        )
        if nets.has_adapters and has_reference(config):
            notes.append("the reference is the policy with its adapters off: no memory")
        return Plan(
            title=f"policy: {nets.name}",
            parameters=nets.parameters | {learned: count(nets.trained)} | judges,
            parts=tuple(part for part in self._parts(num_ranks) if part.size),
            works=tuple(self._works(num_ranks)),
            saved=(12.0 + 4.0 * (config.answer.answerer == "average")) * count(nets.trained),
            downloads=self._downloads(),
            step=f"a step of {config.batch} prompts with {config.group} drawings, prompts of {PROMPT} "
            f"tokens, answers of {ANSWER_SHARE:.0%} of the limit",
            notes=tuple(notes),
        )

    def _downloads(self) -> dict[str, float]:
        settings, nets = self.config, self.networks
        found = downloads({self._names[title]: count(model) for title, model in self.judges.items()})
        if settings.policy or nets.is_world:
            # A policy that is named was fetched to read its sizes.
            return found
        # Janus was published in half precision, as a whole.
        whole = {"deepseek-ai/Janus-1.3B": 2.0 * nets.parameters.get("Janus", 0)}
        if settings.world_model == "show-o":
            number, coder = nets.parameters["Show-o's language model"], nets.parameters["MAGVIT-v2"]
            whole = {"showlab/show-o-512x512": 4.0 * number, "showlab/magvitv2": 4.0 * coder}
        return whole | found

    def _parts(self, num_ranks: int) -> Iterator[Part]:
        config, nets = self.config, self.networks
        for name, (number, size) in nets.parts.items():
            yield Part(name=name, size=number * size)
        trained = count(nets.trained) * 4
        yield Part(name="trained: adapters" if nets.has_adapters else "trained: language model", size=trained)
        moments = moments_on(config.schedule, count(nets.trained), num_ranks)
        yield Part(name="Adam's moments", size=moments, phases=LEARNED)
        yield Part(name="gradients", size=trained, phases=("policy",))
        compared = config.drawing_weight > 0 and self.learns_answer
        if compared:
            yield Part(name="gradients of each side, where compared", size=2 * trained, phases=("policy",))
        if not nets.has_adapters:
            copies = int(has_reference(config)) + int(config.answer.answerer == "frozen")
            yield Part(name="reference: a copy of what is trained", size=copies * self._copy())
        if config.answer.answerer == "average":
            yield Part(name="grader: a moving average of what is trained", size=trained)
        for name, model in self.judges.items():
            yield Part(name=name, size=count(model) * 4)

    def _copy(self) -> float:
        """Bytes of what is trained as it was before: its matrices in the precision of their products."""
        trained = self.networks.trained
        matrices = sum(p.weight.numel() for p in trained.modules() if isinstance(p, nn.Linear))
        return count(trained) * 4 - 2 * matrices * is_mixed(self.config)

    def _works(self, num_ranks: int) -> Iterator[Work]:
        config, nets = self.config, self.networks
        rows, mine = config.batch * config.group, -(-config.batch // num_ranks) * config.group
        chunk, micro = min(mine, config.draw_batch or mine), min(config.schedule.micro_batch, mine)
        casts = 2.0 * count(nets.trained) * is_mixed(config)
        yield Work(
            phase="generate",
            name="codes drawn",
            flops=rows * self._drawn(),
            reads=self._read_drawing(mine, chunk),
            live=chunk * self._drawing_live() + casts,
        )
        at_once = min(chunk, nets.drawn_at_once or chunk)
        yield Work(
            phase="generate",
            name="pixels of codes",
            flops=rows * nets.decode.forward,
            live=at_once * nets.decode.live,
        )
        if self.asks:
            yield Work(
                phase="judge",
                name="images seen",
                flops=rows * nets.look.forward,
                live=chunk * nets.look.live,
            )
            more = (
                (config.rewards.negative_questions > 0)
                + (config.rewards.object_identification > 0)
                + config.judge.subtract_blind_baseline
            )
            yield Work(
                phase="judge",
                name="questions answered",
                flops=rows * (self._answered() + more * self._asked()),
                reads=(1 + more) * self._read_answers(mine, chunk),
                live=chunk * self._answering_live() + casts,
            )
        turns = self._turns()
        if has_reference(config):
            positions = max((places for places, _ in turns.values()), default=0.0)
            live = min(micro * positions, max(_POSITIONS_AT_ONCE, nets.canvas))
            yield Work(
                phase="reference",
                name="turns scored",
                flops=rows * sum(self._scored(name, learns=False) for name in turns),
                live=live * nets.language.reading.live,
            )
        yield from self._learning(rows, micro, casts)
        yield Work(phase="policy", name="Adam's step", live=4.0 * count(nets.trained))
        yield from self._evaluation(casts)

    def _turns(self) -> dict[str, tuple[float, float]]:
        """Positions of each turn that learns: at most, and on average."""
        nets = self.networks
        found: dict[str, tuple[float, float]] = {}
        if self.learns_drawing:
            positions = self.score_guided * (self.prompt + self.scored * nets.canvas)
            found["drawings"] = positions, positions
        if self.learns_answer:
            before = nets.seen + QUESTION
            found["answers"] = before + self.config.answer.max_tokens, before + self.answer
        return found

    def _scored(self, turn: str, *, learns: bool) -> float:
        """FLOPs of scoring a turn, and of going back through it."""
        nets, again = self.networks, self.config.gradient_checkpointing
        # Logits are computed again on the way back, to the hidden states and the head, if that learns.
        head = 1 + learns * (2 + (not nets.has_adapters))

        def through(new: float, context: float) -> float:
            passes = nets.language
            return passes.learn(new, context, recomputed=again) if learns else passes.read(new, context)

        if turn == "answers":
            before = nets.seen + QUESTION
            total = before + self.answer
            return (
                through(nets.seen, nets.seen)
                + through(total - nets.seen, total)
                + head * self.answer * nets.word
            )
        context = PROMPT + nets.canvas
        one = through(nets.canvas, context) + head * nets.codes * nets.code
        return self.score_guided * (through(self.prompt, PROMPT) + self.scored * one)

    def _learning(self, rows: int, micro: int, casts: float) -> Iterator[Work]:
        config, nets = self.config, self.networks
        again, turns = config.gradient_checkpointing, self._turns()
        updates = config.updates if isinstance(config, GrpoConfig) else 1
        kept = sum(nets.language.kept(places, recomputed=again) for places, _ in turns.values())
        if is_relaxed(config):
            # Relaxed codes keep a row of weights each; plain ones are scored a part at a time.
            kept += 3 * nets.codes * nets.num_codes * 4
            kept += nets.through.live
            back = rows * (nets.through.forward + nets.through.backward)
            yield Work(phase="policy", name="through pixels, forward and backward", flops=back)
        for place, name in enumerate(turns):
            yield Work(
                phase="policy",
                name=f"{name}, forward and backward",
                flops=updates * rows * self._scored(name, learns=True),
                live=micro * kept + casts if place == 0 else 0.0,
            )

    def _evaluation(self, casts: float) -> Iterator[Work]:
        settings, nets = self.config.joint, self.networks
        number = settings.per_category * _CATEGORIES
        if not number or not (settings.detector or nets.is_world):
            return
        each = self._drawn() + nets.decode.forward + nets.look.forward + self._answered()
        at_once = min(number, settings.draw_batch)
        pixels = min(at_once, nets.drawn_at_once or at_once) * nets.decode.live
        most = at_once * max(self._drawing_live(), self._answering_live(), nets.look.live)
        yield Work(
            phase="evaluate",
            name=f"{number} drawings made and asked about",
            flops=number * each,
            reads=self._read_drawing(number, at_once) + self._read_answers(number, at_once),
            live=max(most + casts, pixels),
        )

    def _drawn(self) -> float:
        """FLOPs of one drawing."""
        nets = self.networks
        context = PROMPT + (nets.canvas if nets.by_rounds else nets.canvas / 2)
        one = nets.language.read(nets.canvas, context) + nets.codes * nets.code
        return self.guided * (nets.rounds * one + nets.language.read(self.prompt, PROMPT))

    def _read_drawing(self, rows: int, at_once: int) -> float:
        """Bytes that are read to draw: the weights for every round or code, and codes that came before."""
        nets = self.networks
        passes = nets.rounds if nets.by_rounds else nets.codes
        cache = 0.0 if nets.by_rounds else nets.codes * (PROMPT + nets.codes / 2) * nets.language.cached
        return math.ceil(rows / at_once) * passes * self._weights + rows * self.guided * cache

    def _read_answers(self, rows: int, at_once: int) -> float:
        nets, limit = self.networks, self.config.answer.max_tokens
        cache = self.answer * (nets.seen + QUESTION + self.answer / 2) * nets.language.cached
        return math.ceil(rows / at_once) * limit * self._weights + rows * cache

    @property
    def _weights(self) -> float:
        """Bytes of the language model, two operations a weight."""
        return self.networks.language.reading.forward / 2 * DTYPES[self.config.dtype].itemsize

    def _asked(self) -> float:
        """FLOPs of a question and its answer, the image being read already."""
        seen, new = self.networks.seen, QUESTION + self.answer
        return self.networks.language.read(new, seen + new / 2) + self.answer * self.networks.word

    def _answered(self) -> float:
        return self.networks.language.read(self.networks.seen, self.networks.seen) + self._asked()

    def _drawing_live(self) -> float:
        """Bytes of one drawing in the making."""
        nets, language = self.networks, self.networks.language
        if not nets.by_rounds:
            return self.guided * (PROMPT + nets.codes) * language.cached + 3 * nets.num_codes * 4
        # A round sees the whole image: a layer's work, and the logits of every code.
        work = nets.canvas * language.reading.live + 3 * nets.codes * nets.num_codes * 4
        return self.guided * (PROMPT * language.cached + work)

    def _answering_live(self) -> float:
        nets, language = self.networks, self.networks.language
        read = nets.seen + QUESTION
        at_first = read * (language.cached + language.reading.live)
        return max(at_first, (read + self.config.answer.max_tokens) * language.cached)


def has_reference(config: UniConfig) -> bool:
    """Whether the divergence from the policy before training counts."""
    if isinstance(config, SftConfig):
        return config.kl_weight > 0
    if not isinstance(config, GrpoConfig):
        return False
    return METHODS[config.algorithm].penalty if config.kl_weight is None else config.kl_weight > 0


def judges_named(config: UniConfig) -> dict[str, str]:
    """Detectors, color judges and language models that rewards and the evaluation name.

    What a function of the user's needs, nobody knows.
    """
    given = {
        "rewards: detector": config.judge.detector if config.rewards.detector else "",
        "rewards: CLIP of colors": config.judge.colors if config.rewards.detector else "",
        "rewards: language model": config.judge.text_model if config.rewards.text_judge else "",
        "evaluation: detector": config.joint.detector if config.joint.per_category else "",
        "evaluation: CLIP of colors": config.joint.colors if config.joint.per_category else "",
    }
    for reward in read_names(config.custom_rewards):
        given |= {f"reward {model}": model for model in reward.models}
    return {title: name for title, name in given.items() if name and not names_function(name)}


def _judge(name: str) -> Any:
    found = config_of(name)
    kind = AutoModelForCausalLM if is_language_model(found) else AutoModel
    if found.model_type in ("mask2former", "oneformer", "maskformer"):
        kind = AutoModelForUniversalSegmentation
    return on_meta(lambda: kind.from_config(found, trust_remote_code=False), torch.float32)
