"""Element types against gguf's own implementations and against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf import quants as gguf_quants
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from metadeploy.sidecar.quants import SIDECAR_TYPES, TENSOR_TYPES, dequantize, nbytes_of, quantize

# zero, or large enough that the reciprocal of a block's scale is finite, as gguf's quantizer assumes
moderate = st.floats(-1e4, 1e4, width=32, allow_subnormal=False).map(lambda x: x if abs(x) > 1e-30 else 0.0)
matrices = arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.sampled_from((32, 64))), elements=moderate)


@given(matrices, st.sampled_from(SIDECAR_TYPES))
def test_same_bytes_as_gguf(values: np.ndarray, kind: str) -> None:
    stored = quantize(values, kind)
    theirs = gguf_quants.quantize(values, GGMLQuantizationType[kind])
    assert stored.nbytes == nbytes_of(kind, values.shape) == theirs.nbytes
    if kind == "Q8_0":
        # the scale must be the same; a value halfway between two steps may round either way
        mine, other = (x.reshape(-1, 34).view(np.uint8) for x in (stored, theirs))
        np.testing.assert_array_equal(mine[:, :2], other[:, :2])
        assert np.abs(mine[:, 2:].view(np.int8).astype(int) - other[:, 2:].view(np.int8)).max(initial=0) <= 1
    else:
        assert stored.tobytes() == theirs.tobytes()


@given(matrices, st.sampled_from(SIDECAR_TYPES))
def test_stored_values_are_a_fixed_point(values: np.ndarray, kind: str) -> None:
    once = dequantize(quantize(values, kind).view(np.uint8).reshape(-1), kind, values.shape)
    twice = dequantize(quantize(once, kind).view(np.uint8).reshape(-1), kind, values.shape)
    if kind == "Q8_0":
        np.testing.assert_allclose(twice, once, rtol=0, atol=np.abs(once).max() / 127)
    else:
        np.testing.assert_array_equal(twice, once)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0x3F800000, 0x3F80),  # 1.0
        (0x3F808000, 0x3F80),  # halfway, even below
        (0x3F818000, 0x3F82),  # halfway, even above
        (0x3F808001, 0x3F81),  # just above halfway
        (0xBF807FFF, 0xBF80),  # just below halfway, negative
        (0x00000001, 0x0000),  # the least subnormal
        (0x7F7F0000, 0x7F7F),  # the greatest BF16
    ],
)
def test_bf16_rounds_to_nearest_even(bits: int, expected: int) -> None:
    value = np.array([bits], np.uint32).view(np.float32)
    assert quantize(value, "BF16")[0] == expected


@pytest.mark.parametrize(("kind", "least"), [("F16", 65520.0), ("BF16", 3.3961775e38), ("Q8_0", 65520.0 * 127)])
def test_overflow_is_an_error(kind: str, least: float) -> None:
    values = np.zeros((1, 32), np.float32)
    values[0, 5] = -least
    with pytest.raises(OverflowError, match=f"too large for {kind}"):
        quantize(values, kind)
    values[0, 5] = -least * np.float32(0.999)
    assert np.isfinite(dequantize(quantize(values, kind).view(np.uint8).reshape(-1), kind, values.shape)).all()


def test_q8_0_of_zeros_and_tiny_values() -> None:
    for values in (np.zeros((2, 32), np.float32), np.full((2, 32), 1e-45, np.float32)):
        restored = dequantize(quantize(values, "Q8_0").reshape(-1), "Q8_0", values.shape)
        np.testing.assert_allclose(restored, values, atol=1e-7)


def test_sizes_are_ggmls() -> None:
    for number, name in TENSOR_TYPES.items():
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(number)]
        assert GGMLQuantizationType(number).name == name
        assert nbytes_of(name, (3, 2 * block)) == 3 * 2 * size
    assert nbytes_of("type 77", (4,)) is None


def test_impossible_conversions_are_errors() -> None:
    with pytest.raises(ValueError, match="rows of 33 elements cannot be Q8_0, expected a multiple of 32"):
        nbytes_of("Q8_0", (2, 33))
    with pytest.raises(ValueError, match="type Q4_K cannot be read"):
        dequantize(np.zeros(144, np.uint8), "Q4_K", (256,))
    with pytest.raises(ValueError, match="type Q4_K cannot be written"):
        quantize(np.zeros((1, 256), np.float32), "Q4_K")
