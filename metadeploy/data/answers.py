"""The part of an answer that is kept and judged: strings only, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metadeploy.data.checker import first_sentence

__all__ = ["ExtractedAnswer", "IsComplete", "extract_answer", "is_complete", "stop_when_complete"]

#: Whether an answer, given its place in the batch and its token ids so far, is complete enough for the purpose.
IsComplete = Callable[[int, Sequence[int]], bool]


@dataclass(frozen=True)
class ExtractedAnswer:
    """The part of an answer that is kept and judged.

    Attributes:
        text: the first sentence, or all of it.
        n_tokens: length of the shortest run of tokens that says it.
        complete: False where the length limit cut the answer off.
    """

    text: str
    n_tokens: int
    complete: bool


def extract_answer(
    token_ids: Sequence[int], text: Callable[[Sequence[int]], str], *, ended: bool, whole: bool = False
) -> ExtractedAnswer:
    """Find what of an answer is kept.

    Args:
        token_ids: the generated tokens.
        text: decodes tokens, special ones left out.
        ended: whether the model ended the answer.
        whole: keep all of it, and not only the first sentence.
    """
    said = text(token_ids).strip()
    kept = said if whole else first_sentence(said)
    length = len(token_ids)
    while length > 0 and text(token_ids[: length - 1]).strip().startswith(kept):
        length -= 1
    return ExtractedAnswer(kept, length, ended or len(said) > len(kept))


def is_complete(said: str, *, whole: bool = False) -> bool:
    """Whether all that is kept of an answer is there: its first sentence and one token more.

    One token past the end, because "3." may go on to be "3.5".
    """
    said = said.strip()
    return not whole and len(first_sentence(said)) < len(said)


def stop_when_complete(text: Callable[[Sequence[int]], str], whole: Sequence[bool]) -> IsComplete:
    """Ends each answer of a batch as soon as all that is kept of it is there.

    Args:
        text: decodes tokens, special ones left out.
        whole: [n] whether all of an answer is kept, and not only its first sentence.
    """
    return lambda row, token_ids: is_complete(text(token_ids), whole=whole[row])
