"""Files of tensors (safetensors), written as a whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from metadeploy.errors import Error
from metadeploy.files import replacing

__all__ = ["save_tensors"]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name; the folder is made where it is missing.

    Args:
        path: the file.
        tensors: any shapes and dtypes; made contiguous.
        metadata: of the file.

    Raises:
        Error: they cannot be written; the file is as it was.
        OSError: the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        try:
            # safetensors replaces what is there by a file that only its owner may read; `replacing` mends the mode
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)
        except SafetensorError as error:
            raise Error(f"file '{path}': cannot be written: {error}") from error
