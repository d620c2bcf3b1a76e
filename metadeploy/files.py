"""Files: written as a whole or not at all, and told apart by their content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

__all__ = ["sha256", "write_atomically"]

_CHUNK: Final = 1 << 20


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there as a whole or not at all; its folder is made where it is missing.

    A link stays one. What is no file, such as ``/dev/stdout``, is written to and not replaced.
    """
    written = content.encode() if isinstance(content, str) else content
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(written)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(written)
    os.replace(temporary, path)


def sha256(path: Path) -> str:
    """Hex digest of a file, of whatever size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
