"""Which metadeploy this is. Standard library only."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

__all__ = ["own_version"]

#: Where the version is written, beside this package in a source tree; by no TOML parser, which Python 3.10 lacks.
_PYPROJECT: Final = Path(__file__).resolve().parents[1] / "pyproject.toml"
_OURS: Final = re.compile(r'^\[project\]\nname = "metadeploy"\nversion = "([^"\n]+)"$', re.MULTILINE)


def own_version() -> str | None:
    """The version of the code that runs: that of the source tree it is in, else of the installed package.

    Returns:
        As in ``0.2.0``; None for a copy of the package alone, which nobody can tell.
    """
    try:
        found = _OURS.search(_PYPROJECT.read_text(encoding="utf-8"))
    except OSError:
        found = None
    if found is not None:
        return found[1]
    try:
        return version("metadeploy")
    except PackageNotFoundError:
        return None
