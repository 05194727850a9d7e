import pytest
import torch

from sightloop.algorithms.credit import discounted_returns
from sightloop.evaluation.captions import caption_measures
from sightloop.rewards.combine import combine
from sightloop.rewards.phrases import (
    ARTICLES,
    COLORS,
    EXEMPT_WORDS,
    EXTRA_PHRASES,
    PREPOSITIONS,
    TABLE_6,
    BadPhrases,
    Repeats,
    contains_bad_phrase,
    flag_bad,
    flag_repeats,
    load_phrases,
    missing_end,
    normal_text,
)
from sightloop.types import Outcome, Tokens, on_last_token


def outcome_of(*rows: list[str], ended: list[bool], width: int) -> Outcome:
    """Captions of given pieces, an end token behind those that ended, padded to `width`."""
    lengths = torch.tensor([len(row) + end for row, end in zip(rows, ended, strict=True)])
    mask = torch.arange(width)[None] < lengths[:, None]
    return Outcome(
        tokens=Tokens(ids=torch.zeros_like(mask, dtype=torch.long), mask=mask),
        pieces=list(rows),
        ended=torch.tensor(ended),
        images=None,
        references=[""] * len(rows),
        sources=[f"picture_{index}.png" for index in range(len(rows))],
    )


def flagged(text: str, *phrases: str) -> str:
    """The pieces that are flagged, cutting `text` before each space."""
    pieces = pieces_of(text)
    flags = flag_bad(pieces, phrases) if phrases else flag_bad(pieces)
    return "".join(piece for piece, flag in zip(pieces, flags, strict=True) if flag).strip()


def pieces_of(text: str) -> list[str]:
    """Words with their leading space, one piece each."""
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]


TABLE_1 = "an image of a man in green shirt and green shirt is talking about a car"
OFFSETS = [-7, -6, -5, -4, -4, -4, -4, -4, -4, -4, -4, -3, -2, -1, 0, 0]


@pytest.mark.parametrize("ended", [True, False])
def test_table_1_of_the_paper_line_by_line(ended: bool) -> None:
    outcome = outcome_of(pieces_of(TABLE_1), ended=[ended], width=20)
    judge = combine(
        {
            "similarity": lambda o: on_last_token(torch.tensor([5.0]), o.tokens),
            "reference": lambda o: on_last_token(torch.tensor([-3.0]), o.tokens),
            "bad_phrases": BadPhrases(phrases=("an image of", "is talking about")),
            "repeats": Repeats(),
            "missing_end": missing_end,
        },
        dict.fromkeys(["similarity", "reference", "bad_phrases", "repeats", "missing_end"], 1.0),
    )
    rewards, parts = judge(outcome)
    returns = discounted_returns(rewards, outcome.tokens.mask)[0].tolist()
    # The row of the end token holds both rewards and no penalty; a cut caption pays 1 everywhere.
    wanted = [5 - 3 + offset for offset in OFFSETS] + [2] if ended else [5 - 3 - 1 + o for o in OFFSETS]
    assert returns == [*wanted, *[0] * (20 - len(wanted))]
    assert {name: value.item() for name, value in parts.items()} == {
        "similarity": 5,
        "reference": -3,
        "bad_phrases": -6,
        "repeats": -1,
        "missing_end": 0 if ended else -1,
    }


def test_the_packaged_list_is_the_papers_table_of_212_phrases() -> None:
    assert len(TABLE_6) == 212 == len(set(TABLE_6))
    assert TABLE_6[0] == "jf" and TABLE_6[-1] == "the camera focuses ona zoomed"
    assert all(phrase == phrase.lower().strip() for phrase in TABLE_6)
    assert [phrase for phrase in TABLE_6 if not contains_bad_phrase(f"so {phrase} so")] == []


def test_phrases_named_in_the_prose_only_are_off_unless_asked_for() -> None:
    assert not set(EXTRA_PHRASES) & set(TABLE_6)
    assert flagged("a man is talking about dogs") == "talking about"
    assert flagged("a man is talking about dogs", *TABLE_6, *EXTRA_PHRASES) == "is talking about"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a shotgun and a clipper", ""),
        ("a shot, then another", "shot,"),
        ("One CLOSE-UP of my cat", "CLOSE-UP"),
        ("the camera\u2019s view here", "the camera\u2019s view"),
        ("one camera's view here", "camera's view"),
        ("a dog , image here", ", image"),
        ("a dog, image here", "dog, image"),
        ("two cameras, one lens", ""),
        ("one camera,and lens", "camera,and"),
        ("in 1993 and 20155", "1993"),
        ("room a1993b", "a1993b"),
    ],
)
def test_whole_words_are_matched_whatever_case_space_and_apostrophe(text: str, wanted: str) -> None:
    assert flagged(text) == wanted


def test_white_space_between_the_words_of_a_phrase_does_not_matter() -> None:
    pieces = ["an", " ", " image", "\n", " of", " cats"]
    assert flag_bad(pieces, ("an image of",)) == [True, False, True, False, True, False]


def test_matches_may_overlap() -> None:
    phrases = ("big red", "red dog runs", "dog")
    assert flagged("a big red dog runs home", *phrases) == "big red dog runs"


def test_the_longest_of_several_phrases_that_begin_together_counts() -> None:
    assert flagged("a tv view of cats", "tv", "tv view", "tv view of") == "tv view of"
    assert flagged("a tv views of cats", "tv", "tv view", "tv view of") == "tv"
    assert flagged("close-up now", "close", "close-up now") == "close-up now"
    assert flagged("shown 2015 footage", "2015 footage") == "2015 footage"


def test_every_piece_that_touches_a_match_is_flagged_but_not_by_its_leading_space() -> None:
    pieces = ["a", " scr", "eens", "hot", " here"]
    assert flag_bad(pieces, ("screenshot",)) == [False, True, True, True, False]
    assert flag_bad(["a", " cat", " ", "dog"], ("a cat",)) == [True, True, False, False]
    assert flag_bad(["a ca", "t x"], ("cat",)) == [True, True]


def test_letters_that_grow_when_lowered_do_not_shift_the_flags() -> None:
    assert len("\u0130".lower()) == 2
    assert normal_text(["\u0130A"]) == "\u0130a"
    assert flag_bad(["\u0130\u0130\u0130", " tv"], ("tv",)) == [False, True]


def test_flags_agree_with_trying_every_phrase_at_every_place() -> None:
    words = pieces_of("a tv view of the camera shot, image in on- cam video shown is 1993 image's close-up")
    picks = torch.randint(len(words), (200, 12))
    for row in picks:
        text = "".join(words[int(pick)] for pick in row)
        slow = [False] * len(text)
        for phrase in TABLE_6:
            for start in range(len(text) - len(phrase) + 1):
                end = start + len(phrase)
                joined = (start and text[start - 1].isalnum() and phrase[0].isalnum()) or (
                    end < len(text) and text[end].isalnum() and phrase[-1].isalnum()
                )
                if text[start:end] == phrase and not joined:
                    slow[start:end] = [True] * len(phrase)
        letters = flag_bad(list(text), TABLE_6)
        year = [text[i : i + 4] == "1993" for i in range(len(text))]
        in_year = [any(year[max(0, i - 3) : i + 1]) for i in range(len(text))]
        wanted = [(s or y) and not c.isspace() for s, y, c in zip(slow, in_year, text, strict=True)]
        assert letters == wanted, text


def test_a_word_costs_from_its_second_use_on() -> None:
    pieces = pieces_of("shirt and Shirt and shirts, shirt's and shirt")
    wanted = [False, False, True, True, False, False, True, True]
    assert flag_repeats(pieces) == wanted


def test_exempt_words_never_count_as_repeats() -> None:
    pieces = pieces_of("the grey cat on the grey mat on the grey cat")
    assert flag_repeats(pieces).index(True) == 10 and sum(flag_repeats(pieces)) == 1
    assert sum(flag_repeats(pieces, ARTICLES)) == 2 + 1 + 1
    assert sum(flag_repeats(pieces, frozenset())) == 2 + 2 + 1 + 1


def test_a_hyphenated_word_is_one_word() -> None:
    assert flag_repeats(pieces_of("well-lit well lit well-lit")) == [False, False, False, True]


def test_every_piece_of_a_repeated_word_costs() -> None:
    assert flag_repeats(["um", "brella", " um", "brel", "la", "."]) == [False, False, True, True, True, False]


def test_the_three_exempt_sets_are_apart_and_of_the_named_sizes() -> None:
    assert len(EXEMPT_WORDS) == len(ARTICLES) + len(PREPOSITIONS) + len(COLORS)
    assert len(ARTICLES) == 3 and 55 <= len(PREPOSITIONS) <= 65 and 40 <= len(COLORS) <= 50
    assert "and" not in EXEMPT_WORDS and {"gray", "grey", "with", "an"} <= EXEMPT_WORDS


def test_rewards_are_minus_one_a_flag_and_0_on_end_token_and_padding() -> None:
    outcome = outcome_of(["a", " tv", " tv"], [" cat"], ended=[True, False], width=5)
    assert BadPhrases()(outcome).tolist() == [[-1, -1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert Repeats()(outcome).tolist() == [[0, 0, -1, 0, 0], [0, 0, 0, 0, 0]]
    assert missing_end(outcome).tolist() == [[0, 0, 0, 0, 0], [-1, 0, 0, 0, 0]]


def test_a_caption_without_pieces_costs_nothing() -> None:
    assert flag_bad([]) == [] and flag_repeats([]) == []
    outcome = outcome_of([], ended=[True], width=2)
    assert BadPhrases()(outcome).abs().sum() == 0 and Repeats()(outcome).abs().sum() == 0


def test_a_file_of_ones_own_replaces_the_list(tmp_path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("# mine\n\nbig cat\n  in   web \n", encoding="utf-8")
    assert load_phrases(path) == ("big cat", "in   web")
    assert flagged("a big cat in web tv", *load_phrases(path)) == "big cat in web"


def test_a_file_without_phrases_is_refused_by_name(tmp_path) -> None:
    (tmp_path / "none.txt").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"none\.txt holds no phrase"):
        load_phrases(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="at least one phrase"):
        BadPhrases(phrases=("  ",))


def test_the_metric_counts_the_repeats_that_the_reward_punishes() -> None:
    text = "a man is standing and a dog is sitting and a cat is running amid a crowd amid gray-haired men"
    flags = flag_repeats(pieces_of(text))
    assert sum(flags) == 3
    assert caption_measures([text]).metrics["repeats"] == sum(flags) / len(text.split())
