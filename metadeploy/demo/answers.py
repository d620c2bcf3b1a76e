"""Base and Doubter on the same questions, and how well each did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from metadeploy.data.checker import is_correct
from metadeploy.data.question import Question
from metadeploy.proportion import Share

if TYPE_CHECKING:
    from metadeploy.runtime import GenerationResult, MetaLlama

__all__ = ["Answer", "Pair", "Scores", "Share", "ask", "score"]

#: As the training's evaluation had it; only the first sentence counts.
MAX_TOKENS: Final = 24


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: all of it, at most `MAX_TOKENS` tokens.
        right: whether an accepted answer is in its first sentence.
        declined: whether its first sentence is the trained refusal.
        doubt: how near it was to beginning with the refusal, in (0, 1); None where the base answered alone.
    """

    text: str
    right: bool
    declined: bool
    doubt: float | None = None


@dataclass(frozen=True)
class Pair:
    """One question and what both said to it."""

    question: Question
    base: Answer
    doubter: Answer


@dataclass(frozen=True)
class Scores:
    """How both did on the same questions.

    Attributes:
        base_accuracy: questions that the base gets right.
        coverage: questions that the Doubter answers.
        selective_accuracy: of those, the ones it gets right.
        errors_declined: of the questions that the base gets wrong, those that the Doubter declines; high is good.
        right_declined: of the questions that the base gets right, those that the Doubter declines; low is good.
    """

    base_accuracy: Share
    coverage: Share
    selective_accuracy: Share
    errors_declined: Share
    right_declined: Share


def ask(llm: MetaLlama, questions: Iterable[Question], *, gain: float = 1.0) -> Iterator[Pair]:
    """Put each question to the base alone and to the base with its Doubter, greedily.

    Args:
        llm: a base with its sidecar.
        questions: what to ask.
        gain: strength of the injection.

    Yields:
        One pair of answers for each question, as soon as it is there.
    """
    for question in questions:
        base = llm.generate(question.question, max_tokens=MAX_TOKENS, inject=False)
        doubter = llm.generate(question.question, max_tokens=MAX_TOKENS, gain=gain)
        yield Pair(question, _judge(question, base), _judge(question, doubter))


def _judge(question: Question, result: GenerationResult) -> Answer:
    return Answer(result.text, is_correct(question, result.text), result.abstained, result.doubt)


def score(pairs: Sequence[Pair]) -> Scores:
    """Count."""
    answered = [pair for pair in pairs if not pair.doubter.declined]
    right = [pair for pair in pairs if pair.base.right]
    wrong = [pair for pair in pairs if not pair.base.right]
    return Scores(
        base_accuracy=Share(len(right), len(pairs)),
        coverage=Share(len(answered), len(pairs)),
        selective_accuracy=Share(sum(pair.doubter.right for pair in answered), len(answered)),
        errors_declined=Share(sum(pair.doubter.declined for pair in wrong), len(wrong)),
        right_declined=Share(sum(pair.doubter.declined for pair in right), len(right)),
    )
