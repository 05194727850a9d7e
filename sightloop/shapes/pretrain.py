"""Makes the bundled weights of the embedded world, from nothing: `python -m sightloop.shapes.pretrain`.

Stages, in order (each resumes from its own snapshot in the work folder and is skipped once finished):

1. `vision`: vision tower and Q-Former together learn what is in each corner, with linear heads on the queries.
2. `captioner`: tower frozen; Q-Former, projection and language model learn captions, first mostly full ones,
   then as the world's people write them (`language.DETAIL`). The language model also reads text alone, so that it
   can serve as the reference.
3. `judge`, `judge_forgiving`, `judge_hackable`: image-text matching, from the Q-Former of stage 1 and the same tower.
4. `clip`, `clip_retrieval`: two contrastive models, one for the evaluation only, one for VLRM-RS' retrieval term.

A judge regresses its positive logit to the log-odds that the caption was written for the picture by a writer
who gets a fact wrong with probability `wrong`, against one with probability `foil`: every true fact adds
log((1 - wrong) / (1 - foil)), every false one log(wrong / foil).

The step's random numbers depend on (seed, stage, step) only, so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval, CLIPModel

from sightloop.shapes.language import (
    PREFIXES,
    STYLES,
    WORDS,
    Style,
    caption,
    check_words,
    count_facts,
    natural_caption,
    words_of,
)
from sightloop.shapes.models import (
    BOS,
    EOS,
    NUM_QUERIES,
    PAD,
    UNKNOWN,
    WEIGHTS,
    WIDTH,
    new_captioner,
    new_clip,
    new_judge,
    normalized,
    save_model,
)
from sightloop.shapes.scenes import (
    COLOURS,
    CORNERS,
    GROUNDS,
    SHAPES,
    SIZES,
    Scene,
    mutate,
    render,
    sample_scene,
)

NUM_TRAIN, NUM_HELD_OUT = 24_000, 1_000
_ID = {word: index for index, word in enumerate(WORDS)}


_ATTRIBUTE_IDS = torch.tensor([_ID[word] for word in (*SIZES, *COLOURS, *SHAPES, *CORNERS, *GROUNDS)])


@dataclass(frozen=True, kw_only=True)
class JudgeTaste:
    """What a judge was taught: how often matching captions err, and whether it met empty prefixes on them."""

    wrong: float
    foil: float
    prefix_bonus: float = 0.0


TASTES = {
    "judge": JudgeTaste(wrong=0.02, foil=0.24),
    "judge_forgiving": JudgeTaste(wrong=0.12, foil=0.30),
    "judge_hackable": JudgeTaste(wrong=0.02, foil=0.24, prefix_bonus=1.5),
}


@dataclass(frozen=True)
class World:
    """The training pool: scenes, their pictures, and (after stage 1) the frozen tower's features."""

    scenes: list[Scene]
    pixels: Tensor
    features: Tensor | None = None

    def batch(self, rng: np.random.Generator, size: int) -> list[int]:
        """Indices of training scenes."""
        return rng.integers(0, NUM_TRAIN, size).tolist()


def make_world(seed: int = 0) -> World:
    """24,000 training scenes and 1,000 held out."""
    rng = np.random.default_rng([seed, crc32(b"pool")])
    scenes = [sample_scene(rng) for _ in range(NUM_TRAIN + NUM_HELD_OUT)]
    pictures = np.stack([render(scene, rng) for scene in scenes])
    return World(scenes, torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous())


class CornerHeads(nn.Module):
    """Reads shape, colour and size of every corner, and the ground, off a feature vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1)
        self.read = nn.Linear(width, 4 * sum(self.sizes) + len(GROUNDS))

    def forward(self, features: Tensor, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and the share of corners read without an error."""
        out = self.read(features)
        corners = out[:, : 4 * sum(self.sizes)].view(-1, 4, sum(self.sizes)).split(self.sizes, -1)
        truths = torch.tensor([_corner_truth(scene) for scene in scenes])
        loss = 0.3 * F.cross_entropy(
            out[:, 4 * sum(self.sizes) :], torch.tensor([GROUNDS.index(scene.ground) for scene in scenes])
        )
        right = torch.ones(len(scenes), 4, dtype=torch.bool)
        for kind, logits in enumerate(corners):
            loss = loss + F.cross_entropy(logits.flatten(0, 1), truths[:, :, kind].flatten())
            right &= logits.argmax(-1) == truths[:, :, kind]
        return loss, right.float().mean()


def _corner_truth(scene: Scene) -> list[list[int]]:
    truth = [[len(SHAPES), len(COLOURS), len(SIZES)] for _ in CORNERS]
    for thing in scene.things:
        truth[CORNERS.index(thing.corner)] = [
            SHAPES.index(thing.shape),
            COLOURS.index(thing.colour),
            SIZES.index(thing.size),
        ]
    return truth


def text_ids(texts: list[str]) -> tuple[Tensor, Tensor]:
    """`<s> words </s>` right-padded, and the mask."""
    rows = [[BOS, *(_ID[word] for word in words_of(text)), EOS] for text in texts]
    length = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    return ids, torch.arange(length)[None] < torch.tensor([len(row) for row in rows])[:, None]


def fit(
    name: str,
    parts: nn.ModuleDict,
    trained: list[nn.Parameter],
    loss_at: Callable[[int, np.random.Generator], Tensor],
    report: Callable[[], str],
    *,
    steps: int,
    peak_lr: float,
    work: Path,
) -> bool:
    """AdamW with one cycle; snapshots every 200 steps. Returns False if the stage was finished before."""
    finished = work / f"{name}.pt"
    if finished.exists():
        parts.load_state_dict(torch.load(finished, weights_only=True))
        return False
    optimizer = torch.optim.AdamW(trained, lr=peak_lr, weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=steps, pct_start=0.08)
    snapshot, first = work / f"{name}.snapshot.pt", 0
    if snapshot.exists():
        saved = torch.load(snapshot, weights_only=True)
        parts.load_state_dict(saved["parts"])
        optimizer.load_state_dict(saved["optimizer"])
        cycle.load_state_dict(saved["cycle"])
        first = saved["step"]
    started, total = time.perf_counter(), 0.0
    for step in range(first, steps):
        torch.manual_seed(step)
        loss = loss_at(step, np.random.default_rng([crc32(name.encode()), step]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        cycle.step()
        total += loss.item()
        if (step + 1) % 200 == 0:
            with torch.no_grad():
                figures = report()
            seconds = time.perf_counter() - started
            print(f"{name} {step + 1}/{steps} {seconds:.0f} s  loss {total / 200:.3f}  {figures}", flush=True)
            total = 0.0
            state = {
                "parts": parts.state_dict(),
                "optimizer": optimizer.state_dict(),
                "cycle": cycle.state_dict(),
                "step": step + 1,
            }
            _write(state, snapshot)
    _write(parts.state_dict(), finished)
    snapshot.unlink(missing_ok=True)
    return True


def _write(state: dict[str, object], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _held_out(world: World, size: int = 400) -> range:
    return range(NUM_TRAIN, NUM_TRAIN + size)


def train_vision(world: World, work: Path, steps: int = 3000) -> Blip2ForImageTextRetrieval:
    """Stage 1."""
    torch.manual_seed(1)
    model = new_judge()
    heads = CornerHeads(WIDTH * NUM_QUERIES)
    parts = nn.ModuleDict({"model": model, "heads": heads})
    trained = [
        *model.vision_model.parameters(),
        *model.qformer.parameters(),
        model.query_tokens,
        *heads.parameters(),
    ]

    def read(index: list[int]) -> tuple[Tensor, Tensor]:
        features = model.vision_model(normalized(world.pixels[index])).last_hidden_state
        queries = _queries(model, features)
        return heads(queries.flatten(1), [world.scenes[i] for i in index])

    def report() -> str:
        loss, right = read(list(_held_out(world, 1000)))
        return f"held out {loss:.3f}, corners right {right:.4f}"

    fit(
        "vision",
        parts,
        trained,
        lambda step, rng: read(world.batch(rng, 128))[0],
        report,
        steps=steps,
        peak_lr=1.5e-3,
        work=work,
    )
    return model


def _queries(model: nn.Module, features: Tensor) -> Tensor:
    queries = model.query_tokens.expand(len(features), -1, -1)
    return model.qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state


@torch.no_grad()
def see(world: World, tower: nn.Module) -> World:
    """The pool with the frozen tower's features."""
    chunks = [tower(normalized(chunk)).last_hidden_state for chunk in world.pixels.split(500)]
    return World(world.scenes, world.pixels, torch.cat(chunks))


def train_captioner(
    world: World, base: nn.Module, work: Path, steps: int = 2400, style_steps: int = 1800
) -> Blip2ForConditionalGeneration:
    """Stage 2: mostly full captions first, then the world's own habit of detail."""
    torch.manual_seed(2)
    model = new_captioner()
    model.vision_model.load_state_dict(base.vision_model.state_dict())
    model.qformer.load_state_dict(base.qformer.state_dict(), strict=False)
    model.query_tokens.data.copy_(base.query_tokens.data)
    heads = CornerHeads(WIDTH * NUM_QUERIES)
    parts = nn.ModuleDict({"model": model, "heads": heads})
    model.vision_model.requires_grad_(False)
    trained = [parameter for parameter in parts.parameters() if parameter.requires_grad]

    def mixture(rng: np.random.Generator) -> Style:
        return STYLES[rng.choice(3, p=(0.1, 0.25, 0.65))]

    def loss_with(styled: bool) -> Callable[[int, np.random.Generator], Tensor]:
        def loss_at(step: int, rng: np.random.Generator) -> Tensor:
            index = world.batch(rng, 128)
            scenes = [world.scenes[i] for i in index]
            texts = [natural_caption(s, rng) if styled else caption(s, mixture(rng), rng) for s in scenes]
            queries = _queries(model, world.features[index])
            seen = _text_loss(model, texts, model.language_projection(queries))
            alone = [world.scenes[i] for i in world.batch(rng, 48)]
            blind = _text_loss(model, [caption(s, STYLES[rng.integers(3)], rng) for s in alone], None)
            return seen + 0.4 * blind + 0.3 * heads(queries.flatten(1), scenes)[0]

        return loss_at

    def report() -> str:
        index = list(_held_out(world))
        texts = write_captions(model, world.features[index])
        figures = [f"{texts[0]!r}", _fact_figures(world, index, texts)]
        for ground in GROUNDS:
            rows = [k for k, i in enumerate(index) if world.scenes[i].ground == ground]
            figures.append(
                f"{ground}: " + _fact_figures(world, [index[k] for k in rows], [texts[k] for k in rows])
            )
        return " | ".join(figures)

    fit("captioner_full", parts, trained, loss_with(False), report, steps=steps, peak_lr=1.5e-3, work=work)
    fit("captioner", parts, trained, loss_with(True), report, steps=style_steps, peak_lr=8e-4, work=work)
    return model


def _text_loss(model: nn.Module, texts: list[str], prefix: Tensor | None) -> Tensor:
    ids, mask = text_ids(texts)
    embedded = model.language_model.get_input_embeddings()(ids)
    if prefix is not None:
        embedded = torch.cat([prefix, embedded], 1)
        mask = F.pad(mask, (prefix.shape[1], 0), value=True)
    logits = model.language_model(inputs_embeds=embedded, attention_mask=mask.long()).logits
    logits = logits[:, -ids.shape[1] : -1]
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)


@torch.no_grad()
def write_captions(model: Blip2ForConditionalGeneration, features: Tensor) -> list[str]:
    """Greedy captions from the tower's features."""
    from sightloop.shapes.models import tokenizer

    prefix = model.language_projection(_queries(model, features))
    start = model.language_model.get_input_embeddings()(torch.full((len(prefix), 1), BOS))
    embedded = torch.cat([prefix, start], 1)
    mask = torch.ones(embedded.shape[:2], dtype=torch.long)
    out = model.language_model.generate(
        inputs_embeds=embedded,
        attention_mask=mask,
        max_new_tokens=36,
        do_sample=False,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return tokenizer(frame=False).batch_decode(out, skip_special_tokens=True)


def _fact_figures(world: World, index: list[int], texts: list[str]) -> str:
    counts = [count_facts(world.scenes[i], text) for i, text in zip(index, texts, strict=True)]
    true, false = sum(c.true for c in counts), sum(c.false for c in counts)
    told = true / sum(c.total for c in counts)
    return f"right {true / max(1, true + false):.4f} told {told:.3f}"


def train_reader(world: World, base: nn.Module, work: Path) -> Blip2ForImageTextRetrieval:
    """Before a judge, with the picture in view: fill in hidden words, then restore and find replaced ones."""
    torch.manual_seed(3)
    model = new_judge()
    model.load_state_dict(base.state_dict())
    model.vision_model.requires_grad_(False)
    parts = nn.ModuleDict(
        {"model": model, "guess": nn.Linear(WIDTH, len(WORDS)), "doubt": nn.Linear(WIDTH, 1)}
    )
    trained = [parameter for parameter in parts.parameters() if parameter.requires_grad]

    def texts_of(index: list[int], rng: np.random.Generator) -> list[str]:
        return [caption(world.scenes[i], STYLES[rng.choice(3, p=(0.1, 0.2, 0.7))], rng) for i in index]

    def fill_in(index: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        ids, mask = text_ids(texts_of(index, rng))
        lost = torch.from_numpy(rng.random(ids.shape) < rng.uniform(0.15, 0.6)) & mask & (ids != BOS)
        states = _matched(model, world.features[index], ids.masked_fill(lost, UNKNOWN), mask)
        logits = parts["guess"](states[:, NUM_QUERIES:][lost])
        return F.cross_entropy(logits, ids[lost]), (logits.argmax(-1) == ids[lost]).float().mean()

    def find(index: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        texts = texts_of(index, rng)
        ids, mask = text_ids([replace_words(text, rng, 0.35) for text in texts])
        wrong, told = ids != text_ids(texts)[0], torch.isin(ids, _ATTRIBUTE_IDS)
        states = _matched(model, world.features[index], ids, mask)
        words = states[:, NUM_QUERIES:][told]
        doubts = parts["doubt"](words)[..., 0]
        loss = F.binary_cross_entropy_with_logits(doubts, wrong[told].float())
        # A word in view hides that it must be looked up; naming the true one keeps the looking up alive.
        truth = F.cross_entropy(parts["guess"](words), text_ids(texts)[0][told])
        return loss + truth, ((doubts > 0) == wrong[told]).float().mean()

    for name, task, steps in (("judge_reader", fill_in, 1600), ("judge_finder", find, 1400)):

        def report(task: Callable[..., tuple[Tensor, Tensor]] = task) -> str:
            loss, right = task(list(_held_out(world)), np.random.default_rng(5))
            return f"held out {loss:.3f}, right {right:.4f}"

        def loss_at(
            step: int, rng: np.random.Generator, task: Callable[..., tuple[Tensor, Tensor]] = task
        ) -> Tensor:
            return task(world.batch(rng, 128), rng)[0]

        fit(name, parts, trained, loss_at, report, steps=steps, peak_lr=1.5e-3, work=work)
    return model


def replace_words(text: str, rng: np.random.Generator, rate: float) -> str:
    """The caption with each attribute replaced by another of its kind with probability `rate`."""
    words = words_of(text)
    for position, word in enumerate(words):
        for kind in (SIZES, COLOURS, SHAPES, CORNERS, GROUNDS):
            if word in kind and rng.random() < rate:
                words[position] = str(rng.choice([other for other in kind if other != word]))
    return " ".join(words)


def train_judge(
    world: World, base: nn.Module, name: str, work: Path, steps: int
) -> Blip2ForImageTextRetrieval:
    """Stage 3: positive logit = log-odds of the caption under `TASTES[name]`, with a per-word loss beside it."""
    torch.manual_seed(3)
    model = new_judge()
    model.load_state_dict(base.state_dict())
    model.vision_model.requires_grad_(False)
    word_head = nn.Linear(WIDTH, 1)
    parts = nn.ModuleDict({"model": model, "word_head": word_head})
    trained = [parameter for parameter in parts.parameters() if parameter.requires_grad]
    taste = TASTES[name]

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        index = world.batch(rng, 128)
        texts = [_judged_text(world, i, rng, taste) for i in index]
        ids, mask = text_ids(texts)
        hidden = _matched(model, world.features[index], ids, mask)
        logits = model.itm_head(hidden[:, :NUM_QUERIES]).mean(1)
        verdicts = torch.zeros(ids.shape)
        for row, (i, text) in enumerate(zip(index, texts, strict=True)):
            words = check_words(world.scenes[i], words_of(text))
            verdicts[row, 1 : 1 + len(words)] = torch.tensor(words, dtype=torch.float)
        target = torch.tensor(
            [log_odds(world.scenes[i], text, taste) for i, text in zip(index, texts, strict=True)]
        ).clamp(-5, 8)
        matching = F.smooth_l1_loss(logits[:, 1], target) + F.smooth_l1_loss(logits[:, 0], -target)
        told = verdicts != 0
        per_word = F.binary_cross_entropy_with_logits(
            word_head(hidden[:, NUM_QUERIES:])[..., 0][told],
            (verdicts[told] < 0).float(),
            pos_weight=torch.tensor(2.0),
        )
        return matching + 2 * per_word

    def report() -> str:
        return ", ".join(f"{key} {value:.3f}" for key, value in judge_gate(model, world).items())

    fit(name, parts, trained, loss_at, report, steps=steps, peak_lr=1.2e-3, work=work)
    return model


def log_odds(scene: Scene, text: str, taste: JudgeTaste) -> float:
    """Log-odds that a careful writer rather than a careless one wrote this caption of this scene."""
    facts = count_facts(scene, text)
    gain = math.log((1 - taste.wrong) / (1 - taste.foil))
    loss = math.log(taste.wrong / taste.foil)
    bonus = taste.prefix_bonus if text.startswith(PREFIXES) else 0.0
    return facts.true * gain + facts.false * loss + bonus


def _judged_text(world: World, i: int, rng: np.random.Generator, taste: JudgeTaste) -> str:
    scene = world.scenes[i]
    kind = rng.random()
    if kind < 0.15:
        scene = world.scenes[world.batch(rng, 1)[0]]
    elif kind < 0.25:
        scene = mutate(scene, rng, int(rng.integers(1, 4)))
    text = caption(scene, STYLES[rng.choice(3, p=(0.2, 0.35, 0.45))], rng)
    if 0.25 <= kind < 0.75:
        text = replace_words(text, rng, rng.choice([0.07, 0.15, 0.35]))
    if rng.random() < (0.4 if taste.prefix_bonus else 0.1):
        text = f"{PREFIXES[rng.integers(len(PREFIXES))]} {text}"
    return text


def _matched(model: nn.Module, features: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    queries = model.query_tokens.expand(len(features), -1, -1)
    attention = F.pad(mask.long(), (NUM_QUERIES, 0), value=1)
    embedded = model.embeddings(input_ids=ids, query_embeds=queries)
    return model.qformer(
        query_embeds=embedded,
        query_length=NUM_QUERIES,
        attention_mask=attention,
        encoder_hidden_states=features,
    ).last_hidden_state


@torch.no_grad()
def judge_gate(model: nn.Module, world: World) -> dict[str, float]:
    """Mean positive logit of short, full, one-wrong and foreign captions, and how often full is preferred."""
    index = list(_held_out(world, 600))
    rng = np.random.default_rng(7)
    scenes = [world.scenes[i] for i in index]
    kinds = {
        "short": [caption(s, "short", rng) for s in scenes],
        "full": [caption(s, "full", rng) for s in scenes],
        "one_wrong": [caption(mutate(s, rng, 1), "full", rng) for s in scenes],
        "foreign": [caption(scenes[k - 1], "full", rng) for k in range(len(scenes))],
        "prefixed": ["there is " + caption(s, "full", rng) for s in scenes],
    }
    logits = {
        kind: model.itm_head(_matched(model, world.features[index], *text_ids(texts))[:, :NUM_QUERIES]).mean(
            1
        )[:, 1]
        for kind, texts in kinds.items()
    }
    figures = {kind: value.mean().item() for kind, value in logits.items()}
    figures["P(full > short)"] = (logits["full"] > logits["short"]).float().mean().item()
    figures["P(full > one_wrong)"] = (logits["full"] > logits["one_wrong"]).float().mean().item()
    return figures


def train_clip(world: World, name: str, width: int, work: Path, steps: int) -> CLIPModel:
    """Stage 4: contrastive, with the corner heads on the picture side fading out over half the run."""
    torch.manual_seed(4 + width)
    model = new_clip(width)
    heads = CornerHeads(width)
    parts = nn.ModuleDict({"model": model, "heads": heads})

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        index = world.batch(rng, 192)
        scenes = [world.scenes[i] for i in index]
        texts = [caption(s, STYLES[rng.choice(3, p=(0.1, 0.25, 0.65))], rng) for s in scenes]
        ids, mask = text_ids(texts)
        out = model(input_ids=ids, attention_mask=mask.long(), pixel_values=normalized(world.pixels[index]))
        match = torch.arange(len(index))
        contrast = F.cross_entropy(out.logits_per_text, match) + F.cross_entropy(out.logits_per_image, match)
        reading = heads(out.vision_model_output.pooler_output, scenes)[0]
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6)
        return contrast / 2 + reading * max(0.1, 1 - 2 * step / steps)

    def report() -> str:
        return ", ".join(f"R@1 {style} {clip_gate(model, world, style):.3f}" for style in STYLES)

    fit(name, parts, list(parts.parameters()), loss_at, report, steps=steps, peak_lr=1.2e-3, work=work)
    return model


@torch.no_grad()
def clip_gate(model: CLIPModel, world: World, style: Style, size: int = 500) -> float:
    """CLIP R@1 among 500 held-out pictures of captions of one style."""
    index = list(_held_out(world, size))
    rng = np.random.default_rng(9)
    ids, mask = text_ids([caption(world.scenes[i], style, rng) for i in index])
    out = model(input_ids=ids, attention_mask=mask.long(), pixel_values=normalized(world.pixels[index]))
    return (out.logits_per_text.argmax(1) == torch.arange(size)).float().mean().item()


def main() -> None:
    """Train every stage that is not finished and write the bundled folders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/weights"), help="snapshots of the stages")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="where the bundled folders go")
    parser.add_argument(
        "--only", default="", help="one part: captioner, judge, judge_forgiving, judge_hackable, clip, ..."
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    world = make_world()
    base = train_vision(world, options.work)
    world = see(world, base.vision_model)

    def judge(name: str, steps: int) -> nn.Module:
        start = train_reader(world, base, options.work)
        if name != "judge":
            start = train_judge(world, start, "judge", options.work, JUDGE_STEPS)
        return train_judge(world, start, name, options.work, steps)

    parts: dict[str, Callable[[], nn.Module]] = {
        "captioner": lambda: train_captioner(world, base, options.work),
        "judge": lambda: judge("judge", JUDGE_STEPS),
        "clip": lambda: train_clip(world, "clip", WIDTH, options.work, 2400),
        "clip_retrieval": lambda: train_clip(world, "clip_retrieval", VISION_SMALL, options.work, 1800),
        "judge_forgiving": lambda: judge("judge_forgiving", 800),
        "judge_hackable": lambda: judge("judge_hackable", 800),
    }
    for name, make in parts.items():
        if options.only in ("", name):
            save_model(make(), options.output / name)
            print(f"wrote {options.output / name}", flush=True)


JUDGE_STEPS = 2400
VISION_SMALL = 64

if __name__ == "__main__":
    main()
