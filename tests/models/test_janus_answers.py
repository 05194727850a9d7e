"""Janus answers questions about images and about its own drawings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_janus import NUM_TOKENS, PICTURE, pictures, tiny_janus, tiny_model, tiny_processor
from torch import Tensor

from sightloop.models.janus.policy import Janus
from sightloop.types import Images, Prompt, Sampling, Tokens, Turn

QUESTIONS = ["what is this?", "how many?", "what is this?", "", "color?"]
WHICH = [0, 0, 1, 2, 0]


@pytest.fixture(scope="module")
def janus() -> Janus:
    """A policy whose adapters change what it says."""
    return tiny_janus()


def asking(images: Images | Tokens | None = None) -> Prompt:
    """Questions of different lengths, some about one image."""
    images = pictures(3) if images is None else images
    return Prompt(texts=QUESTIONS, images=images.rows(torch.tensor(WHICH)), seeds=[11, 12, 13, 14, 15])


def law(**changes: Any) -> Sampling:
    """A distribution for answers."""
    return Sampling(**{"max_tokens": 6, "temperature": 1.3, **changes})


def same(one: Tensor | None, other: Tensor | None) -> None:
    """Equal up to rounding."""
    assert one is not None
    assert other is not None
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def by_transformers(janus: Janus, images: Images, question: str, answer: list[int]) -> Tensor:
    """Logits of the model's own forward pass at each word of an answer, prepared by its own processor."""
    processor: Any = tiny_processor()
    # The authors strip what is said: nothing, not even a line break, stands for an empty question.
    said = f"<image_placeholder>\n{question}".strip()
    text = f"<s><|User|>: {said}\n\n<|Assistant|>:"
    picture = Image.fromarray(images.pixels[0].permute(1, 2, 0).numpy())
    made = processor(text=text, images=[picture], add_special_tokens=False)
    ids = torch.cat([made["input_ids"], torch.tensor([answer[:-1]], dtype=torch.long)], 1)
    logits = janus.model(input_ids=ids, pixel_values=made["pixel_values"]).logits
    return logits[0, made["input_ids"].shape[1] - 1 :]


@pytest.mark.parametrize("shape", [(32, 32), (48, 48), (20, 57), (90, 33)])
def test_answers_are_scored_as_transformers_reads_them(janus: Janus, shape: tuple[int, int]) -> None:
    images = pictures(3, height=shape[0], width=shape[1])
    prompt = asking(images)
    drawn = janus.sample(prompt, law())
    # Transformers would fill a drawn id that stands for an image.
    place = int(janus.model.config.image_token_id)
    tokens = replace(drawn, ids=drawn.ids.masked_fill(drawn.ids == place, place - 1), log_probs=None)
    with torch.no_grad():
        scores = janus.score(Turn(prompt=prompt, tokens=tokens))
        for row, which in enumerate(WHICH):
            answer = tokens.ids[row][tokens.mask[row]].tolist()
            logits = by_transformers(janus, images.rows(torch.tensor([which])), QUESTIONS[row], answer)
            expected = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
            same(scores.log_probs[row, : len(answer)], expected)


def test_a_drawing_that_was_shown_is_read_like_its_codes_and_not_decoded_again(janus: Janus) -> None:
    ids = torch.arange(2 * NUM_TOKENS).view(2, NUM_TOKENS)
    codes = Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))
    shown = janus.understanding_input(codes)
    assert torch.equal(shown.pixels, janus.pixels(codes).pixels)
    said = janus.encode(["red blue", "blue"])
    turns = [
        Turn(prompt=Prompt(texts=["what is this?"] * 2, images=images), tokens=said)
        for images in (codes, shown)
    ]
    same(janus.score(turns[0]).log_probs, janus.score(turns[1]).log_probs)
    # Other pixels beside the same features: whatever looks again would read something else.
    stale = replace(shown, pixels=255 - shown.pixels)
    again = replace(turns[1], prompt=replace(turns[1].prompt, images=stale))
    assert torch.equal(janus.score(turns[1]).log_probs, janus.score(again).log_probs)


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.7, "top_k": 4}])
def test_recorded_log_probabilities_are_scored_ones(janus: Janus, changes: dict[str, Any]) -> None:
    tokens = janus.sample(asking(), law(**changes))
    scored = janus.score(Turn(prompt=asking(), tokens=tokens), law(**changes)).log_probs
    assert tokens.log_probs is not None
    same(scored[tokens.mask].detach(), tokens.log_probs[tokens.mask])


def test_an_answer_depends_on_its_seed_alone(janus: Janus) -> None:
    together = janus.sample(asking(), law())
    scores = janus.score(Turn(prompt=asking(), tokens=together)).log_probs.detach()
    for row in range(len(QUESTIONS)):
        index = torch.tensor([row])
        alone = janus.sample(asking().rows(index), law())
        width = alone.ids.shape[1]
        assert torch.equal(alone.ids[alone.mask], together.ids[index][:, :width][alone.mask])
        assert int(together.mask[row].sum()) == int(alone.mask.sum())
        turn = Turn(prompt=asking(), tokens=together).rows(index)
        same(janus.score(turn).log_probs.detach(), scores[index])


def test_an_image_and_a_question_are_read_once(janus: Janus) -> None:
    seen: list[tuple[int, int]] = []

    def look(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    towers: list[int] = []
    hooks = [
        janus.model.model.language_model.register_forward_pre_hook(look, with_kwargs=True),
        janus.model.model.vision_model.register_forward_pre_hook(
            lambda _m, args: towers.append(len(args[0]))
        ),
    ]
    try:
        prompt = asking()
        index = torch.tensor([0, 1, 0, 0, 2])
        janus.sample(prompt.rows(index), law(max_tokens=2))
    finally:
        for hook in hooks:
            hook.remove()
    assert towers == [2]
    assert [rows for rows, _ in seen[:2]] == [2, 3]
    assert seen[2] == (5, 1)


def test_looked_at_images_are_not_looked_at_again(janus: Janus) -> None:
    looked = janus.encode_images(pictures(3))
    assert janus.encode_images(looked) is looked
    turn = Turn(prompt=asking(), tokens=janus.encode(["a", "bc", "d", "e", "fgh"]))
    bare = janus.score(turn).log_probs.detach()
    calls: list[int] = []
    hook = janus.model.model.vision_model.register_forward_hook(lambda *_: calls.append(1))
    try:
        again = janus.score(replace(turn, prompt=asking(looked))).log_probs.detach()
    finally:
        hook.remove()
    same(again, bare)
    assert not calls


def test_greedy_answers_are_those_of_transformers_own_loop(janus: Janus) -> None:
    model: Any = janus.model
    images = pictures(1, seed=4)
    tokens = janus.sample(Prompt(texts=["what?"], images=images), law(temperature=0, max_tokens=8))
    processor: Any = tiny_processor()
    made = processor(
        text="<s><|User|>: <image_placeholder>\nwhat?\n\n<|Assistant|>:",
        images=[Image.fromarray(images.pixels[0].permute(1, 2, 0).numpy())],
        add_special_tokens=False,
    )
    ids = model.generate(**made, do_sample=False, max_new_tokens=8)[0, made["input_ids"].shape[1] :]
    assert tokens.ids[0][tokens.mask[0]].tolist() == ids.tolist()[: int(tokens.mask.sum())]


def test_an_own_drawing_is_read_as_the_image_it_makes(janus: Janus) -> None:
    drawn = janus.sample(
        Prompt(texts=["a", "b", "c"], wants="image", seeds=[1, 2, 3]), janus.default_sampling()
    )
    answers = janus.encode(["a", "bc", "d", "e", "fgh"])
    by_codes = janus.score(Turn(prompt=asking(drawn), tokens=answers)).log_probs.detach()
    by_pixels = janus.score(Turn(prompt=asking(janus.pixels(drawn)), tokens=answers)).log_probs.detach()
    same(by_codes, by_pixels)
    one_hot = torch.nn.functional.one_hot(drawn.ids, janus.image_codec.num_codes).float()
    relaxed = janus.score(Turn(prompt=asking(replace(drawn, one_hot=one_hot)), tokens=answers))
    same(relaxed.log_probs.detach(), by_codes)


def test_the_answer_teaches_the_drawing(janus: Janus) -> None:
    one_hot = torch.nn.functional.one_hot(torch.randint(64, (2, NUM_TOKENS)), 64).float().requires_grad_()
    drawn = Tokens(ids=one_hot.argmax(-1), mask=torch.ones(2, NUM_TOKENS, dtype=torch.bool), one_hot=one_hot)
    prompt = Prompt(texts=["what?", "who?"], images=drawn)
    janus.score(Turn(prompt=prompt, tokens=janus.encode(["a", "b"]))).log_probs.sum().backward()
    assert one_hot.grad is not None
    assert (one_hot.grad.abs().amax((1, 2)) > 0).all()
    janus.zero_grad()


def test_questions_without_an_image(janus: Janus) -> None:
    prompt = Prompt(texts=["who are you?", "why?"], seeds=[1, 2])
    tokens = janus.sample(prompt, law())
    scores = janus.score(Turn(prompt=prompt, tokens=tokens), law()).log_probs
    assert tokens.log_probs is not None
    same(scores[tokens.mask].detach(), tokens.log_probs[tokens.mask])
    ids = torch.tensor([[*janus.prompts.question_row("why?", False), *tokens.ids[1].tolist()]])
    logits = janus.model(input_ids=ids).logits[0]
    assert PICTURE not in ids[0, :-6].tolist()
    natural = janus.score(Turn(prompt=prompt, tokens=tokens)).log_probs[1]
    expected = logits.log_softmax(-1)[-len(natural) - 1 : -1].gather(1, tokens.ids[1][:, None])[:, 0]
    same((natural * tokens.mask[1]).detach(), (expected * tokens.mask[1]).detach())


@pytest.mark.parametrize("shape", [(32, 32), (5, 64), (300, 40), (33, 31), (1, 1)])
def test_images_of_any_size_are_prepared_as_the_official_processor_does(
    janus: Janus, shape: tuple[int, int]
) -> None:
    pixels = pictures(2, height=shape[0], width=shape[1]).pixels
    squares = janus.image_codec.squares(pixels, janus.image_codec.tower_size)
    made = tiny_processor().image_processor([Image.fromarray(p) for p in pixels.permute(0, 2, 3, 1).numpy()])
    expected = torch.from_numpy(np.stack(made["pixel_values"])).float()
    torch.testing.assert_close((squares.float() / 255 - 0.5) / 0.5, expected, atol=1e-6, rtol=0)


def test_images_come_back_from_their_codes(janus: Janus) -> None:
    tokens = janus.image_tokens(pictures(5, height=40, width=64))
    assert tokens.ids.shape == (5, NUM_TOKENS)
    assert tokens.mask.all()
    images = janus.pixels(tokens)
    assert images.pixels.shape == (5, 3, 32, 32)
    together = janus.pixels(tokens.rows(torch.tensor([4]))).pixels.int() - images.pixels[4:].int()
    assert together.abs().max() <= 1


def test_codes_are_searched_on_the_sphere(janus: Janus) -> None:
    values = torch.rand(2, 3, 32, 32) * 2 - 1
    codes = janus.image_codec.nearest(values)
    latents = janus.image_codec.latents(values).flatten(2).transpose(1, 2)
    book = janus.model.model.vqmodel.quantize.embedding.weight
    cosines = torch.nn.functional.cosine_similarity(latents[:, :, None], book[None, None], dim=-1)
    assert torch.equal(codes, cosines.argmax(-1))
    plain = janus.model.model.vqmodel.encode(values).image_tokens.view_as(codes)
    assert (plain != codes).any(), "transformers' search would do as well here: the check saw nothing"


def test_bad_questions_are_refused(janus: Janus) -> None:
    one = pictures(1)
    for prompt, said in (
        (Prompt(texts=["", "a"]), "empty"),
        (Prompt(texts=["a", "b"], images=one), "2 questions and 1 images"),
        (Prompt(texts=["see <image_placeholder>"], images=one), "names '<image_placeholder>'"),
        (Prompt(texts=["a" * 500], images=one), "positions"),
    ):
        with pytest.raises(ValueError, match=said):
            janus.sample(prompt, law())
    prompt = Prompt(texts=["a"], images=one)
    with pytest.raises(ValueError, match="guidance is 5"):
        janus.sample(prompt, law(guidance=5.0))
    with pytest.raises(ValueError, match="relaxation is 1"):
        janus.sample(prompt, law(relaxation=1.0))
    half = Tokens(ids=torch.zeros(1, 8, dtype=torch.long), mask=torch.ones(1, 8, dtype=torch.bool))
    for tokens in (half, replace(half, ids=half.ids.repeat(1, 2), mask=half.mask.repeat(1, 2).tril())):
        with pytest.raises(ValueError, match="16 tokens"):
            janus.sample(Prompt(texts=["a"], images=tokens), law())
    outside = Tokens(ids=torch.full((1, 16), 99), mask=torch.ones(1, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match="64 codes"):
        janus.pixels(outside)


def test_transformers_own_model_is_unchanged_by_an_idle_policy() -> None:
    model: Any = tiny_model()
    ids = torch.tensor([[0, 20, 30, 40]])
    before = model(input_ids=ids).logits
    Janus(model, tiny_processor())
    assert torch.equal(model(input_ids=ids).logits, before)
