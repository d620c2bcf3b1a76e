"""Asks a base questions in the compiled runtime, and stores what a verdict reads of its answers. Imports no torch.

Answers are written in shards. A shard is written when it is complete, so an interrupted run loses at most one shard.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from metadeploy._files import write_atomically
from metadeploy._json import JSONFault, parse
from metadeploy.data.checker import is_correct
from metadeploy.data.question import Question
from metadeploy.errors import RunDirError
from metadeploy.runtime import MetaLlama, Request
from metadeploy.runtime.types import GenerationResult
from metadeploy.sidecar.verdict import FIGURE_NAMES

__all__ = ["SHARD", "Answers", "collect_answers"]

#: Questions of one shard.
SHARD: Final = 1024


@dataclass(frozen=True)
class Answers:
    """Answers to some questions, with what a verdict reads of them.

    Attributes:
        inputs: float32 [n, n_inputs], in the order of `metadeploy.sidecar.verdict.VerdictConfig`.
        correct: bool [n].
        category: text [n].
        entity: text [n], empty if a question is an entity of its own.
        questions: the questions.
        texts: the answers.
    """

    inputs: NDArray[np.float32]
    correct: NDArray[np.bool_]
    category: NDArray[np.str_]
    entity: NDArray[np.str_]
    questions: tuple[str, ...]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.correct)


def collect_answers(
    llm: MetaLlama,
    questions: Sequence[Question],
    folder: Path,
    part: str,
    *,
    fingerprint: str,
    max_new_tokens: int,
    whole_answer: bool,
    progress: Callable[[int], None],
) -> Answers:
    """Ask questions, or read the answers that are already there.

    Questions whose answer cannot be judged are left out: answers without a token that a block has processed.

    Args:
        llm: the model, which taps the layers of the head.
        questions: the questions, at least one.
        folder: where the shards are.
        part: name of the part, the beginning of the shards' names.
        fingerprint: hash of everything that the answers depend on.
        max_new_tokens: maximum length of an answer.
        whole_answer: judge whole answers, not their first sentences.
        progress: called with the number of questions of this part that are done.

    Raises:
        RunDirError: a shard cannot be read, or belongs to other settings.
    """
    shards = []
    for number, start in enumerate(range(0, len(questions), SHARD)):
        path = folder / f"{part}-{number:04d}.npz"
        chunk = questions[start : start + SHARD]
        if not path.exists():
            rows = _ask(llm, chunk, max_new_tokens, whole_answer, _from(start, progress))
            write_atomically(path, _packed(rows, fingerprint))
        shards.append(_unpacked(path, fingerprint))
        progress(start + len(chunk))
    joined = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    n, rows_of = len(joined["correct"]), [joined["prompt"], joined["means"]]
    inputs = np.concatenate([*(rows.reshape(n, -1) for rows in rows_of), joined["figures"]], axis=1)
    usable = np.isfinite(inputs).all(axis=1)
    texts = [json.loads(line) for line in joined["text"][usable].tolist()]
    return Answers(
        inputs[usable],
        joined["correct"][usable],
        np.array([row["category"] for row in texts], dtype=np.str_),
        np.array([row["entity"] for row in texts], dtype=np.str_),
        tuple(row["question"] for row in texts),
        tuple(row["answer"] for row in texts),
    )


def _from(start: int, progress: Callable[[int], None]) -> Callable[[int], None]:
    return lambda n_done: progress(start + n_done)


def _ask(
    llm: MetaLlama,
    questions: Sequence[Question],
    max_new_tokens: int,
    whole_answer: bool,
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Return a row for each question, in their order."""
    rows: dict[int, dict[str, Any]] = {}
    requests = [Request(prompt=question.question, inject=False) for question in questions]
    for answer in llm.generate_batch(requests, max_tokens=max_new_tokens, order="completion"):
        if answer.error is not None:
            raise answer.error
        assert answer.result is not None
        rows[answer.index] = _row(questions[answer.index], answer.result, whole_answer=whole_answer)
        progress(len(rows))
    return [rows[index] for index in range(len(questions))]


def _row(question: Question, result: GenerationResult, *, whole_answer: bool) -> dict[str, Any]:
    features = result.features
    assert features is not None and features.prompt is not None
    windows = (features.answer,) if whole_answer else features.sentences
    # an answer without a sentence cannot be judged, and is left out later
    means, figures = (windows[0].means, windows[0].figures) if windows else (features.answer.means * np.nan, None)
    texts = {
        "question": question.question,
        "category": question.category,
        "entity": question.entity or "",
        "answer": result.text,
    }
    return {
        "prompt": features.prompt,  # F32, because activations of some bases overflow in F16
        "means": means,
        "figures": np.full(len(FIGURE_NAMES), np.nan, np.float32) if figures is None else figures,
        "correct": is_correct(question, result.text, whole=whole_answer),
        "text": json.dumps(texts, ensure_ascii=False),
    }


def _packed(rows: Sequence[dict[str, Any]], fingerprint: str) -> bytes:
    buffer = io.BytesIO()
    columns: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    np.savez(buffer, fingerprint=np.array(fingerprint), **columns)
    return buffer.getvalue()


def _unpacked(path: Path, fingerprint: str) -> dict[str, NDArray[Any]]:
    try:
        # from memory, because NumPy leaves a malformed file open
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        recorded = str(columns.pop("fingerprint"))
        for line in columns["text"].tolist():
            parse(line)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, JSONFault) as error:
        raise RunDirError(
            f"answers '{path}': cannot be read ({error}), expected a shard that metadeploy verdict wrote (hint: delete "
            "the file)"
        ) from error
    if recorded != fingerprint:
        raise RunDirError(
            f"answers '{path}': were collected with other settings, another base or other questions, expected the same "
            "(hint: take another folder, or --restart)"
        )
    return columns
