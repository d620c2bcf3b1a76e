"""A question with its accepted answers, and files of such questions (JSON Lines)."""

from __future__ import annotations

import difflib
import json
import os
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from metadeploy._files import replacing
from metadeploy._json import JSONFault, parse
from metadeploy.errors import Error, faults_message

__all__ = ["LETTERS", "Question", "read_jsonl", "write_jsonl"]

_KEYS: Final = ("question", "answers", "category", "entity", "choices")

#: Letters of the choices, in order.
LETTERS: Final = string.ascii_uppercase

#: Maximum number of malformed lines that a message lists; it gives the number of the others.
_MAX_FAULTS: Final = 10


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        question: the text that the model is asked.
        answers: all accepted answers, at least one; for multiple choice the letters of the right choices.
        category: the kind of question; results are reported by category.
        entity: its subject (``country:FR``, ``word:go``). Questions about one entity belong in one split. If it is
            empty, the question is independent of all others.
        choices: the texts of choices A, B, C, … of a multiple-choice question, otherwise None.
    """

    question: str
    answers: tuple[str, ...]
    category: str
    entity: str = ""
    choices: tuple[str, ...] | None = None


def read_jsonl(path: str | os.PathLike[str]) -> list[Question]:
    """Read questions from a file with one JSON object in each line.

    The keys are ``question``, ``answers`` (a list), ``category`` and optionally ``entity`` and ``choices`` (a list).
    Other keys are ignored, except for a likely typo of one of them, which is an error. Empty lines are ignored, too.

    Args:
        path: a UTF-8 file.

    Returns:
        The questions in the file's order.

    Raises:
        Error: the file cannot be read, holds no question, or has malformed lines (the message lists up to ten).
    """
    subject = f"questions '{path}'"
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Error(f"{subject}: cannot be read: {error.strerror}, expected a JSON Lines file") from error
    except UnicodeDecodeError as error:
        raise Error(f"{subject}: byte {error.start} is not UTF-8, expected a JSON Lines file") from error
    questions: list[Question] = []
    faults: list[str] = []
    # not splitlines(): JSON strings may hold U+2028 and similar characters
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            questions.append(_from_record(parse(line)))
        except JSONFault as error:
            faults.append(f"line {number} is not JSON ({error}), expected one object")
        except _Malformed as error:
            faults.append(f"line {number}: {error}")
    if len(faults) > _MAX_FAULTS:
        faults[_MAX_FAULTS:] = [f"and {len(faults) - _MAX_FAULTS} more malformed lines"]
    if faults:
        raise Error(faults_message(subject, faults))
    if not questions:
        raise Error(f'{subject}: holds no question, expected lines like {{"question": …, "answers": […], …}}')
    return questions


def write_jsonl(path: str | os.PathLike[str], questions: Iterable[Question]) -> None:
    """Write questions in the format that `read_jsonl` reads. The file is written completely or not at all.

    Args:
        path: the file; an existing one is replaced.
        questions: the questions, in this order.

    Raises:
        OSError: the folder cannot be written.
    """
    with replacing(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for question in questions:
            file.write(json.dumps(_as_record(question), ensure_ascii=False) + "\n")


class _Malformed(ValueError):
    """A line is not as expected; the message has the fault and the expectation."""


def _from_record(record: Any) -> Question:
    if not isinstance(record, Mapping):
        raise _Malformed(f"is {_kind(record)}, expected an object")
    for key in record:
        close = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.85)
        if close and close[0] not in record:
            raise _Malformed(f'has "{key}", expected "{close[0]}"')
    question = _text(record, "question")
    answers = _texts(record, "answers")
    category = _text(record, "category")
    entity = record.get("entity", "")
    if not isinstance(entity, str):
        raise _Malformed(f'"entity" is {_kind(entity)}, expected a string')
    if record.get("choices") is None:
        return Question(question, answers, category, entity)
    choices = _texts(record, "choices")
    if not 2 <= len(choices) <= len(LETTERS):
        raise _Malformed(f'"choices" has {len(choices)} entries, expected 2 to {len(LETTERS)}')
    letters = LETTERS[: len(choices)]
    if not all(len(answer) == 1 and answer in letters for answer in answers):
        wrong = ", ".join(map(repr, answers))
        raise _Malformed(f'"answers" has {wrong} for {len(choices)} choices, expected letters of {letters}')
    return Question(question, answers, category, entity, choices)


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        actual = "missing" if key not in record else "empty" if isinstance(value, str) else _kind(value)
        raise _Malformed(f'"{key}" is {actual}, expected a string that is not empty')
    return value


def _texts(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = record.get(key)
    if not isinstance(value, list) or not value:
        actual = "missing" if key not in record else "empty" if isinstance(value, list) else _kind(value)
        raise _Malformed(f'"{key}" is {actual}, expected a list of strings')
    for entry in value:
        if not isinstance(entry, str) or not entry.strip():
            actual = "an empty string" if isinstance(entry, str) else _kind(entry)
            raise _Malformed(f'"{key}" holds {actual}, expected strings that are not empty')
    return tuple(value)


def _kind(value: Any) -> str:
    """Return the type of a JSON value in words."""
    kinds = {bool: "a boolean", str: "a string", list: "a list", dict: "an object", type(None): "null"}
    return kinds.get(type(value), "a number")


def _as_record(question: Question) -> dict[str, Any]:
    record: dict[str, Any] = {
        "question": question.question,
        "answers": list(question.answers),
        "category": question.category,
    }
    if question.entity:
        record["entity"] = question.entity
    if question.choices is not None:
        record["choices"] = list(question.choices)
    return record
