"""The version of metadeploy. Standard library only."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

__all__ = ["own_version"]

#: The file with the version in a source tree. It is read with a regex, because Python 3.10 has no TOML parser.
_PYPROJECT: Final = Path(__file__).resolve().parents[1] / "pyproject.toml"
_OURS: Final = re.compile(r'^\[project\]\nname = "metadeploy"\nversion = "([^"\n]+)"$', re.MULTILINE)


def own_version() -> str | None:
    """Return the version of the running code, from its source tree or from the installed package.

    Returns:
        A version such as ``0.2.0``; None for a copy of the package without either.
    """
    try:
        match = _OURS.search(_PYPROJECT.read_text(encoding="utf-8"))
    except OSError:
        match = None
    if match is not None:
        return match[1]
    try:
        return version("metadeploy")
    except PackageNotFoundError:
        return None
