"""docs/performance-reports.md repeats the reports in docs/results exactly."""

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


def figure(fields: dict[str, Any]) -> Figure:
    sides = {name: Spread(**side) for name, side in fields["sides"].items()}
    limit = tuple(fields["limit"]) if fields["limit"] else None
    return Figure(**{**fields, "value": Spread(**fields["value"]), "sides": sides, "limit": limit})


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_a_table_is_its_report(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["schema"]
    figures = tuple(figure(row) for row in content.pop("figures"))
    notes = tuple(content.pop("notes"))
    report = Report(**content, figures=figures, notes=notes)
    assert markdown(report) in PAGE


def test_there_are_reports() -> None:
    assert len(REPORTS) >= 6
