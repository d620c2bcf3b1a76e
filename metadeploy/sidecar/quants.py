"""Element types of tensors: their sizes, and gguf's conversion of the sidecars' four types from and to float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from numpy.typing import NDArray

__all__ = ["SIDECAR_TYPES", "TENSOR_TYPES", "dequantize", "nbytes_of", "quantize"]

#: ggml computes with these types, but no file stores them.
_NEVER_STORED: Final = frozenset({"Q8_1", "Q8_K"})
#: Names of types by their number in ggml. Base models can have other numbers.
TENSOR_TYPES: Final[dict[int, str]] = {
    int(kind): kind.name for kind in GGML_QUANT_SIZES if kind.name not in _NEVER_STORED
}

#: The types that a sidecar may have.
SIDECAR_TYPES: Final = ("F32", "F16", "BF16", "Q8_0")


def nbytes_of(kind: str, shape: Sequence[int]) -> int | None:
    """Return the size of a tensor in bytes.

    Args:
        kind: name of the type, such as ``Q8_0``.
        shape: shape in PyTorch order; the last dimension is the row.

    Returns:
        The size; None if the type is unknown.

    Raises:
        ValueError: a row is not a whole number of blocks.
    """
    if kind not in TENSOR_TYPES.values():
        return None
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    if shape[-1] % block:
        raise ValueError(f"rows of {shape[-1]} elements cannot be {kind}, expected a multiple of {block}")
    nbytes: int = math.prod(shape) // block * size
    return nbytes


def dequantize(raw: NDArray[np.uint8], kind: str, shape: Sequence[int]) -> NDArray[np.float32]:
    """Convert stored bytes to float32.

    Args:
        raw: the tensor's bytes, u8 ``[nbytes]``.
        kind: one of ``SIDECAR_TYPES``.
        shape: shape in PyTorch order.

    Returns:
        float32 of that shape: for F32 on little-endian machines a view if the bytes are aligned, otherwise a copy.

    Raises:
        ValueError: the type is not one of these.
    """
    if kind not in SIDECAR_TYPES:
        raise ValueError(f"type {kind} cannot be read as numbers, expected one of {', '.join(SIDECAR_TYPES)}")
    # a NaN or an infinite scale in a malformed file must not raise here: a later check reports it
    with np.errstate(invalid="ignore"):
        flat: NDArray[np.float32] = quants.dequantize(raw, GGMLQuantizationType[kind])
    return flat.reshape(tuple(shape))


def quantize(values: NDArray[np.float32], kind: str) -> NDArray[Any]:
    """Convert float32 to the stored form, rounded to nearest.

    Args:
        values: finite float32.
        kind: one of ``SIDECAR_TYPES``. For Q8_0, rows must be a multiple of 32.

    Returns:
        The stored form: f4, f2 or u2 (BF16) of the same shape; u1 ``[..., bytes per row]`` for Q8_0.

    Raises:
        OverflowError: a value is too large for the type.
        ValueError: the type is not one of these.
    """
    if kind not in SIDECAR_TYPES:
        raise ValueError(f"type {kind} cannot be written, expected one of {', '.join(SIDECAR_TYPES)}")
    # if a block of Q8_0 is too small for the reciprocal of its scale, its scale is 0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        stored: NDArray[Any] = quants.quantize(values, GGMLQuantizationType[kind])
    if kind == "BF16":
        stored = stored.view("<u2").reshape(values.shape)
    _check_finite(stored, values, kind)
    return stored


def _check_finite(stored: NDArray[Any], values: NDArray[np.float32], kind: str) -> None:
    if kind == "Q8_0":
        _, size = GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0]
        finite = np.isfinite(stored.reshape(-1, size)[:, :2].copy().view("<f2")).all()  # the scales of the blocks
    elif kind == "BF16":
        finite = ((stored & 0x7F80) != 0x7F80).all()
    else:
        finite = np.isfinite(stored).all()
    if not finite:
        raise OverflowError(f"has the value {np.abs(values).max():g}, too large for {kind}")
