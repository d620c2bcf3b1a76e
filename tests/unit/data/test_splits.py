"""Splits: no question in two parts, every category in each, and each entity's part independent of the others."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadeploy.data import Question, check_leakage, load_set, split, write_jsonl
from metadeploy.data.splits import FRACTIONS, SPLITS
from metadeploy.errors import Error


def made(entities: int, *, category: str = "c", n_wordings: int = 2, start: int = 0) -> list[Question]:
    return [
        Question(f"What is {category} {entity} in wording {turn}?", ("x",), category, f"e:{entity}")
        for entity in range(start, start + entities)
        for turn in range(n_wordings)
    ]


def test_parts_have_their_shares_and_keep_the_order() -> None:
    questions = made(4000)
    parts = split(questions, seed=0)
    assert tuple(parts) == SPLITS
    for part, share in zip(SPLITS, FRACTIONS, strict=True):
        # a binomial proportion: four standard deviations of 4000 draws are 0.03 at most
        assert len(parts[part]) / len(questions) == pytest.approx(share, abs=0.03)
        assert parts[part] == [question for question in questions if question in set(parts[part])]
    assert Counter(chain.from_iterable(parts.values())) == Counter(questions)


def test_an_entitys_part_does_not_depend_on_the_others() -> None:
    before = split(made(300), seed=3)
    after = split(made(400, start=100) + made(300), seed=3)
    for part in SPLITS:
        assert {question.entity for question in before[part]} <= {question.entity for question in after[part]}
    other = split(made(300), seed=4)
    assert before != other


def test_every_category_is_in_every_part_down_to_three_entities() -> None:
    questions = made(500, category="large")
    for number in range(40):
        questions += made(3 + number % 4, category=f"small {number}", start=1000 + 10 * number)
    parts = split(questions, seed=1)
    for part in SPLITS:
        assert {question.category for question in parts[part]} == {question.category for question in questions}


def test_categories_of_fewer_entities_stay_where_they_fall() -> None:
    parts = split(made(100) + made(2, category="pair", start=500), seed=0)
    assert sum(question.category == "pair" for questions in parts.values() for question in questions) == 4


def test_one_wording_of_two_entities_and_questions_without_one_stay_together() -> None:
    questions = made(60)
    questions += [Question(f"Which {number}?", ("x",), "c", f"one:{number}") for number in range(60)]
    questions += [Question(f"which  {number}", ("x",), "c", f"other:{number}") for number in range(60)]
    questions += [Question(f"Bare {number}?", ("x",), "c") for number in range(60)]
    questions += [Question(f"BARE {number}", ("y",), "d") for number in range(60)]
    parts = split(questions, seed=0)
    homes = {question.question: part for part, members in parts.items() for question in members}
    for number in range(60):
        assert homes[f"Which {number}?"] == homes[f"which  {number}"]
        assert homes[f"Bare {number}?"] == homes[f"BARE {number}"]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from("ab")), min_size=1, max_size=40),
    st.integers(0, 5),
)
def test_nothing_leaks_and_nothing_is_lost(rows: list[tuple[int, int, str]], seed: int) -> None:
    questions = [Question(f"Word {word}?", ("x",), category, f"e{entity}") for word, entity, category in rows]
    parts = split(questions, seed=seed)
    check_leakage(parts)
    assert Counter(chain.from_iterable(parts.values())) == Counter(questions)


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.0), (0.5, 0.6, -0.1), (0.5, 0.2, 0.2), (float("nan"), 0.5, 0.5)])
def test_fractions_that_are_none(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(Error, match="expected three numbers above 0 that sum to 1"):
        split(made(10), fractions=fractions)


@pytest.mark.parametrize(
    ("one", "other", "leaks"),
    [
        (Question("A?", ("x",), "c", "e"), Question("B?", ("x",), "c", "e"), "entity 'e' is in 'train' and in 'test'"),
        (Question("Où est-ce?", ("x",), "c", "e"), Question("ou  EST ce", ("x",), "c", "f"), "question is in 'train'"),
        (Question("A?", ("x",), "c"), Question("A", ("x",), "d"), "question is in 'train'"),
        (Question("What is 2 + 3?", ("5",), "c"), Question("What is 2 × 3?", ("6",), "c"), None),
        (Question("What is 1.5?", ("5",), "c"), Question("What is 15?", ("6",), "c"), None),
        (
            Question("Which?", ("A",), "c", choices=("x", "y")),
            Question("Which?", ("A",), "c", choices=("x", "z")),
            None,
        ),
        (Question("A?", ("x",), "c"), Question("B?", ("x",), "c"), None),
    ],
)
def test_leaks(one: Question, other: Question, leaks: str | None) -> None:
    splits = {"train": [one], "val": [], "test": [other]}
    if leaks is None:
        check_leakage(splits)
    else:
        with pytest.raises(Error, match="expected nothing in two parts") as caught:
            check_leakage(splits)
        assert leaks in str(caught.value)
        assert repr(other.question) in str(caught.value)


def test_many_leaks_are_counted() -> None:
    questions = made(30, n_wordings=1)
    with pytest.raises(Error, match="and 50 more"):
        check_leakage({"train": questions, "test": questions})


def test_a_file_is_split_and_a_folder_is_already_split(tmp_path: Path) -> None:
    questions = made(200)
    write_jsonl(tmp_path / "all.jsonl", questions)
    parts = load_set(tmp_path / "all.jsonl", seed=7)
    assert parts == split(questions, seed=7)
    for part in SPLITS:
        write_jsonl(tmp_path / f"{part}.jsonl", parts[part])
    assert load_set(str(tmp_path)) == parts
    limited = load_set(tmp_path / "all.jsonl", limit=50)
    assert sum(map(len, limited.values())) == 50
    assert [len(part) for part in load_set(tmp_path, limit=9).values()] == [9, 9, 9]


def test_a_folder_that_leaks_is_refused(tmp_path: Path) -> None:
    for part in SPLITS:
        write_jsonl(tmp_path / f"{part}.jsonl", made(3))
    with pytest.raises(Error, match="entity 'e:0' is in 'train' and in 'val'"):
        load_set(tmp_path)


def test_sets_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(Error, match="not one of facts, mmlu, triviaqa, gsm8k"):
        load_set("trivia")
    with pytest.raises(Error, match=r"train\.jsonl': cannot be read"):
        load_set(tmp_path)
    write_jsonl(tmp_path / "two.jsonl", made(2))
    for name in ("facts", tmp_path, tmp_path / "two.jsonl"):
        with pytest.raises(Error, match="a source is given, expected only with mmlu, triviaqa, gsm8k"):
            load_set(name, source=tmp_path)
    with pytest.raises(Error, match="no question in"):
        load_set(tmp_path / "two.jsonl")
    with pytest.raises(Error, match="the limit is 0"):
        load_set(tmp_path / "two.jsonl", limit=0)
