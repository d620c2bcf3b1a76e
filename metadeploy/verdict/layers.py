"""Chooses the layers that a verdict head reads, by linear heads on all candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from metadeploy.metrics import auroc, macro_auroc
from metadeploy.verdict.answers import Answers

__all__ = ["choose_layers"]

#: Prompt layers and answer layers of a head.
_N_PROMPT, _N_ANSWER = 1, 2
#: Strength of the ridge regression, as a multiple of the mean squared input.
_RIDGE: Final = 0.03
#: Training questions of the regression. More would change little.
_MAX_QUESTIONS: Final = 12_000


def choose_layers(
    train: Answers,
    val: Answers,
    *,
    prompt_layers: tuple[int, ...] | None = None,
    answer_layers: tuple[int, ...] | None = None,
    progress: Callable[[int, int], None] = lambda n, total: None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the prompt layers and the answer layers whose linear head ranks the validation answers best.

    The head is a ridge regression on the normalized inputs of each combination. All of them share one matrix of inner
    products. Its rank is the sum of AUROC over all answers and mean AUROC within kinds.

    Args:
        train: answers to fit on.
        val: answers to choose by.
        prompt_layers: take these, do not choose.
        answer_layers: take these, do not choose.
        progress: called with the number of combinations that are done, and of all.
    """
    prompts = [prompt_layers] if prompt_layers else list(combinations(train.prompt_layers, _N_PROMPT))
    answers = (
        [answer_layers]
        if answer_layers
        else list(combinations(train.answer_layers, min(_N_ANSWER, len(train.answer_layers))))
    )
    pairs = [(prompt, answer) for prompt in prompts for answer in answers]
    if len(pairs) == 1:
        return pairs[0]
    width = train.prompt.shape[-1]
    n = min(len(train), _MAX_QUESTIONS)
    every = (train.prompt_layers, train.answer_layers)
    inputs, val_inputs = train.inputs(*every)[:n], val.inputs(*every)
    mean, scale = inputs.mean(axis=0), 1.0 / np.maximum(inputs.std(axis=0), 1e-6)
    for values in (inputs, val_inputs):
        values -= mean
        values *= scale
        np.clip(values, -8.0, 8.0, out=values)
    targets = (~train.correct[:n]).astype(np.float32)
    targets -= targets.mean()
    products, moments = inputs.T @ inputs, inputs.T @ targets
    best, chosen = -1.0, pairs[0]
    for n_done, (prompt, answer) in enumerate(pairs):
        progress(n_done, len(pairs))
        columns = _columns(train, prompt, answer, width)
        matrix = products[np.ix_(columns, columns)].astype(np.float64)
        matrix[np.diag_indices_from(matrix)] += _RIDGE * n
        scores = (val_inputs[:, columns] @ np.linalg.solve(matrix, moments[columns])).astype(np.float64)
        quality = (auroc(scores, val.correct) or 0.0) + (macro_auroc(scores, val.correct, val.category) or 0.0)
        if quality > best:
            best, chosen = quality, (prompt, answer)
    progress(len(pairs), len(pairs))
    return chosen


def _columns(answers: Answers, prompt: Sequence[int], answer: Sequence[int], width: int) -> NDArray[np.int_]:
    """Return where the inputs of some layers, and the figures, are among all inputs."""
    n_prompt = len(answers.prompt_layers)
    rows = [answers.prompt_layers.index(layer) for layer in prompt]
    rows += [n_prompt + answers.answer_layers.index(layer) for layer in answer]
    first_figure = (n_prompt + len(answers.answer_layers)) * width
    figures = np.arange(first_figure, first_figure + answers.figures.shape[1])
    return np.concatenate([*(np.arange(row * width, (row + 1) * width) for row in rows), figures])
