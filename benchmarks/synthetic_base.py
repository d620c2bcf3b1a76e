"""Write a base with the exact shape of Qwen3.5-4B and random weights, in the types of Q4_K_M.

    python benchmarks/synthetic_base.py [--folder FOLDER] [--shape qwen3.5-4b|tiny]

The cost of a model depends on its shapes and types, not on the values of its weights. The file has no vocabulary, so it
cannot process text. It takes 2.7 GB, is written in seconds, and goes to metadeploy's cache folder by default.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray

from metadeploy._files import replacing
from metadeploy.demo.assets import cache_dir

F32, Q4_K, Q6_K = GGMLQuantizationType.F32, GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q6_K
ARCH: Final = "qwen35"

_BLOCK: Final = 256
#: ggml's layouts of blocks of 256 weights
_LAYOUT: Final = {
    Q4_K: np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("q", "u1", 128)]),
    Q6_K: np.dtype([("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), ("d", "<f2")]),
}
#: every fourth block has full attention, the others are gated DeltaNet
_FULL_ATTENTION_INTERVAL: Final = 4


@dataclass(frozen=True)
class Shape:
    """Hyperparameters of llama.cpp's ``qwen35``."""

    n_block: int = 32
    n_embd: int = 2560
    n_ff: int = 9216
    n_head: int = 16
    n_head_kv: int = 4
    head_dim: int = 256
    n_key_head: int = 16
    n_value_head: int = 32
    state_dim: int = 128
    n_conv: int = 4
    n_rot: int = 64
    n_vocab: int = 248320

    @property
    def n_inner(self) -> int:
        """Width of a DeltaNet's values."""
        return self.n_value_head * self.state_dim

    @property
    def n_mixed(self) -> int:
        """Width of its queries, keys and values."""
        return 2 * self.n_key_head * self.state_dim + self.n_inner


SHAPES: Final = {
    "qwen3.5-4b": Shape(),
    "tiny": Shape(
        n_block=8,
        n_embd=256,
        n_ff=512,
        n_head=2,
        n_head_kv=1,
        head_dim=128,
        n_key_head=2,
        n_value_head=4,
        state_dim=64,
        n_rot=32,
        n_vocab=512,
    ),
}


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], GGMLQuantizationType]]:
    """Yield name, shape (rows first) and type of every tensor."""
    yield "token_embd.weight", (shape.n_vocab, shape.n_embd), Q6_K  # also the output matrix
    yield "output_norm.weight", (shape.n_embd,), F32
    for block in range(shape.n_block):
        for name, dims in _block(shape, block).items():
            yield f"blk.{block}.{name}", dims, _type(name, dims, block, shape.n_block)


def _block(shape: Shape, block: int) -> dict[str, tuple[int, ...]]:
    d = shape.n_embd
    mixer: dict[str, tuple[int, ...]]
    if (block + 1) % _FULL_ATTENTION_INTERVAL == 0:
        query, key = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
        mixer = {
            "attn_q.weight": (2 * query, d),  # including the output gate
            "attn_k.weight": (key, d),
            "attn_v.weight": (key, d),
            "attn_output.weight": (d, query),
            "attn_q_norm.weight": (shape.head_dim,),
            "attn_k_norm.weight": (shape.head_dim,),
        }
    else:
        mixer = {
            "attn_qkv.weight": (shape.n_mixed, d),
            "attn_gate.weight": (shape.n_inner, d),
            "ssm_conv1d.weight": (shape.n_mixed, shape.n_conv),
            "ssm_dt.bias": (shape.n_value_head,),
            "ssm_a": (shape.n_value_head,),
            "ssm_beta.weight": (shape.n_value_head, d),
            "ssm_alpha.weight": (shape.n_value_head, d),
            "ssm_norm.weight": (shape.state_dim,),
            "ssm_out.weight": (d, shape.n_inner),
        }
    return {
        "attn_norm.weight": (d,),
        **mixer,
        "post_attention_norm.weight": (d,),
        "ffn_gate.weight": (shape.n_ff, d),
        "ffn_up.weight": (shape.n_ff, d),
        "ffn_down.weight": (d, shape.n_ff),
    }


def _type(name: str, dims: tuple[int, ...], block: int, n_block: int) -> GGMLQuantizationType:
    """Return the type that llama.cpp's quantizer chooses; a test compares them."""
    if len(dims) == 1 or name.startswith("ssm_conv1d"):
        return F32
    eighth = n_block // 8
    larger = block < eighth or block >= 7 * n_block // 8 or (block - eighth) % 3 == 2
    return Q6_K if larger and name.startswith(("attn_v.", "attn_qkv.", "ffn_down.")) else Q4_K


def _float_tensor(name: str, dims: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a tensor that stays F32. DeltaNet's states decay over some 10 to 1000 tokens."""
    if name.endswith("ssm_a"):
        return -rng.uniform(0.5, 4.0, dims).astype(np.float32)
    if name.endswith("ssm_dt.bias"):
        return rng.uniform(-6.0, -3.0, dims).astype(np.float32)
    if name.endswith("ssm_conv1d.weight"):
        return rng.normal(0.0, 0.5, dims).astype(np.float32)
    return np.ones(dims, np.float32)


def _quantized(dims: tuple[int, ...], kind: GGMLQuantizationType, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a matrix of random blocks: weights of mean 0 that keep the scale of the activations."""
    n_rows, n_row = dims
    layout = _LAYOUT[kind]
    n_bytes = n_rows * n_row // _BLOCK * layout.itemsize
    words = rng.integers(0, np.iinfo(np.uint64).max, size=-(-n_bytes // 8), dtype=np.uint64, endpoint=True)
    data = words.view(np.uint8)[:n_bytes]
    blocks: NDArray[Any] = data.view(layout)
    std = 1 / math.sqrt(n_row)
    if kind == Q4_K:
        # weight = d * 15 * q - dmin * 15, q from 0 to 15: eight scales and minima of 6 bits, all of them 15
        blocks["scales"][:, :8], blocks["scales"][:, 8:] = 15, 0xFF
        blocks["d"] = std / (15 * math.sqrt((16**2 - 1) / 12))
        blocks["dmin"] = blocks["d"] * 7.5
    else:
        # weight = d * scale * (q - 32), q from 0 to 63
        blocks["scales"] = 4
        blocks["d"] = std / (4 * math.sqrt((64**2 - 1) / 12))
    return data.reshape(n_rows, -1)


def _add_keys(writer: GGUFWriter, shape: Shape) -> None:
    writer.add_name("Random weights of the shape of Qwen3.5-4B" if shape == SHAPES["qwen3.5-4b"] else "Random weights")
    writer.add_block_count(shape.n_block)
    writer.add_context_length(262144)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e7)
    writer.add_rope_dimension_count(shape.n_rot)
    third = shape.n_rot // 2 // 3
    writer.add_rope_dimension_sections([third, third, shape.n_rot // 2 - 2 * third, 0])
    writer.add_ssm_conv_kernel(shape.n_conv)
    writer.add_ssm_state_size(shape.state_dim)
    writer.add_ssm_group_count(shape.n_key_head)
    writer.add_ssm_time_step_rank(shape.n_value_head)
    writer.add_ssm_inner_size(shape.n_inner)
    writer.add_uint32(f"{ARCH}.full_attention_interval", _FULL_ATTENTION_INTERVAL)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_quantization_version(GGML_QUANT_VERSION)


def write_base(path: Path, shape: Shape, *, seed: int = 0) -> None:
    """Write the file atomically."""
    rng = np.random.Generator(np.random.SFC64(seed))
    with replacing(path) as temporary, closing(GGUFWriter(temporary, ARCH)) as writer:
        _add_keys(writer, shape)
        for name, dims, kind in tensors(shape):
            layout = _LAYOUT.get(kind)
            n_bytes = math.prod(dims) * 4 if layout is None else math.prod(dims) // _BLOCK * layout.itemsize
            writer.add_tensor_info(name, dims, np.dtype(np.float32), n_bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, dims, kind in tensors(shape):
            writer.write_tensor_data(_float_tensor(name, dims, rng) if kind == F32 else _quantized(dims, kind, rng))


def synthetic_base(folder: Path, shape: str) -> Path:
    """Return the file in a folder; write it if it does not exist."""
    path = folder / f"synthetic-{shape}-Q4_K_M.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_base(path, SHAPES[shape])
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=cache_dir(), help="output folder (default: %(default)s)")
    parser.add_argument("--shape", choices=SHAPES, default="qwen3.5-4b")
    arguments = parser.parse_args()
    print(synthetic_base(arguments.folder, arguments.shape))


if __name__ == "__main__":
    main()
