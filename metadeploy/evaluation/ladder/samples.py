"""The samples of a rung, one for each question, and their file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metadeploy._files import json_text, write_atomically
from metadeploy._json import JSONFault, build, read_object
from metadeploy.errors import RunDirError
from metadeploy.evaluation.samples import declines
from metadeploy.sidecar.spec import DEFAULT_THRESHOLD

__all__ = ["Cosine", "LadderSample", "Rates", "RungSamples", "column"]

#: Version of the layout of a rung's file.
_SCHEMA: Final = 1


@dataclass(frozen=True)
class Cosine:
    """Cosines of vectors with PyTorch's, each in [-1, 1].

    Attributes:
        mean: mean over layers, or over cognitive tokens.
        least: minimum over the same.
    """

    mean: float
    least: float

    @classmethod
    def of(cls, vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> Cosine:
        """Compare rows [k, D] with rows [k, D]. A row of zeros has cosine 0 with every row."""
        a, b = vectors.astype(np.float64), reference.astype(np.float64)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines = np.divide((a * b).sum(axis=1), norms, out=np.zeros_like(norms), where=norms > 0)
        return cls(float(cosines.mean()), float(cosines.min()))


@dataclass(frozen=True)
class Rates:
    """The speed of an answer, in tokens per second.

    Attributes:
        prompt: tokens of the prompt, divided by the time until the first token can be chosen, after one pass or both.
        decode: rate of the answer from its second token on; None for shorter answers.
    """

    prompt: float
    decode: float | None


@dataclass(frozen=True, kw_only=True)
class LadderSample:
    """One question on one rung, or in PyTorch.

    Attributes:
        index: index of the question in the split.
        question: the text of the question.
        category: kind of question.
        base_answer: the part of the base's own greedy answer that counts.
        base_correct: whether this answer is right.
        doubt: doubt in [0, 1], including the calibrated bias.
        answer: the Doubter's answer; None if it declines.
        answer_correct: whether this answer is right; False if it declines.
        activations: comparison of the target layers' outputs with PyTorch's; None in PyTorch.
        cognitive_tokens: comparison with PyTorch's; None in PyTorch.
        base_rates: speed of the base alone; None in PyTorch.
        rates: speed with the Doubter; None in PyTorch.
    """

    index: int
    question: str
    category: str
    base_answer: str
    base_correct: bool
    doubt: float
    answer: str | None
    answer_correct: bool
    activations: Cosine | None = None
    cognitive_tokens: Cosine | None = None
    base_rates: Rates | None = None
    rates: Rates | None = None

    @property
    def declined(self) -> bool:
        """Whether the Doubter declines at the default threshold."""
        return declines(self.doubt, DEFAULT_THRESHOLD)


@dataclass(frozen=True, kw_only=True)
class RungSamples:
    """A finished rung.

    Attributes:
        fingerprint: hash of everything that the samples depend on.
        files: names, sizes and hashes of base and sidecar, and the types in the base, ready for JSON.
        samples: one sample for each question.
    """

    fingerprint: str
    files: dict[str, Any]
    samples: tuple[LadderSample, ...]

    def write(self, path: Path) -> None:
        """Write the file as a whole or not at all."""
        lines = ",\n".join(json_text(dataclasses.asdict(sample)) for sample in self.samples)
        head = {"schema": _SCHEMA, "fingerprint": self.fingerprint, "files": self.files}
        text = json_text(head).removesuffix("}")
        write_atomically(path, f'{text}, "samples": [\n{lines}\n]}}\n')

    @classmethod
    def read(cls, path: Path, fingerprint: str) -> RungSamples | None:
        """Read a rung; None if the file does not exist, is from another ladder, or cannot be read."""
        try:
            fields = read_object(path, subject=f"rung '{path}'", error=RunDirError)
            if fields.pop("schema", None) != _SCHEMA or fields.get("fingerprint") != fingerprint:
                return None
            return build(cls, fields)
        except (RunDirError, JSONFault):
            return None


def column(samples: Iterable[LadderSample], name: str) -> NDArray[Any]:
    """Return one attribute of all samples as an array [n]."""
    return np.array([getattr(sample, name) for sample in samples])
