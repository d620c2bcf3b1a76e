"""What was collected, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metadeploy.training.records import Record

__all__ = ["CategoryShare", "SplitShare", "by_category", "by_split"]


@dataclass(frozen=True, kw_only=True)
class SplitShare:
    """One split.

    Attributes:
        split: its name.
        n: number of questions.
        base_accuracy: share that the base has right; None for an empty split.
        cut_off: share of the answers that the length limit cut off; None for an empty split.
    """

    split: str
    n: int
    base_accuracy: float | None
    cut_off: float | None


@dataclass(frozen=True, kw_only=True)
class CategoryShare:
    """One kind of question, over all splits.

    Attributes:
        category: its name.
        n: number of questions.
        base_accuracy: share that the base has right.
    """

    category: str
    n: int
    base_accuracy: float


def by_split(records: Mapping[str, Sequence[Record]]) -> list[SplitShare]:
    """Sum up each split."""
    return [
        SplitShare(
            split=name,
            n=len(found),
            base_accuracy=sum(record.correct for record in found) / len(found) if found else None,
            cut_off=sum(not record.complete for record in found) / len(found) if found else None,
        )
        for name, found in records.items()
    ]


def by_category(records: Mapping[str, Sequence[Record]]) -> list[CategoryShare]:
    """Sum up each category, the one that the base is best at first; those alike by name."""
    verdicts: dict[str, list[bool]] = {}
    for found in records.values():
        for record in found:
            verdicts.setdefault(record.question.category, []).append(record.correct)
    shares = [
        CategoryShare(category=name, n=len(right), base_accuracy=sum(right) / len(right))
        for name, right in verdicts.items()
    ]
    return sorted(shares, key=lambda share: (-share.base_accuracy, share.category))
