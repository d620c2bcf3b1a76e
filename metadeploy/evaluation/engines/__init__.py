"""What puts questions to a base and its Doubter: PyTorch or the compiled runtime, with the same answers up to rounding.

An engine is asked for the base's own answer and, for each gain wanted, for how much the Doubter doubts and for what it
says where it answers. Doubt and threshold act on the first token only, so one answer, with the refusal's first token
ruled out there, serves every threshold.

The implementations are imported from their modules, since one needs torch and the other the compiled core.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from metadeploy.data.question import Question

__all__ = ["AS_SHIPPED", "BEYOND_REFUSAL", "AnswerLimits", "Answered", "BaseAnswer", "Engine", "Reply"]

#: The gain that a wrapper was trained and calibrated at.
AS_SHIPPED: Final = 1.0
#: A refusal that says more than it was trained to shows it within so many tokens.
BEYOND_REFUSAL: Final = 8


@dataclass(frozen=True, kw_only=True)
class AnswerLimits:
    """How long answers are, as when the questions were collected.

    Attributes:
        max_new_tokens: most tokens of an answer.
        whole_answer: keep and judge the whole answer, not only its first sentence; of multiple choice it always is.
    """

    max_new_tokens: int = 32
    whole_answer: bool = False


@dataclass(frozen=True)
class BaseAnswer:
    """What the base says by itself.

    Attributes:
        text: its greedy answer: the first sentence, or all of it.
        logprobs: natural log-probability of the shortest run of tokens that says it.
        complete: False where the length limit cut it off.
    """

    text: str
    logprobs: tuple[float, ...]
    complete: bool


@dataclass(frozen=True)
class Reply:
    """What the base says with its Doubter at one gain.

    Attributes:
        gain: strength of the injection; 0 is the base exactly.
        doubt: in [0, 1], calibrated bias included.
        text: the greedy answer where it answers: the first sentence, or all of it.
        refusal: all that it says where it declines at the shipped threshold of 0.5; None where it does not, and at
            gains other than 1.
    """

    gain: float
    doubt: float
    text: str
    refusal: str | None


@dataclass(frozen=True)
class Answered:
    """One question, answered.

    Attributes:
        index: its place among the questions asked.
        base: the base alone.
        replies: the base with its Doubter, one for each gain asked for, in that order.
    """

    index: int
    base: BaseAnswer
    replies: tuple[Reply, ...]


class Engine(Protocol):
    """Answers questions greedily, through the base's chat template with the wrapper's settings."""

    @property
    def refusal_text(self) -> str:
        """What the wrapper was trained to say when it does not know."""

    def ask(self, questions: Sequence[Question], *, gains: Sequence[float]) -> Iterator[Answered]:
        """Answer questions, each once and in any order, as soon as they are ready.

        Args:
            questions: what the user says, and whether it is multiple choice.
            gains: at which the Doubter replies; none asks the base alone.
        """

    def close(self) -> None:
        """Free what the engine holds."""
