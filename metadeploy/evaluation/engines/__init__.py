"""Engines ask a base and its Doubter: PyTorch or the compiled runtime, with the same answers up to rounding.

An engine returns the base's own answer and, for each gain, the Doubter's doubt and its answer if it does not decline.
Doubt and threshold act only on the first token. So the engine masks the refusal's first token there, and one answer
serves every threshold.

Import the implementations from their modules, because one needs torch and the other the compiled core.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from metadeploy.data.question import Question

__all__ = ["DEFAULT_GAIN", "REFUSAL_SLACK", "AnswerLimits", "Answered", "BaseAnswer", "Engine", "Reply"]

#: The gain of training and calibration.
DEFAULT_GAIN: Final = 1.0
#: Tokens to generate after the length of the trained refusal, to see whether the refusal continues.
REFUSAL_SLACK: Final = 8


@dataclass(frozen=True, kw_only=True)
class AnswerLimits:
    """The length of answers, the same as when the questions were collected.

    Attributes:
        max_new_tokens: maximum number of tokens of an answer.
        whole_answer: whether the whole answer counts, and not only its first sentence; always so for multiple choice.
    """

    max_new_tokens: int = 32
    whole_answer: bool = False


@dataclass(frozen=True)
class BaseAnswer:
    """The answer of the base alone.

    Attributes:
        text: its greedy answer: the first sentence, or the whole answer.
        logprobs: natural log-probabilities of the tokens of this text.
        complete: False if the length limit cut off the answer.
    """

    text: str
    logprobs: tuple[float, ...]
    complete: bool


@dataclass(frozen=True)
class Reply:
    """The answer of the base with its Doubter at one gain.

    Attributes:
        gain: strength of the injection; 0 is the base exactly.
        doubt: doubt in [0, 1], including the calibrated bias.
        text: the greedy answer if it does not decline: the first sentence, or the whole answer.
        refusal: the whole refusal if it declines at the default threshold of 0.5; None if it does not, and at other
            gains than 1.
    """

    gain: float
    doubt: float
    text: str
    refusal: str | None


@dataclass(frozen=True)
class Answered:
    """The answers to one question.

    Attributes:
        index: index of the question among the questions of the call.
        base: the answer of the base alone.
        replies: the answers of the base with its Doubter, one for each gain, in the order of the call.
    """

    index: int
    base: BaseAnswer
    replies: tuple[Reply, ...]


class Engine(Protocol):
    """Answers questions with greedy decoding, the base's chat template and the wrapper's prompt settings."""

    @property
    def refusal_text(self) -> str:
        """The trained refusal."""

    def ask(self, questions: Sequence[Question], *, gains: Sequence[float]) -> Iterator[Answered]:
        """Yield the answers to each question once, in any order, as soon as they are complete.

        Args:
            questions: the questions.
            gains: gains of the Doubter; empty asks only the base.
        """

    def close(self) -> None:
        """Free the model."""
