"""Reading sidecars: everything is validated, and all that is wrong with a file is said at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metadeploy.errors import SidecarError, faults_message
from metadeploy.sidecar.examination import examine
from metadeploy.sidecar.gguf_file import GGUFFile
from metadeploy.sidecar.layout import Shape, expected_tensors
from metadeploy.sidecar.spec import WrapperConfig

__all__ = ["Sidecar", "Tensors", "read_sidecar"]


class Tensors(Mapping[str, "NDArray[np.float32]"]):
    """The tensors of a sidecar by name, converted to float32 (PyTorch order) each time one is asked for."""

    def __init__(self, file: GGUFFile, shapes: Mapping[str, Shape]) -> None:
        """Wrap a parsed file; ``shapes`` are those of the layout, with the outer dimensions of 1 that files drop."""
        self._file = file
        self._shapes = shapes

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return the tensor as float32; read-only if the file stores it as F32.

        Raises:
            SidecarError: the file has become shorter since.
        """
        values = self._file.f32(name)
        return values.reshape(self._shapes.get(name, values.shape))

    def __iter__(self) -> Iterator[str]:
        """Names in file order."""
        return iter(self._file.tensors)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._file.tensors)


@dataclass(frozen=True)
class Sidecar:
    """A valid sidecar.

    Attributes:
        path: the file.
        config: what the wrapper is.
        tensors: float32 arrays by sidecar name, converted lazily.
        metadata: every key of the file with its plain value.
        oddities: what is unusual about the file but does no harm.
    """

    path: Path
    config: WrapperConfig
    tensors: Mapping[str, NDArray[np.float32]]
    metadata: Mapping[str, Any]
    oddities: tuple[str, ...]


def read_sidecar(path: str | Path) -> Sidecar:
    """Read and validate a sidecar.

    Args:
        path: GGUF file of architecture ``meta-spider`` or ``daimon``.

    Returns:
        The sidecar. Its file stays open as long as the object lives; tensors are read from it on demand.

    Raises:
        SidecarError: the file is not such a sidecar; the message names every fault.
    """
    found = examine(path)
    if found.faults or found.config is None:
        raise SidecarError(faults_message(f"sidecar '{path}'", found.faults))
    metadata = {key: value.value for key, value in found.file.metadata.items()}
    tensors = Tensors(found.file, expected_tensors(found.dims))
    return Sidecar(Path(path), found.config, tensors, metadata, found.oddities)
