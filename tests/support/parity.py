"""Words that the parity tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metadeploy import MetaLlama

FloatArray = NDArray[np.float32]

#: the settings under which the two sides owe each other the same numbers: the cache rounds nothing, and attention is
#: computed in the same order
EXACT: Final[dict[str, Any]] = {"type_k": "f32", "type_v": "f32", "flash_attn": False, "n_threads": 1}


#: what llama.cpp takes for the end of a turn in SmolLM2's tokenizer: <|endoftext|>, <|im_end|>, <reponame>
END_TOKENS: Final = (0, 2, 4)


def greedy(llm: MetaLlama, ids: list[int], n: int) -> list[int]:
    """At most n greedy tokens after a prompt, the end of turn excluded."""
    return list(llm.generate(ids, max_tokens=n).token_ids)


def nmse(actual: FloatArray, expected: FloatArray) -> float:
    """Mean squared error over the mean square of what was expected, in float64."""
    error = actual.astype(np.float64) - expected.astype(np.float64)
    return float((error**2).mean() / (expected.astype(np.float64) ** 2).mean())


def kl_divergence(expected: FloatArray, actual: FloatArray) -> float:
    """KL(expected || actual) of two rows of logits, in nats."""

    def log_softmax(x: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        shifted = x.astype(np.float64) - x.max()
        return shifted - np.log(np.exp(shifted).sum())

    p, q = log_softmax(expected), log_softmax(actual)
    return float((np.exp(p) * (p - q)).sum())


@dataclass(frozen=True)
class Question:
    """One of the held-out questions that come with the trained Doubter."""

    question: str
    answers: tuple[str, ...]
    category: str
