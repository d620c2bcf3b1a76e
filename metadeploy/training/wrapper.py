"""A new wrapper, ready to be trained, and its parameters in the five groups that learn at different rates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from metadeploy.reference.doubter import Doubter
from metadeploy.reference.encoders import MultiTokenEncoder, SelectiveEncoder, TransformerEncoder
from metadeploy.sidecar.spec import WrapperConfig

__all__ = ["new_wrapper", "parameter_groups"]

#: Gates and token preferences are few and start small: they learn faster.
_FAST = 5.0


def new_wrapper(config: WrapperConfig, *, num_blocks: int = 2, init_std: float = 0.03, gate: float = 0.5) -> Doubter:
    """Make a wrapper with fresh weights.

    Args:
        config: what it is.
        num_blocks: blocks of the transformer encoder.
        init_std: standard deviation of the cross-attention's matrices.
        gate: start of every gate, before the tanh.

    Returns:
        The wrapper, in float32.
    """
    encoder: nn.Module
    num_layers = len(config.target_layers)
    if config.encoder_type == "selective":
        encoder = SelectiveEncoder(hidden_dim=config.hidden_dim, encoder_dim=config.encoder_dim, num_layers=num_layers)
        for layer_gate in encoder.layer_gates:
            nn.init.constant_(layer_gate, gate)
    elif config.encoder_type == "multi_token":
        encoder = MultiTokenEncoder(
            hidden_dim=config.hidden_dim,
            encoder_dim=config.encoder_dim,
            num_layers=num_layers,
            num_tokens=config.num_cognitive_tokens,
            num_heads=config.enc_num_heads,
        )
    else:
        encoder = TransformerEncoder(
            hidden_dim=config.hidden_dim,
            encoder_dim=config.encoder_dim,
            num_layers=num_layers,
            num_blocks=num_blocks,
            num_heads=config.enc_num_heads,
        )
    doubter = Doubter(config, encoder)
    for layer in config.cross_attn_layers:
        module = doubter.cross_attention(layer)
        for matrix in (module.down_proj, module.q_proj, module.k_proj, module.v_proj, module.up_proj):
            nn.init.normal_(matrix.weight, std=init_std)
        nn.init.constant_(module.gate, gate)
    return doubter


def parameter_groups(doubter: Doubter, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """The five groups of AdamW.

    Encoder matrices, cross-attention matrices, and every norm and bias learn at ``lr``, the last without weight decay;
    gates and token preferences at five times ``lr``, without weight decay.

    Args:
        doubter: the wrapper.
        lr: learning rate.
        weight_decay: of the matrices.

    Returns:
        Groups as torch's optimisers take them, with a ``name`` each.
    """
    groups: dict[str, dict[str, Any]] = {
        "encoder": {"lr": lr, "weight_decay": weight_decay},
        "cross_attention": {"lr": lr, "weight_decay": weight_decay},
        "norms_and_biases": {"lr": lr, "weight_decay": 0.0},
        "gates": {"lr": _FAST * lr, "weight_decay": 0.0},
        "preferences": {"lr": _FAST * lr, "weight_decay": 0.0},
    }
    members: dict[str, list[torch.nn.Parameter]] = {name: [] for name in groups}
    for name, parameter in doubter.named_parameters():
        if "gate" in name:
            members["gates"].append(parameter)
        elif name.endswith("token_preference"):
            members["preferences"].append(parameter)
        elif parameter.ndim < 2:
            members["norms_and_biases"].append(parameter)
        else:
            members["encoder" if name.startswith("enc.") else "cross_attention"].append(parameter)
    return [{"name": name, "params": members[name], **groups[name]} for name in groups if members[name]]
