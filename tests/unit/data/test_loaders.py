"""Public question sets, loaded from small local files with their schema, without network access."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from metadeploy.data import Question, is_correct, load_set
from metadeploy.data.loaders import load
from metadeploy.errors import Error, MissingDependencyError

MMLU = {"question": "What is H2O?", "subject": "chemistry", "choices": ["salt", "water", "air", "sand"], "answer": 1}
TRIVIA = {
    "question": "Where is the Eiffel Tower?",
    "question_id": "tc_1",
    "answer": {"value": "Paris", "aliases": ["Paris", "City of Light"], "normalized_aliases": ["paris", ""]},
}
GSM8K = {"question": "Tom has 1,000 apples and eats 2. How many are left?", "answer": "1000 - 2 = 998\n#### 998"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.utils.logging, "_tqdm_active", False, raising=False)


def local(folder: Path, *rows: Mapping[str, Any], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_mmlu_becomes_the_direct_form(tmp_path: Path) -> None:
    (question,) = load("mmlu", local(tmp_path, MMLU))
    assert question == Question(
        "What is H2O?\nA. salt\nB. water\nC. air\nD. sand",
        ("B",),
        "chemistry",
        choices=("salt", "water", "air", "sand"),
    )
    assert is_correct(question, "B")
    assert is_correct(question, "water.")
    assert not is_correct(question, "A or B")


def test_triviaqa_accepts_every_alias(tmp_path: Path) -> None:
    (question,) = load("triviaqa", local(tmp_path, TRIVIA))
    assert question == Question("Where is the Eiffel Tower?", ("Paris", "City of Light", "paris"), "triviaqa")


def test_gsm8k_takes_the_number_after_the_mark(tmp_path: Path) -> None:
    rows = [GSM8K, {**GSM8K, "answer": "so\n#### 1,234 "}]
    assert [question.answers for question in load("gsm8k", local(tmp_path, *rows))] == [("998",), ("1234",)]


def test_parquet_and_folders(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([dict(MMLU)]).to_parquet(tmp_path / "rows.parquet")
    assert len(load("mmlu", tmp_path / "rows.parquet")) == 1
    folder = tmp_path / "folder"
    folder.mkdir()
    local(folder, MMLU, {**MMLU, "question": "Again?"}, name="test.jsonl")
    local(folder, MMLU, name="validation.jsonl")
    assert len(load("mmlu", folder)) == 2
    assert len(load("mmlu", folder, split="validation")) == 1


def test_a_set_is_split_like_any_other(tmp_path: Path) -> None:
    rows = ({**GSM8K, "question": f"How many are {number}?"} for number in range(60))
    parts = load_set("gsm8k", source=local(tmp_path, *rows), seed=1)
    assert sum(map(len, parts.values())) == 60
    assert all(parts.values())


@pytest.mark.parametrize(
    ("name", "row", "fault"),
    [
        ("mmlu", {**MMLU, "answer": 4}, "row 0: 'answer' is 4, expected 0 to 3"),
        ("mmlu", {**MMLU, "answer": "B"}, "row 0: 'answer' is 'B'"),
        ("mmlu", {**MMLU, "choices": ["one"]}, "row 0: 'choices' is"),
        ("mmlu", {**MMLU, "question": " "}, "row 0: 'question' is ' '"),
        ("mmlu", {"question": "What?", "answer": 1}, "has the columns question, answer, expected subject, choices too"),
        ("triviaqa", {**TRIVIA, "answer": "Paris"}, "row 0: 'answer' is 'Paris', expected an object"),
        (
            "triviaqa",
            {**TRIVIA, "answer": {"value": "<unk>", "aliases": [], "normalized_aliases": []}},
            "row 0: 'answer' holds no answer",
        ),
        ("gsm8k", {**GSM8K, "answer": "998"}, "row 0: 'answer' has no line '#### number'"),
    ],
)
def test_rows_of_another_schema_are_named(tmp_path: Path, name: str, row: Mapping[str, Any], fault: str) -> None:
    path = local(tmp_path, row)
    with pytest.raises(Error) as caught:
        load(name, path)
    assert str(caught.value).startswith(f"{name} '{path}': ")
    assert fault in str(caught.value)


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(Error, match="and 5 more rows"):
        load("gsm8k", local(tmp_path, *([{**GSM8K, "answer": "none"}] * 15)))


def test_sets_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(Error, match="no such set, expected one of mmlu, triviaqa, gsm8k"):
        load("arc")
    with pytest.raises(Error, match="no such file or folder"):
        load("mmlu", tmp_path / "absent.jsonl")
    with pytest.raises(Error, match=r"is a '\.txt' file, expected one of \.json, \.jsonl, \.parquet, \.csv"):
        load("mmlu", local(tmp_path, MMLU, name="rows.txt"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(Error, match="cannot be loaded"):
        load("mmlu", tmp_path / "broken.parquet")
    with pytest.raises(Error, match="cannot be loaded"):
        load("mmlu", tmp_path, split="nonsense")


def test_without_a_network_the_error_gives_the_next_step() -> None:
    with pytest.raises(Error, match=r"cais/mmlu': cannot be loaded: .*Use a local copy with --source"):
        load("mmlu")


def test_without_datasets_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'metadeploy\[datasets\]'"):
        load("mmlu", local(tmp_path, MMLU))
