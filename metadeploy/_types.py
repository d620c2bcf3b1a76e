"""Types of settings that several commands share. Standard library only."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

__all__ = ["SPLITS", "DType", "OutType", "Quantization", "Split"]

#: A part of a set of questions.
Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: Final[tuple[str, ...]] = get_args(Split)

#: Type of a base's weights in PyTorch.
DType: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
#: Type of a base's weights with bitsandbytes.
Quantization: TypeAlias = Literal["int8", "nf4", "fp4"]
#: Type of a sidecar's weight matrices.
OutType: TypeAlias = Literal["f32", "f16", "bf16", "q8_0"]
