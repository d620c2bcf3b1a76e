"""A new wrapper, ready to be trained, and its parameters in the five groups that learn at different rates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from metadeploy.reference.doubter import Doubter
from metadeploy.reference.encoders import SelectiveEncoder, build_encoder
from metadeploy.sidecar.layout import Dims
from metadeploy.sidecar.spec import WrapperConfig

__all__ = ["new_wrapper", "parameter_groups", "projector_dropout", "standardise"]

#: Gates and token preferences are few and start small: they learn faster.
_FAST = 5.0


def new_wrapper(config: WrapperConfig, *, num_blocks: int = 2, init_std: float = 0.03, gate: float = 0.5) -> Doubter:
    """Make a wrapper with fresh weights.

    Args:
        config: what it is.
        num_blocks: blocks of the transformer encoder.
        init_std: standard deviation of the cross-attention's matrices; only ``up_proj`` starts at 0, so that a new
            wrapper injects nothing.
        gate: start of every gate, before the tanh.

    Returns:
        The wrapper, in float32.
    """
    parts = Dims(encoder_type=config.encoder_type, n_blocks=num_blocks, layer_pos_embed=True)
    encoder = build_encoder(config, parts)
    if isinstance(encoder, SelectiveEncoder):
        for layer_gate in encoder.layer_gates:
            nn.init.constant_(layer_gate, gate)
    doubter = Doubter(config, encoder)
    for layer in config.cross_attn_layers:
        module = doubter.cross_attention(layer)
        for matrix in (module.down_proj, module.q_proj, module.k_proj, module.v_proj):
            nn.init.normal_(matrix.weight, std=init_std)
        nn.init.zeros_(module.up_proj.weight)
        nn.init.constant_(module.gate, gate)
    return doubter


@torch.no_grad()
def standardise(doubter: Doubter, activations: Tensor) -> None:
    """Start the encoder's first norms so that every dimension of their output has mean 0 and variance 1.

    A few dimensions of a language model's hidden states are hundreds of times as large as the rest. Behind a plain
    LayerNorm they are all that a fresh projector sees, and dropout of the others means nothing. The norm's own weight
    and bias can undo that, so the wrapper's form stays as it is.

    Args:
        doubter: the wrapper; norms that projectors begin with are changed.
        activations: [n, N, D] that it is to be trained on.
    """
    for index, projector in enumerate(_projectors(doubter)):
        norm = projector[0]
        assert isinstance(norm, nn.LayerNorm)
        shown = activations if len(_projectors(doubter)) == 1 else activations[:, index : index + 1]
        normed = nn.functional.layer_norm(shown.float(), (activations.shape[-1],)).flatten(0, 1)
        std, mean = torch.std_mean(normed, 0)
        scale = 1 / std.clamp(min=1e-4)
        norm.weight.copy_(scale)
        norm.bias.copy_(-mean * scale)


@contextmanager
def projector_dropout(doubter: Doubter, share: float) -> Iterator[None]:
    """While it lasts and the wrapper trains, leave out a share of what its projectors read, behind their norms."""

    def drop(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return nn.functional.dropout(output, share, training=module.training)

    with ExitStack() as stack:
        for projector in _projectors(doubter):
            stack.callback(projector[0].register_forward_hook(drop).remove)
        yield


def _projectors(doubter: Doubter) -> list[nn.Sequential]:
    """The encoder's projectors, each LayerNorm, Linear and GELU; one where all layers share it."""
    encoder = doubter.enc
    found: Any = getattr(encoder, "layer_projectors", None) or [getattr(encoder, "shared_projector", None)]
    return [each for each in found if isinstance(each, nn.Sequential)]


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
