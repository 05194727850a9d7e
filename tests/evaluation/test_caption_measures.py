"""Caption measures against values counted by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from sightloop.evaluation.captions import caption_measures, truth_measures
from sightloop.evaluation.intervals import bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Facts of one caption."""

    true: int
    false: int
    total: int


def test_length_variety_and_repeats_are_counted() -> None:
    found = caption_measures(["A dog and a dog.", "a dog"])
    assert found.per_sample["length"] == [5, 2]
    # "dog" comes again; "a" may. Of the pairs (a dog, dog and, and a, a dog) one comes again.
    assert found.per_sample["repeats"] == [1 / 5, 0]
    assert found.per_sample["repeated_pairs"] == [1 / 4, 0]
    # a, dog, and of seven words; a dog, dog and, and a of five pairs.
    assert found.metrics["distinct_1"] == 3 / 7
    assert found.metrics["distinct_2"] == 3 / 5


def test_the_exempt_words_are_the_callers_choice() -> None:
    captions = ["a red circle, a red circle"]
    assert caption_measures(captions).metrics["repeats"] == pytest.approx(1 / 6)
    assert caption_measures(captions, exempt=frozenset()).metrics["repeats"] == 3 / 6
    assert caption_measures(captions, exempt=frozenset({"a", "red", "circle"})).metrics["repeats"] == 0


def test_colors_count_also_inside_of_compounds() -> None:
    found = caption_measures(["a black-and-white cat on a Red bed", "a dog", "gray-haired man in grey"])
    assert found.per_sample["colors"] == [3, 0, 2]
    assert found.per_sample["names_colors"] == [1, 0, 1]
    assert found.metrics["colors"] == pytest.approx(5 / 3)


def test_color_coverage_is_the_share_of_the_references_colors() -> None:
    captions = ["a grey cat and a green bed", "a dog"]
    # The references name gray, red (twice: one color), blue; then brown. One of these four is named.
    references = [["a gray cat on a red rug", "red and blue"], ["a brown dog"]]
    assert caption_measures(captions, references=references).metrics["color_coverage"] == 1 / 4


def test_color_coverage_is_left_out_where_no_reference_names_a_color() -> None:
    found = caption_measures(["a red cat"], references=[["a cat"]])
    assert "color_coverage" not in found.metrics
    assert found.metrics["bleu_1"] == pytest.approx(2 / 3)


def test_flagged_and_unfinished_captions_are_counted() -> None:
    found = caption_measures(
        ["an image of a cat", "a cat", "a dog"], flag=lambda text: "image" in text, ended=[True, False, False]
    )
    assert found.per_sample["bad_phrases"] == [1, 0, 0]
    assert found.per_sample["no_end"] == [0, 1, 1]
    assert found.metrics["no_end"] == pytest.approx(2 / 3)


def test_figures_are_there_only_for_what_was_given() -> None:
    assert set(caption_measures(["a cat"]).metrics) == {
        "length", "repeats", "repeated_pairs", "colors", "names_colors", "distinct_1", "distinct_2",
    }  # fmt: skip
    assert {"self_bleu", "cider_d", "bleu_4"} <= set(
        caption_measures(["a cat", "a dog"], references=[["a cat"], ["a cow"]]).metrics
    )


def test_every_figure_per_caption_averages_to_its_metric() -> None:
    found = caption_measures(
        ["a red cat", "", "a dog a dog"], references=[["a cat"], ["a cow"], ["two dogs"]], ended=[True] * 3
    )
    for name, values in found.per_sample.items():
        assert len(values) == 3
        assert found.metrics[name] == pytest.approx(sum(values) / 3)


def test_a_caption_that_says_nothing_has_no_repeats() -> None:
    found = caption_measures(["", "..."])
    assert found.metrics["length"] == found.metrics["repeats"] == found.metrics["distinct_1"] == 0


def test_told_facts_and_wrong_facts_are_counted() -> None:
    found = truth_measures(
        [
            Counted(true=3, false=1, total=5),
            Counted(true=0, false=0, total=4),
            Counted(true=1, false=0, total=1),
        ]
    )
    assert found.metrics["precision"] == 4 / 5
    assert found.metrics["told_pooled"] == 4 / 10
    assert found.per_sample["told"] == [3 / 5, 0, 1]
    assert found.per_sample["hallucinates"] == [1, 0, 0]
    assert found.metrics["told"] == pytest.approx(1.6 / 3)
    assert found.metrics["hallucinates"] == pytest.approx(1 / 3)


def test_shares_of_all_facts_have_the_intervals_of_resampled_captions() -> None:
    rng = np.random.default_rng(0)
    true, false = rng.integers(0, 6, 400), rng.integers(0, 3, 400)
    counts = [Counted(true=int(t), false=int(f), total=8) for t, f in zip(true, false, strict=True)]
    found = truth_measures(counts)
    picks = rng.integers(0, 400, (4000, 400))
    resampled = true[picks].sum(1) / (true + false)[picks].sum(1)
    wanted = np.quantile(resampled, [0.025, 0.975])
    for name in ("precision", "told_pooled"):
        assert np.mean(found.per_sample[name]) == pytest.approx(found.metrics[name], abs=1e-12)
    interval = bootstrap_interval(found.per_sample["precision"])
    assert (interval.low, interval.high) == pytest.approx(tuple(wanted), abs=2e-3)
    assert interval.high - interval.low > 0.02
    # Facts of one caption stand or fall together: they must not count as so many samples.
    assert found.per_sample["told_pooled"] == pytest.approx((true / 8).tolist())


def test_silence_tells_nothing_wrong() -> None:
    found = truth_measures([Counted(true=0, false=0, total=4)])
    assert found.per_sample["precision"] == [1]
    assert (found.metrics["precision"], found.metrics["told"], found.metrics["hallucinates"]) == (1, 0, 0)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="no captions"):
        caption_measures([])
    with pytest.raises(ValueError, match="1 end flags for 2 captions"):
        caption_measures(["a", "b"], ended=[True])
    with pytest.raises(ValueError, match="1 captions and 2 lists"):
        caption_measures(["a"], references=[["a"], ["b"]])
    with pytest.raises(ValueError, match="no captions"):
        truth_measures([])
    with pytest.raises(ValueError, match="image 1 has 0 facts"):
        truth_measures([Counted(true=0, false=0, total=1), Counted(true=0, false=0, total=0)])
