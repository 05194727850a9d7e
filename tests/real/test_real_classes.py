"""The reward of a classifier, with a real one, on photographs whose class a person sees."""

from __future__ import annotations

from pathlib import Path

import pytest
from photographs import as_images, photograph

from sightloop.rewards.custom import load_rewards
from sightloop.rewards.samples import outcome_of_texts

CLASSIFIER = f"class:{Path(__file__).parent / 'efficientnet_lite.py'}:classify"
CAPTIONS = {
    "chelsea.png": "a tiger cat that looks to the right",
    "coffee.png": "an espresso on a wooden table",
    "rocket.jpg": "a missile at dusk",
    "camera.png": "a man behind a tripod",
    "motorcycle_left.png": "a moped in a garage",
    "flower.jpg": "a daisy",
    "china.jpg": "a palace over a lake",
    "grace_hopper.jpg": "a woman in a military uniform",
}


def earned(name: str, *captions: str) -> list[float]:
    """What captions of a photograph earn."""
    rewards, _ = load_rewards([CLASSIFIER])
    outcome = outcome_of_texts(as_images(*[photograph(name)] * len(captions)), list(captions))
    return rewards["class"](outcome).sum(1).tolist()


@pytest.mark.parametrize("name", CAPTIONS)
def test_the_caption_of_a_photograph_earns_more_than_those_of_all_others(name: str) -> None:
    own, *others = earned(name, CAPTIONS[name], *(text for key, text in CAPTIONS.items() if key != name))
    assert own > 0.15 and own > 5 * max(others)


def test_how_sure_the_classifier_is_of_clear_photographs() -> None:
    espresso, both, none = earned("coffee.png", "an espresso", "an espresso in a cup", "a drink")
    assert espresso == pytest.approx(0.95, abs=0.03) and none == 0
    # A cup is there too, but an ImageNet classifier names one thing.
    assert both == pytest.approx(espresso / 2, abs=0.03)
    assert earned("camera.png", "two tripods")[0] == pytest.approx(0.94, abs=0.03)
