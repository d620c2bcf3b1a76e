"""Compares matrix products of quantized weights on this machine with the same products in NumPy.

It covers every type that ggml can quantize to and every buffer type that llama.cpp's loader chooses from. If a kernel
is wrong on some processor, or only for some shapes, this check finds it before it causes a crash or a wrong answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Core",
    "Drawn",
    "Material",
    "Place",
    "Product",
    "Weight",
    "WeightType",
    "cut",
    "draw",
    "limit",
    "list_products",
    "list_weights",
    "worst_error",
]

Floats = NDArray[np.float32]

#: Lengths of a weight's rows: one, two and three blocks of 32, one of 256; SmolLM2's and Qwen2.5's widths; powers of 2.
WIDTHS: Final = (32, 64, 96, 256, 576, 896, 1024, 4096)
#: Rows of activations: one as in decoding, some as in batches, prompts around the tiles of 32 rows, a micro-batch.
ROWS: Final = (1, 8, 31, 32, 33, 64, 512)
#: Three-dimensional activations, as recurrent and hybrid models multiply them in batches: sequences, rows of each.
SEQUENCES: Final = ((2, 1), (3, 1), (2, 8), (3, 31), (2, 32), (3, 33), (2, 64))
#: Rows of a weight. AMX only takes multiples of 32, the repacked types take multiples of 4 to 16, plain types take any
#: number. SmolLM2's width also gets a square weight. One thread multiplies the first two numbers of rows, several
#: threads multiply the others and 64.
OUTPUTS: Final = (48, 64, 50)
_SQUARE: Final = 576
_ONE_THREAD: Final = (48, 64)
_SEVERAL_THREADS: Final = (64, 50, _SQUARE)
#: This many rows cost as much as all others together, so only one weight of each width multiplies them, with several
#: threads.
_MANY_ROWS: Final = 512
_MANY_ROWS_OUTPUTS: Final = 64
#: The numbers of rows for several threads, which divide the work in the same way for other numbers of rows.
_SHARED_ROWS: Final = (1, 32, 33, 64, _MANY_ROWS)
_SHARED_SEQUENCES: Final = ((2, 1), (3, 33))
#: A weight's rows repeat after this many. It is a prime, so a row of the wrong tile is a different row.
_DISTINCT: Final = 13
#: Types for which ggml prepares tables for up to 14 seconds before it quantizes. Except for the scale, any bits are
#: valid weights. So the bits are random, and the scale is set. The values are the number of bytes of a
#: block of 256 and the place of the scale: an F16 at the front, or four quarters in the highest bits of the last four
#: 16-bit words.
_DRAWN_AS_BITS: Final[Mapping[str, tuple[int, Literal["front", "quarters"]]]] = {
    "IQ1_S": (50, "front"),
    "IQ1_M": (56, "quarters"),
    "IQ2_XXS": (66, "front"),
    "IQ2_XS": (74, "front"),
    "IQ2_S": (82, "front"),
}

#: The largest allowed error of a product (``worst_error``). A wrong kernel has an error of about 1. A row has 48 to 576
#: values, so a single unrelated value causes an error of 0.04 to 0.003.
#:
#: The CPU rounds activations to `factor` before it multiplies; both sides use the same rounded weights. For normally
#: distributed activations, the rounding causes an error of
#: - in Q8_0 and Q8_1, blocks of 32 with a step of 1/127 of the largest: (2.3/127)² / 12 = 3e-5,
#: - in Q8_K, blocks of 256: (2.9/127)² / 12 = 4e-5,
#: - in F16, 11 bits: 4e-8, and 5e-6 if the processor also adds in F16 (Arm), - in BF16, 8 bits: 3e-6,
#: - in F32, only from the order of the sums: 1e-13.
#: The worst of thousands of rows has an error of a few times the mean.
_CPU_LIMITS: Final[Mapping[str, float]] = {"F32": 1e-9, "F16": 1e-4, "BF16": 1e-4}
_CPU_8_BITS: Final = 1e-3
#: GPUs choose by device and shape: F32 in 10 bits (TF32), F16 sums of thousands of terms, activations in 8 bits, and in
#: 4 bits for FP4 weights if the device multiplies FP4 (1e-2).
_GPU_LIMITS: Final[Mapping[str, float]] = {"F32": 1e-4, "MXFP4": 5e-2, "NVFP4": 5e-2}
_GPU: Final = 2e-3


class Probe(Protocol):
    """``metadeploy._core.MatmulProbe``: a weight in one place."""

    def takes(self, type: str, n_in: int, n_out: int) -> bool:
        """Whether the place takes the weight."""

    def load(self, type: str, n_in: int, rows: bytes) -> None:
        """Store the weight in the place."""

    def multiply(self, activations: Floats, n_threads: int) -> Floats | None:
        """Multiply F32 [n_seqs, n_rows, n_in] by the weight to F32 [n_seqs, n_rows, n_out]."""


class Core(Protocol):
    """The functions of ``metadeploy._core`` that are used here."""

    def build_info(self) -> dict[str, Any]:
        """Return the facts of the build of the core."""

    def devices(self) -> list[dict[str, Any]]:
        """Return the devices of ggml."""

    def weight_types(self) -> list[dict[str, Any]]:
        """Return the types that ggml can quantize to."""

    def weight_places(self) -> list[dict[str, Any]]:
        """Return the places where weights can be stored."""

    def quantize_rows(self, type: str, values: Floats) -> bytes:
        """Quantize F32 [n_out, n_in] to ggml's bytes."""

    def dequantize_rows(self, type: str, rows: bytes, n_in: int) -> Floats:
        """Dequantize ggml's bytes to F32 [n_out, n_in]."""

    def MatmulProbe(self, place: int) -> Probe:
        """Create a probe of the place with this number."""


@dataclass(frozen=True)
class WeightType:
    """A type that ggml can quantize to.

    Attributes:
        name: its name, such as ``Q4_1``.
        block: the length of a row must be a multiple of it.
        factor: the type to which the CPU rounds activations.
    """

    name: str
    block: int
    factor: str


@dataclass(frozen=True)
class Place:
    """A place where a weight can be stored.

    Attributes:
        number: its index in ``_core.weight_places()``.
        device: its device, such as ``CPU`` or ``CUDA0``.
        device_type: ``CPU``, ``GPU``, ``ACCEL`` …
        buffer_type: its buffer type, such as ``CPU_REPACK`` or ``AMX``.
    """

    number: int
    device: str
    device_type: str
    buffer_type: str

    def __str__(self) -> str:
        """Return the buffer type, and the device if the buffer type does not name it."""
        is_unique = self.device_type == "CPU" or self.buffer_type.startswith(self.device)
        return self.buffer_type if is_unique else f"{self.buffer_type} on {self.device}"


@dataclass(frozen=True)
class Weight:
    """A matrix [outputs, width] of a type, and where llama.cpp's loader would put it."""

    type: WeightType
    width: int
    outputs: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Product:
    """A weight in a place, multiplied with activations [sequences, rows, width] by some threads."""

    place: Place
    type: WeightType
    width: int
    outputs: int
    sequences: int
    rows: int
    threads: int

    def __str__(self) -> str:
        """Return text such as ``Q4_1, width 576, 48 outputs, 32 rows, 1 thread, buffer AMX``."""
        batch = f"{self.sequences} sequences of " if self.sequences > 1 else ""
        return (
            f"{self.type.name}, width {self.width}, {self.outputs} outputs, {batch}{self.rows} "
            f"row{'s' * (self.rows > 1)}, {self.threads} thread{'s' * (self.threads > 1)}, buffer {self.place}"
        )


@dataclass(frozen=True)
class Drawn:
    """Random data from which all weights and products of a type are cut.

    Attributes:
        activations: F32 [rows, width], as large as the largest product needs.
        data: rows of a weight in ggml's bytes, u8 [n, bytes].
        weights: the same rows F32 [n, width].
    """

    activations: Floats
    data: NDArray[np.uint8]
    weights: Floats


@dataclass(frozen=True)
class Material:
    """The factors of the products of one weight, and the expected products.

    Attributes:
        rows: the weight, in ggml's bytes.
        activations: F32 [rows, width].
        expected: F32 [rows, outputs].
    """

    rows: bytes
    activations: Floats
    expected: Floats


def list_weights(core: Core) -> list[Weight]:
    """Return every weight to check: all valid combinations of type, width and number of outputs.

    The places of a weight are only those that take it, because llama.cpp's loader would try the next place.
    """
    types = [WeightType(**fields) for fields in core.weight_types()]
    kinds = {device["name"]: device["type"] for device in core.devices()}
    places = [
        Place(number, fields["device"], kinds[fields["device"]], fields["buffer_type"])
        for number, fields in enumerate(core.weight_places())
    ]
    probes = {place: core.MatmulProbe(place.number) for place in places}
    weights = []
    for type_ in types:
        for width in (width for width in WIDTHS if width % type_.block == 0):
            for outputs in _outputs(width):
                taking = tuple(place for place in places if probes[place].takes(type_.name, width, outputs))
                weights.append(Weight(type_, width, outputs, taking))
    return weights


def _outputs(width: int) -> tuple[int, ...]:
    return (*OUTPUTS, _SQUARE) if width == _SQUARE else OUTPUTS


def list_products(weight: Weight, place: Place, threads: Sequence[int]) -> list[Product]:
    """Return the products to check for a weight in a place.

    Args:
        weight: the weight.
        place: one of its places.
        threads: numbers of threads, the largest one last.
    """
    takes_many_rows = weight.outputs == _MANY_ROWS_OUTPUTS
    single = [(1, rows) for rows in ROWS if rows != _MANY_ROWS] + list(SEQUENCES)
    shared = [(1, rows) for rows in _SHARED_ROWS if rows != _MANY_ROWS or takes_many_rows] + list(_SHARED_SEQUENCES)
    if place.device_type != "CPU":  # a device does not use the CPU's threads
        shapes = [(1, *shape) for shape in {**dict.fromkeys(single), **dict.fromkeys(shared)}]
    else:
        shapes = [(min(threads), *shape) for shape in single if weight.outputs in _ONE_THREAD]
        shapes += [(max(threads), *shape) for shape in shared if weight.outputs in _SEVERAL_THREADS]
    return [
        Product(place, weight.type, weight.width, weight.outputs, sequences, rows, n_threads)
        for n_threads, sequences, rows in shapes
    ]


def draw(core: Core, type_: WeightType) -> Drawn:
    """Draw random weights and activations with a fixed seed, and quantize the weights."""
    rng = np.random.default_rng(0)
    width = max(WIDTHS)
    activations = rng.standard_normal((max(ROWS), width), np.float32)
    if type_.name in _DRAWN_AS_BITS:
        data = _draw_bits(rng, type_, width)
    else:
        values = rng.standard_normal((_DISTINCT, width), np.float32)
        data = np.frombuffer(core.quantize_rows(type_.name, values), np.uint8).reshape(_DISTINCT, -1)
    return Drawn(activations, data, _dequantize(core, type_, data, width))


def _draw_bits(rng: np.random.Generator, type_: WeightType, width: int) -> NDArray[np.uint8]:
    """Draw rows of a type in ``_DRAWN_AS_BITS``, u8 [n, bytes]."""
    n_bytes, scale_at = _DRAWN_AS_BITS[type_.name]
    blocks = rng.integers(0, 256, (_DISTINCT, width // type_.block, n_bytes), np.uint8)
    scales = rng.uniform(0.05, 0.1, blocks.shape[:2]).astype("<f2")
    if scale_at == "front":
        blocks[..., :2] = scales[..., None].view(np.uint8)
    else:
        words = blocks[..., -8:].view("<u2")  # [n, blocks, 4]
        words &= 0x0FFF
        words |= (scales.view("<u2")[..., None] >> np.arange(0, 16, 4, dtype=np.uint16) & 0xF) << 12
    return blocks.reshape(_DISTINCT, -1)


def cut(sample: Drawn, weight: Weight) -> Material:
    """Cut a weight from the first columns, with repeated rows, and compute its products in NumPy."""
    n_bytes = sample.data.shape[1] * weight.width // sample.weights.shape[1]
    rows = np.arange(weight.outputs) % len(sample.data)
    activations = np.ascontiguousarray(sample.activations[:, : weight.width])
    products = activations @ sample.weights[:, : weight.width].T
    return Material(sample.data[rows, :n_bytes].tobytes(), activations, products[:, rows])


def _dequantize(core: Core, type_: WeightType, data: NDArray[np.uint8], width: int) -> Floats:
    """Return weights F32 [n, width], without compiled code if the package gguf knows the type."""
    import gguf

    try:
        weights = gguf.dequantize(data, gguf.GGMLQuantizationType[type_.name])
    except (KeyError, NotImplementedError):  # gguf does not know the type, or has no code for it
        weights = core.dequantize_rows(type_.name, data.tobytes(), width)
    return np.asarray(weights, np.float32).reshape(len(data), width)


def worst_error(product: Floats, expected: Floats) -> float:
    """Return the mean squared error over the mean square, of the worst row; not finite if a value is not finite.

    A row with small values is divided by the mean square of all rows, because its rounding errors are not smaller.

    Args:
        product: F32 [..., outputs].
        expected: F32 of as many values.
    """
    rows = expected.astype(np.float64).reshape(-1, product.shape[-1])
    difference = product.astype(np.float64).reshape(rows.shape) - rows
    squares = (rows**2).sum(axis=1)
    return float(np.max((difference**2).sum(axis=1) / np.maximum(squares, squares.mean())))


def limit(type_: WeightType, place: Place) -> float:
    """Return the largest allowed error of a product, as ``worst_error`` measures it."""
    if place.device_type in ("CPU", "ACCEL"):
        return _CPU_LIMITS.get(type_.factor, _CPU_8_BITS)
    return _GPU_LIMITS.get(type_.name, _GPU)
