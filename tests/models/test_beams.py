"""Beams against transformers' own: the same texts under every rule, whichever rows leave and when."""

import pytest
import torch
from models import tiny_blip2

from sightloop.models.captioners.blip2 import Blip2Captioner
from sightloop.models.decoding.beams import Rules, write_texts
from sightloop.types import Images, Prompt


def theirs(policy: Blip2Captioner, images: Images, rules: Rules) -> list[list[int]]:
    """What `generate` writes from the same embedded prompts."""
    context, _ = policy._context(Prompt(texts=["a red"] * len(images), images=images))
    ids = policy.model.language_model.generate(
        input_ids=history(policy, context),
        inputs_embeds=context,
        attention_mask=torch.ones(context.shape[:2], dtype=torch.long),
        do_sample=False,
        num_beams=rules.beams,
        no_repeat_ngram_size=rules.no_repeat_ngram,
        min_new_tokens=rules.min_tokens,
        max_new_tokens=rules.max_tokens,
        eos_token_id=list(policy.ends),
        pad_token_id=policy.pad,
        bos_token_id=policy.bos,
    )
    return [until_end(policy, row) for row in ids[:, context.shape[1] :].tolist()]


def history(policy: Blip2Captioner, context: torch.Tensor) -> torch.Tensor:
    """Padding in the place of the image, then the prompt's words."""
    read = [policy.bos, *policy._text_ids("a red")]
    return torch.tensor([[policy.pad] * (context.shape[1] - len(read)) + read] * len(context))


def until_end(policy: Blip2Captioner, row: list[int]) -> list[int]:
    """The words of a row."""
    ends = [place for place, token in enumerate(row) if token in policy.ends]
    return row[: ends[0]] if ends else row


RULES = [
    Rules(beams=5, no_repeat_ngram=2, min_tokens=4, max_tokens=20),
    Rules(beams=3, no_repeat_ngram=0, min_tokens=0, max_tokens=16),
    Rules(beams=2, no_repeat_ngram=3, min_tokens=1, max_tokens=9),
    Rules(beams=4, no_repeat_ngram=1, min_tokens=6, max_tokens=12),
    Rules(beams=1, no_repeat_ngram=2, min_tokens=3, max_tokens=15),
    Rules(beams=1, no_repeat_ngram=0, min_tokens=0, max_tokens=15),
]


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_texts_are_transformers_own(rules: Rules) -> None:
    for seed in range(4):
        policy, images = tiny_blip2.captioner(seed=seed), tiny_blip2.pictures(6, seed=seed)
        context, _ = policy._context(Prompt(texts=["a red"] * 6, images=images))
        ids = write_texts(policy._writer(), context, history(policy, context), rules)
        ours = [until_end(policy, row) for row in ids]
        assert ours == theirs(policy, images, rules)


def test_settings_without_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="beams is 0"):
        Rules(beams=0, no_repeat_ngram=0, min_tokens=0, max_tokens=1)
