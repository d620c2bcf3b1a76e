"""200 answers were judged by hand: the checker still gives the recorded verdicts, and the page has the counts."""

from __future__ import annotations

import json
from pathlib import Path

from metadeploy.data import Question, is_correct

DOCS = Path(__file__).parents[3] / "docs"
ROWS = [json.loads(line) for line in (DOCS / "results" / "checker-by-hand.jsonl").read_text("utf-8").splitlines()]


def test_the_checker_gives_the_recorded_verdicts() -> None:
    for row in ROWS:
        question = Question(question=row["question"], answers=tuple(row["answers"]), category=row["category"])
        assert is_correct(question, row["answer"]) == row["checker"], row


def test_the_page_has_the_counts() -> None:
    called_right = [row for row in ROWS if row["checker"]]
    too_generous = [row for row in called_right if not row["by_hand"]]
    too_strict = [row for row in ROWS if row["by_hand"] and not row["checker"]]
    assert all(row["why"] for row in (*too_generous, *too_strict))
    page = " ".join((DOCS / "evaluation-method.md").read_text("utf-8").split())
    n_differ = len(too_generous) + len(too_strict)
    assert f"disagreed on {n_differ} of {len(ROWS)} ({100 * n_differ / len(ROWS):.1f} %," in page
    assert f"of {len(called_right)} answers that the rule called right, {len(too_generous)} are wrong" in page
    assert f"of {len(ROWS) - len(called_right)} that it called wrong, {len(too_strict)} are right" in page
