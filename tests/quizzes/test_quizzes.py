"""Quizzes: prompts, answers and facts of six categories, files of users, and the guard for test prompts."""

import json

import pytest

from sightloop.quizzes.grammar import CATEGORIES, QUESTIONS, Clause, quiz_of, user_quizzes
from sightloop.quizzes.prompt_guard import excludes, normalized_prompt, read_prompts
from sightloop.quizzes.vocabulary import COCO_NOUNS, REAL, Noun, Vocabulary, plural_of, with_article

CAT, DOG = Clause(noun="cat"), Clause(noun="dog")
EXAMPLES = {
    "single_object": (Clause(noun="orange"),),
    "two_object": (Clause(noun="bench"), Clause(noun="sports ball")),
    "counting": (Clause(noun="wine glass", count=3),),
    "colors": (Clause(noun="car", color="orange"),),
    "position": (CAT, Clause(noun="dog", position=("left of", 0))),
    "color_attr": (Clause(noun="wine glass", color="purple"), Clause(noun="apple", color="black")),
}


@pytest.mark.parametrize(
    ("category", "prompt", "answer"),
    [
        ("single_object", "a photo of an orange", "orange"),
        ("two_object", "a photo of a bench and a sports ball", "There is a bench and a sports ball"),
        ("counting", "a photo of three wine glasses", "three wine glasses"),
        ("colors", "a photo of an orange car", "orange"),
        ("position", "a photo of a dog left of a cat", "The dog is left of the cat"),
        (
            "color_attr",
            "a photo of a purple wine glass and a black apple",
            "The wine glass is purple and the apple is black",
        ),
    ],
)
def test_each_category_has_its_prompt_and_its_answer(category, prompt, answer) -> None:
    quiz = quiz_of(category, EXAMPLES[category], REAL)
    assert (quiz.prompt, quiz.answer) == (prompt, answer)
    assert quiz.question in QUESTIONS[category]


def test_every_category_is_asked_in_several_ways() -> None:
    assert set(QUESTIONS) == set(CATEGORIES)
    for category in CATEGORIES:
        asked = {quiz_of(category, EXAMPLES[category], REAL, wording=k).question for k in range(8)}
        assert asked == set(QUESTIONS[category])
        assert len(asked) == 4


def test_facts_are_what_a_right_answer_says() -> None:
    def told(category):
        facts = quiz_of(category, EXAMPLES[category], REAL).facts
        return [(fact.kind, fact.words[0], fact.about[:1], fact.target[:1]) for fact in facts]

    assert told("single_object") == [("noun", "orange", (), ())]
    assert told("colors") == [("color", "orange", (), ())]
    assert told("counting") == [("number", "three", (), ()), ("noun", "wine glass", (), ())]
    assert told("position") == [
        ("noun", "cat", (), ()),
        ("noun", "dog", (), ()),
        ("relation", "left of", ("dog",), ("cat",)),
    ]
    assert told("color_attr") == [
        ("noun", "wine glass", (), ()),
        ("noun", "apple", (), ()),
        ("color", "purple", ("wine glass",), ()),
        ("color", "black", ("apple",), ()),
    ]


def test_facts_accept_other_names_plurals_and_digits() -> None:
    number, noun = quiz_of("counting", (Clause(noun="computer mouse", count=2),), REAL).facts
    assert number.words == ("two", "2")
    assert set(noun.words) == {"computer mouse", "computer mice", "mouse", "mice"}


def test_metadata_is_a_line_of_genevals_file() -> None:
    record = quiz_of("counting", EXAMPLES["counting"], REAL).metadata()
    assert record["tag"] == "counting"
    assert record["include"] == [{"class": "wine glass", "count": 3}]
    assert record["exclude"] == [{"class": "wine glass", "count": 4}]
    record = quiz_of("position", EXAMPLES["position"], REAL).metadata()
    assert record["include"] == [
        {"class": "cat", "count": 1},
        {"class": "dog", "count": 1, "position": ["left of", 0]},
    ]
    assert "exclude" not in record


def test_a_users_file_gives_the_quizzes_it_holds(tmp_path) -> None:
    quizzes = [quiz_of(category, EXAMPLES[category], REAL) for category in CATEGORIES]
    path = tmp_path / "quizzes.jsonl"
    path.write_text("\n\n".join(json.dumps(quiz.metadata()) for quiz in quizzes) + "\n")
    assert user_quizzes(path) == quizzes


LINE = quiz_of("position", EXAMPLES["position"], REAL).metadata()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tag": "counts"}, "line 2: unknown category 'counts'"),
        ({"tag": None}, "line 2: unknown category None"),
        ({"prompt": " "}, "line 2: field 'prompt' is ' '"),
        ({"include": []}, "line 2: field 'include'"),
        ({"include": [{"count": 1}]}, "line 2: include clause 0 has no 'class'"),
        ({"include": [{"class": "cat", "count": 0}]}, "'count' 0"),
        ({"include": [{"class": "cat"}]}, "needs 2 include clauses, not 1"),
        ({"include": [{"class": "cat"}, {"class": "dog"}]}, "needs 'position'"),
        (
            {"include": [{"class": "cat"}, {"class": "dog", "position": ["near", 0]}]},
            "unknown relation 'near'",
        ),
        ({"include": [{"class": "cat"}, {"class": "dog", "position": ["above", 1]}]}, "points at clause 1"),
        ({"include": [{"class": "cat"}, {"class": "dog", "position": "above"}]}, r"use \[relation, place\]"),
        ({"tag": "colors", "include": [{"class": "cat"}]}, "needs 'color'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, change, message) -> None:
    path = tmp_path / "quizzes.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | change) + "\n")
    with pytest.raises(ValueError, match=message):
        user_quizzes(path)


@pytest.mark.parametrize("field", ["tag", "prompt", "question", "answer", "include"])
def test_a_missing_field_is_named_with_its_line(tmp_path, field) -> None:
    path = tmp_path / "quizzes.jsonl"
    path.write_text(json.dumps({key: value for key, value in LINE.items() if key != field}))
    with pytest.raises(ValueError, match=f"line 1: field '{field}' is missing"):
        user_quizzes(path)


def test_files_that_hold_no_quiz_are_refused(tmp_path) -> None:
    path = tmp_path / "quizzes.jsonl"
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds no quiz"):
        user_quizzes(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="line 1"):
        user_quizzes(path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match="line 1 holds a list, not an object"):
        user_quizzes(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a photo of a bench and a sports ball", "A photo of sports balls and the bench."),
        ("a photo of a dog left of a cat", "a photo of a cat right of a dog"),
        ("a photo of a dog above a cat", "The cats are below the dog"),
        ("a photo of three clocks", "an image of 3 clocks"),
        ("a photo of a red car and a blue bus", "a photo of a blue bus and a red car"),
        ("a photo of a person", "a photo of one person"),
        ("a photo of four computer mice", "a photo of four computer mouse"),
    ],
)
def test_the_guard_knows_a_prompt_in_another_form(one, other) -> None:
    assert normalized_prompt(one) == normalized_prompt(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a photo of a dog left of a cat", "a photo of a dog right of a cat"),
        ("a photo of a dog left of a cat", "a photo of a cat left of a dog"),
        ("a photo of a dog above a cat", "a photo of a dog left of a cat"),
        ("a photo of three clocks", "a photo of two clocks"),
        ("a photo of a red car and a blue bus", "a photo of a blue car and a red bus"),
        ("a photo of an orange", "a photo of an orange car"),
    ],
)
def test_the_guard_tells_prompts_of_other_meaning_apart(one, other) -> None:
    assert normalized_prompt(one) != normalized_prompt(other)


def test_the_guard_refuses_quizzes_with_swapped_clauses(tmp_path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        json.dumps({"prompt": "a photo of a sports ball and a bench"})
        + "\n"
        + json.dumps({"prompt": "a photo of a cat right of a dog"})
        + "\n"
    )
    is_held = excludes(read_prompts(path))
    held = [c for c in CATEGORIES if is_held(quiz_of(c, EXAMPLES[c], REAL))]
    assert held == ["two_object", "position"]


def test_prompts_are_read_from_plain_lines_too(tmp_path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a photo of a cat\n\na photo of a dog\n")
    assert read_prompts(path) == ["a photo of a cat", "a photo of a dog"]
    path.write_text('a photo of a cat\n{"text": 1}\n')
    with pytest.raises(ValueError, match="line 2: field 'prompt' is missing"):
        read_prompts(path)


def test_the_real_vocabulary_is_coco_and_as_many_everyday_things() -> None:
    assert len(COCO_NOUNS) == 80
    assert len(REAL.nouns) == 160
    assert (COCO_NOUNS[0].name, COCO_NOUNS[-1].name) == ("person", "toothbrush")
    assert len(REAL.colors) == 10
    assert [noun.name for noun in REAL.nouns if not noun.takes_color] == ["person"]


def test_no_form_names_two_things_of_the_real_vocabulary() -> None:
    named: dict[str, str] = {}
    for noun in REAL.nouns:
        for form in noun.forms:
            assert named.setdefault(form, noun.name) == noun.name, form


@pytest.mark.parametrize(
    ("name", "plural"),
    [
        ("person", "people"),
        ("knife", "knives"),
        ("bus", "buses"),
        ("toothbrush", "toothbrushes"),
        ("teddy bear", "teddy bears"),
        ("cherry", "cherries"),
        ("key", "keys"),
        ("sheep", "sheep"),
        ("cross", "crosses"),
        ("box", "boxes"),
    ],
)
def test_plurals(name, plural) -> None:
    assert plural_of(name) == plural


def test_articles_follow_the_first_letter() -> None:
    assert with_article("umbrella") == "an umbrella"
    assert with_article("orange car") == "an orange car"
    assert with_article("car") == "a car"


NOUNS = (Noun(name="cat", plural="cats"), Noun(name="dog", plural="dogs"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nouns": NOUNS[:1]}, "1 nouns"),
        ({"nouns": NOUNS * 2}, "named twice: cat, dog"),
        ({"colors": ("red",)}, "1 colors"),
        ({"colors": ("red", "red")}, "1 colors"),
        ({"counts": (1, 2)}, "counts are"),
        ({"counts": (9,)}, "counts are"),
        ({"relations": ("near",)}, "relations are"),
        (
            {"nouns": tuple(Noun(name=n, plural=n, takes_color=False) for n in "ab")},
            "no noun takes a color",
        ),
    ],
)
def test_a_vocabulary_that_cannot_make_quizzes_is_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(**({"nouns": NOUNS, "colors": ("red", "blue")} | change))
