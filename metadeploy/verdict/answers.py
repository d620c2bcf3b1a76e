"""Asks a base questions in the compiled runtime, and stores what a verdict reads of its answers. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metadeploy.data.checker import is_correct
from metadeploy.data.question import Question
from metadeploy.runtime import MetaLlama
from metadeploy.runtime.types import GenerationResult
from metadeploy.sidecar.verdict import FIGURE_NAMES
from metadeploy.verdict.shards import Row, ask_base, collect_rows

__all__ = ["Answers", "collect_answers"]

#: Arrays of a shard, each with a row for each question.
_COLUMNS: Final = ("prompt", "means", "last", "figures", "text")


@dataclass(frozen=True)
class Answers:
    """Answers to some questions, with what a verdict reads of them.

    Attributes:
        prompt_layers: the layers of ``prompt``.
        answer_layers: the layers of ``means`` and ``last``.
        prompt: activations at the prompt's last token, float32 or float16 [n, n_prompt_layers, n_embd].
        means: mean activations over the answer's tokens, float32 or float16 [n, n_answer_layers, n_embd].
        last: activations at the answer's last token, of the same shape.
        figures: float32 [n, n_figures], in the order of `FIGURE_NAMES`.
        correct: bool [n].
        category: text [n].
        entity: text [n], empty if a question is an entity of its own.
        questions: the questions.
        texts: the answers.
    """

    prompt_layers: tuple[int, ...]
    answer_layers: tuple[int, ...]
    prompt: NDArray[np.floating[Any]]
    means: NDArray[np.floating[Any]]
    last: NDArray[np.floating[Any]]
    figures: NDArray[np.float32]
    correct: NDArray[np.bool_]
    category: NDArray[np.str_]
    entity: NDArray[np.str_]
    questions: tuple[str, ...]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.correct)

    def inputs(self, prompt_layers: Sequence[int], answer_layers: Sequence[int]) -> NDArray[np.float32]:
        """Return what a head with these layers reads, float32 [n, n_inputs], in the order of `VerdictConfig`.

        Raises:
            ValueError: a layer is not among those of the answers.
        """
        n = len(self)
        prompt = self.prompt[:, [self.prompt_layers.index(layer) for layer in prompt_layers]].reshape(n, -1)
        means = self.means[:, [self.answer_layers.index(layer) for layer in answer_layers]].reshape(n, -1)
        return np.concatenate([prompt, means, self.figures], axis=1, dtype=np.float32)


def collect_answers(
    llm: MetaLlama,
    questions: Sequence[Question],
    folder: Path,
    part: str,
    *,
    prompt_layers: tuple[int, ...],
    answer_layers: tuple[int, ...],
    fingerprint: str,
    max_new_tokens: int,
    whole_answer: bool,
    progress: Callable[[int], None],
) -> Answers:
    """Ask questions, or read the answers that are already there.

    Questions whose answer cannot be judged are left out: answers without a token that a block has processed.

    Args:
        llm: the model, which taps these layers.
        questions: the questions, at least one.
        folder: where the shards are.
        part: name of the part, the beginning of the shards' names.
        prompt_layers: the layers that are tapped at the prompt's last token.
        answer_layers: the layers that are tapped at the answer's tokens.
        fingerprint: hash of everything else that the answers depend on.
        max_new_tokens: maximum length of an answer.
        whole_answer: judge whole answers, not their first sentences.
        progress: called with the number of questions of this part that are done.

    Raises:
        RunDirError: a shard cannot be read, or belongs to other settings or questions.
    """
    joined = collect_rows(
        questions,
        folder,
        part,
        _COLUMNS,
        lambda chunk, report: ask_base(llm, chunk, max_new_tokens, partial(_row, whole_answer=whole_answer), report),
        fingerprint=fingerprint,
        progress=progress,
    )
    is_known = [np.isfinite(joined[name].reshape(len(questions), -1)).all(axis=1) for name in _COLUMNS[:-1]]
    usable: list[int] = np.flatnonzero(np.logical_and.reduce(is_known)).tolist()
    asked = [questions[place] for place in usable]
    texts = [json.loads(joined["text"][place])["answer"] for place in usable]
    return Answers(
        prompt_layers,
        answer_layers,
        joined["prompt"][usable],
        joined["means"][usable],
        joined["last"][usable],
        joined["figures"][usable],
        np.array(
            [is_correct(question, text, whole=whole_answer) for question, text in zip(asked, texts, strict=True)],
            dtype=np.bool_,
        ),
        np.array([question.category for question in asked], dtype=np.str_),
        np.array([question.entity or "" for question in asked], dtype=np.str_),
        tuple(question.question for question in asked),
        tuple(texts),
    )


def _row(question: Question, result: GenerationResult, *, whole_answer: bool) -> Row:
    features = result.features
    assert features is not None and features.prompt is not None
    windows = (features.answer,) if whole_answer else features.sentences
    if windows:
        means, last, figures = windows[0].means, windows[0].last, windows[0].figures
    else:  # an answer without a sentence cannot be judged, and is left out later
        means = last = np.full_like(features.answer.means, np.nan)
        figures = np.full(len(FIGURE_NAMES), np.nan, np.float32)
    text = json.dumps({"question": question.question, "answer": result.text}, ensure_ascii=False)
    return {"prompt": features.prompt, "means": means, "last": last, "figures": figures, "text": text}
