"""Summaries of the collected data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metadeploy.training.records import Record

__all__ = ["CategorySummary", "SplitSummary", "by_category", "by_split"]


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """One split.

    Attributes:
        split: its name.
        n: number of questions.
        base_accuracy: proportion of right answers; None for an empty split.
        cut_off: proportion of the answers that the length limit cut off; None for an empty split.
    """

    split: str
    n: int
    base_accuracy: float | None
    cut_off: float | None


@dataclass(frozen=True, kw_only=True)
class CategorySummary:
    """One category, over all splits.

    Attributes:
        category: its name.
        n: number of questions.
        base_accuracy: proportion of right answers.
    """

    category: str
    n: int
    base_accuracy: float


def by_split(records: Mapping[str, Sequence[Record]]) -> list[SplitSummary]:
    """Summarize each split."""
    return [
        SplitSummary(
            split=name,
            n=len(group),
            base_accuracy=sum(record.correct for record in group) / len(group) if group else None,
            cut_off=sum(not record.complete for record in group) / len(group) if group else None,
        )
        for name, group in records.items()
    ]


def by_category(records: Mapping[str, Sequence[Record]]) -> list[CategorySummary]:
    """Summarize each category, sorted by falling base accuracy, then by name."""
    verdicts: dict[str, list[bool]] = {}
    for group in records.values():
        for record in group:
            verdicts.setdefault(record.question.category, []).append(record.correct)
    summaries = [
        CategorySummary(category=name, n=len(correct), base_accuracy=sum(correct) / len(correct))
        for name, correct in verdicts.items()
    ]
    return sorted(summaries, key=lambda summary: (-summary.base_accuracy, summary.category))
