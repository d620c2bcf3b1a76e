"""Public question sets, through the package `datasets`: from the hub, or from local files of the same schema.

A multiple-choice question becomes a text with the question and its lettered choices; the letter is the answer. The
caller adds the instruction to answer with the letter only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from metadeploy.data.question import LETTERS, Question
from metadeploy.errors import Error, MissingDependencyError, faults_message

__all__ = ["LOADERS", "load"]

#: Names that `datasets` uses for file formats.
_FORMATS: Final = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
_MAX_FAULTS: Final = 10


@dataclass(frozen=True)
class _Loader:
    """A public set: its address on the hub, and a function that converts its rows to questions."""

    hub: str
    config: str
    split: str
    columns: tuple[str, ...]
    question: Callable[[Mapping[str, Any]], Question]


class _Unusable(ValueError):
    """A row is not as expected; the message has the fault and the expectation."""


def load(name: str, source: str | os.PathLike[str] | None = None, *, split: str | None = None) -> list[Question]:
    """Load a public set.

    Args:
        name: ``mmlu``, ``triviaqa`` or ``gsm8k``.
        source: a local file (.json, .jsonl, .parquet, .csv) or a folder of such files with the hub's columns; None
            fetches the set from the Hugging Face hub (cais/mmlu, mandarjoshi/trivia_qa, openai/gsm8k).
        split: the hub's name of a split; None selects the usual one for evaluation (``test``; ``validation`` for
            TriviaQA, whose test split has no answers). Ignored for a local file, which has only one split.

    Returns:
        The questions in the order of the set. MMLU's categories are its subjects; the other sets have one category.

    Raises:
        Error: no such set, it cannot be loaded, or columns or rows are malformed (the message lists up to ten rows).
        MissingDependencyError: `datasets` is not installed.
    """
    loader = LOADERS.get(name)
    if loader is None:
        raise Error(f"questions '{name}': no such set, expected one of {', '.join(LOADERS)}")
    subject = f"{name} '{loader.hub if source is None else os.fspath(source)}'"
    rows = _rows(loader, source, split, subject)
    missing = [column for column in loader.columns if column not in rows.column_names]
    if missing:
        raise Error(
            f"{subject}: has the columns {', '.join(rows.column_names)}, expected {', '.join(missing)} too "
            f"(hint: {loader.hub} has the expected columns)"
        )
    return _questions(loader, rows, subject)


def _rows(loader: _Loader, source: str | os.PathLike[str] | None, split: str | None, subject: str) -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{subject}: the package '{error.name}' is not installed, expected the extra 'datasets' "
            "(hint: pip install 'metadeploy[datasets]')"
        ) from error
    try:
        if source is None:
            return datasets.load_dataset(loader.hub, loader.config, split=split or loader.split)
        path = Path(source)
        if path.is_dir():
            return datasets.load_dataset(str(path), split=split or loader.split)
        if not path.is_file():
            raise Error(f"{subject}: no such file or folder")
        if path.suffix not in _FORMATS:
            raise Error(f"{subject}: is a '{path.suffix}' file, expected one of {', '.join(_FORMATS)}")
        return datasets.load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train")
    except Error:
        raise
    except Exception as error:  # datasets, the hub's client and pyarrow raise many different classes
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = "no network? Use a local copy with --source" if source is None else "is the file complete?"
        raise Error(f"{subject}: cannot be loaded: {reason} (hint: {hint})") from error


def _questions(loader: _Loader, rows: Iterable[Mapping[str, Any]], subject: str) -> list[Question]:
    questions: list[Question] = []
    faults: list[str] = []
    for number, row in enumerate(rows):
        try:
            questions.append(loader.question(row))
        except _Unusable as error:
            faults.append(f"row {number}: {error}")
    if len(faults) > _MAX_FAULTS:
        faults[_MAX_FAULTS:] = [f"and {len(faults) - _MAX_FAULTS} more rows"]
    if faults:
        raise Error(faults_message(subject, faults))
    if not questions:
        raise Error(f"{subject}: holds no question, expected at least one")
    return questions


# -- rows


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise _Unusable(f"'{column}' is {value!r}, expected a text that is not empty")
    return value.strip()


def _mmlu(row: Mapping[str, Any]) -> Question:
    choices, index = row["choices"], row["answer"]
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise _Unusable(f"'choices' is {choices!r}, expected a list of 2 to {len(LETTERS)} texts")
    if not all(isinstance(choice, str) for choice in choices):
        raise _Unusable(f"'choices' is {choices!r}, expected texts")
    if not isinstance(index, int) or not 0 <= index < len(choices):
        raise _Unusable(f"'answer' is {index!r}, expected 0 to {len(choices) - 1}, the index of the right choice")
    lettered = "\n".join(f"{letter}. {choice.strip()}" for letter, choice in zip(LETTERS, choices, strict=False))
    text = f"{_text(row, 'question')}\n{lettered}"
    return Question(text, (LETTERS[index],), _text(row, "subject"), choices=tuple(choices))


def _triviaqa(row: Mapping[str, Any]) -> Question:
    answer = row["answer"]
    if not isinstance(answer, Mapping) or not isinstance(answer.get("value"), str):
        raise _Unusable(
            f"'answer' is {answer!r}, expected an object with 'value' and 'aliases' (test split without answers?)"
        )
    aliases = (*(answer.get("aliases") or ()), *(answer.get("normalized_aliases") or ()))
    answers = dict.fromkeys(text.strip() for text in (answer["value"], *aliases))
    answers.pop("", None)
    # in splits without answers, the value is a placeholder such as "<unk>"
    if not answers or answer["value"] == "<unk>":
        raise _Unusable("'answer' holds no answer, expected 'value' and 'aliases' (hint: the test split has none)")
    return Question(_text(row, "question"), tuple(answers), "triviaqa")


def _gsm8k(row: Mapping[str, Any]) -> Question:
    _, mark, number = _text(row, "answer").rpartition("####")
    if not mark or not number.strip():
        raise _Unusable("'answer' has no line '#### number', expected one at its end")
    return Question(_text(row, "question"), (number.strip().replace(",", ""),), "gsm8k")


#: The sets by name.
LOADERS: Final = {
    "mmlu": _Loader("cais/mmlu", "all", "test", ("question", "subject", "choices", "answer"), _mmlu),
    "triviaqa": _Loader("mandarjoshi/trivia_qa", "rc.nocontext", "validation", ("question", "answer"), _triviaqa),
    "gsm8k": _Loader("openai/gsm8k", "main", "test", ("question", "answer"), _gsm8k),
}
