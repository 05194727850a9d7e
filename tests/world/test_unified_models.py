"""Tiny Show-o and Janus: new ones of the right shape, the bundled ones at their gates."""

import numpy as np
import pytest
import torch

from experiments.world.acceptance import answer_figures, drawing_figures, seen_in_codes
from experiments.world.examples import RIGHT, TrainingPhase
from experiments.world.janus_stage import train_janus
from experiments.world.show_o_stage import misread, show_o_policy, train_show_o
from experiments.world.tokenizer_stage import (
    StillGenerator,
    codes_of,
    make_drawn_world,
    share_recovered,
    train_magvit2,
    train_vq,
)
from experiments.world.unified_models import (
    MAX_TEXT,
    NUM_CODES,
    NUM_IMAGE_TOKENS,
    janus_processor,
    janus_tokenizer,
    new_janus,
    new_magvit2,
    save_janus,
    save_show_o,
    show_o_tokenizer,
)
from sightloop.models.janus.checkpoint import load_janus
from sightloop.models.janus.policy import Janus, JanusSettings
from sightloop.models.show_o.checkpoint import load_show_o
from sightloop.models.show_o.policy import ShowO
from sightloop.types import Images, Prompt, Sampling
from sightloop.world.bundled import WEIGHTS
from sightloop.world.checker import corner_of
from sightloop.world.held_out_scenes import (
    detect_in,
    held_out_quizzes,
    held_out_scenes,
    images_of,
    stack_images,
)
from sightloop.world.quizzes import sample_drawn_scene, sample_quiz
from sightloop.world.scenes import Scene, Thing, render

RED_SQUARE = Thing(size="large", color="red", shape="square", corner="top-left")
ALONE = Scene(ground="white", things=(RED_SQUARE,))
SCENES = [sample_drawn_scene(np.random.default_rng(k)) for k in range(100)]


BUNDLED = {"show_o": load_show_o, "janus": load_janus}


def test_taught_codes_tell_ground_quarter_color_and_shape() -> None:
    (codes,) = codes_of([ALONE]).view(1, 4, 4)
    # White is ground 0, red color 0, square shape 1; an empty cell has color 6 and shape 0.
    assert codes[:2, :2].tolist() == [[1, 33], [65, 97]]
    assert (codes[2:] == 24).all()
    assert (codes[:2, 2:] == 24).all()
    dark = codes_of([Scene(ground="black", things=(RED_SQUARE,))])
    assert (dark - codes.flatten() == 256).all()


def test_codes_are_read_back_as_the_things_they_stand_for() -> None:
    for scene, found in zip(SCENES, seen_in_codes(codes_of(SCENES)), strict=True):
        truth = [(thing.shape, thing.color, thing.corner) for thing in scene.things]
        assert [(thing.name, thing.color, corner_of(thing)) for thing in found] == truth


def test_a_thing_of_quarters_that_do_not_fit_is_none() -> None:
    codes = codes_of([ALONE])
    codes[0, 1] = 34
    assert seen_in_codes(codes) == [[]]


def test_still_random_numbers_draw_a_scene_without_jitter_and_noise() -> None:
    still = StillGenerator()
    one, other = render(ALONE, still), render(ALONE, still)
    assert np.array_equal(one, other)
    assert len(np.unique(one[16:].reshape(-1, 3), axis=0)) == 1


def test_the_checker_counts_redrawn_scenes() -> None:
    plain = stack_images([render(scene, StillGenerator()) for scene in SCENES[:20]])
    assert share_recovered(plain, SCENES[:20]) == 1
    assert share_recovered(plain.flip(0), SCENES[:20]) < 0.2


def test_misread_cells_are_as_many_as_asked_for() -> None:
    codes = torch.zeros(200, 16, dtype=torch.int64)
    assert torch.equal(misread(codes, 0.0), codes)
    assert 0.07 < (misread(codes, 0.1) > 0).float().mean() < 0.13


@pytest.mark.parametrize("tokenizer", [show_o_tokenizer(), janus_tokenizer()])
def test_both_tokenizers_know_every_word_whatever_its_case(tokenizer) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        quiz = sample_quiz(rng)
        for text in (quiz.prompt, quiz.question, quiz.answer, f"USER: \n{quiz.question} ASSISTANT:"):
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.unk_token_id not in ids, text
            spelled = tokenizer.decode(ids).replace(" ", "")
            assert spelled == "".join(text.lower().split())


def test_an_untrained_show_o_draws_answers_and_comes_back_from_its_folder(tmp_path) -> None:
    torch.manual_seed(0)
    policy = show_o_policy(new_magvit2())
    prompt = Prompt(texts=["a photo of a circle", "a photo of two red squares"], wants="image", seeds=[1, 2])
    tokens = policy.sample(prompt, policy.default_sampling())
    assert tokens.ids.shape == (2, NUM_IMAGE_TOKENS)
    assert int(tokens.ids.max()) < NUM_CODES
    assert policy.pixels(tokens).pixels.shape == (2, 3, 32, 32)
    save_show_o(policy.model, policy.magvit, tmp_path / "show_o")
    again = load_show_o(tmp_path / "show_o")
    assert again.settings.max_text_tokens == MAX_TEXT
    assert len(again.tokenizer) == len(show_o_tokenizer())
    # Saved in half precision, which the policy's own weights were brought to.
    assert torch.equal(again.pixels(tokens).pixels, policy.float().pixels(tokens).pixels)


def test_an_untrained_janus_draws_answers_and_comes_back_from_its_folder(tmp_path) -> None:
    torch.manual_seed(0)
    policy = Janus(new_janus(), janus_processor(), settings=JanusSettings(trained="full"))
    prompt = Prompt(texts=["a photo of a circle", "a photo of two red squares"], wants="image", seeds=[1, 2])
    tokens = policy.sample(prompt, policy.default_sampling())
    assert tokens.ids.shape == (2, NUM_IMAGE_TOKENS)
    pixels = policy.pixels(tokens)
    assert pixels.pixels.shape == (2, 3, 32, 32)
    save_janus(policy.model, tmp_path)
    again = load_janus(tmp_path)
    asked = Prompt(texts=["What is shown in this picture?"] * 2, images=pixels)
    answers = again.sample(asked, Sampling(max_tokens=4, temperature=0))
    assert answers.ids.shape[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_tokenizers_redraw_scenes_that_the_checker_reads(name) -> None:
    policy = BUNDLED[name](WEIGHTS / name)
    pictures = images_of(SCENES, seed=4)
    redrawn = policy.pixels(policy.image_tokens(pictures))
    assert share_recovered(redrawn.pixels, SCENES) > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_models_draw_poorly_and_see_better(name) -> None:
    """Between the gates there is room for training."""
    policy = BUNDLED[name](WEIGHTS / name)
    quizzes = held_out_quizzes(40, seed=2)
    drawn = drawing_figures(policy, quizzes, policy.default_sampling())
    asked = answer_figures(policy, quizzes, images_of(held_out_scenes(quizzes, seed=2), seed=2))
    # 240 quizzes add noise of about .03 to what the stages reported.
    assert 0.35 < drawn.mean < 0.7
    assert asked.mean > 0.8
    assert asked.mean > drawn.mean + 0.2
    assert max(drawn.of["position"], drawn.of["color_attr"]) < drawn.of["single_object"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_drawn_images_are_seen_alike_in_codes_and_in_pixels(name) -> None:
    """The decoder may blur, but the checker finds in its images what their codes say."""
    policy = BUNDLED[name](WEIGHTS / name)
    codes = codes_of(SCENES)
    tokens = policy.image_tokens(Images(pixels=images_of(SCENES).pixels))
    assert (tokens.ids == codes).float().mean() > 0.99
    same = [
        sorted((d.name, d.color, corner_of(d)) for d in pixels)
        == sorted((d.name, d.color, corner_of(d)) for d in ids)
        for pixels, ids in zip(detect_in(policy.pixels(tokens)), seen_in_codes(tokens.ids), strict=True)
    ]
    assert sum(same) / len(same) > 0.95


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_folders_are_small(name) -> None:
    files = [path for path in (WEIGHTS / name).rglob("*") if path.is_file()]
    assert files
    assert sum(path.stat().st_size for path in files) < 6_000_000


@pytest.mark.slow
def test_every_stage_learns_and_is_only_loaded_once_it_is_finished(tmp_path) -> None:
    world = make_drawn_world(40, 2)
    magvit, vq = train_magvit2(world, tmp_path, steps=2), train_vq(world, tmp_path, steps=2)
    names = ("show_o_more", "janus_more")
    more = [TrainingPhase(name=name, steps=2, answers=1, peak_lr=1e-3, wrong=RIGHT) for name in names]

    def taught() -> tuple[ShowO, Janus]:
        show_o = train_show_o(magvit, tmp_path, steps=2, further=more[:1])
        return show_o, train_janus(vq, tmp_path, steps=2, further=more[1:])

    policies, again = taught(), taught()
    torch.manual_seed(8)
    untrained = show_o_policy(magvit)
    for one, other in zip(policies, again, strict=True):
        for own, same in zip(one.model.parameters(), other.model.parameters(), strict=True):
            assert torch.equal(own, same)
    changed = [
        not torch.equal(own, before)
        for own, before in zip(policies[0].model.parameters(), untrained.model.parameters(), strict=True)
    ]
    assert all(changed)
