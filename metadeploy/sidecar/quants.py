"""Element types of tensors: sizes, and conversion of the four that sidecars use from and to float32.

Layouts are ggml's: BF16 is the upper half of a float32; Q8_0 stores blocks of 32 as an F16 scale and 32 signed bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIDECAR_TYPES", "TENSOR_TYPES", "dequantise", "nbytes_of", "quantise"]

#: ggml type number -> (name, elements per block, bytes per block). Other numbers are possible in base models.
_TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
TENSOR_TYPES: Final[dict[int, str]] = {number: name for number, (name, _, _) in _TYPES.items()}
_SIZES: Final[dict[str, tuple[int, int]]] = {name: (block, size) for name, block, size in _TYPES.values()}

#: The types that a sidecar may hold.
SIDECAR_TYPES: Final = ("F32", "F16", "BF16", "Q8_0")

_Q8_BLOCK: Final = 32
_Q8_DTYPE: Final = np.dtype([("scale", "<f2"), ("q", "i1", (_Q8_BLOCK,))])


def nbytes_of(kind: str, shape: Sequence[int]) -> int | None:
    """Bytes that a tensor takes.

    Args:
        kind: type name, e.g. ``Q8_0``.
        shape: PyTorch order; the last dimension is the row.

    Returns:
        The size, None where the type is unknown.

    Raises:
        ValueError: the row is not a whole number of blocks.
    """
    if kind not in _SIZES:
        return None
    block, size = _SIZES[kind]
    if shape[-1] % block:
        raise ValueError(f"rows of {shape[-1]} elements cannot be {kind}, expected a multiple of {block}")
    return math.prod(shape) // block * size


def dequantise(raw: NDArray[np.uint8], kind: str, shape: Sequence[int]) -> NDArray[np.float32]:
    """Stored bytes to float32.

    Args:
        raw: the tensor's bytes, u8 ``[nbytes]``.
        kind: one of ``SIDECAR_TYPES``.
        shape: PyTorch order.

    Returns:
        float32 of that shape; a view for F32 on little-endian machines where the bytes are aligned, else a copy.

    Raises:
        ValueError: another type.
    """
    flat: NDArray[Any]
    if kind == "F32":
        flat = raw.view("<f4")
    elif kind == "F16":
        flat = raw.view("<f2")
    elif kind == "BF16":
        flat = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    elif kind == "Q8_0":
        blocks = raw.view(_Q8_DTYPE)
        # a NaN or an infinite scale in a malformed file must come through, for the finiteness check to see it
        with np.errstate(invalid="ignore"):
            flat = blocks["scale"].astype(np.float32)[:, None] * blocks["q"].astype(np.float32)
    else:
        raise ValueError(f"type {kind} cannot be read as numbers, expected one of {', '.join(SIDECAR_TYPES)}")
    return flat.astype(np.float32, copy=False).reshape(tuple(shape))


def quantise(values: NDArray[np.float32], kind: str) -> NDArray[Any]:
    """Float32 to what is stored, rounded to nearest.

    Args:
        values: finite float32.
        kind: one of ``SIDECAR_TYPES``; Q8_0 needs rows of a multiple of 32.

    Returns:
        The stored form: f4, f2 or u2 (BF16) of the same shape; u1 ``[..., bytes per row]`` for Q8_0.

    Raises:
        OverflowError: some value is too large for the type.
        ValueError: another type.
    """
    if kind == "F32":
        return values.astype("<f4", copy=False)
    if kind == "F16":
        with np.errstate(over="ignore"):
            half = values.astype("<f2")
        _check_finite(half, values, "F16")
        return half
    if kind == "BF16":
        bits = values.astype(np.float32, copy=False).view(np.uint32)
        # round to nearest, ties to even, on the 16 bits that go
        rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")
        _check_finite((rounded.astype(np.uint32) << np.uint32(16)).view(np.float32), values, "BF16")
        return rounded
    if kind == "Q8_0":
        return _quantise_q8_0(values)
    raise ValueError(f"type {kind} cannot be written, expected one of {', '.join(SIDECAR_TYPES)}")


def _quantise_q8_0(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    rows = values.reshape(-1, _Q8_BLOCK)
    scale = np.abs(rows).max(axis=1) / np.float32(127)
    blocks = np.empty(len(rows), dtype=_Q8_DTYPE)
    with np.errstate(over="ignore"):
        blocks["scale"] = scale
    _check_finite(blocks["scale"], scale * np.float32(127), "Q8_0")
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > np.finfo(np.float32).tiny)
    scaled = rows * inverse[:, None]
    # half away from zero, as ggml rounds
    blocks["q"] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    return blocks.view(np.uint8).reshape(*values.shape[:-1], -1)


def _check_finite(stored: NDArray[Any], values: NDArray[np.float32], kind: str) -> None:
    if not np.isfinite(stored).all():
        raise OverflowError(f"has the value {np.abs(values).max():g}, too large for {kind}")
