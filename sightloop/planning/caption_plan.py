"""The resource plan of VLRM: what is resident, and what every phase of a step computes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, Blip2ForImageTextRetrieval, CLIPModel

from sightloop.models.precision import DTYPES
from sightloop.models.transformers_internals import is_language_model
from sightloop.planning.captioner_networks import captioner_networks_of
from sightloop.planning.counting import Pass, count, language_of, on_meta, passing
from sightloop.planning.published import config_of, downloads
from sightloop.planning.resources import LEARNED, Part, Phase, Plan, Work, moments_on
from sightloop.recipes.vlrm.algorithms import ALGORITHMS
from sightloop.recipes.vlrm.config import VlrmConfig
from sightloop.rewards.custom import read_names
from sightloop.world.bundled import WEIGHTS

CAPTION_SHARE = 0.6
"""Assumed mean length of captions, as a share of the limit."""
_JUDGED = 64
"""Captions that a judge reads at once."""
_LOGITS = 2**23
"""Logits that are scored at once, at most."""
_KEPT: tuple[Phase, ...] = ("generate", "judge", "reference", "critic", "policy")


class CaptionPlan:
    """Networks of a configuration, counted once; a plan for any number of ranks."""

    def __init__(self, config: VlrmConfig) -> None:
        """Raises ValueError if a model does not exist."""
        self.config = config
        self.networks = captioner_networks_of(config, config.policy or str(WEIGHTS / "captioner"))
        self.half = DTYPES[config.dtype].itemsize
        self.judge = self.clip = self.reference = None
        self.words = CAPTION_SHARE * config.draw.max_tokens
        dtype = DTYPES[config.dtype]
        self.match = self.see = Pass()
        if config.rewards.similarity:
            judge = config_of(config.judge.model or str(WEIGHTS / "judge"))
            self.judge = on_meta(lambda: Blip2ForImageTextRetrieval(judge))
            self.match = matched(self.judge, round(self.words))
            if not self._shares_tower:
                self.see = seen(self.judge.vision_model, torch.float32)
        if config.rewards.retrieval:
            clip = config_of(config.judge.retrieval_clip or str(WEIGHTS / "clip_retrieval"))
            self.clip = on_meta(lambda: CLIPModel(clip), dtype)
        if config.rewards.reference and config.judge.reference_model:
            self.reference = network_of(config.judge.reference_model, dtype)
        names = [model for one in read_names(config.custom_rewards) for model in one.models]
        self.custom = {name: count(network_of(name, dtype)) for name in names}
        held_out = config.held_out
        # The embedded world brings images and encoder.
        clip_name = held_out.clip or ("" if held_out.images else str(WEIGHTS / "clip"))
        wanted = clip_name and (held_out.images or (not config.data.images and not config.policy))
        self.encoder = count(network_of(clip_name, torch.float32)) if wanted else 0

    def plan(self, num_ranks: int) -> Plan:
        """The resources of one rank of several."""
        config = self.config
        return Plan(
            title=f"policy: {self.networks.name}",
            parameters=self._parameters(),
            parts=tuple(part for part in self._parts(num_ranks) if part.size),
            works=tuple(self._works(num_ranks)),
            saved=12.0 * (count(self.networks.trained, self.networks.head, self.networks.adapters)),
            downloads=self._downloads(),
            step=f"a step of {config.batch} images, captions of {CAPTION_SHARE:.0%} of the limit",
            notes=self._notes(),
        )

    @property
    def _samples(self) -> int:
        return self.config.batch * self.config.draw.per_image

    @property
    def _shares_tower(self) -> bool:
        return self.networks.shares_tower and self.config.judge.reuse_tower == "auto"

    def _logits(self, rows: int, vocabulary: int) -> float:
        """Bytes of the logits by which rows are scored, three times over."""
        return 3 * 4 * min(_LOGITS, rows * self.config.draw.max_tokens * vocabulary)

    def _parameters(self) -> dict[str, int]:
        nets = self.networks
        has_bridge = nets.has_bridge
        found = {"captioner": count(nets.model)}
        title = "  of it trainable (queries, Q-Former, projection)" if has_bridge else "adapters, which learn"
        found[title] = count(nets.trained)
        found |= {"value head": count(nets.head), "critic's adapters": count(nets.adapters)}
        found |= {"judge": count(self.judge), "CLIP of the retrieval term": count(self.clip)}
        found |= {"reference model": count(self.reference), "held-out CLIP": self.encoder}
        found |= {f"reward {name}": number for name, number in self.custom.items()}
        return {name: number for name, number in found.items() if number}

    def _downloads(self) -> dict[str, float]:
        config = self.config
        named = {
            config.policy: count(self.networks.model),
            config.judge.model: count(self.judge),
            config.judge.retrieval_clip: count(self.clip),
            config.judge.reference_model: count(self.reference),
            config.held_out.clip: self.encoder,
        }
        return downloads(named | self.custom)

    def _parts(self, num_ranks: int) -> Iterator[Part]:
        config, nets, half = self.config, self.networks, self.half
        learned, critic = count(nets.trained), count(nets.head) + count(nets.adapters)
        frozen = count(nets.model) - (learned if nets.has_bridge else 0)
        if config.shard:
            frozen -= nets.sharded - nets.sharded // num_ranks
        yield Part(name="frozen tower and language model", size=frozen * half)
        yield Part(name="trained: bridge" if nets.has_bridge else "trained: adapters", size=learned * 4)
        yield Part(name="value head", size=count(nets.head) * 4)
        yield Part(name="critic's adapters", size=count(nets.adapters) * 4)
        moments = moments_on(config.schedule, learned + critic, num_ranks)
        yield Part(name="Adam's moments", size=moments, phases=LEARNED)
        yield Part(name="gradients of the critic", size=critic * 4, phases=("critic", "policy"))
        yield Part(name="gradients of the policy", size=learned * 4, phases=("policy",))
        if self.judge is not None:
            tower = count(self.judge.vision_model)
            yield Part(name="judge behind its tower", size=(count(self.judge) - tower) * 4)
            yield Part(name="judge's own tower", size=0 if self._shares_tower else tower * half)
        yield Part(name="CLIP of the retrieval term", size=count(self.clip) * half)
        yield Part(name="reference model", size=count(self.reference) * half)
        for name, number in self.custom.items():
            yield Part(name=f"reward {name}", size=number * half)
        yield Part(name="held-out CLIP", size=self.encoder * 4)
        kept = nets.features * half * -(-config.batch // num_ranks) * config.draw.per_image
        yield Part(name="tower features of a step", size=kept if config.keep_features else 0, phases=_KEPT)

    def _works(self, num_ranks: int) -> Iterator[Work]:
        config, nets, words = self.config, self.networks, self.words
        limit, places = config.draw.max_tokens, nets.places
        rows = -(-config.batch // num_ranks) * config.draw.per_image
        chunk, micro = min(config.draw_batch or rows, rows), min(config.schedule.micro_batch, rows)
        head = 2 * nets.vocabulary * nets.policy.width / self.half * words
        greedy = config.batch * ALGORITHMS[config.algorithm].greedy_baseline
        written = self._samples + greedy
        each_pass = config.keep_features and config.captioner.reuse_features
        looks = 1 if each_pass else 2 + (nets.critic is not None)
        yield Work(
            phase="generate",
            name="images seen",
            flops=looks * config.batch * nets.tower.forward,
            live=max(1, chunk // config.draw.per_image) * nets.tower.live,
        )
        read = nets.policy.read(places, places) + nets.policy.read(words, places + words / 2) + head
        cache = (places + limit) * nets.policy.cached + nets.kept_states + 3 * nets.vocabulary * 4
        yield Work(
            phase="generate",
            name="captions written",
            flops=written * (nets.bridge.forward + read),
            reads=self._read(written / self._samples * rows, chunk),
            live=chunk * max(cache, places * (nets.policy.cached + nets.policy.reading.live)),
        )
        yield from self._judged(written, chunk)
        if nets.critic is not None:
            seen = places + words
            learn = nets.critic.learn(seen, seen, recomputed=config.gradient_checkpointing)
            value = words * (nets.value.forward + nets.value.backward)
            kept = nets.critic.kept(places + limit, recomputed=config.gradient_checkpointing)
            yield Work(
                phase="critic",
                name="values, forward and backward",
                flops=self._samples * (learn + value),
                live=micro * (kept + limit * nets.value.live),
            )
        again = config.gradient_checkpointing
        learn = nets.policy.learn(places + words, places + words, recomputed=again) + 2 * head
        bridge = nets.bridge.forward * (1 + again) + nets.bridge.backward
        kept = nets.bridge.live + nets.policy.kept(places + limit, recomputed=again)
        yield Work(
            phase="policy",
            name="captions scored, forward and backward",
            flops=self._samples * (bridge + learn),
            live=micro * kept + self._logits(micro, nets.vocabulary),
        )
        if self.encoder:
            yield self._evaluated(read, num_ranks)

    def _evaluated(self, read: float, num_ranks: int) -> Work:
        """An evaluation, a caption of one beam being `read` FLOPs."""
        settings, nets, places = self.config.held_out, self.networks, self.networks.places
        room = (places + settings.max_tokens) * nets.policy.cached + nets.kept_states
        room += 3 * nets.vocabulary * 4
        once = nets.policy.read(places, places)
        each, number = settings.beams * (read - once) + once, settings.limit or 1000
        at_once = min(settings.draw_batch, number)
        return Work(
            phase="evaluate",
            name=f"{number} images, {settings.beams} beams",
            flops=number * (nets.tower.forward + nets.bridge.forward + each),
            reads=self._read(number / num_ranks * settings.beams, at_once * settings.beams),
            live=at_once * max(settings.beams * room, nets.tower.live),
        )

    def _read(self, rows: float, at_once: int) -> float:
        """Bytes that are read to write captions: the weights for every word, and what stands before it."""
        nets, words = self.networks, self.words
        weights = nets.policy.reading.forward / 2 * self.half
        cache = words * ((nets.places + words / 2) * nets.policy.cached + nets.kept_states)
        return math.ceil(rows / at_once) * self.config.draw.max_tokens * weights + rows * cache

    def _judged(self, written: int, chunk: int) -> Iterator[Work]:
        config, nets, words = self.config, self.networks, self.words
        rows = min(chunk, _JUDGED)
        if self.judge is not None:
            yield Work(
                phase="judge",
                name="image and text matched",
                flops=written * self.match.forward + config.batch * self.see.forward,
                live=rows * max(self.match.live, self.see.live),
            )
        if self.clip is not None:
            image, text = (
                seen(self.clip.vision_model, DTYPES[config.dtype]),
                read_text(self.clip, round(words)),
            )
            yield Work(
                phase="judge",
                name="retrieval term",
                flops=written * text.forward + config.batch * image.forward,
                live=rows * max(image.live, text.live),
            )
        if config.rewards.reference:
            language, vocabulary = nets.policy, nets.vocabulary
            if self.reference is not None:
                given = self.reference.config.get_text_config()
                language = language_of(
                    self.reference.get_decoder(),
                    width=given.hidden_size,
                    dtype=DTYPES[config.dtype],
                    gradient_from_below=False,
                    learns=False,
                )
                vocabulary = given.vocab_size
            head = 2 * vocabulary * language.width / self.half * words
            yield Work(
                phase="reference",
                name="captions as text",
                flops=written * (language.read(words, words) + head),
                live=-(-chunk // 4) * config.draw.max_tokens * language.reading.live
                + self._logits(chunk, vocabulary),
            )

    def _notes(self) -> tuple[str, ...]:
        notes: list[str] = []
        if self.judge is not None and self._shares_tower:
            notes.append(
                "the judge reads the captioner's tower if all their tensors are equal; else add its own"
            )
        if self.custom:
            notes.append("what rewards of your own compute is not counted, their weights are")
        return tuple(notes)


def network_of(name: str, dtype: torch.dtype) -> Any:
    """Any model by folder or hub name, without weights.

    Raises:
        ValueError: there is no such model.
    """
    given = config_of(name)
    kind = AutoModelForCausalLM if is_language_model(given) else AutoModel
    return on_meta(lambda: kind.from_config(given, trust_remote_code=False), dtype)


def matched(judge: Any, words: int) -> Pass:
    """A caption and the features of its image through BLIP-2's matcher."""
    vision, queries = judge.config.vision_config, judge.config.num_query_tokens
    patches = (vision.image_size // vision.patch_size) ** 2 + 1

    def run() -> Tensor:
        text = torch.empty(1, words, dtype=torch.long, device="meta")
        hidden = judge.qformer(
            query_embeds=judge.embeddings(input_ids=text, query_embeds=judge.query_tokens),
            query_length=queries,
            encoder_hidden_states=torch.empty(1, patches, vision.hidden_size, device="meta"),
        ).last_hidden_state
        return judge.itm_head(hidden[:, :queries])

    return passing(run, judge)


def seen(tower: Any, dtype: torch.dtype) -> Pass:
    """An image through a tower of the CLIP or BLIP family."""
    objective = tower.config.image_size
    pixels = torch.empty(1, 3, objective, objective, dtype=dtype, device="meta")
    return passing(lambda: tower(pixel_values=pixels).last_hidden_state, tower)


def read_text(clip: Any, words: int) -> Pass:
    """A text through CLIP's text tower."""
    ids = torch.empty(1, words, dtype=torch.long, device="meta")
    return passing(lambda: clip.text_model(input_ids=ids).last_hidden_state, clip.text_model)
