"""One line for each question and rung, and the file of a rung."""

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
    """How near vectors are to PyTorch's: cosines, each in [-1, 1].

    Attributes:
        mean: over layers, or over cognitive tokens.
        least: of them.
    """

    mean: float
    least: float

    @classmethod
    def of(cls, ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Cosine:
        """Compare rows [k, D] with rows [k, D]; a row of zeros has cosine 0 with anything."""
        one, other = ours.astype(np.float64), theirs.astype(np.float64)
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        cosines = np.divide((one * other).sum(axis=1), norms, out=np.zeros_like(norms), where=norms > 0)
        return cls(float(cosines.mean()), float(cosines.min()))


@dataclass(frozen=True)
class Rates:
    """How fast an answer came, in tokens a second.

    Attributes:
        prompt: tokens of the prompt by the time until the first token can be chosen: one pass, or both.
        decode: of the answer from its second token on; None for answers shorter than that.
    """

    prompt: float
    decode: float | None


@dataclass(frozen=True, kw_only=True)
class LadderSample:
    """One question on one rung, or in PyTorch.

    Attributes:
        index: its place in the split.
        question: as asked.
        category: its kind.
        base_answer: the base's own greedy answer, as far as it is judged.
        base_correct: whether that is right.
        doubt: in [0, 1], calibrated bias included.
        answer: what the Doubter says; None where it declines.
        answer_correct: whether that is right; False where it declines.
        activations: of the target layers at the last prompt token, against PyTorch's; None in PyTorch.
        cognitive_tokens: likewise.
        base_rates: of the base alone; None in PyTorch.
        rates: with the Doubter, likewise.
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
        """Whether it declines at the shipped threshold."""
        return declines(self.doubt, DEFAULT_THRESHOLD)


@dataclass(frozen=True, kw_only=True)
class RungSamples:
    """A finished rung.

    Attributes:
        fingerprint: of everything that the samples depend on.
        files: what base and sidecar were, ready for JSON: names, sizes, hashes, and what the base is made of.
        samples: one for each question.
    """

    fingerprint: str
    files: dict[str, Any]
    samples: tuple[LadderSample, ...]

    def write(self, path: Path) -> None:
        """Write all of it, or nothing."""
        lines = ",\n".join(json_text(dataclasses.asdict(sample)) for sample in self.samples)
        head = {"schema": _SCHEMA, "fingerprint": self.fingerprint, "files": self.files}
        text = json_text(head).removesuffix("}")
        write_atomically(path, f'{text}, "samples": [\n{lines}\n]}}\n')

    @classmethod
    def read(cls, path: Path, fingerprint: str) -> RungSamples | None:
        """Read a rung back; None where there is no such file, or it belongs to another ladder or cannot be read."""
        try:
            found = read_object(path, subject=f"rung '{path}'", error=RunDirError)
            if found.pop("schema", None) != _SCHEMA or found.get("fingerprint") != fingerprint:
                return None
            return build(cls, found)
        except (RunDirError, JSONFault):
            return None


def column(samples: Iterable[LadderSample], name: str) -> NDArray[Any]:
    """One attribute of all samples, as an array [n]."""
    return np.array([getattr(sample, name) for sample in samples])
