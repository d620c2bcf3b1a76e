"""Answers of base and Doubter to the same questions, and their scores."""

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

#: The same number as in the evaluation of the training. Only the first sentence counts.
MAX_TOKENS: Final = 24


@dataclass(frozen=True)
class Answer:
    """A model's answer.

    Attributes:
        text: the whole answer, at most `MAX_TOKENS` tokens.
        right: whether its first sentence has an accepted answer.
        declined: whether its first sentence is the trained refusal.
        doubt: the doubt, in (0, 1); None if the base answered alone.
    """

    text: str
    right: bool
    declined: bool
    doubt: float | None = None


@dataclass(frozen=True)
class Pair:
    """A question with the answers of the base and the Doubter."""

    question: Question
    base: Answer
    doubter: Answer


@dataclass(frozen=True)
class Scores:
    """The scores of base and Doubter on the same questions.

    Attributes:
        base_accuracy: questions that the base answers correctly.
        coverage: questions that the Doubter answers.
        selective_accuracy: right answers among the questions that the Doubter answers.
        errors_declined: declined questions among the base's errors; high is good.
        right_declined: declined questions among the base's right answers; low is good.
    """

    base_accuracy: Share
    coverage: Share
    selective_accuracy: Share
    errors_declined: Share
    right_declined: Share


def ask(llm: MetaLlama, questions: Iterable[Question], *, gain: float = 1.0) -> Iterator[Pair]:
    """Ask the base alone and the base with its Doubter, with greedy decoding.

    Args:
        llm: a base with its sidecar.
        questions: the questions to ask.
        gain: strength of the injection.

    Yields:
        A pair of answers for each question.
    """
    for question in questions:
        base = llm.generate(question.question, max_tokens=MAX_TOKENS, inject=False)
        doubter = llm.generate(question.question, max_tokens=MAX_TOKENS, gain=gain)
        yield Pair(question, _answer(question, base), _answer(question, doubter))


def _answer(question: Question, result: GenerationResult) -> Answer:
    return Answer(result.text, is_correct(question, result.text), result.abstained, result.doubt)


def score(pairs: Sequence[Pair]) -> Scores:
    """Compute the scores."""
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
