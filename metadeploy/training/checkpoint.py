"""Deprecated: `metadeploy.reference.Doubter.save_checkpoint` writes checkpoints."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metadeploy.reference.doubter import Doubter

__all__ = ["save_checkpoint"]


def save_checkpoint(path: Path, doubter: Doubter) -> None:
    """Write a wrapper. Deprecated, use ``doubter.save_checkpoint(path)``."""
    warnings.warn(f"{__name__}.save_checkpoint is deprecated, use Doubter.save_checkpoint", DeprecationWarning, 2)
    doubter.save_checkpoint(path)
