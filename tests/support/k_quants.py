"""The tiny hybrid base of the benchmarks in Q4_K and Q6_K, mixed like Q4_K_M, with a tokenizer and a wrapper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from synthetic_base import SHAPES, write_base

from metadeploy.sidecar import write_sidecar
from support.gguf_tools import TINY_VOCAB_SIZE, add_vocabulary
from support.random_wrapper import random_wrapper


def write_k_quants(folder: Path) -> tuple[Path, Path]:
    """Write a base of 8 blocks and width 256, and a random wrapper that injects into its upper half."""
    silent, base, sidecar = (folder / name for name in ("silent.gguf", "base.gguf", "sidecar.gguf"))
    shape = replace(SHAPES["tiny"], n_vocab=TINY_VOCAB_SIZE)
    write_base(silent, shape)
    add_vocabulary(silent, base)
    layers = (shape.n_block // 2, shape.n_block - 1)
    config, tensors = random_wrapper(
        "selective", hidden_dim=shape.n_embd, target_layers=(0, *layers), cross_attn_layers=layers, gate=1.0
    )
    write_sidecar(sidecar, config, {name: np.asarray(tensor) for name, tensor in tensors.items()})
    return base, sidecar
