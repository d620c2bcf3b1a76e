"""Writes a trained wrapper in the framework's checkpoint format 1.1; see docs/migrating.md."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from metadeploy._files import write_atomically
from metadeploy.reference.doubter import Doubter
from metadeploy.reference.encoders import TransformerEncoder

__all__ = ["save_checkpoint"]


def save_checkpoint(path: Path, doubter: Doubter) -> None:
    """Write a wrapper: the encoder in float32, the cross-attention in bfloat16.

    Args:
        path: the file; there as a whole or not at all.
        doubter: the wrapper.
    """
    config = doubter.config
    # only keys of the framework's DoubterConfig, because it refuses a checkpoint with any other key
    settings: dict[str, Any] = {
        "encoder_type": config.encoder_type,
        "encoder_bottleneck": config.encoder_dim,
        "ca_bottleneck_dim": config.bottleneck_dim,
        "ca_num_heads": config.ca_num_heads,
        "num_cognitive_tokens": config.num_cognitive_tokens,
    }
    if isinstance(doubter.enc, TransformerEncoder):
        ffn_dim, dim = doubter.enc.blocks[0].ffn[0].weight.shape  # type: ignore[index,union-attr]
        settings |= {
            "transformer_encoder_dim": config.encoder_dim,
            "transformer_num_blocks": len(doubter.enc.blocks),
            "transformer_ffn_expansion": ffn_dim // dim,
        }
    if config.encoder_type != "selective":
        settings["transformer_num_heads"] = config.enc_num_heads  # the framework's key for both
    content = {
        "format_version": "1.1",
        "config": settings,
        # our own keys, in a place that the framework does not read
        "hidden_dim": config.hidden_dim,
        "num_layers": config.base_block_count,
        "inject_from": config.inject_from,
        "refusal_text": config.refusal_text,
        **({} if config.refusal_token_ids is None else {"refusal_token_ids": list(config.refusal_token_ids)}),
        "refusal_bias": config.refusal_bias,
        "target_layers": list(config.target_layers),
        "cross_attn_layers": list(config.cross_attn_layers),
        "encoder_state": {name: t.detach().cpu().float().clone() for name, t in doubter.enc.state_dict().items()},
        "ca_state": {
            str(layer): {  # keys are text, because the framework compares them with module names
                name: tensor.detach().cpu().to(torch.bfloat16)
                for name, tensor in doubter.cross_attention(layer).state_dict().items()
            }
            for layer in config.cross_attn_layers
        },
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())
