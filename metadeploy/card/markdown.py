"""Text and figures as GitHub's and the hub's Markdown has them: whatever a name holds, it stays a name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from metadeploy import _exact

__all__ = ["code", "count", "escape", "image", "interval", "number", "p_value", "percent", "table", "value"]

#: What begins or ends a span, a cell, a formula or an entity; the rest means something at the start of a line only.
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|~#&$])")
#: What is undefined, as a share of nothing.
_NONE: Final = "–"


def escape(text: str) -> str:
    """Plain text inside a line: nothing in it is markup, and line ends are spaces."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """A code span, also for a cell of a table; its delimiter is longer than any run of backticks inside."""
    plain = " ".join(text.split()).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    padding = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{ticks}{padding}{plain}{padding}{ticks}"


def image(alternative: str, path: str) -> str:
    """An image; the path is relative, with forward slashes."""
    return f"![{escape(alternative)}]({quote(path)})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, n_text: int = 1) -> str:
    """A table of finished cells: so many columns of text to the left, then figures to the right."""
    aligned = [":--" if column < n_text else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, aligned, *rows))


def count(found: int) -> str:
    """A whole number: ``2,997``."""
    return f"{found:,}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1]: ``58.1%``."""
    return _NONE if share is None else f"{_exact.percent(share, digits)}%"


def number(found: float | None) -> str:
    """A figure without a unit, with three decimals."""
    return _NONE if found is None else f"{found:.3f}"


def value(row: Mapping[str, Any], key: str = "value", *, is_share: bool) -> str:
    """One figure of a row of the results."""
    return percent(row[key]) if is_share else number(row[key])


def interval(row: Mapping[str, Any], *, is_share: bool) -> str:
    """Both ends of a row's interval: ``55.0% to 61.2%``."""
    if row["low"] is None or row["high"] is None:
        return _NONE
    return f"{value(row, 'low', is_share=is_share)} to {value(row, 'high', is_share=is_share)}"


def p_value(found: float | None) -> str:
    """A p-value with three decimals."""
    if found is None:
        return _NONE
    return "< 0.001" if found < 0.001 else f"{found:.3f}"
