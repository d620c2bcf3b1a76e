"""Random answers, of which one layer tells the errors."""

from __future__ import annotations

import numpy as np

from metadeploy.sidecar.verdict import FIGURE_NAMES
from metadeploy.verdict.answers import Answers

#: One prompt layer and one answer layer carry a signal.
PROMPT_LAYERS, ANSWER_LAYERS = (1, 2, 4), (2, 3, 5)
TELLING_PROMPT, TELLING_ANSWER = 2, 5
KINDS = ("capital", "river", "author")


def random_answers(n: int, *, seed: int, width: int = 6) -> Answers:
    """Return n answers. Half of them are errors; activations, words and figures tell which, each in part."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < 0.5
    prompt = rng.normal(size=(n, len(PROMPT_LAYERS), width)).astype(np.float32)
    means = rng.normal(size=(n, len(ANSWER_LAYERS), width)).astype(np.float32)
    last = rng.normal(size=means.shape).astype(np.float32)
    figures = rng.normal(size=(n, len(FIGURE_NAMES))).astype(np.float32)
    prompt[:, PROMPT_LAYERS.index(TELLING_PROMPT), 0] += 0.8 * wrong
    means[:, ANSWER_LAYERS.index(TELLING_ANSWER), 1] += 2.0 * wrong
    last[:, ANSWER_LAYERS.index(TELLING_ANSWER), 1] += 1.2 * wrong
    figures[:, FIGURE_NAMES.index("logprob_sum")] -= 1.0 * wrong
    kinds = rng.integers(len(KINDS), size=n)
    words = ["perhaps" if flag else "surely" for flag in wrong ^ (rng.random(n) < 0.3)]
    return Answers(
        PROMPT_LAYERS,
        ANSWER_LAYERS,
        prompt,
        means,
        last,
        figures,
        ~wrong,
        np.array([KINDS[kind] for kind in kinds]),
        np.array([f"entity {number // 2}" for number in range(n)]),
        tuple(f"Which {KINDS[kind]} is number {number}?" for number, kind in enumerate(kinds)),
        tuple(f"It is {word} this." for word in words),
    )
