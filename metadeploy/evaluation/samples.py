"""The file of samples: one line for each question, with the answers of base and Doubter, and the doubt."""

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

__all__ = ["AtGain", "PromptedAnswer", "Sample", "Samples", "declines"]


def declines(doubt: float, threshold: float) -> bool:
    """Return whether a Doubter declines: if doubt is at least the threshold; never at threshold 1, always at 0."""
    return threshold < 1 and doubt >= threshold


@dataclass(frozen=True, kw_only=True)
class AtGain:
    """The Doubter at another gain.

    Attributes:
        gain: strength of the injection.
        doubt: doubt in [0, 1].
        answer_correct: whether its answer is right, if it does not decline.
    """

    gain: float
    doubt: float
    answer_correct: bool


@dataclass(frozen=True, kw_only=True)
class PromptedAnswer:
    """The answer of the prompted baseline: the base with an instruction to decline if it is not sure.

    Attributes:
        answer: its text.
        declined: whether it is the refusal.
        correct: whether it is right; False if it declined.
    """

    answer: str
    declined: bool
    correct: bool


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question of an evaluation.

    Attributes:
        fingerprint: hash of everything that the answers depend on; the same for all samples of an evaluation.
        index: index of the question in the split.
        question: the text of the question.
        accepted: the accepted answers.
        category: kind of question.
        entity: subject of the question; empty if the question is an entity of its own.
        base_answer: the part of the base's own greedy answer that counts.
        base_correct: whether this answer is right.
        base_logprob: mean natural log-probability of its tokens; None for an empty answer.
        base_first_logprob: natural log-probability of its first token; None for an empty answer.
        doubt: doubt in [0, 1], including the calibrated bias.
        answer: the Doubter's answer, if it does not decline.
        answer_correct: whether this answer is right.
        declined_text: the whole refusal if doubt is at least 0.5, else None.
        told: the answer of the prompted baseline; None if it was not asked.
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
    told: PromptedAnswer | None = None
    gains: tuple[AtGain, ...] = ()

    def abstained(self, threshold: float = 0.5) -> bool:
        """Return whether the Doubter declines at a threshold."""
        return declines(self.doubt, threshold)

    def to_json(self) -> str:
        """Return the sample as a line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Sample:
        """Read a line of `to_json`.

        Raises:
            JSONFault: the line is malformed.
        """
        return build(cls, parse(line))


@dataclass(frozen=True)
class Samples:
    """The samples of an evaluation, also as columns [n] for the metrics.

    Attributes:
        rows: one sample for each question, in the order of the split.
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
            RunDirError: the file cannot be read.
        """
        rows = []
        subject, expected = f"samples '{path}'", "expected samples of metadeploy eval (hint: delete the file)"
        for number, fields in read_lines(path, subject=subject, error=RunDirError, expected=expected):
            try:
                rows.append(build(Sample, fields))
            except JSONFault as fault:
                raise RunDirError(f"{subject}: line {number}: {fault}, {expected}") from None
        return cls(tuple(rows))

    @property
    def base_correct(self) -> NDArray[np.bool_]:
        """Bool [n], whether the base's own answer is right."""
        return np.array([sample.base_correct for sample in self.rows], dtype=np.bool_)

    @property
    def doubt(self) -> NDArray[np.float64]:
        """Float64 [n] in [0, 1]."""
        return np.array([sample.doubt for sample in self.rows], dtype=np.float64)

    @property
    def answer_correct(self) -> NDArray[np.bool_]:
        """Bool [n], whether the Doubter's answer is right, if it does not decline."""
        return np.array([sample.answer_correct for sample in self.rows], dtype=np.bool_)

    @property
    def same_words(self) -> NDArray[np.bool_]:
        """Bool [n], whether the Doubter's answer is the base's, except for surrounding space."""
        return np.array([sample.answer.strip() == sample.base_answer.strip() for sample in self.rows], dtype=np.bool_)

    @property
    def category(self) -> NDArray[np.str_]:
        """Text [n]."""
        return np.array([sample.category for sample in self.rows], dtype=np.str_)

    @property
    def entity(self) -> NDArray[np.str_]:
        """Text [n], empty if a question is an entity of its own."""
        return np.array([sample.entity for sample in self.rows], dtype=np.str_)

    def abstained(self, threshold: float) -> NDArray[np.bool_]:
        """Bool [n], whether the Doubter declines at a threshold."""
        return np.array([sample.abstained(threshold) for sample in self.rows], dtype=np.bool_)
