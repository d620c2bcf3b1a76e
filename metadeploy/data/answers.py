"""Extract the part of an answer that is stored and scored. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metadeploy.data.checker import first_sentence

__all__ = ["ExtractedAnswer", "IsComplete", "extract_answer", "is_complete", "stop_when_complete"]

#: Called with an answer's row in the batch and its token ids so far; returns True to end the answer.
IsComplete = Callable[[int, Sequence[int]], bool]


@dataclass(frozen=True)
class ExtractedAnswer:
    """The part of an answer that is stored and scored.

    Attributes:
        text: the first sentence, or the whole answer.
        n_tokens: number of leading tokens that contain it.
        complete: False if the length limit cut the answer off.
    """

    text: str
    n_tokens: int
    complete: bool


def extract_answer(
    token_ids: Sequence[int], text: Callable[[Sequence[int]], str], *, ended: bool, whole: bool = False
) -> ExtractedAnswer:
    """Extract the part of an answer that is stored and scored.

    Args:
        token_ids: the generated tokens.
        text: decodes tokens, without special tokens.
        ended: whether the model ended the answer.
        whole: extract the whole answer, not only the first sentence.
    """
    answer = text(token_ids).strip()
    extract = answer if whole else first_sentence(answer)
    length = len(token_ids)
    while length > 0 and text(token_ids[: length - 1]).strip().startswith(extract):
        length -= 1
    return ExtractedAnswer(extract, length, ended or len(answer) > len(extract))


def is_complete(answer: str, *, whole: bool = False) -> bool:
    """Return whether an unfinished answer already holds everything that is extracted: the first sentence.

    The text must continue after the sentence, because "3." may become "3.5".
    """
    answer = answer.strip()
    return not whole and len(first_sentence(answer)) < len(answer)


def stop_when_complete(text: Callable[[Sequence[int]], str], whole: Sequence[bool]) -> IsComplete:
    """Return a function that ends each answer of a batch as soon as `is_complete` is True.

    Args:
        text: decodes tokens, without special tokens.
        whole: [n] whether the whole answer is extracted, not only the first sentence.
    """
    return lambda row, token_ids: is_complete(text(token_ids), whole=whole[row])
