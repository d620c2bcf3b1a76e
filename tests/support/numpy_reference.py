"""The wrapper's mathematics in NumPy float64 with plain loops, to check PyTorch.

It follows docs/sidecar-format.md and shares no code with the modules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = Mapping[str, Array]


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    return e / e.sum()


def attend(queries: Array, keys: Array, values: Array, n_heads: int, preference: Array | None = None) -> Array:
    """Attend with each head on its own slice: queries [Q, B], keys and values [K, B] to [Q, B]."""
    size = queries.shape[1] // n_heads
    out = np.zeros_like(queries)
    for head in range(n_heads):
        part = slice(head * size, (head + 1) * size)
        for i, query in enumerate(queries):
            scores = np.array([query[part] @ key[part] / math.sqrt(size) for key in keys])
            weights = softmax(scores if preference is None else scores + preference)
            out[i, part] = sum(w * value[part] for w, value in zip(weights, values, strict=True))
    return out


def cross_attention(t: Tensors, hidden: Array, tokens: Array, n_heads: int, gain: float = 1.0) -> Array:
    """Hidden states [T, D] and cognitive tokens [C, D] to [T, D]; names as in a checkpoint's ``ca_state``."""
    x = layer_norm(hidden, t["norm.weight"], t["norm.bias"])
    queries = x @ t["down_proj.weight"].T @ t["q_proj.weight"].T
    keys, values = tokens @ t["k_proj.weight"].T, tokens @ t["v_proj.weight"].T
    mixed = attend(queries, keys, values, n_heads, t["token_preference"])
    return hidden + gain * np.tanh(t["gate"]) * (mixed @ t["up_proj.weight"].T)


def project(t: Tensors, stem: str, x: Array) -> Array:
    if f"{stem}.weight" in t:
        return x @ t[f"{stem}.weight"].T
    x = layer_norm(x, t[f"{stem}.0.weight"], t[f"{stem}.0.bias"])
    return gelu(x @ t[f"{stem}.1.weight"].T + t[f"{stem}.1.bias"])


def output(t: Tensors, z: Array) -> Array:
    z = layer_norm(z, t["output_proj.0.weight"], t["output_proj.0.bias"])
    z = gelu(z @ t["output_proj.1.weight"].T + t.get("output_proj.1.bias", np.zeros(1)))
    z = z @ t["output_proj.3.weight"].T + t.get("output_proj.3.bias", np.zeros(1))
    return layer_norm(z, t["output_norm.weight"], t["output_norm.bias"])


def selective(t: Tensors, activations: Array) -> Array:
    z = [np.tanh(t[f"layer_gates.{i}"]) * project(t, f"layer_projectors.{i}", a) for i, a in enumerate(activations)]
    return output(t, np.stack(z))


def multi_token(t: Tensors, activations: Array, n_heads: int) -> Array:
    z = np.stack([project(t, f"layer_projectors.{i}", a) for i, a in enumerate(activations)])
    weights = np.split(t["cross_attn.in_proj_weight"], 3)
    biases = np.split(t["cross_attn.in_proj_bias"], 3)
    sources = (t["queries"], z, z)
    q, k, v = (x @ w.T + b for x, w, b in zip(sources, weights, biases, strict=True))
    mixed = attend(q, k, v, n_heads)
    return output(t, mixed @ t["cross_attn.out_proj.weight"].T + t["cross_attn.out_proj.bias"])


def transformer(t: Tensors, activations: Array, n_heads: int, n_blocks: int) -> Array:
    shared = any(name.startswith("shared_projector") for name in t)
    stems = ["shared_projector" if shared else f"layer_projectors.{i}" for i in range(len(activations))]
    x = np.stack([project(t, stem, a) for stem, a in zip(stems, activations, strict=True)])
    if "layer_pos_embed" in t:
        x = x + t["layer_pos_embed"]
    x = layer_norm(x, t["input_norm.weight"], t["input_norm.bias"])
    for b in range(n_blocks):
        block = {n.removeprefix(f"blocks.{b}."): v for n, v in t.items() if n.startswith(f"blocks.{b}.")}
        y = layer_norm(x, block["norm_attn.weight"], block["norm_attn.bias"])
        q, k, v = (y @ block[f"{name}_proj.weight"].T for name in "qkv")
        x = x + attend(q, k, v, n_heads) @ block["o_proj.weight"].T
        y = layer_norm(x, block["norm_ffn.weight"], block["norm_ffn.bias"])
        x = x + gelu(y @ block["ffn.0.weight"].T) @ block["ffn.2.weight"].T
    return output(t, x)
