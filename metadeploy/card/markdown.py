"""Formats text as Markdown for GitHub and the hub. No character of a name is read as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote

__all__ = ["code", "escape", "image", "table"]

#: Characters that begin or end a span, a cell, a formula or an entity. Others are special only at the start of a line.
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|~#&$])")


def escape(text: str) -> str:
    """Escape plain text for use within a line. Line ends become spaces."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Format a code span, also in a table's cell. Its delimiter is longer than every run of backticks in the text."""
    content = " ".join(text.split()).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", content)), default=0))
    padding = " " if content.startswith("`") or content.endswith("`") else ""
    return f"{ticks}{padding}{content}{padding}{ticks}"


def image(alternative: str, path: str) -> str:
    """Format an image. The path is relative, with forward slashes."""
    return f"![{escape(alternative)}]({quote(path)})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, n_text: int = 1) -> str:
    """Format a table of finished cells. The first ``n_text`` columns are aligned left, the others right."""
    alignment = [":--" if column < n_text else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, alignment, *rows))
