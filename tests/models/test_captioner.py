"""Any image-to-text model as a policy, on tiny random LLaVA, Idefics3 and Qwen2-VL.

LLaVA and Idefics3 are loaded from folders in the hub's format. Qwen2-VL's processor needs torchvision for its
video part, so it is built in memory without that part; everything else of it is transformers' own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from policy_contract import CHECKS, Candidate
from tiny_captioners import (
    EOS,
    FAMILIES,
    IMAGE,
    LAW,
    PAD,
    SIDE,
    TURN,
    Make,
    llava,
    noise,
    paligemma,
    prompt,
    qwen2_vl,
    whole_model_logits,
)
from torch import Tensor
from transformers import Blip2Config, Blip2ForConditionalGeneration

from sightloop.models.captioners.generic import CaptionerSettings, GenericCaptioner
from sightloop.types import Images, Prompt, Sampling, Tokens, Turn

WAYS = [*((family, True) for family in FAMILIES), ("llava", False)]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0]}-{'composed' if way[1] else 'whole'}")
def candidate(request: pytest.FixtureRequest, make: Make) -> Candidate:
    """A captioner with trained adapters."""
    family, reuse = request.param
    captioner = make(family, reuse_features=reuse)

    return Candidate(
        policy=captioner,
        images=Images(pixels=noise(8)),
        prompts=["what is it?", "", "describe", "a", "", "why?", "tell me all", "q"],
        captions=["a cat", "two red dogs!", "n"],
        vocabulary=captioner.model.get_output_embeddings().out_features,
        max_tokens=40,
        natural_logits=partial(whole_model_logits, captioner),
    )


@pytest.mark.parametrize("check", CHECKS)
def test_a_captioner_keeps_the_contract(candidate: Candidate, check: Callable[[Candidate], None]) -> None:
    check(candidate)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways_draw_the_same_and_look_alike_to_a_critic(make: Make, family: str) -> None:
    composed, whole = make(family), make(family, reuse_features=False)
    whole.adapters.load_state_dict(composed.adapters.state_dict())
    ours, theirs = prompt(composed), prompt(whole)
    tokens = composed.sample(ours, LAW)

    assert not theirs.images.features  # pyright: ignore
    assert tokens.ids.tolist() == whole.sample(theirs, LAW).ids.tolist()
    torch.testing.assert_close(
        composed.hidden_states(Turn(prompt=ours, tokens=tokens))[tokens.mask],
        whole.hidden_states(Turn(prompt=theirs, tokens=tokens))[tokens.mask],
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("reuse", [True, False])
def test_the_greedy_text_is_the_one_transformers_writes(make: Make, reuse: bool) -> None:
    captioner = make("llava", reuse_features=reuse)
    asked = prompt(captioner, ["describe", "describe"])
    tokens = captioner.sample(asked, Sampling(max_tokens=6, temperature=0))
    images = asked.images
    assert isinstance(images, Images)
    written = captioner.write(
        images, prompt="describe", beams=1, no_repeat_ngram=0, min_tokens=0, max_tokens=6
    )

    assert tokens.log_probs is None
    assert ["".join(row).strip() for row in captioner.decode(tokens)] == written


def test_beams_find_a_text_at_least_as_likely_as_the_greedy_one(make: Make) -> None:
    captioner = make("llava")
    asked = prompt(captioner)
    images = asked.images
    assert isinstance(images, Images)

    def likelihood(beams: int) -> Tensor:
        ids = captioner._whole.generate(asked, num_beams=beams, max_new_tokens=3, min_new_tokens=3)
        tokens = Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))
        return captioner.score(Turn(prompt=asked, tokens=tokens)).log_probs.sum(1)

    with captioner.adapters.switched(True):
        gain = likelihood(8) - likelihood(1)
    assert (gain > -1e-4).all()
    assert gain.max() > 0.01


def test_the_tower_sees_an_image_once(make: Make) -> None:
    captioner = make("llava")
    seen: list[int] = []
    tower = captioner.model.model.vision_tower
    tower.register_forward_hook(lambda module, args, out: seen.append(len(out.last_hidden_state)))
    asked = prompt(captioner)
    assert seen == [3]
    captioner.sample(asked, LAW)
    seen.clear()  # the first use compares with the model's own pass

    turn = Turn(prompt=asked, tokens=captioner.sample(asked, LAW))
    captioner.score(turn)
    captioner.hidden_states(turn)
    assert captioner.encode_images(asked.images) is asked.images  # pyright: ignore
    assert seen == []
    blind = replace(asked, images=Images(pixels=noise(3)))
    torch.testing.assert_close(
        captioner.score(replace(turn, prompt=blind)).log_probs, captioner.score(turn).log_probs
    )
    assert seen == [3]


@pytest.mark.parametrize("reuse", [True, False])
def test_a_text_that_asks_for_an_image_stops_there_unfinished(make: Make, reuse: bool) -> None:
    captioner = make("llava", reuse_features=reuse)
    head = captioner.model.lm_head.weight
    head.data[:] = head.data[:1]  # every token is equally likely
    asked = prompt(captioner, ["describe"] * 64)
    law = Sampling(max_tokens=60)
    tokens = captioner.sample(asked, law)

    def last(row: int) -> int:
        return int(tokens.ids[row, int(tokens.mask[row].sum()) - 1])

    stops = {last(row): row for row in range(64)}
    assert {EOS, TURN, IMAGE} <= stops.keys()
    ended = captioner.is_end(tokens).any(1)
    assert [bool(ended[stops[token]]) for token in (EOS, TURN, IMAGE)] == [True, True, False]
    scores = captioner.score(Turn(prompt=asked, tokens=tokens), under=law)
    torch.testing.assert_close(scores.log_probs, tokens.log_probs, atol=1e-4, rtol=0)
    assert torch.isfinite(captioner.hidden_states(Turn(prompt=asked, tokens=tokens), "post")).all()


def test_texts_survive_encoding_and_decoding(make: Make) -> None:
    captioner = make("idefics3")
    tokens = captioner.encode(["a cat", "né!"])

    assert tokens.mask.sum(1).tolist() == [6, 5]
    assert tokens.ids[1].tolist()[4:] == [EOS, PAD]
    assert ["".join(row) for row in captioner.decode(tokens)] == ["a cat", "né!"]
    assert captioner.is_end(tokens).sum(1).tolist() == [1, 1]


def test_a_prompt_follows_the_chat_template_a_given_one_or_none(make: Make, tmp_path: Path) -> None:
    chat = make("llava")._composed.reader
    given = make("llava", template="Q: <image>{prompt} A:")._composed.reader
    plain = GenericCaptioner.from_pretrained(llava(tmp_path / "plain", chat=False))._composed.reader

    assert chat.text("why?") == "<s>User: <image>why?<turn>Assistant:"
    assert chat.text("") == "<s>User: <image><turn>Assistant:"
    assert given.text("why?") == "Q: <image>why? A:"
    assert plain.text("why?") == "<image>why?"
    ids = chat.row("why?", SIDE, SIDE).ids.tolist()
    assert (ids.count(1), ids.count(IMAGE)) == (1, 4)


def test_what_cannot_work_is_refused_with_the_reason(make: Make) -> None:
    with pytest.raises(ValueError, match=r"lora_targets has \['qkv'\]; there are \['down_proj'"):
        make("llava", lora_targets=("qkv", "q_proj"))
    blind = make("llava", template="no image here: {prompt}")
    with pytest.raises(ValueError, match="<image> tokens in the prompts"):
        prompt(blind)
    captioner = make("llava")
    with pytest.raises(ValueError, match="a caption needs images"):
        captioner.sample(Prompt(texts=["a"]), LAW)
    with pytest.raises(ValueError, match="needs a captioner of its own"):
        blip = Blip2ForConditionalGeneration(tiny_blip2())
        GenericCaptioner(blip, captioner._composed.reader.processor)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in its processor
@pytest.mark.parametrize("reuse", [True, False])
def test_a_model_whose_prompt_looks_ahead_runs_whole(reuse: bool, capsys: pytest.CaptureFixture[str]) -> None:
    captioner = GenericCaptioner(*paligemma(), settings=CaptionerSettings(reuse_features=reuse))
    asked = prompt(captioner)
    tokens = captioner.sample(asked, LAW)
    scores = captioner.score(Turn(prompt=asked, tokens=tokens), under=LAW)

    torch.testing.assert_close(scores.log_probs, tokens.log_probs, atol=1e-5, rtol=1e-5)
    assert capsys.readouterr().err.count("'paligemma'") == reuse
    assert not captioner.encode_images(Images(pixels=noise(1))).features


def test_a_model_that_reads_otherwise_than_it_writes_is_refused() -> None:
    # transformers' own loop miscounts the position after a prompt that ends with an image.
    model, processor = qwen2_vl()
    settings = CaptionerSettings(image_size=SIDE, template="{prompt}<|image_pad|>", reuse_features=False)

    with pytest.raises(ValueError, match="reads a text"):
        captioner = GenericCaptioner(model, processor, settings=settings)
        captioner.sample(prompt(captioner), LAW)


def tiny_blip2() -> Blip2Config:
    """The smallest BLIP-2."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
    return Blip2Config(
        vision_config={**sizes, "intermediate_size": 8, "image_size": 8, "patch_size": 8},
        qformer_config={**sizes, "intermediate_size": 8, "encoder_hidden_size": 8},
        text_config={**sizes, "model_type": "opt", "ffn_dim": 8, "word_embed_proj_dim": 8},
        num_query_tokens=2,
        image_token_index=19,
    )
