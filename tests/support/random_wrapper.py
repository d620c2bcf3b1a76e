"""Random wrappers of every shape, and their checkpoints in training's format.

Names and shapes come from the sidecar's layout table, not from the reference's modules, so that a test that loads
them compares the two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metadeploy.sidecar.layout import dims_of, expected_tensors
from metadeploy.sidecar.spec import EncoderType, InjectFrom, WrapperConfig


def random_wrapper(
    encoder_type: EncoderType,
    *,
    hidden_dim: int,
    target_layers: Sequence[int],
    cross_attn_layers: Sequence[int],
    num_layers: int | None = None,
    encoder_dim: int = 32,
    bottleneck_dim: int = 16,
    num_tokens: int | None = None,
    ca_num_heads: int = 4,
    enc_num_heads: int = 4,
    prenorm_projector: bool = True,
    shared_projector: bool = False,
    layer_pos_embed: bool = True,
    num_blocks: int = 2,
    ffn_dim: int = 48,
    inject_from: InjectFrom = "prompt",
    gate: float = 0.5,
    seed: int = 0,
) -> tuple[WrapperConfig, dict[str, Tensor]]:
    """Draw a wrapper that visibly changes the logits of a base whose hidden states are of order 1.

    Args:
        encoder_type: which encoder.
        hidden_dim: D.
        target_layers: layers that the encoder reads.
        cross_attn_layers: layers of the injection.
        num_layers: decoder blocks of the base; None: unknown.
        encoder_dim: width of the encoder.
        bottleneck_dim: width of the cross-attention.
        num_tokens: C of the multi_token encoder, two more than there are target layers if None.
        ca_num_heads: heads of the cross-attention.
        enc_num_heads: heads of the encoder.
        prenorm_projector: form of the projectors (multi_token, transformer).
        shared_projector: one projector for all layers (transformer).
        layer_pos_embed: whether there is one (transformer).
        num_blocks: transformer blocks.
        ffn_dim: inner width of the feed-forward (transformer).
        inject_from: where the injection starts.
        gate: center of the gates before the tanh.
        seed: seed of all random values.

    Returns:
        The configuration, and F32 tensors by sidecar name.
    """
    multi_token, transformer = encoder_type == "multi_token", encoder_type == "transformer"
    default_tokens = len(target_layers) + 2 if multi_token else len(target_layers)
    config = WrapperConfig(
        encoder_type=encoder_type,
        hidden_dim=hidden_dim,
        encoder_dim=encoder_dim,
        bottleneck_dim=bottleneck_dim,
        num_cognitive_tokens=default_tokens if num_tokens is None else num_tokens,
        ca_num_heads=ca_num_heads,
        enc_num_heads=enc_num_heads,
        target_layers=tuple(target_layers),
        cross_attn_layers=tuple(sorted(cross_attn_layers)),
        inject_from=inject_from,
        base_block_count=num_layers,
    )
    dims = dims_of(
        config,
        prenorm_projector=prenorm_projector or not (multi_token or transformer),
        shared_projector=shared_projector and transformer,
        layer_pos_embed=layer_pos_embed and transformer,
        n_blocks=num_blocks if transformer else 0,
        ffn_dim=ffn_dim,
    )
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: _draw(name, shape, gate=gate, generator=generator) for name, shape in expected_tensors(dims).items()
    }
    return config, tensors


def _draw(name: str, shape: tuple[int, ...], *, gate: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith(".gate") or ".layer_gates." in name:
        return gate + 0.2 * noise
    if name.endswith("bias"):
        return 0.1 * noise
    if len(shape) == 1:  # weights of norms, and token_preference
        return 0.5 * noise if name.endswith("token_preference") else 1 + 0.1 * noise
    return noise / math.sqrt(shape[-1])


def save_checkpoint(
    folder: Path,
    config: WrapperConfig,
    tensors: Mapping[str, Tensor],
    *,
    format_version: str | None = "1.0",
    ca_dtype: torch.dtype = torch.float32,
    text_layer_keys: bool = True,
    run_json: bool = True,
) -> Path:
    """Write a wrapper in training's format.

    Args:
        folder: folder of ``doubter_checkpoint.pt`` and ``run.json``.
        config: the wrapper's configuration.
        tensors: tensors by sidecar name.
        format_version: 1.1 adds the layers; the oldest files, None, have no version.
        ca_dtype: type of the cross-attention's weights, bf16 in training.
        text_layer_keys: whether the layers in ``ca_state`` are text or numbers.
        run_json: whether to write the manifest.

    Returns:
        The checkpoint.
    """
    settings: dict[str, Any] = {
        "encoder_type": config.encoder_type,
        "ca_bottleneck_dim": config.bottleneck_dim,
        "ca_num_heads": config.ca_num_heads,
        "transformer_num_heads": config.enc_num_heads,
        # for encoders with one token per layer, training writes the default, which has no meaning
        "num_cognitive_tokens": config.num_cognitive_tokens if config.encoder_type == "multi_token" else 32,
    }
    width = "transformer_encoder_dim" if config.encoder_type == "transformer" else "encoder_bottleneck"
    settings[width] = config.encoder_dim
    if config.inject_from != "prompt":
        settings["inject_from"] = config.inject_from
    if config.refusal_token_ids is not None:
        settings["refusal_token_ids"] = list(config.refusal_token_ids)
    if config.refusal_bias:
        settings["refusal_bias"] = config.refusal_bias
    ca_state: dict[int | str, dict[str, Tensor]] = {}
    for layer in config.cross_attn_layers:
        prefix = f"ca.{layer}."
        ca_state[str(layer) if text_layer_keys else layer] = {
            name.removeprefix(prefix): tensor.to(ca_dtype) if tensor.ndim == 2 else tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
    checkpoint: dict[str, Any] = {
        "config": settings,
        "encoder_state": {n.removeprefix("enc."): t for n, t in tensors.items() if n.startswith("enc.")},
        "ca_state": ca_state,
    }
    layers = {"target_layers": list(config.target_layers), "cross_attn_layers": list(config.cross_attn_layers)}
    if format_version is not None:
        checkpoint["format_version"] = format_version
    if format_version == "1.1":
        checkpoint |= layers
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "doubter_checkpoint.pt"
    torch.save(checkpoint, path)
    if run_json:
        manifest = {
            **layers,
            "format_version": "1.0",
            "model_name": config.base_model,
            "hidden_dim": config.hidden_dim,
            "num_layers": config.base_block_count,
            "encoder_type": config.encoder_type,
            "prompt_format": config.prompt_format or "auto",
            "answer_suffix": config.answer_suffix,
            "chat_template_kwargs": dict(config.chat_template_kwargs) or None,
        }
        (folder / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    return path
