"""GGUF files made byte by byte: independent of the code under test, and possibly invalid."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metadeploy.sidecar.spec import WrapperConfig

TYPES = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "arr": 9, "u64": 10}
CODES = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "B", "u64": "Q"}
F32, F16, Q4_0, Q8_0, BF16 = 0, 1, 2, 8, 30


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(kind: str, content: Any) -> bytes:
    """Return the bytes of a typed metadata value; ``[i32]`` is an array of i32."""
    if kind.startswith("["):
        inner = kind[1:-1]
        items = b"".join(plain(inner, item) for item in content)
        return struct.pack("<IIQ", TYPES["arr"], TYPES[inner], len(content)) + items
    return struct.pack("<I", TYPES[kind]) + plain(kind, content)


def plain(kind: str, content: Any) -> bytes:
    return text(content) if kind == "str" else struct.pack("<" + CODES[kind], content)


@dataclass
class Tensor:
    name: str
    shape: Sequence[int]  # PyTorch order
    data: bytes
    type: int = F32
    offset: int | None = None  # None: after the tensor before, padded

    @classmethod
    def f32(cls, name: str, array: NDArray[Any]) -> Tensor:
        return cls(name, array.shape, np.ascontiguousarray(array, "<f4").tobytes())


@dataclass
class Gguf:
    """A file under construction. Its counts can be wrong on purpose."""

    keys: list[tuple[str, str, Any]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    n_tensors: int | None = None
    n_kv: int | None = None
    alignment: int = 32

    def build(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_kv = len(self.keys) if self.n_kv is None else self.n_kv
        head = self.magic + struct.pack("<IQQ", self.version, n_tensors, n_kv)
        head += b"".join(text(key) + value(kind, content) for key, kind, content in self.keys)
        body = b""
        for tensor in self.tensors:
            offset = len(body) if tensor.offset is None else tensor.offset
            ne = tensor.shape[::-1]
            head += text(tensor.name) + struct.pack(f"<I{len(ne)}Q", len(ne), *ne)
            head += struct.pack("<IQ", tensor.type, offset)
            body += tensor.data + bytes(-len(tensor.data) % self.alignment)
        return head + bytes(-len(head) % self.alignment) + body

    def without(self, *keys: str) -> Gguf:
        self.keys = [entry for entry in self.keys if entry[0] not in keys]
        return self

    def with_key(self, key: str, kind: str, content: Any) -> Gguf:
        self.without(key).keys.append((key, kind, content))
        return self

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name)


def sidecar(config: WrapperConfig, tensors: Mapping[str, NDArray[Any]], *, prefix: str = "meta_spider") -> Gguf:
    """Return a sidecar like the framework's: its keys only, F32 only, without empty lists."""
    keys: list[tuple[str, str, Any]] = [
        ("general.architecture", "str", prefix.replace("_", "-")),
        (f"{prefix}.encoder_type", "str", config.encoder_type),
        (f"{prefix}.hidden_dim", "u32", config.hidden_dim),
        (f"{prefix}.bottleneck_dim", "u32", config.bottleneck_dim),
        (f"{prefix}.num_cognitive_tokens", "u32", config.num_cognitive_tokens),
        (f"{prefix}.ca_num_heads", "u32", config.ca_num_heads),
        (f"{prefix}.enc_num_heads", "u32", config.enc_num_heads),
        (f"{prefix}.gate_activation", "str", "tanh"),
    ]
    for name, layers in (("target_layers", config.target_layers), ("cross_attn_layers", config.cross_attn_layers)):
        if layers:
            keys.append((f"{prefix}.{name}", "[i32]", list(layers)))
    if config.encoder_type == "transformer":
        n_blocks = sum(name.endswith(".norm_attn.weight") for name in tensors)
        keys += [
            (f"{prefix}.encoder_dim", "u32", config.encoder_dim),
            (f"{prefix}.encoder_num_blocks", "u32", n_blocks),
            (f"{prefix}.use_layer_pos_embeddings", "u32", int("enc.layer_pos_embed" in tensors)),
        ]
        inner = len(tensors["enc.blocks.0.ffn.0.weight"])
        if inner % config.encoder_dim == 0:
            keys.append((f"{prefix}.encoder_ffn_expansion", "u32", inner // config.encoder_dim))
    return Gguf(keys, [Tensor.f32(name, array) for name, array in tensors.items()])
