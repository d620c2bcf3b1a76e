"""The files of the rungs: the base, quantized by llama.cpp, and the exported sidecars."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Final

from metadeploy import _core
from metadeploy._files import refuse_overwriting
from metadeploy._types import OutType
from metadeploy.errors import Error, ModelLoadError
from metadeploy.evaluation.loading import identity
from metadeploy.export import export
from metadeploy.sidecar.gguf_file import TensorInfo, read_gguf

__all__ = ["WorkFolder", "describe_file", "matrix_types", "quantized_note"]

#: Types that are not quantized. Quantizing weights of other types loses more.
_UNQUANTIZED: Final = frozenset({"F32", "F16", "BF16"})
#: Weights of one block of a K type; a row is stored in whole blocks.
_K_BLOCK: Final = 256


def matrix_types(base: Path) -> dict[str, int]:
    """Count a base's matrices of each type, the most frequent type first, without norms and biases.

    Raises:
        ModelLoadError: the file is not a well-formed GGUF.
    """
    return dict(Counter(matrix.type for matrix in _matrices(base)).most_common())


def _matrices(base: Path) -> list[TensorInfo]:
    return [tensor for tensor in read_gguf(base, role="base model").tensors.values() if len(tensor.shape) > 1]


def quantized_note(base: Path, types: dict[str, int]) -> str | None:
    """Return a warning if a base is already quantized, otherwise None."""
    if types.keys() <= _UNQUANTIZED:
        return None
    return (
        f"base '{base.name}': has weights of type {', '.join(types)}, expected F32, F16 or BF16: quantizing them again "
        "loses more than quantizing the original, and the reference has this file's weights, dequantized"
    )


def describe_file(path: Path) -> dict[str, Any]:
    """Describe a base: name, size, SHA-256, and the types of its tensors, ready for JSON.

    A file type such as Q4_K_M is a recipe: llama.cpp gives some matrices a larger type, and cannot give a K type to a
    matrix whose rows are not a multiple of 256. So the types are read from the file's own tensors.

    Returns:
        The keys of `identity`, and ``matrices``: number of matrices by type; ``weights``: proportion of the matrices'
        weights by type, in (0, 1]; ``no_k_type``: number of matrices that cannot have a K type.

    Raises:
        ModelLoadError: the file is not a well-formed GGUF.
    """
    types = matrix_types(path)
    weights: Counter[str] = Counter()
    for matrix in (matrices := _matrices(path)):
        weights[matrix.type] += matrix.size
    return {
        **identity(path),
        "matrices": types,
        "weights": {kind: weights[kind] / weights.total() for kind in types},
        "no_k_type": sum(matrix.shape[-1] % _K_BLOCK != 0 for matrix in matrices),
    }


class WorkFolder:
    """The folder with the files of the rungs, which are created when they are first needed.

    The name of a quantized base has its type and the name of the original file. The file gets this name when it is
    complete, so an existing file can be used.

    Attributes:
        path: the folder.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep: bool,
        base: Path,
        base_sha256: str,
        checkpoint: Path,
        threads: int | None,
        refusal_text: str | None = None,
    ) -> None:
        """Prepare. The folder is created with the first file.

        Args:
            path: the folder.
            keep: False deletes each base when its rungs are finished, and the folder at the end.
            base: the base to quantize.
            base_sha256: SHA-256 of this file.
            checkpoint: the checkpoint to export.
            threads: threads for quantizing; None for all CPUs.
            refusal_text: refusal of the sidecars, if the checkpoint does not have one.
        """
        self.path = path
        self._keep, self._base, self._checkpoint, self._threads = keep, base, checkpoint, threads
        self._refusal_text = refusal_text
        self._stem = f"{base.stem}-{base_sha256[:8]}"
        types = list(matrix_types(base))
        self._own_type = types[0] if len(types) == 1 and types[0] in _UNQUANTIZED else None

    def base_path(self, kind: str) -> Path:
        """Return the path of the base in a type: the original, if it has this type."""
        return self._base if kind == self._own_type else self.path / f"{self._stem}-{kind}.gguf"

    def base(self, kind: str) -> Path:
        """Return the base in a type. Quantize it if the file does not exist.

        Raises:
            ModelLoadError: llama.cpp cannot quantize it.
        """
        path = self.base_path(kind)
        if not path.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                _core.quantize(str(self._base), str(path), kind, self._threads or 0)
            except Error as error:
                raise ModelLoadError(f"base model '{self._base}': {error}") from error
        return path

    def sidecar(self, kind: OutType) -> Path:
        """Export the sidecar in a type, every time, because this is fast.

        Raises:
            CheckpointError: the checkpoint cannot be used.
            SidecarError: a value does not fit the type.
            Error: the base has the same path.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        target = self.path / f"sidecar-{kind}.gguf"
        refuse_overwriting(target, self._base, what="sidecar")
        return export(self._checkpoint, output=target, outtype=kind, refusal_text=self._refusal_text, force=True).path

    def release(self, kind: str) -> None:
        """Delete the base in a type, unless the files are kept."""
        if not self._keep and self.base_path(kind) != self._base:
            self.base_path(kind).unlink(missing_ok=True)

    def close(self) -> None:
        """Delete the folder, unless the files are kept."""
        if not self._keep:
            shutil.rmtree(self.path, ignore_errors=True)
