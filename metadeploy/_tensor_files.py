"""Writes files of tensors (safetensors) atomically."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from metadeploy._files import replacing
from metadeploy.errors import Error

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["save_tensors"]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name. A missing folder is created.

    Args:
        path: the file.
        tensors: tensors of any shape and dtype, contiguous or not.
        metadata: metadata of the file.

    Raises:
        Error: safetensors failed to write the file; an old file is unchanged.
        OSError: the file cannot be written; an old file is unchanged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        try:
            # safetensors creates a file that only its owner may read; `replacing` sets the right mode
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)
        except SafetensorError as error:
            raise Error(f"file '{path}': cannot be written: {error}") from error
