"""Checkpoints of goal anchors as the framework writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from support.random_wrapper import random_wrapper

SETTINGS: Final = {
    "encoder_dim": 32,
    "encoder_num_blocks": 2,
    "encoder_num_heads": 2,
    "encoder_ffn_expansion": 2,
    "ca_bottleneck_dim": 16,
    "ca_num_heads": 4,
    "trigger": "always",
    "trigger_k": 100,
}


def save_goal_anchor(
    folder: Path,
    *,
    target_layers: Sequence[int],
    cross_attn_layers: Sequence[int],
    kind: str = "goal_anchor",
    **changes: Any,
) -> Path:
    """Write format 1.1: a kind beside the config, whose keys have other names than a Doubter's, and no encoder type.

    Args:
        folder: where ``goal_anchor.pt`` goes.
        target_layers: layers that the encoder, a transformer, reads; of a base of width 64.
        cross_attn_layers: layers of the injection.
        kind: the kind that the file states.
        changes: settings that contradict the tensors.

    Returns:
        The checkpoint.
    """
    layers = {"target_layers": list(target_layers), "cross_attn_layers": list(cross_attn_layers)}
    _, tensors = random_wrapper("transformer", hidden_dim=64, enc_num_heads=2, ffn_dim=64, gate=1.0, **layers)
    path = folder / "goal_anchor.pt"
    contents = {
        "format_version": "1.1",
        "kind": kind,
        "config": SETTINGS | changes,
        **layers,
        "encoder_state": {name[4:]: tensor for name, tensor in tensors.items() if name.startswith("enc.")},
        "ca_state": {
            str(layer): {name.split(".", 2)[2]: t for name, t in tensors.items() if name.startswith(f"ca.{layer}.")}
            for layer in cross_attn_layers
        },
        "trigger_state": None,
    }
    torch.save(contents, path)
    return path
