"""Read and validate sidecars. One error lists all faults of a file."""

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
from metadeploy.sidecar.verdict import VerdictHead, verdict_tensors

__all__ = ["Sidecar", "Tensors", "read_sidecar"]


class Tensors(Mapping[str, "NDArray[np.float32]"]):
    """The tensors of a sidecar by name; each access reads one and converts it to float32 (PyTorch order)."""

    def __init__(self, file: GGUFFile, shapes: Mapping[str, Shape]) -> None:
        """Wrap a parsed file; ``shapes`` are those of the layout, with the outer dimensions of 1 that files omit."""
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
        """Iterate over the names in file order."""
        return iter(self._file.tensors)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._file.tensors)


@dataclass(frozen=True)
class Sidecar:
    """A valid sidecar.

    Attributes:
        path: the file.
        config: the config of the wrapper.
        verdict: the verdict head; None if the sidecar has none.
        tensors: float32 arrays by sidecar name, converted lazily.
        metadata: all keys of the file with their plain values.
        oddities: notes about anything unusual that does no harm.
    """

    path: Path
    config: WrapperConfig
    tensors: Mapping[str, NDArray[np.float32]]
    metadata: Mapping[str, Any]
    oddities: tuple[str, ...]
    verdict: VerdictHead | None = None


def read_sidecar(path: str | Path) -> Sidecar:
    """Read and validate a sidecar.

    Args:
        path: GGUF file of architecture ``meta-spider`` or ``daimon``.

    Returns:
        The sidecar. Its file stays open as long as the object lives; tensors are read from it on demand.

    Raises:
        SidecarError: the file is not a valid sidecar; the message lists all faults.
    """
    examination = examine(path)
    if examination.faults or examination.config is None:
        raise SidecarError(faults_message(f"sidecar '{path}'", examination.faults))
    metadata = {key: value.value for key, value in examination.file.metadata.items()}
    tensors = Tensors(examination.file, expected_tensors(examination.dims))
    verdict = None
    if examination.verdict is not None:
        shapes = verdict_tensors(examination.verdict)
        weights = {name: examination.file.f32(name).reshape(shape) for name, shape in shapes.items()}
        verdict = VerdictHead(examination.verdict, weights)
    return Sidecar(Path(path), examination.config, tensors, metadata, examination.oddities, verdict)
