"""The guard keeps every test prompt out of training, however it is put; streams are endless and go on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sightloop.quizzes import prompt_guard
from sightloop.quizzes.grammar import Category, Quiz, random_quiz
from sightloop.quizzes.prompt_guard import excludes, normalized_prompt, prompt_digest, read_prompts
from sightloop.quizzes.stream import GrammarQuizzes, QuizStream
from sightloop.quizzes.vocabulary import COCO_NOUNS, NUMBER_WORDS, OPPOSITES, REAL, Vocabulary

TEST_SET: dict[Category, int] = {
    "single_object": 80,
    "two_object": 99,
    "counting": 80,
    "colors": 94,
    "position": 100,
    "color_attr": 100,
}
"""How many prompts of each category GenEval has."""
COCO = Vocabulary(nouns=tuple(COCO_NOUNS), colors=REAL.colors)


def meaning(quiz: Quiz) -> object:
    """What an image must show, from the clauses alone: not by the guard's way of reading prompts."""
    if quiz.category != "position":
        return frozenset((clause.noun, clause.count, clause.color) for clause in quiz.include)
    target, subject = quiz.include
    assert subject.position is not None
    relation = subject.position[0]
    if relation in ("left of", "above"):
        return subject.noun, relation, target.noun
    return target.noun, OPPOSITES[relation], subject.noun


def said_otherwise(quiz: Quiz, way: int) -> str:
    """The prompt in other words: clauses and sides changed, articles, case, digits, naive plurals."""
    prompt = quiz.prompt.removeprefix("a photo of ")
    first, last = quiz.include[0], quiz.include[-1]
    if quiz.category == "counting" and way % 2:
        prompt = f"{first.count} {first.noun}s"
    elif quiz.category == "counting":
        prompt = f"{NUMBER_WORDS[first.count].upper()} {first.noun}es"
    elif quiz.category == "position" and way % 2:
        assert last.position is not None
        prompt = f"the {first.noun} is {OPPOSITES[last.position[0]]} the {last.noun}"
    elif " and " in prompt and way % 2:
        prompt = " and ".join(reversed(prompt.split(" and ")))
    if way % 3 == 0:
        prompt = " ".join(word for word in prompt.split() if word not in ("a", "an", "the"))
    start = ("a photo of ", "A Photo of ", "an image of ", "")[way % 4]
    return start + (prompt.upper() if way % 5 == 0 else prompt) + ("." if way % 7 == 0 else "")


@pytest.fixture(scope="module")
def held() -> list[Quiz]:
    """As many quizzes as GenEval has prompts, about its objects."""
    rng = np.random.default_rng(0)
    quizzes: list[Quiz] = []
    for category, number in TEST_SET.items():
        found: dict[object, Quiz] = {}
        while len(found) < number:
            quiz = random_quiz(category, COCO, pick=lambda limit: int(rng.integers(limit)))
            found.setdefault(meaning(quiz), quiz)
        quizzes += found.values()
    return quizzes


def test_none_of_553_test_prompts_comes_in_training_however_the_file_puts_it(
    held: list[Quiz], tmp_path: Path
) -> None:
    file = tmp_path / "evaluation_metadata.jsonl"
    lines = [{**quiz.metadata(), "prompt": said_otherwise(quiz, way)} for way, quiz in enumerate(held)]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    prompts = read_prompts(file)
    assert len(prompts) == len(set(prompts)) == 553
    is_held = excludes(prompts)
    assert all(map(is_held, held))
    test = {meaning(quiz) for quiz in held}
    plain, guarded = GrammarQuizzes(COCO, seed=7), GrammarQuizzes(COCO, seed=7, excluded=is_held)
    drawn = [plain.quiz(index) for index in range(500)]
    met = [quiz for quiz in drawn if meaning(quiz) in test]
    assert len(met) > 100 and all(map(is_held, met))
    # Nothing else is refused.
    assert [quiz for quiz in drawn if is_held(quiz)] == met
    assert not test & {meaning(guarded.quiz(index)) for index in range(500)}


def test_the_guard_knows_the_prompts_of_genevals_own_cases(oracles: Path) -> None:
    cases = json.loads((oracles / "geneval" / "cases.json").read_text())
    prompts = [case["metadata"]["prompt"] for case in cases]
    assert len(set(prompts)) > 60
    for prompt in prompts:
        plain = prompt.removeprefix("a photo of ")
        words = [word for word in plain.split() if word not in ("a", "an", "the")]
        for other in (prompt.upper(), plain, " ".join(words), f"The {plain}."):
            assert normalized_prompt(other) == normalized_prompt(prompt), other


def test_genevals_553_prompts_are_known_by_their_digests(oracles: Path) -> None:
    digests = (Path(prompt_guard.__file__).parent / "geneval_digests.txt").read_text().split()
    # Two of the 553 say the same thing from either side.
    assert len(set(digests)) == len(digests) == 552
    cases = json.loads((oracles / "geneval" / "cases.json").read_text())
    prompts = {case["metadata"]["prompt"] for case in cases}
    known = {prompt for prompt in prompts if prompt_digest(prompt) in digests}
    assert len(known) > 0, sorted(prompts)[:5]


@pytest.mark.parametrize(
    ("naive", "right"),
    [
        ("three computer mouses", "three computer mice"),
        ("two knife" + "s", "two knives"),
        ("four persons", "four people"),
        ("two bench" + "s", "two benches"),
        ("three buses", "3 bus"),
    ],
)
def test_plurals_that_only_add_letters_are_known(naive: str, right: str) -> None:
    assert normalized_prompt(f"a photo of {naive}") == normalized_prompt(f"a photo of {right}")


def test_a_stream_far_out_goes_on_as_it_would_have() -> None:
    source = GrammarQuizzes(REAL, seed=3, weights={"counting": 1.0, "position": 3.0})
    stream = QuizStream(source, batch_size=3, seed=3)
    far = json.loads(json.dumps(stream.state_dict())) | {"next_index": 3_000_000_000}
    stream.load_state_dict(far)
    batch = next(stream)
    assert batch.indices == [3_000_000_000, 3_000_000_001, 3_000_000_002]
    later = QuizStream(source, batch_size=3, seed=3)
    later.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    assert next(later) == next(stream)
    assert {quiz.category for quiz in batch.quizzes} <= {"counting", "position"}
