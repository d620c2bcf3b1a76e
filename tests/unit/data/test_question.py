"""Files of questions: they are read back unchanged, and errors name every malformed line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadeploy.data import Question, read_jsonl, write_jsonl
from metadeploy.errors import Error

GOOD = {"question": "Where?", "answers": ["here"], "category": "place"}


def written(folder: Path, *records: object) -> Path:
    path = folder / "questions.jsonl"
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_every_accepted_form_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        GOOD,
        "",
        {**GOOD, "entity": "place:here", "choices": None, "anything": 1},
        {**GOOD, "answers": ["B"], "choices": ["there", "here"]},
    )
    assert read_jsonl(path) == [
        Question("Where?", ("here",), "place"),
        Question("Where?", ("here",), "place", "place:here"),
        Question("Where?", ("B",), "place", choices=("there", "here")),
    ]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert read_jsonl(path) == [Question("Where?", ("here",), "place")]


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.strip)


@st.composite
def questions(draw: st.DrawFn) -> Question:
    if draw(st.booleans()):
        choices = tuple(draw(st.lists(TEXT, min_size=2, max_size=26)))
        answers = (draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)])),)
        return Question(draw(TEXT), answers, draw(TEXT), draw(st.text(max_size=5)), choices)
    return Question(
        draw(TEXT), tuple(draw(st.lists(TEXT, min_size=1, max_size=3))), draw(TEXT), draw(st.text(max_size=5))
    )


@given(st.lists(questions(), min_size=1, max_size=4))
def test_questions_are_read_back_unchanged(tmp_path_factory: pytest.TempPathFactory, wanted: list[Question]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "q.jsonl"
    write_jsonl(path, wanted)
    assert read_jsonl(path) == wanted
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    before = path.read_bytes()

    def broken() -> object:
        yield Question("One?", ("1",), "number")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_jsonl(path, broken())  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2: is a list, expected an object"),
        ("7", "line 2: is a number, expected an object"),
        ({"answers": ["x"], "category": "c"}, 'line 2: "question" is missing, expected a string'),
        ({**GOOD, "question": " "}, '"question" is empty'),
        ({**GOOD, "question": 3}, '"question" is a number'),
        ({**GOOD, "answers": "here"}, '"answers" is a string, expected a list of strings'),
        ({**GOOD, "answers": []}, '"answers" is empty'),
        ({**GOOD, "answers": [None]}, '"answers" holds null'),
        ({**GOOD, "answers": ["x", ""]}, '"answers" holds an empty string'),
        ({**GOOD, "category": True}, '"category" is a boolean'),
        ({**GOOD, "entity": {}}, '"entity" is an object'),
        ({**GOOD, "choices": ["one"]}, '"choices" has 1 entries, expected 2 to 26'),
        ({**GOOD, "choices": ["a", "b"]}, "\"answers\" has 'here' for 2 choices, expected letters of AB"),
        ({**GOOD, "answers": ["C"], "choices": ["a", "b"]}, "expected letters of AB"),
        ({**GOOD, "question": "What is \ud83d?"}, '"question" holds half a surrogate pair'),
        ({**GOOD, "answers": ["x", "\ude00"]}, '"answers" holds half a surrogate pair'),
        ({**GOOD, "entity": "\ude00"}, '"entity" holds half a surrogate pair'),
        ({"question": "q", "answer": ["x"], "category": "c"}, 'line 2: has "answer", expected "answers"'),
        ({**GOOD, "choice": ["a", "b"]}, 'line 2: has "choice", expected "choices"'),
        ({**GOOD, "entitty": "e"}, 'line 2: has "entitty", expected "entity"'),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, record: object, fault: str) -> None:
    path = written(tmp_path, GOOD, record)
    with pytest.raises(Error) as caught:
        read_jsonl(path)
    assert str(caught.value).startswith(f"questions '{path}': line 2")
    assert fault in str(caught.value)


def test_the_first_ten_malformed_lines_are_named_and_the_others_counted(tmp_path: Path) -> None:
    path = written(tmp_path, *(["nonsense"] * 25))
    with pytest.raises(Error) as caught:
        read_jsonl(path)
    message = str(caught.value)
    assert "line 10 " in message
    assert "line 11 " not in message
    assert "and 15 more malformed lines" in message


def test_nesting_without_end_is_a_malformed_line(tmp_path: Path) -> None:
    with pytest.raises(Error, match="line 1 is"):
        read_jsonl(written(tmp_path, "[" * 200_000))


def test_files_without_questions(tmp_path: Path) -> None:
    with pytest.raises(Error, match="cannot be read"):
        read_jsonl(tmp_path / "absent.jsonl")
    with pytest.raises(Error, match="cannot be read"):
        read_jsonl(tmp_path)
    with pytest.raises(Error, match="holds no question"):
        read_jsonl(written(tmp_path, "", " "))
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "\xe9"}')
    with pytest.raises(Error, match="byte 14 is not UTF-8"):
        read_jsonl(tmp_path / "latin.jsonl")
