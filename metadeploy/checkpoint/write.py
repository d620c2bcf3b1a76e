"""Write a trained wrapper in the framework's checkpoint format 1.1; see docs/migrating.md."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metadeploy._files import write_atomically
from metadeploy.sidecar.layout import infer
from metadeploy.sidecar.spec import EncoderDtype, WrapperConfig

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["write_checkpoint"]


def write_checkpoint(
    path: Path, config: WrapperConfig, tensors: Mapping[str, Tensor], *, encoder_dtype: EncoderDtype = "float32"
) -> None:
    """Write a wrapper, its cross-attention in bfloat16.

    Args:
        path: the file. A failure leaves an old file unchanged.
        config: the config of the wrapper.
        tensors: all tensors by sidecar name.
        encoder_dtype: type of the encoder in the file.
    """
    import torch

    # only keys of the framework's DoubterConfig, because it refuses a checkpoint with any other key
    settings: dict[str, Any] = {
        "encoder_type": config.encoder_type,
        "encoder_bottleneck": config.encoder_dim,
        "ca_bottleneck_dim": config.bottleneck_dim,
        "ca_num_heads": config.ca_num_heads,
        "num_cognitive_tokens": config.num_cognitive_tokens,
    }
    if config.encoder_type == "transformer":
        dims = infer({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        settings |= {
            "transformer_encoder_dim": config.encoder_dim,
            "transformer_num_blocks": dims.n_blocks,
            "transformer_ffn_expansion": dims.sizes["F"] // dims.sizes["E"],
        }
    if config.encoder_type != "selective":
        settings["transformer_num_heads"] = config.enc_num_heads  # the framework's key for both

    def part(prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor.detach().to("cpu", dtype, copy=True)
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }

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
        "encoder_state": part("enc.", getattr(torch, encoder_dtype)),
        # keys are text, because the framework compares them with module names
        "ca_state": {str(layer): part(f"ca.{layer}.", torch.bfloat16) for layer in config.cross_attn_layers},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())
