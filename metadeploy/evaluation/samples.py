"""One line for each question: what the base said, what its Doubter said, and how much it doubted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metadeploy._json import JSONFault, build, parse, read_lines
from metadeploy.errors import RunDirError

__all__ = ["AtGain", "Sample", "Samples", "ToldAnswer", "declines"]


def declines(doubt: float, threshold: float) -> bool:
    """Whether a Doubter declines: where doubt reaches the threshold; at 1 never, at 0 always."""
    return threshold < 1 and doubt >= threshold


@dataclass(frozen=True, kw_only=True)
class AtGain:
    """The Doubter at another gain.

    Attributes:
        gain: strength of the injection.
        doubt: in [0, 1].
        answer_correct: whether what it says where it answers is right.
    """

    gain: float
    doubt: float
    answer_correct: bool


@dataclass(frozen=True, kw_only=True)
class ToldAnswer:
    """The base alone, told in the prompt that it may decline.

    Attributes:
        answer: what it said.
        declined: whether that is the refusal.
        correct: whether it is right; False where it declined.
    """

    answer: str
    declined: bool
    correct: bool


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question of an evaluation.

    Attributes:
        fingerprint: says what it was made with; samples of one evaluation have the same.
        index: its place in the split.
        question: as asked.
        accepted: the accepted answers.
        category: its kind.
        entity: what it is about; empty where it stands for itself.
        base_answer: the base's own greedy answer, as far as it is judged.
        base_correct: whether that is right.
        base_logprob: mean natural log-probability of its tokens; None for an empty answer.
        base_first_logprob: of the first of them; None for an empty answer.
        doubt: in [0, 1], calibrated bias included.
        answer: what the Doubter says where it answers.
        answer_correct: whether that is right.
        declined_text: all it says where doubt is 0.5 or more, else None.
        told: the base told that it may decline; None where that was not asked.
        gains: the Doubter at other gains; empty for questions outside the sweep.
    """

    fingerprint: str
    index: int
    question: str
    accepted: tuple[str, ...]
    category: str
    entity: str
    base_answer: str
    base_correct: bool
    base_logprob: float | None
    base_first_logprob: float | None
    doubt: float
    answer: str
    answer_correct: bool
    declined_text: str | None = None
    told: ToldAnswer | None = None
    gains: tuple[AtGain, ...] = ()

    def abstained(self, threshold: float = 0.5) -> bool:
        """Whether it declines at a threshold."""
        return declines(self.doubt, threshold)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Sample:
        """Read `to_json` back.

        Raises:
            JSONFault: it is no such line.
        """
        return build(cls, parse(line))


@dataclass(frozen=True)
class Samples:
    """Questions of an evaluation, also as columns [n] for the metrics.

    Attributes:
        rows: one for each question, in the order of the split.
    """

    rows: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.rows)

    @classmethod
    def read(cls, path: Path) -> Samples:
        """Read a file of `Sample.to_json` lines.

        Raises:
            RunDirError: it cannot be read.
        """
        rows = []
        subject, expected = f"samples '{path}'", "expected what metadeploy eval writes (hint: delete the file)"
        for number, fields in read_lines(path, subject=subject, error=RunDirError, expected=expected):
            try:
                rows.append(build(Sample, fields))
            except JSONFault as fault:
                raise RunDirError(f"{subject}: line {number}: {fault}, {expected}") from None
        return cls(tuple(rows))

    @property
    def base_correct(self) -> NDArray[np.bool_]:
        """Bool [n]."""
        return np.array([sample.base_correct for sample in self.rows], dtype=np.bool_)

    @property
    def doubt(self) -> NDArray[np.float64]:
        """Float64 [n] in [0, 1]."""
        return np.array([sample.doubt for sample in self.rows], dtype=np.float64)

    @property
    def answer_correct(self) -> NDArray[np.bool_]:
        """Bool [n], whether the Doubter is right where it answers."""
        return np.array([sample.answer_correct for sample in self.rows], dtype=np.bool_)

    @property
    def same_words(self) -> NDArray[np.bool_]:
        """Bool [n], whether the Doubter says what the base says, where it answers; space around it is no word."""
        return np.array([sample.answer.strip() == sample.base_answer.strip() for sample in self.rows], dtype=np.bool_)

    @property
    def category(self) -> NDArray[np.str_]:
        """Text [n]."""
        return np.array([sample.category for sample in self.rows], dtype=np.str_)

    @property
    def entity(self) -> NDArray[np.str_]:
        """Text [n], empty where a question stands for itself."""
        return np.array([sample.entity for sample in self.rows], dtype=np.str_)

    def abstained(self, threshold: float) -> NDArray[np.bool_]:
        """Bool [n], whether it declines at a threshold."""
        return np.array([sample.abstained(threshold) for sample in self.rows], dtype=np.bool_)
