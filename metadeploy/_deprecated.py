"""Keeps a documented module importable under its old name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["moved"]


def moved(old: str, new: str) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that takes names from another module and warns.

    Args:
        old: ``__name__`` of the module that is deprecated.
        new: the module that has the names now.
    """

    def getattribute(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        value = getattr(import_module(new), name)
        warnings.warn(f"{old} is deprecated, use {new}", DeprecationWarning, stacklevel=2)
        return value

    return getattribute
