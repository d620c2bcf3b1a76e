"""The files that the rungs are made of: the base in other types by llama.cpp, and the exported sidecars."""

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

__all__ = ["WorkFolder", "described_file", "matrix_types", "quantised_note"]

#: Types from which quantising loses no more than it must.
_UNQUANTISED: Final = frozenset({"F32", "F16", "BF16"})
#: Weights of one block of a K type; a row is stored in whole blocks.
_K_BLOCK: Final = 256


def matrix_types(base: Path) -> dict[str, int]:
    """How many of a base's matrices have which type, the most frequent first; norms and biases are left out.

    Raises:
        ModelLoadError: not a well-formed GGUF file.
    """
    return dict(Counter(matrix.type for matrix in _matrices(base)).most_common())


def _matrices(base: Path) -> list[TensorInfo]:
    return [tensor for tensor in read_gguf(base, role="base model").tensors.values() if len(tensor.shape) > 1]


def quantised_note(base: Path, types: dict[str, int]) -> str | None:
    """What is to be said of a base that is quantised already; None where it is not."""
    if types.keys() <= _UNQUANTISED:
        return None
    return (
        f"base '{base.name}': has weights of type {', '.join(types)}, expected F32, F16 or BF16: quantising them again "
        "loses more than quantising the original would, and the reference is this file's weights, dequantised"
    )


def described_file(path: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of a base, and what it is made of, ready for JSON.

    A file type such as Q4_K_M is a recipe: llama.cpp gives some matrices a larger type, and cannot give a K type to a
    matrix whose rows are no multiple of 256. So the types are read from the file's own tensors.

    Returns:
        As `identity`, and ``matrices``: how many have which type; ``weights``: the share of all weights in matrices
        that each type holds, in (0, 1]; ``no_k_type``: how many matrices cannot have a K type.

    Raises:
        ModelLoadError: not a well-formed GGUF file.
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
    """Where the files of the rungs lie, made when they are first asked for.

    A quantised base is named after its type and the file that it comes from. It gets that name when it is complete, so
    one that is there need not be made again.

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
        """Prepare; the folder is made with the first file.

        Args:
            path: the folder.
            keep: False deletes each base once its rungs are done, and the folder in the end.
            base: what is quantised.
            base_sha256: of that file.
            checkpoint: what is exported.
            threads: of the quantisation; None for as many as there are.
            refusal_text: of the sidecars, where the checkpoint does not say it.
        """
        self.path = path
        self._keep, self._base, self._checkpoint, self._threads = keep, base, checkpoint, threads
        self._refusal_text = refusal_text
        self._stem = f"{base.stem}-{base_sha256[:8]}"
        types = list(matrix_types(base))
        self._own_type = types[0] if len(types) == 1 and types[0] in _UNQUANTISED else None

    def base_path(self, kind: str) -> Path:
        """Where the base of a type is to be found: the original where it has that type."""
        return self._base if kind == self._own_type else self.path / f"{self._stem}-{kind}.gguf"

    def base(self, kind: str) -> Path:
        """The base in a type.

        Raises:
            ModelLoadError: llama.cpp cannot quantise it.
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
        """The sidecar in a type; exported anew each time, which takes no time.

        Raises:
            CheckpointError: the checkpoint cannot be used.
            SidecarError: a value does not fit the type.
            Error: the base has its place.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        target = self.path / f"sidecar-{kind}.gguf"
        refuse_overwriting(target, self._base, what="sidecar")
        return export(self._checkpoint, output=target, outtype=kind, refusal_text=self._refusal_text, force=True).path

    def release(self, kind: str) -> None:
        """Say that the base of a type is needed no more."""
        if not self._keep and self.base_path(kind) != self._base:
            self.base_path(kind).unlink(missing_ok=True)

    def close(self) -> None:
        """Say that nothing is needed any more."""
        if not self._keep:
            shutil.rmtree(self.path, ignore_errors=True)
