"""Random tiny models of architectures with memories of every kind, written as GGUF and made in milliseconds.

They serve to compare the runtime with itself: only for mamba does transformers have an equal model in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gguf
import numpy as np

from support.gguf_tools import TINY_VOCAB_SIZE, add_byte_vocabulary

WIDTH: Final = 64
NUM_LAYERS: Final = 6
FFN: Final = 96
WINDOW: Final = 16

Metadata = Mapping[str, "int | float | list[bool] | list[int]"]
F32 = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
#: names (``.weight`` is added if there is no dot) and shapes, rows first
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Arch:
    """The metadata and tensors of one architecture in llama.cpp.

    Attributes:
        metadata: keys without the architecture's name, besides those that all have.
        block: tensors of block i.
        top: tensors outside of the blocks, besides those that all have.
        tied: the allowed choices: True if the embedding can also be the output matrix, False if that can be another
            matrix. The first is the default.
        name: llama.cpp's name. None: the key in the tables below.
    """

    metadata: Metadata
    block: Callable[[int], Shapes]
    top: Shapes
    tied: tuple[bool, ...] = (False,)
    name: str | None = None


def _attention(head_dim: int, *, key_value: bool = True) -> Shapes:
    """2 heads, 1 for keys and values."""
    shapes: Shapes = {"attn_q": (2 * head_dim, WIDTH), "attn_output": (WIDTH, 2 * head_dim)}
    return shapes | ({"attn_k": (head_dim, WIDTH), "attn_v": (head_dim, WIDTH)} if key_value else {})


def _gemma_block(head_dim: int, *, key_value: bool = True) -> Shapes:
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    ffn: Shapes = {"ffn_gate": (FFN, WIDTH), "ffn_up": (FFN, WIDTH), "ffn_down": (WIDTH, FFN)}
    return {name: (WIDTH,) for name in norms} | _attention(head_dim, key_value=key_value) | ffn


def _dense_block(_: int) -> Shapes:
    ffn: Shapes = {"ffn_gate": (FFN, WIDTH), "ffn_up": (FFN, WIDTH), "ffn_down": (WIDTH, FFN)}
    return {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)} | _attention(32) | ffn


def _moe_block(_: int) -> Shapes:
    experts: Shapes = {
        "ffn_gate_inp": (EXPERTS, WIDTH),
        "ffn_gate_exps": (EXPERTS, FFN, WIDTH),
        "ffn_up_exps": (EXPERTS, FFN, WIDTH),
        "ffn_down_exps": (EXPERTS, WIDTH, FFN),
    }
    return {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)} | _attention(32) | experts


def _gemma3_block(_: int) -> Shapes:
    return _gemma_block(32) | {"attn_q_norm": (32,), "attn_k_norm": (32,)}


def _qwen35_block(i: int) -> Shapes:
    """Every third block attends to all tokens. The others are gated DeltaNet with 2 key heads and 4 value heads."""
    ffn: Shapes = {"ffn_gate": (FFN, WIDTH), "ffn_up": (FFN, WIDTH), "ffn_down": (WIDTH, FFN)}
    block: Shapes = {"attn_norm": (WIDTH,), "post_attention_norm": (WIDTH,)} | ffn
    if i % 3 == 2:
        gated = {"attn_q": (2 * 2 * 32, WIDTH)}
        return block | _attention(32) | gated | {"attn_q_norm": (32,), "attn_k_norm": (32,)}
    keys, values = 2 * 16, 4 * 16
    return block | {
        "attn_qkv": (2 * keys + values, WIDTH),
        "attn_gate": (values, WIDTH),
        "ssm_conv1d": (2 * keys + values, 4),
        "ssm_dt.bias": (4,),
        "ssm_a.": (4,),
        "ssm_beta": (4, WIDTH),
        "ssm_alpha": (4, WIDTH),
        "ssm_norm": (16,),
        "ssm_out": (WIDTH, values),
    }


def _gemma4_block(i: int) -> Shapes:
    head_dim, key_value = (16 if GEMMA4_WINDOWED[i] else 32), i < GEMMA4_FIRST_SHARED
    block = _gemma_block(head_dim, key_value=key_value)
    block |= {"attn_q_norm": (head_dim,)} | ({"attn_k_norm": (head_dim,)} if key_value else {})
    return block | {"inp_gate": (8, WIDTH), "proj": (WIDTH, 8), "post_norm": (WIDTH,)}


def _mamba_block(_: int) -> Shapes:
    inner, state, rank = 2 * WIDTH, 8, 4
    return {
        "attn_norm": (WIDTH,),
        "ssm_in": (2 * inner, WIDTH),
        "ssm_conv1d": (inner, 4),
        "ssm_conv1d.bias": (inner,),
        "ssm_x": (rank + 2 * state, inner),
        "ssm_dt": (inner, rank),
        "ssm_dt.bias": (inner,),
        "ssm_a.": (inner, state),
        "ssm_d.": (inner,),
        "ssm_out": (WIDTH, inner),
    }


def _rwkv7_block(_: int) -> Shapes:
    rank = 8
    norms: Shapes = {
        f"{n}{part}": (WIDTH,) for n in ("attn_norm", "attn_norm_2", "time_mix_ln") for part in ("", ".bias")
    }
    vectors: Shapes = {f"time_mix_{n}": (WIDTH,) for n in ("w0", "a0", "v0", "k_k", "k_a", "r_k")}
    low_rank: Shapes = {}
    for name in "wavg":
        low_rank |= {f"time_mix_{name}1": (rank, WIDTH), f"time_mix_{name}2": (WIDTH, rank)}
    squares: Shapes = {f"time_mix_{n}": (WIDTH, WIDTH) for n in ("key", "value", "receptance", "output")}
    mixes: Shapes = {"time_mix_lerp_fused": (6, 1, 1, WIDTH), "channel_mix_lerp_k": (1, 1, WIDTH)}
    channel: Shapes = {"channel_mix_key": (FFN, WIDTH), "channel_mix_value": (WIDTH, FFN)}
    return norms | vectors | low_rank | squares | mixes | channel


EXPERTS: Final = 4

#: the last three of Gemma 4's blocks read the keys and values of block 1 (window) and 2 (no window)
GEMMA4_WINDOWED: Final = [True, True, False, True, True, False]
GEMMA4_FIRST_SHARED: Final = 3

_HEADS: Final[Metadata] = {
    "attention.head_count": 2,
    "attention.head_count_kv": 1,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.sliding_window": WINDOW,
    "attention.key_length": 32,
    "attention.value_length": 32,
}

ARCHS: Final[dict[str, Arch]] = {
    # every other block attends to a window only
    "gemma2": Arch(_HEADS, lambda _: _gemma_block(32), {}, tied=(True,)),
    # the same, and upper blocks read the cache of lower ones
    "gemma4": Arch(
        {
            **_HEADS,
            "attention.sliding_window_pattern": GEMMA4_WINDOWED,
            "attention.shared_kv_layers": NUM_LAYERS - GEMMA4_FIRST_SHARED,
            "attention.key_length_swa": 16,
            "attention.value_length_swa": 16,
            "embedding_length_per_layer_input": 8,
            "rope.dimension_count": 32,
            "rope.dimension_count_swa": 16,
        },
        _gemma4_block,
        {
            "per_layer_token_embd": (TINY_VOCAB_SIZE, 8 * NUM_LAYERS),
            "per_layer_model_proj": (8 * NUM_LAYERS, WIDTH),
            "per_layer_proj_norm": (8,),
            "rope_freqs": (16,),
        },
        tied=(False, True),
    ),
    # a state instead of keys and values
    "mamba": Arch(
        {
            "attention.layer_norm_rms_epsilon": 1e-5,
            "attention.head_count": 0,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 2 * WIDTH,
            "ssm.state_size": 8,
            "ssm.time_step_rank": 4,
        },
        _mamba_block,
        {},
        tied=(False, True),
    ),
    # the same, and all blocks read values that the first one computes from its state
    "rwkv7": Arch(
        {
            "attention.layer_norm_epsilon": 1e-5,
            "attention.head_count": 0,
            "attention.decay_lora_rank": 8,
            "attention.iclr_lora_rank": 8,
            "attention.value_residual_mix_lora_rank": 8,
            "attention.gate_lora_rank": 8,
            "wkv.head_size": 64,
            "token_shift_count": 2,
        },
        _rwkv7_block,
        {"token_embd_norm": (WIDTH,), "token_embd_norm.bias": (WIDTH,), "output_norm.bias": (WIDTH,)},
    ),
}


#: the architectures that ``tiny_models`` also makes in PyTorch, with the small vocabulary; and one with experts
SMALL_ARCHS: Final[dict[str, Arch]] = {
    "small_llama": Arch({**_HEADS, "rope.dimension_count": 32}, _dense_block, {}, tied=(False, True), name="llama"),
    "small_gemma3": Arch(
        {**_HEADS, "attention.sliding_window_pattern": 3}, _gemma3_block, {}, tied=(True, False), name="gemma3"
    ),
    "small_qwen35": Arch(
        {
            **_HEADS,
            "rope.dimension_count": 32,
            "rope.dimension_sections": [6, 5, 5, 0],
            "full_attention_interval": 3,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 64,
            "ssm.state_size": 16,
            "ssm.time_step_rank": 4,
            "ssm.group_count": 2,
        },
        _qwen35_block,
        {},
        tied=(False, True),
        name="qwen35",
    ),
    # two of four experts for each token
    "small_moe": Arch(
        {**_HEADS, "rope.dimension_count": 32, "expert_count": EXPERTS, "expert_used_count": 2},
        _moe_block,
        {},
        tied=(False, True),
        name="llama",
    ),
}


def write_tiny_arch(
    path: Path,
    kind: str,
    *,
    seed: int = 0,
    tied: bool | None = None,
    edit: Callable[[str, F32], None] = lambda name, tensor: None,
) -> None:
    """Write a model of 6 blocks and width 64 in F32, with a tokenizer of single bytes.

    Args:
        path: the file.
        kind: a key of ``ARCHS`` or ``SMALL_ARCHS``.
        seed: seed of the weights.
        tied: whether the embedding is also the output matrix; None: the default of ``Arch.tied``.
        edit: gets the name and the values of each tensor before it is written, and may change the values.
    """
    arch = (ARCHS | SMALL_ARCHS)[kind]
    name = arch.name or kind
    writer = gguf.GGUFWriter(path, arch=name)
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(NUM_LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_vocab_size(TINY_VOCAB_SIZE)
    add_byte_vocabulary(writer)
    for key, value in arch.metadata.items():
        if isinstance(value, list):
            writer.add_array(f"{name}.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"{name}.{key}", value)
        else:
            writer.add_uint32(f"{name}.{key}", value)
    rng = np.random.default_rng(seed)
    embeddings = (TINY_VOCAB_SIZE, WIDTH)
    shapes = {"token_embd": embeddings, "output_norm": (WIDTH,)} | arch.top
    if not (arch.tied[0] if tied is None else tied):
        shapes["output"] = embeddings
    for i in range(NUM_LAYERS):
        shapes |= {f"blk.{i}.{name}": shape for name, shape in arch.block(i).items()}
    for tensor, shape in shapes.items():
        values = _draw(tensor, shape, rng)
        edit(_full_name(tensor), values)
        writer.add_tensor(_full_name(tensor), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _full_name(name: str) -> str:
    if name.endswith("."):
        return name[:-1]
    return name if name.endswith(".bias") else f"{name}.weight"


def _draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> F32:
    noise = rng.normal(size=shape)
    if "norm" in name or "rope_freqs" in name:
        noise = 1 + 0.1 * noise
    elif name.endswith("ssm_a."):
        noise = -np.exp(noise)
    elif name.endswith("_exps"):
        # similar experts: if two are nearly tied, a last digit decides which of them computes
        noise = (noise[0] + 0.01 * noise) / math.sqrt(shape[-1])
    else:
        noise /= math.sqrt(shape[-1]) if len(shape) == 2 else 2
    return noise.astype(np.float32)
