"""Shared parts of the parity tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metadeploy import MetaLlama

FloatArray = NDArray[np.float32]

#: settings with which both sides must give the same numbers: the cache does not round, and attention is
#: computed in the same order
EXACT: Final[dict[str, Any]] = {"type_k": "f32", "type_v": "f32", "flash_attn": False, "n_threads": 1}


#: tokens of SmolLM2's tokenizer that end a turn in llama.cpp: <|endoftext|>, <|im_end|>, <reponame>
END_TOKENS: Final = (0, 2, 4)


def greedy(llm: MetaLlama, ids: list[int], n: int) -> list[int]:
    """Return at most n greedy tokens after a prompt, without the end of the turn."""
    return list(llm.generate(ids, max_tokens=n).token_ids)


def nmse(actual: FloatArray, expected: FloatArray) -> float:
    """Return the mean squared error divided by the mean square of the expected values, in float64."""
    error = actual.astype(np.float64) - expected.astype(np.float64)
    return float((error**2).mean() / (expected.astype(np.float64) ** 2).mean())


def kl_divergence(expected: FloatArray, actual: FloatArray) -> float:
    """Return KL(expected || actual) of two rows of logits, in nats."""

    def log_softmax(x: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        shifted = x.astype(np.float64) - x.max()
        return shifted - np.log(np.exp(shifted).sum())

    p, q = log_softmax(expected), log_softmax(actual)
    return float((np.exp(p) * (p - q)).sum())


@dataclass(frozen=True)
class Question:
    """One of the held-out questions that ship with the trained Doubter."""

    question: str
    answers: tuple[str, ...]
    category: str
