"""docs/performance-reports.md copies the reports in docs/results to the letter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from metadeploy.bench import Figure, Report, Spread
from metadeploy.bench.report import markdown

DOCS: Final = Path(__file__).parents[3] / "docs"
PAGE: Final = (DOCS / "performance-reports.md").read_text(encoding="utf-8")
REPORTS: Final = sorted((DOCS / "results").glob("performance-*.json"))


def figure(found: dict[str, Any]) -> Figure:
    sides = {name: Spread(**side) for name, side in found["sides"].items()}
    limit = tuple(found["limit"]) if found["limit"] else None
    return Figure(**{**found, "value": Spread(**found["value"]), "sides": sides, "limit": limit})


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_a_table_is_its_report(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    del found["schema"]
    figures = tuple(figure(each) for each in found.pop("figures"))
    notes = tuple(found.pop("notes"))
    report = Report(**found, figures=figures, notes=notes)
    assert markdown(report) in PAGE


def test_there_are_reports() -> None:
    assert len(REPORTS) >= 6
