import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rewards.tiny_clips import blip_matcher_folder
from rewards.words_of_a_few import BEGIN, END, PAD, WORDS, few_words
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    OPTConfig,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sightloop.models.clip import ClipEncoder
from sightloop.rewards.clip_family import ClipSimilarity
from sightloop.rewards.custom import load_rewards
from sightloop.rewards.pixels import Preparation
from sightloop.rewards.retrieval_term import RetrievalReward, retrieval_term
from sightloop.rewards.similarity import ItmSimilarity
from sightloop.types import Images, Outcome, Tokens

SIDE, NUM_QUERIES = 32, 8
TEXTS = ["a red dog on the left of the street", "cat", "a big blue cat", "a cat , a dog", "the red street"]
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


def itm_model(*, image_token_index: int | None = None, reads_text: bool = True) -> Blip2ForImageTextRetrieval:
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=8,
        ),
        qformer_config=Blip2QFormerConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            cross_attention_frequency=2,
            encoder_hidden_size=32,
            use_qformer_text_input=reads_text,
        ),
        text_config=OPTConfig(
            vocab_size=32,
            hidden_size=32,
            ffn_dim=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            word_embed_proj_dim=32,
        ),
        num_query_tokens=NUM_QUERIES,
        image_token_index=image_token_index,
        image_text_hidden_size=16,
    )
    model = Blip2ForImageTextRetrieval(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.normal_(model.query_tokens)
    return model


def blip_images(side: int = SIDE) -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": side, "width": side}, image_mean=MEAN, image_std=STD)


def itm(model: Blip2ForImageTextRetrieval | None = None, **settings: int) -> ItmSimilarity:
    return ItmSimilarity(model or itm_model(), few_words(frame=True), blip_images(), **settings)


def clip(*, batch: int = 64) -> ClipSimilarity:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.5,
    }
    text = {
        "vocab_size": len(WORDS),
        "max_position_embeddings": 12,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
    }
    config = CLIPConfig(
        text_config={**sizes, **text, "pad_token_id": PAD},
        vision_config={**sizes, "image_size": SIDE, "patch_size": 8},
        projection_dim=16,
    )
    encoder = ClipEncoder(CLIPModel(config), few_words(frame=True), clip_images(), name="tiny")
    return ClipSimilarity(encoder, batch=batch)


def clip_images() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=MEAN,
        image_std=STD,
    )


def images_of(number: int, height: int = SIDE, width: int = SIDE) -> Images:
    return Images(pixels=torch.randint(256, (number, 3, height, width), dtype=torch.uint8))


def outcome_of(images: Images | None, texts: list[str]) -> Outcome:
    pieces = [[f" {word}" for word in text.split()] for text in texts]
    lengths = torch.tensor([len(row) + 1 for row in pieces])
    mask = torch.arange(12)[None] < lengths[:, None]
    return Outcome(
        tokens=Tokens(ids=torch.zeros_like(mask, dtype=torch.long), mask=mask),
        pieces=pieces,
        ended=torch.ones(len(texts), dtype=torch.bool),
        images=images,
        references=[""] * len(texts),
    )


@torch.no_grad()
def whole_model(model: Blip2ForImageTextRetrieval, images: Images, texts: list[str]) -> Tensor:
    """Class 1 of the model's own forward pass, a pair at a time, with placeholders where it wants them."""
    pixel_values = Preparation.of_blip(blip_images())(images.pixels)
    found = []
    for pixels, text in zip(pixel_values, texts, strict=True):
        ids = few_words(frame=True)(text).input_ids
        mask = [1] * len(ids)
        if model.config.image_token_index is not None:
            ids, mask = [model.config.image_token_index] * NUM_QUERIES + ids, [1] * NUM_QUERIES + mask
        out = model(
            pixel_values=pixels[None],
            input_ids=torch.tensor([ids]),
            attention_mask=torch.tensor([mask]),
            use_image_text_matching_head=True,
        )
        found.append(out.logits_per_image[0, 1])
    return torch.stack(found)


@pytest.mark.parametrize("image_token_index", [None, 15])
@pytest.mark.parametrize("batch", [64, 2])
def test_the_logit_is_class_1_of_the_whole_models_forward_pass(image_token_index, batch) -> None:
    model, images = itm_model(image_token_index=image_token_index), images_of(5)
    wanted = whole_model(model, images, TEXTS)
    assert wanted.std() > 1e-3
    found = itm(model, batch=batch).logits(images, TEXTS)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_texts_are_cut_at_the_given_number_of_tokens() -> None:
    model, images = itm_model(), images_of(2)
    long, short = "a red dog on the left", "a red dog"
    judge = itm(model, max_text_tokens=5)
    torch.testing.assert_close(judge.logits(images, [long] * 2), itm(model).logits(images, [short] * 2))
    assert not torch.allclose(judge.logits(images, [long] * 2), itm(model).logits(images, [long] * 2))


def test_the_reward_sits_on_the_last_token_and_reads_stripped_captions() -> None:
    judge, images = itm(), images_of(5)
    rewards = judge(outcome_of(images, TEXTS))
    last = torch.tensor([len(text.split()) for text in TEXTS])
    torch.testing.assert_close(rewards[torch.arange(5), last], judge.logits(images, TEXTS))
    assert (rewards != 0).sum() == 5


def test_features_are_computed_once_and_read_from_the_images() -> None:
    judge, images = itm(batch=2), images_of(5)
    seen = judge.encode_images(images)
    assert judge.encode_images(seen) is seen
    black = replace(seen, pixels=torch.zeros_like(seen.pixels))
    torch.testing.assert_close(judge.logits(black, TEXTS), judge.logits(images, TEXTS))


def test_a_shared_tower_gives_the_same_logits_and_each_model_its_own_last_norm() -> None:
    judge, images = itm(), images_of(5)
    wanted = judge.logits(images, TEXTS)
    features = judge.encode_images(images).features[judge.tower_key]
    tower = judge.tower
    assert not torch.allclose(
        features, tower(pixel_values=judge.preparation(images.pixels)).last_hidden_state
    )
    judge.reuse_tower("captioner.vision")
    shared = Images(pixels=torch.zeros_like(images.pixels), features={"captioner.vision": features})
    torch.testing.assert_close(judge.logits(shared, TEXTS), wanted)


def test_without_its_own_tower_the_judge_says_what_it_misses() -> None:
    judge = itm()
    judge.reuse_tower("captioner.vision")
    with pytest.raises(ValueError, match=r"no features under 'captioner\.vision'"):
        judge.logits(images_of(1), ["cat"])
    with pytest.raises(ValueError, match="no tower of its own"):
        _ = judge.tower


def test_models_without_a_text_branch_and_impossible_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="no text branch"):
        itm(itm_model(reads_text=False))
    with pytest.raises(ValueError, match="max_text_tokens is 65; use 3 to 64"):
        itm(max_text_tokens=65)


def test_outcomes_without_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        itm()(outcome_of(None, ["cat"]))


def test_a_half_precision_judge_stays_close_and_answers_in_float32(tmp_path) -> None:
    model, images = itm_model(), images_of(5)
    wanted = itm(model).logits(images, TEXTS)
    model.save_pretrained(tmp_path)
    few_words(frame=True).save_pretrained(tmp_path)
    blip_images().save_pretrained(tmp_path)
    full = ItmSimilarity.from_pretrained(tmp_path)
    torch.testing.assert_close(full.logits(images, TEXTS), wanted, rtol=1e-4, atol=1e-5)
    half = ItmSimilarity.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert next(half.tower.parameters()).dtype == torch.bfloat16
    found = half.logits(images, TEXTS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.1)


def smooth_image(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width] / 12
    channels = [np.sin(x + y), np.cos(x - 0.5 * y), np.sin(0.7 * x) * np.cos(y)]
    return (127.5 + 120 * np.stack(channels, -1)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (50, 90), (97, 61), (20, 24)])
@pytest.mark.parametrize("family", ["blip", "clip"])
def test_pixels_are_prepared_as_the_processors_do(height: int, width: int, family: str) -> None:
    picture = smooth_image(height, width)
    blip_like, clip_like = blip_images(), clip_images()
    prepare = Preparation.of_blip(blip_like) if family == "blip" else Preparation.of_clip(clip_like)
    processor = blip_like if family == "blip" else clip_like
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    found = prepare(torch.from_numpy(picture).permute(2, 0, 1)[None])
    # Two grey levels at most: Pillow rounds between its two passes.
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 2.01 / 255 / min(STD)


def test_the_cosine_is_between_the_models_own_embeddings() -> None:
    judge, images = clip(batch=2), images_of(5)
    texts = [*TEXTS[:4], "a big red dog on the left of the big blue street of the cat"]
    encoded = few_words(frame=True)(texts, padding=True, truncation=True, max_length=12, return_tensors="pt")
    with torch.no_grad():
        out = judge.model(pixel_values=judge.preparation(images.pixels), **encoded)
    wanted = (out.image_embeds * out.text_embeds).sum(1)
    rewards = judge(outcome_of(images, [*texts[:4], "cat"]))
    assert (rewards != 0).sum() == 5
    found = (judge.image_embeddings(images) * judge.text_embeddings(texts)).sum(1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rewards.sum(1)[:4], wanted[:4], rtol=1e-5, atol=1e-5)


def test_image_embeddings_are_computed_once() -> None:
    judge, images = clip(), images_of(3)
    seen = judge.encode_images(images)
    black = replace(seen, pixels=torch.zeros_like(seen.pixels))
    assert judge.encode_images(black) is black
    torch.testing.assert_close(judge.image_embeddings(black), judge.image_embeddings(images))


def test_the_retrieval_term_of_a_matrix_by_hand() -> None:
    # Rows and columns of log 3 against 0: softmax 3/4 and 1/4 for the first pair, 1/2 and 1/2 below it.
    cosine = torch.tensor([[3.0, 1.0], [1.0, 1.0]], dtype=torch.float64).log()
    # First pair: 3/4 * 3/4 = 9/16; second: 1/2 * 1/2 = 4/16. Two numbers standardize to +-sqrt(1/2).
    wanted = torch.tensor([1.0, -1.0], dtype=torch.float64) * 0.5**0.5
    torch.testing.assert_close(retrieval_term(cosine), wanted)


def test_the_retrieval_term_is_0_where_captions_do_not_differ() -> None:
    assert retrieval_term(torch.full((7, 7), 0.3)).tolist() == [0] * 7


@pytest.mark.parametrize("number", [2, 64, 512])
def test_the_retrieval_term_has_mean_0_and_deviation_1(number: int) -> None:
    term = retrieval_term(0.3 + 0.1 * torch.rand(number, number))
    assert term.mean() == pytest.approx(0, abs=1e-4) and term.std() == pytest.approx(1, abs=1e-4)


def test_the_retrieval_reward_contrasts_neighbors_only() -> None:
    judge, images = clip(), images_of(4)
    texts = TEXTS[:4]
    rewards = RetrievalReward(clip=judge, contrast=2)(outcome_of(images, texts)).sum(1)
    cosine = judge.image_embeddings(images) @ judge.text_embeddings(texts).T
    wanted = torch.cat([retrieval_term(cosine[:2, :2]), retrieval_term(cosine[2:, 2:])])
    torch.testing.assert_close(rewards, wanted, rtol=1e-4, atol=1e-4)
    everyone = RetrievalReward(clip=judge)(outcome_of(images, texts)).sum(1)
    torch.testing.assert_close(everyone, retrieval_term(cosine), rtol=1e-4, atol=1e-4)
    sharp = RetrievalReward(clip=judge, logit_scale=50.0)(outcome_of(images, texts)).sum(1)
    torch.testing.assert_close(sharp, retrieval_term(50 * cosine), rtol=1e-3, atol=1e-3)


def test_ranks_contrast_what_one_rank_would() -> None:
    judge, images, texts = clip(), images_of(6), [*TEXTS, "the dog"]
    held = [(images.rows(torch.arange(6)[part]), texts[part]) for part in (slice(0, 4), slice(4, 6))]
    told = [torch.stack([judge.image_embeddings(seen), judge.text_embeddings(said)]) for seen, said in held]
    for contrast in (None, 3, 2):
        alone = RetrievalReward(clip=judge, contrast=contrast)(outcome_of(images, texts)).sum(1)
        term = partial(RetrievalReward, clip=judge, contrast=contrast, gather=lambda _: told)
        shared = [term(rank=rank)(outcome_of(*mine)) for rank, mine in enumerate(held)]
        torch.testing.assert_close(torch.cat([one.sum(1) for one in shared]), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"), [({"contrast": 1}, "contrast is 1"), ({"logit_scale": 0.0}, "logit_scale is 0")]
)
def test_retrieval_settings_that_cannot_work_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetrievalReward(clip=clip(), **settings)


def test_rows_that_do_not_fill_the_contrast_are_refused() -> None:
    with pytest.raises(ValueError, match="5 captions cannot be cut into groups of 2"):
        RetrievalReward(clip=clip(), contrast=2)(outcome_of(images_of(5), TEXTS))
    with pytest.raises(ValueError, match="1 is too few"):
        RetrievalReward(clip=clip())(outcome_of(images_of(1), TEXTS[:1]))


def test_blips_matching_logit_is_that_of_its_forward_pass(tmp_path: Path) -> None:
    folder, images = blip_matcher_folder(tmp_path / "judge"), images_of(4, 16, 16)
    texts = ["a red dog", "cat", "a big blue cat", "the red street"]
    model: Any = BlipForImageTextRetrieval.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    with torch.no_grad():
        wanted = [
            model(
                pixel_values=processor(picture, return_tensors="pt").pixel_values,
                **AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt"),
            ).itm_score[0, 1]
            for picture, text in zip(images.pictures(), texts, strict=True)
        ]
    rewards, _ = load_rewards([f"itm:{folder}"])
    found = rewards["itm"](outcome_of(images, texts)).sum(1)
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-5)
    assert found.std() > 1e-2
    half = ItmSimilarity.from_pretrained(folder, dtype=torch.bfloat16).logits(images, texts)
    assert half.dtype == torch.float32
