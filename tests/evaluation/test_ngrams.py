"""CIDEr-D, BLEU, ROUGE-L, the tokeniser: against pycocoevalcap 1.2 with its Java tokeniser, and by hand."""

from __future__ import annotations

from statistics import fmean

import pytest

from sightloop.evaluation.ngrams import bleu, cider_d, rouge_l, self_bleu
from sightloop.evaluation.words import caption_words, treebank_tokens

CAPTIONS = [
    "A man riding a wave on top of a surfboard.",
    "a dog's ball isn't red",
    "two black-and-white cats (one asleep) at 10:30 p.m.",
    "a man a man a man a man",
    "",
    "Street",
    "a kitchen with a stove, a sink and a refrigerator",
]
REFERENCES = [
    [
        "A man rides a wave on a surfboard.",
        "a surfer riding a large wave in the ocean",
        "A man is surfing, on top of a wave!",
    ],
    ["The dog's ball is red.", "A ball that isn't blue, next to a dog"],
    ["Two black-and-white cats sleeping at 10:30 p.m.", "two cats (asleep) on a bed"],
    ["a man and a woman at a table", "A man sits with a woman."],
    ["A plate of food on a table.", "a table with a plate of food"],
    [
        'A street sign on Main St. reads "STOP"',
        "a stop sign on a street corner in the city with a lot of cars",
    ],
    ["a kitchen with a stove, a sink and a refrigerator", "the kitchen has white cabinets"],
]
OFFICIAL_CIDER_D = [
    2.7330649557516935,
    3.579913313165293,
    2.818807100395632,
    0.3673477803500931,
    0.0,
    0.2859459950417342,
    5.206143389708483,
]
OFFICIAL_BLEU = [0.717156899780547, 0.6468002392708496, 0.5244658781809006, 0.4319816324783807]


OFFICIAL_ROUGE_L = [
    0.7936802973977695,
    0.7800511508951408,
    0.7290836653386453,
    0.5,
    0.0,
    0.19488817891373802,
    1.0,
]


def test_cider_d_equals_the_coco_evaluation() -> None:
    assert cider_d(CAPTIONS, REFERENCES) == pytest.approx(OFFICIAL_CIDER_D, abs=1e-6)


def test_bleu_equals_the_coco_evaluation() -> None:
    assert bleu(CAPTIONS, REFERENCES) == pytest.approx(OFFICIAL_BLEU, abs=1e-6)


def test_rouge_l_equals_the_coco_evaluation() -> None:
    assert rouge_l(CAPTIONS, REFERENCES) == pytest.approx(OFFICIAL_ROUGE_L, abs=1e-6)


def test_all_three_equal_the_installed_coco_evaluation() -> None:
    reason = "pycocoevalcap is not installed; pip install 'sightloop[dev]'"
    cider = pytest.importorskip("pycocoevalcap.cider.cider", reason=reason).Cider()
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge", reason=reason).Rouge()
    blue = pytest.importorskip("pycocoevalcap.bleu.bleu", reason=reason).Bleu(4)

    def split(text: str) -> str:
        return " ".join(treebank_tokens(text))

    told = {row: [split(caption)] for row, caption in enumerate(CAPTIONS)}
    wanted = {row: [split(text) for text in texts] for row, texts in enumerate(REFERENCES)}
    assert cider_d(CAPTIONS, REFERENCES) == pytest.approx(cider.compute_score(wanted, told)[1], abs=1e-6)
    assert rouge_l(CAPTIONS, REFERENCES) == pytest.approx(rouge.compute_score(wanted, told)[1], abs=1e-6)
    official = blue.compute_score(wanted, told, verbose=0)[0]
    assert bleu(CAPTIONS, REFERENCES) == pytest.approx(official, abs=1e-6)


def test_rouge_l_weighs_recall_more_than_precision() -> None:
    # Common: "a cat down", 3 words. Precision 3/4, recall 3/5; (1 + 1.44) p r / (r + 1.44 p).
    assert rouge_l(["a cat looks down"], [["a cat sits right down"]]) == pytest.approx(
        [2.44 * 0.75 * 0.6 / (0.6 + 1.44 * 0.75)]
    )
    # Precision from the first reference (3/4), recall from the second (2/2).
    assert rouge_l(["a cat looks down"], [["a cat sits right down", "a cat"]]) == pytest.approx(
        [2.44 * 0.75 * 1 / (1 + 1.44 * 0.75)]
    )
    assert rouge_l(["down cat a"], [["a cat down"]]) == pytest.approx([1 / 3])
    assert rouge_l([""], [["a cat"]]) == rouge_l(["dog"], [["a cat"]]) == [0]


@pytest.mark.parametrize(
    ("caption", "official"),
    [
        (
            "A man isn't riding a t-shirt bike, at 10:30 a.m.",
            "a man is n't riding a t-shirt bike at 10:30 a.m.",
        ),
        ("The dog's ball and the dogs' toys.", "the dog 's ball and the dogs toys"),
        (
            "It's o'clock; they're \"happy\" and can't, cannot",
            "it 's o'clock they 're happy and ca n't can not",
        ),
        (
            "50% of $5 & black/white #1 mr. smith vs. jones",
            "50 % of $ 5 & black/white # 1 mr. smith vs. jones",
        ),
        ("U.S. flag in St. Louis, Washington D.C.", "u.s. flag in st. louis washington d.c."),
        ("Wait... what?! (yes) [no] -- a dash", "wait what ?! -lrb- yes -rrb- -lsb- no -rsb- a dash"),
        ("3,000 people; 1/2 cup; 2.5 inches; 6'2\" tall", "3,000 people 1/2 cup 2.5 inches 6 2 tall"),
        (
            "\u2018curly\u2019 \u201cquotes\u201d don\u2019t rock 'n' roll",
            "curly quotes do n't rock 'n' roll",
        ),
        ("a 2-story building, 1st 2nd 1990s '90s", "a 2-story building 1st 2nd 1990s '90s"),
        ("No. Dr. Mrs. Inc. etc. bus no. 7", "no dr. mrs. inc. etc. bus no. 7"),
        ("a man,a plane,a dog.a cat", "a man a plane a dog.a cat"),
        ("o'brien, ma'am, y'all, wanna, d'angelo", "o'brien ma'am y' all wan na d'angelo"),
        ("a man , a dog ; a cat ' s toy .", "a man a dog a cat s toy"),
        ("caf\u00e9 na\u00efve wine-glass\u2013table \u2026", "caf\u00e9 na\u00efve wine-glass table"),
        ("a sign that says letter a.", "a sign that says letter a."),
        ("foo@bar.com http://x.com/a?b=1 #tag @home", "foo@bar.com http://x.com/a?b=1 #tag @home"),
        (' . "', ""),
    ],
)
def test_captions_split_as_the_coco_evaluation_splits_them(caption: str, official: str) -> None:
    assert treebank_tokens(caption) == official.split()


def test_words_are_counted_as_people_do() -> None:
    assert caption_words("The dog\u2019s ball isn't off-white -- it's 2 'red' ones!") == [
        "the", "dog's", "ball", "isn't", "off-white", "it's", "2", "red", "ones",
    ]  # fmt: skip
    assert caption_words(" ... ") == []


def test_cider_d_of_a_repeated_reference_is_ten() -> None:
    texts = ["one two three four five", "six seven eight nine ten"]
    assert cider_d(texts, [[text] for text in texts]) == pytest.approx([10, 10])
    # Two words have no runs of three or four, which then count as no agreement.
    assert cider_d(["red cat", "blue dog"], [["red cat"], ["blue dog"]]) == pytest.approx([5, 5])


def test_what_all_references_say_is_worth_nothing() -> None:
    assert cider_d(["a dog", "a bird"], [["a cat"], ["a cow"]]) == [0, 0]
    assert cider_d(["one two three four"], [["one two three four"]]) == [0]


def test_bleu_counts_a_word_no_more_often_than_a_reference_has_it() -> None:
    assert bleu(["a a a"], [["a cat", "a a dog"]])[0] == pytest.approx(2 / 3)
    # Two of two words, but the reference has four: exp(1 - 4 / 2).
    assert bleu(["a cat"], [["a cat sat down"]])[:2] == pytest.approx([0.36787944, 0.36787944])


def test_bleu_takes_the_closest_reference_length_and_of_two_the_shorter() -> None:
    # Four words against three and five: three, so no penalty.
    assert bleu(["a b c d"], [["a b c d e", "a b c"]])[0] == pytest.approx(1)


def test_self_bleu_equals_bleu_against_all_the_others() -> None:
    texts = [
        *CAPTIONS,
        "a man riding a bike",
        "a man riding a wave",
        "a dog",
        "a man",
        "a man",
        "a man riding",
    ]
    each = [bleu([text], [texts[:row] + texts[row + 1 :]])[-1] for row, text in enumerate(texts)]
    assert self_bleu(texts) == pytest.approx(fmean(each), abs=1e-12)


def test_self_bleu_goes_from_all_different_to_all_the_same() -> None:
    assert self_bleu(["one two three four", "five six seven eight"]) == pytest.approx(0, abs=1e-6)
    assert self_bleu(["a red cat on a bed"] * 3) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("measure", [bleu, cider_d, rouge_l])
def test_captions_without_references_are_refused(measure) -> None:
    with pytest.raises(ValueError, match="no captions"):
        measure([], [])
    with pytest.raises(ValueError, match="1 captions and 2 lists"):
        measure(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match=r"references 1 are \[\]"):
        measure(["a", "b"], [["a"], []])


def test_self_bleu_of_one_caption_is_refused() -> None:
    with pytest.raises(ValueError, match="1 captions"):
        self_bleu(["a cat"])
