"""Types of settings that several commands share. Standard library only."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["DType", "Quantization"]

#: Type of a base's weights in PyTorch.
DType: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
#: Type of a base's weights with bitsandbytes.
Quantization: TypeAlias = Literal["int8", "nf4", "fp4"]
