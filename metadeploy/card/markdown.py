"""Text as GitHub's and the hub's Markdown has them: whatever a name holds, it stays a name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote

__all__ = ["code", "escape", "image", "table"]

#: What begins or ends a span, a cell, a formula or an entity; the rest means something at the start of a line only.
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|~#&$])")


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
