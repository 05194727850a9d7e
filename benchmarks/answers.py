"""16 questions about one image, 12 greedy words each: this library beside the plain way, the same answers.

Janus against transformers' batched `generate`; Show-o against a loop that reads image, question and all
words so far anew for every word, one question at a time, as its authors' inference does. Models of 8 layers x
512 with random weights, one thread; the two sides take turns and medians are printed.

    OMP_NUM_THREADS=1 python -m benchmarks.answers [--repetitions 3] [--output results.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from benchmarks.measure import MIB, FlopCounter, medians, peak_resident, reset_peak, table
from benchmarks.midsize_janus import EOS, PICTURE, VOCABULARY, JanusSizes, new_janus, words
from sightloop.models.janus.policy import Janus, JanusSettings
from sightloop.models.show_o.layout import SPECIAL_TOKENS, begun, image_prefix
from sightloop.models.show_o.magvit2 import Magvit2, Magvit2Config
from sightloop.models.show_o.masks import answer_mask
from sightloop.models.show_o.policy import ShowO, ShowOSettings
from sightloop.types import Images, Prompt, Sampling, Tokens

WORDS, END = 12, "<|endoftext|>"
LAW = Sampling(max_tokens=WORDS, temperature=0.0)
Sides = dict[str, Callable[[], Tensor]]


def questions(number: int) -> list[str]:
    """Questions of 5 to 8 words."""
    return [" ".join(f"w{10 + 8 * k + j}" for j in range(5 + k % 4)) for k in range(number)]


def janus_sides(number: int, sizes: JanusSizes) -> Sides:
    """This library and transformers on one Janus."""
    model = new_janus(sizes)
    model.lm_head.weight.data[[EOS, PICTURE]] = 0  # no answer ends early
    template = "w7 {image} {prompt} w8"
    policy = Janus(model, words(), settings=JanusSettings(trained="full", answer_template=template))
    policy.requires_grad_(False)
    pixels = torch.randint(256, (1, 3, sizes.image, sizes.image), dtype=torch.uint8).repeat(number, 1, 1, 1)
    prompt = Prompt(texts=questions(number), images=Images(pixels=pixels))
    ids, mask = policy.answers.body.padded([policy.prompts.question_row(text, True) for text in prompt.texts])
    assert mask is not None, "questions of different lengths"
    values = (pixels.float() / 255 - 0.5) / 0.5

    def plain() -> Tensor:
        made = policy.model.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            pixel_values=values,
            do_sample=False,
            max_new_tokens=WORDS,
        )
        return made[:, ids.shape[1] :]

    return {"sightloop": lambda: policy.sample(prompt, LAW).ids, "plain": plain}


def show_o_words() -> PreTrainedTokenizerFast:
    """One made-up word a token."""
    vocabulary = {f"w{index}": index for index in range(VOCABULARY - 1)} | {END: VOCABULARY - 1}
    core = Tokenizer(WordLevel(vocabulary, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=END, eos_token=END, unk_token="w0")


def new_show_o(sizes: JanusSizes, num_tokens: int) -> ShowO:
    """A Show-o of the same size of language model."""
    torch.manual_seed(0)
    blocks: Any = dict.fromkeys(("encoder_multipliers", "decoder_multipliers"), (1, 1))
    blocks |= dict.fromkeys(("encoder_blocks", "decoder_blocks"), (1, 1))
    magvit = Magvit2(Magvit2Config(channels=32, num_bits=10, **blocks))
    tokenizer = show_o_words()
    config = PhiConfig(
        vocab_size=VOCABULARY + len(SPECIAL_TOKENS) + 2**10 + 1,
        hidden_size=sizes.width,
        intermediate_size=4 * sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.width // 64,
        max_position_embeddings=2048,
        qk_layernorm=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    language: Any = PhiForCausalLM(config)
    for parameter in language.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, 0, parameter.shape[1] ** -0.5)
    nn.init.normal_(language.model.embed_tokens.weight)
    language.lm_head.bias.data[VOCABULARY - 1] = -1e3  # no answer ends early
    settings = ShowOSettings(num_image_tokens=num_tokens, trained="full", question_template="{question} w8")
    return ShowO(language, tokenizer, magvit, settings=settings).requires_grad_(False)


def show_o_sides(number: int, sizes: JanusSizes, *, num_tokens: int) -> Sides:
    """This library and the loop without a cache on one Show-o."""
    policy = new_show_o(sizes, num_tokens)
    codes = torch.randint(2**10, (1, num_tokens)).repeat(number, 1)
    picture = Tokens(ids=codes, mask=torch.ones_like(codes, dtype=torch.bool))
    prompt = Prompt(texts=questions(number), images=picture)
    prefix = image_prefix(codes[:1] + policy.vocabulary.first_code, policy.vocabulary)
    rows = policy.text_ids([f"{text} w8" for text in prompt.texts])
    asked = [begun(row, policy.vocabulary) for row in rows]

    @torch.no_grad()
    def plain() -> Tensor:
        answers: list[Tensor] = []
        for question in asked:
            ids = torch.cat([prefix, torch.tensor([question])], 1)
            for _ in range(WORDS):
                seen = answer_mask(ids.shape[1], last=prefix.shape[1] - 1)
                hidden = policy.model.model(input_ids=ids, attention_mask=seen).last_hidden_state
                ids = torch.cat([ids, policy.body.text_logits(hidden[:, -1]).argmax(-1)[:, None]], 1)
            answers.append(ids[0, -WORDS:])
        return torch.stack(answers)

    return {"sightloop": lambda: policy.sample(prompt, LAW).ids, "plain": plain}


def measured(run: Callable[[], Tensor]) -> dict[str, float]:
    """Seconds, CPU seconds and memory of one run."""
    before, wall, cpu = reset_peak(), time.perf_counter(), time.process_time()
    run()
    spent = {"seconds": time.perf_counter() - wall, "CPU seconds": time.process_time() - cpu}
    return spent | {"MiB over the model": (peak_resident() - before) / MIB}


def compare(name: str, sides: Sides, repetitions: int) -> dict[str, dict[str, float]]:
    """Medians of both sides.

    Raises:
        ValueError: the answers differ.
    """
    flops: dict[str, float] = {}
    answers: dict[str, Tensor] = {}
    for side, run in sides.items():
        with torch.no_grad(), FlopCounter() as counter:
            answers[side] = run()
        flops[side] = counter.total / 1e12
    if not torch.equal(answers["sightloop"], answers["plain"]):
        raise ValueError(f"{name}: the two sides give different answers")
    readings: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for repetition in range(repetitions):
        for side in sides if repetition % 2 == 0 else reversed(sides):
            readings[side].append(measured(sides[side]))
    return {side: medians(readings[side]) | {"TFLOP": flops[side]} for side in sides}


def main() -> None:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="models of toy size, to try the script")
    parser.add_argument("--output", type=Path, help="write all numbers here, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = JanusSizes(image=64, layers=2, width=64, codes=128) if options.tiny else JanusSizes()
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in ("Janus", "Show-o"):
        if name == "Janus":
            sides = janus_sides(options.questions, sizes)
        else:
            sides = show_o_sides(options.questions, sizes, num_tokens=16 if options.tiny else 256)
        found[name] = compare(name, sides, options.repetitions)
        ours, plain = found[name]["sightloop"], found[name]["plain"]
        rows = [
            [figure, f"{ours[figure]:.2f}", f"{plain[figure]:.2f}", f"{plain[figure] / ours[figure]:.1f}"]
            for figure in ours
        ]
        print(table([name, "sightloop", "plain", "ratio"], rows), end="\n\n", flush=True)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
