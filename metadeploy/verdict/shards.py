"""Rows about questions, in files that an interrupted run continues and a longer run extends. Imports no torch."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from metadeploy._files import write_atomically
from metadeploy._json import JSONFault, parse
from metadeploy.data.question import Question
from metadeploy.errors import RunDirError
from metadeploy.runtime import MetaLlama, Request
from metadeploy.runtime.types import GenerationResult

__all__ = ["SHARD", "Row", "ask_base", "collect_rows"]

#: Questions of one shard.
SHARD: Final = 512

#: One question's values, by the name of their column. ``text`` is a JSON object with the ``question``.
Row = Mapping[str, Any]
_Progress = Callable[[int], None]


def collect_rows(
    questions: Sequence[Question],
    folder: Path,
    part: str,
    columns: Sequence[str],
    ask: Callable[[Sequence[Question], _Progress], list[Row]],
    *,
    fingerprint: str,
    progress: _Progress,
) -> dict[str, NDArray[Any]]:
    """Ask questions, or read the rows that are already there.

    A shard is written when it is complete, so an interrupted run loses at most one.

    Args:
        questions: the questions, at least one.
        folder: where the shards are.
        part: name of the part, the beginning of the shards' names.
        columns: names of the columns, ``text`` among them.
        ask: returns a row for each question, in their order; it reports how many are done.
        fingerprint: hash of everything but the questions that the rows depend on.
        progress: called with the number of questions of this part that are done.

    Returns:
        Each column, with a row for each question. Activations, which are rows of two dimensions, may be float16.

    Raises:
        RunDirError: a shard cannot be read, or belongs to other settings or questions.
    """
    shards = []
    for number, start in enumerate(range(0, len(questions), SHARD)):
        path = folder / f"{part}-{number:04d}.npz"
        chunk = questions[start : start + SHARD]
        known = _read(path, columns, fingerprint, chunk) if path.exists() else {}
        n_known = len(known.get("text", ()))
        if n_known < len(chunk):
            rows = ask(chunk[n_known:], _from(start + n_known, progress))
            known = {
                name: np.concatenate([*([known[name]] if known else []), _column([row[name] for row in rows])])
                for name in columns
            }
            write_atomically(path, _packed(known, fingerprint))
        shards.append({name: values[: len(chunk)] for name, values in known.items()})
        progress(start + len(chunk))
    return {name: np.concatenate([shard[name] for shard in shards]) for name in columns}


def ask_base(
    llm: MetaLlama,
    questions: Sequence[Question],
    max_new_tokens: int,
    row: Callable[[Question, GenerationResult], Row],
    progress: _Progress,
) -> list[Row]:
    """Ask the base alone, many questions at once.

    Args:
        llm: the model.
        questions: the questions.
        max_new_tokens: maximum length of an answer.
        row: makes a row of a question and its answer.
        progress: called with the number of answers that are there.

    Returns:
        A row for each question, in their order.

    Raises:
        Error: a question cannot be asked, such as one longer than the context.
    """
    rows: dict[int, Row] = {}
    requests = [Request(prompt=question.question, inject=False) for question in questions]
    for answer in llm.generate_batch(requests, max_tokens=max_new_tokens, order="completion"):
        if answer.error is not None:
            raise answer.error
        assert answer.result is not None
        rows[answer.index] = row(questions[answer.index], answer.result)
        progress(len(rows))
    return [rows[index] for index in range(len(questions))]


def _from(start: int, progress: _Progress) -> _Progress:
    return lambda n_done: progress(start + n_done)


def _column(values: list[Any]) -> NDArray[Any]:
    """Return the values as an array: activations in F16, unless they overflow there, as those of some bases do."""
    column = np.array(values)
    if column.ndim == 3:
        with np.errstate(over="ignore"):
            half = column.astype(np.float16)
        return column if (np.isinf(half) & np.isfinite(column)).any() else half
    return column


def _packed(columns: dict[str, NDArray[Any]], fingerprint: str) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"fingerprint": np.array(fingerprint), **columns}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _read(path: Path, names: Sequence[str], fingerprint: str, questions: Sequence[Question]) -> dict[str, NDArray[Any]]:
    """Read a shard, whose questions must begin with the given ones or be their beginning."""
    try:
        # from memory, because NumPy leaves a malformed file open
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            columns = {name: file[name] for name in names}
            recorded = str(file["fingerprint"])
        asked = [parse(line)["question"] for line in columns["text"].tolist()]
        if {len(values) for values in columns.values()} != {len(asked)}:
            raise ValueError("its arrays differ in length")
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, JSONFault) as error:
        raise RunDirError(
            f"answers '{path}': cannot be read ({error}), expected a shard that this command wrote (hint: delete the "
            "file)"
        ) from error
    wanted = [question.question for question in questions]
    n_common = min(len(asked), len(wanted))
    if recorded != fingerprint or asked[:n_common] != wanted[:n_common]:
        raise RunDirError(
            f"answers '{path}': were collected with other settings, another base or other questions, expected the same "
            "(hint: take another folder)"
        )
    return columns
