"""Initialize a new wrapper, and put its parameters into five groups with different learning rates."""

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

__all__ = ["new_wrapper", "parameter_groups", "projector_dropout", "standardize"]

#: Factor of the learning rate of gates and token preferences, which are few and start small.
_FAST_LR_FACTOR = 5.0


def new_wrapper(config: WrapperConfig, *, num_blocks: int = 2, init_std: float = 0.03, gate: float = 0.5) -> Doubter:
    """Create a wrapper with initial weights.

    Args:
        config: type, sizes and layers of the wrapper.
        num_blocks: blocks of the transformer encoder.
        init_std: standard deviation of the cross-attention's matrices. Only ``up_proj`` starts at 0, so that a new
            wrapper injects nothing.
        gate: initial value of every gate, before the tanh.

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
def standardize(doubter: Doubter, activations: Tensor) -> None:
    """Initialize the encoder's first norms so that every dimension of their output has mean 0 and variance 1.

    A few dimensions of a language model's hidden states are hundreds of times as large as the others. After a plain
    LayerNorm they dominate the input of a new projector, and dropout of the other dimensions has no effect. The norm's
    own weight and bias can correct this, so the structure of the wrapper does not change.

    Args:
        doubter: the wrapper; the first norm of each projector is changed in place.
        activations: [n, N, D] training activations.
    """
    for index, projector in enumerate(_projectors(doubter)):
        norm = projector[0]
        assert isinstance(norm, nn.LayerNorm)
        inputs = activations if len(_projectors(doubter)) == 1 else activations[:, index : index + 1]
        normed = nn.functional.layer_norm(inputs.float(), (activations.shape[-1],)).flatten(0, 1)
        std, mean = torch.std_mean(normed, 0)
        scale = 1 / std.clamp(min=1e-4)
        norm.weight.copy_(scale)
        norm.bias.copy_(-mean * scale)


@contextmanager
def projector_dropout(doubter: Doubter, rate: float) -> Iterator[None]:
    """Apply dropout to the output of the projectors' norms while the context is active and the wrapper is training."""

    def drop(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return nn.functional.dropout(output, rate, training=module.training)

    with ExitStack() as stack:
        for projector in _projectors(doubter):
            stack.callback(projector[0].register_forward_hook(drop).remove)
        yield


def _projectors(doubter: Doubter) -> list[nn.Sequential]:
    """Return the encoder's projectors (each LayerNorm, Linear, GELU): one if all layers share it."""
    encoder = doubter.enc
    projectors: Any = getattr(encoder, "layer_projectors", None) or [getattr(encoder, "shared_projector", None)]
    return [projector for projector in projectors if isinstance(projector, nn.Sequential)]


def parameter_groups(doubter: Doubter, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return the five parameter groups for AdamW.

    Encoder matrices, cross-attention matrices, norms and biases have the learning rate ``lr``. Gates and token
    preferences have five times ``lr``. Only the matrices have weight decay.

    Args:
        doubter: the wrapper.
        lr: learning rate.
        weight_decay: weight decay of the matrices.

    Returns:
        Groups in the form that torch's optimizers take, each with a ``name``.
    """
    groups: dict[str, dict[str, Any]] = {
        "encoder": {"lr": lr, "weight_decay": weight_decay},
        "cross_attention": {"lr": lr, "weight_decay": weight_decay},
        "norms_and_biases": {"lr": lr, "weight_decay": 0.0},
        "gates": {"lr": _FAST_LR_FACTOR * lr, "weight_decay": 0.0},
        "preferences": {"lr": _FAST_LR_FACTOR * lr, "weight_decay": 0.0},
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
