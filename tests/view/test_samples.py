"""What the live page finds: by step, text, category, gain; sorted; a page at a time; one card by its link."""

from __future__ import annotations

import re

import pytest
from report.synthetic_drawing_run import DrawingStory, write_drawing_run
from report.synthetic_run import Story, write_run

from sightloop.report.run import RunRecords, read_run
from sightloop.view.samples import PAGE, SampleQuery, credited, pair_steps, pairs


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> RunRecords:
    """A run of captions, two evaluations after the start."""
    folder = tmp_path_factory.mktemp("runs") / "captions"
    return read_run(write_run(folder, Story(steps=100, planned=100)), image_url="/image/0/")


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> RunRecords:
    """A run of drawings."""
    folder = tmp_path_factory.mktemp("runs") / "drawings"
    return read_run(write_drawing_run(folder, DrawingStory(steps=100)), image_url="/image/0/")


def rows_of(html: str) -> list[int]:
    """Which cards were found, by their links."""
    return [int(row) for row in re.findall(r'data-only="(\d+)"', html)]


def test_a_page_holds_so_many_cards_and_offers_the_next(captions: RunRecords) -> None:
    first, second = (pairs(captions, SampleQuery(start=start)) for start in (0, PAGE))
    assert rows_of(first) == list(range(PAGE)) and rows_of(second) == list(range(PAGE, 2 * PAGE))
    assert f"1 to {PAGE} of 60" in first and f'data-start="{PAGE}"' in first
    assert 'data-start="' not in pairs(captions, SampleQuery(start=60 - PAGE))


def test_images_have_addresses_and_do_not_travel_in_the_page(captions: RunRecords) -> None:
    found = pairs(captions, SampleQuery())
    assert 'src="/image/0/images/' in found and "data:image" not in found


def test_text_is_looked_for_in_what_both_wrote(captions: RunRecords) -> None:
    record = captions.evaluations["held_out"][100]
    wanted = [row for row, sample in enumerate(record.samples) if "yellow" in "".join(sample.values())]
    assert 0 < len(wanted) < 60
    assert rows_of(pairs(captions, SampleQuery(text="YELLOW"))) == wanted[:PAGE]
    assert "Nothing fits" in pairs(captions, SampleQuery(text="no such word"))


def test_gains_and_losses_are_those_of_the_metric(captions: RunRecords) -> None:
    by_step = captions.evaluations["held_out"]
    moved = [
        new - old
        for old, new in zip(by_step[0].per_sample["told"], by_step[50].per_sample["told"], strict=True)
    ]
    query = SampleQuery(step=50, metric="held_out/told", change="gain", sort="gain")
    found = rows_of(pairs(captions, query))
    best = sorted((row for row, gain in enumerate(moved) if gain > 0), key=lambda row: -moved[row])
    assert found == best[:PAGE]


def test_a_link_shows_one_card(captions: RunRecords) -> None:
    assert rows_of(pairs(captions, SampleQuery(only=17))) == [17]
    assert 'href="#samples?only=17&amp;step=50"' in pairs(captions, SampleQuery(only=17, step=50))


def test_drawings_are_filtered_by_category_and_by_what_became_of_them(drawings: RunRecords) -> None:
    record = drawings.evaluations["joint"]
    kinds = [
        (sample["category"], old["drawn"], sample["drawn"])
        for old, sample in zip(record[0].samples, record[100].samples, strict=True)
    ]
    wanted = [row for row, kind in enumerate(kinds) if kind == ("colors", "wrong", "right")]
    query = SampleQuery(category="colors", change="gain")
    assert rows_of(pairs(drawings, query)) == wanted[:PAGE]
    assert pair_steps(drawings) == [50, 100]


def test_groups_of_a_batch_are_sorted_by_reward(drawings: RunRecords) -> None:
    found = credited(drawings, SampleQuery(sort="high", step=50))
    rewards = [float(value) for value in re.findall(r"<dt>reward</dt><dd>([\d.]+)</dd>", found)]
    means = [sum(rewards[at : at + 8]) / 8 for at in range(0, len(rewards), 8)]
    assert len(means) == 4 and means == sorted(means, reverse=True)


def test_what_an_address_says_wrongly_counts_as_not_said() -> None:
    query = SampleQuery.of({"step": "x", "start": "-3", "only": "9" * 40, "text": "a", "nothing": "1"})
    assert query == SampleQuery(text="a")
