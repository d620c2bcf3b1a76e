"""The three encoders, which turn activations into cognitive tokens (source: docs/sidecar-format.md).

They take activations [..., N, D] (N target layers in the wrapper's order, D the base's width) and return cognitive
tokens [..., C, D]. LayerNorm has eps 1e-5 and GELU is the exact erf form, as by default in PyTorch. The names in each
``state_dict`` are those of the checkpoint's ``encoder_state``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metadeploy.sidecar.layout import Dims
from metadeploy.sidecar.spec import WrapperConfig


class SelectiveEncoder(nn.Module):
    """One cognitive token per target layer (C = N), each scaled by its own gate.

    z_i = tanh(gate_i) · GELU(Linear_i(LayerNorm_i(a_i))), token_i = output_norm(output_proj(z_i)).
    """

    def __init__(self, *, hidden_dim: int, encoder_dim: int, num_layers: int) -> None:
        """Create the encoder for ``hidden_dim`` D, projections of width ``encoder_dim`` B and ``num_layers`` N."""
        super().__init__()
        self.layer_projectors = nn.ModuleList(
            _projector(hidden_dim, encoder_dim, prenorm=True) for _ in range(num_layers)
        )
        self.layer_gates = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(num_layers))
        self.output_proj = _output_projection(encoder_dim, hidden_dim, bias=True)
        self.output_norm = nn.LayerNorm(hidden_dim)

    def forward(self, activations: Tensor) -> Tensor:
        """Encode activations [..., N, D] into tokens [..., N, D]."""
        gates = torch.tanh(torch.stack(list(self.layer_gates)))  # [N, 1]
        z = gates * _project_layers(self.layer_projectors, activations)
        tokens: Tensor = self.output_norm(self.output_proj(z))
        return tokens


class MultiTokenEncoder(nn.Module):
    """C learned queries attend to the projected activations; C can differ from N."""

    def __init__(
        self,
        *,
        hidden_dim: int,
        encoder_dim: int,
        num_layers: int,
        num_tokens: int,
        num_heads: int,
        prenorm_projector: bool = True,
    ) -> None:
        """Create the encoder.

        Args:
            hidden_dim: D.
            encoder_dim: B, a multiple of ``num_heads``.
            num_layers: N.
            num_tokens: C.
            num_heads: attention heads of the queries.
            prenorm_projector: LayerNorm + Linear + GELU per layer, otherwise one bias-free Linear.
        """
        super().__init__()
        _check_heads("MultiTokenEncoder", encoder_dim, num_heads)
        self.layer_projectors = nn.ModuleList(
            _projector(hidden_dim, encoder_dim, prenorm=prenorm_projector) for _ in range(num_layers)
        )
        self.queries = nn.Parameter(torch.randn(num_tokens, encoder_dim) / math.sqrt(encoder_dim))
        self.cross_attn = nn.MultiheadAttention(encoder_dim, num_heads, batch_first=True)
        self.output_proj = _output_projection(encoder_dim, hidden_dim, bias=True)
        self.output_norm = nn.LayerNorm(hidden_dim)

    def forward(self, activations: Tensor) -> Tensor:
        """Encode activations [..., N, D] into tokens [..., C, D]."""
        projected = _project_layers(self.layer_projectors, activations)  # [..., N, B]
        batch = projected.flatten(0, -3) if projected.ndim > 2 else projected[None]
        queries = self.queries.expand(len(batch), -1, -1)
        attended, _ = self.cross_attn(queries, batch, batch, need_weights=False)  # [batch, C, B]
        attended = attended.reshape(*projected.shape[:-2], *self.queries.shape)
        tokens: Tensor = self.output_norm(self.output_proj(attended))
        return tokens


class TransformerBlock(nn.Module):
    """A pre-norm transformer block without biases; every token sees every other."""

    def __init__(self, *, dim: int, num_heads: int, ffn_dim: int) -> None:
        """Create a block of width ``dim``, with ``num_heads`` heads and an inner width of ``ffn_dim``."""
        super().__init__()
        _check_heads("TransformerBlock", dim, num_heads)
        self.num_heads = num_heads
        self.norm_attn = nn.LayerNorm(dim)
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)
        self.norm_ffn = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim, bias=False), nn.GELU(), nn.Linear(ffn_dim, dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., N, E] to [..., N, E]."""
        x = x + self.o_proj(self._attend(self.norm_attn(x)))
        x = x + self.ffn(self.norm_ffn(x))
        return x

    def _attend(self, x: Tensor) -> Tensor:
        query, key, value = (
            proj(x).reshape(*x.shape[:-1], self.num_heads, -1).transpose(-2, -3)  # [..., H, N, E/H]
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        mixed: Tensor = torch.softmax(scores, dim=-1) @ value
        return mixed.transpose(-2, -3).flatten(-2)


class TransformerEncoder(nn.Module):
    """A small transformer over the projected activations; one cognitive token per target layer (C = N)."""

    layer_pos_embed: Tensor | None

    def __init__(
        self,
        *,
        hidden_dim: int,
        encoder_dim: int,
        num_layers: int,
        num_blocks: int,
        num_heads: int,
        ffn_dim: int | None = None,
        prenorm_projector: bool = False,
        shared_projector: bool = False,
        layer_pos_embed: bool = True,
    ) -> None:
        """Create the encoder.

        Args:
            hidden_dim: D.
            encoder_dim: E, a multiple of ``num_heads``.
            num_layers: N.
            num_blocks: number of transformer blocks.
            num_heads: attention heads of each block.
            ffn_dim: inner width of the feed-forward; None means 4E.
            prenorm_projector: LayerNorm + Linear + GELU instead of one bias-free Linear.
            shared_projector: one projector for all layers.
            layer_pos_embed: add a learned embedding [N, E] of the layer's index.
        """
        super().__init__()
        self.num_layers = num_layers
        projectors = [
            _projector(hidden_dim, encoder_dim, prenorm=prenorm_projector)
            for _ in range(1 if shared_projector else num_layers)
        ]
        # one of the two names stays unset, so that state_dict has the names of the checkpoint
        self.shared_projector = projectors[0] if shared_projector else None
        self.layer_projectors = None if shared_projector else nn.ModuleList(projectors)
        embed = nn.Parameter(torch.zeros(num_layers, encoder_dim)) if layer_pos_embed else None
        self.register_parameter("layer_pos_embed", embed)
        self.input_norm = nn.LayerNorm(encoder_dim)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim=encoder_dim, num_heads=num_heads, ffn_dim=ffn_dim or 4 * encoder_dim)
            for _ in range(num_blocks)
        )
        self.output_proj = _output_projection(encoder_dim, hidden_dim, bias=False)
        self.output_norm = nn.LayerNorm(hidden_dim)

    def forward(self, activations: Tensor) -> Tensor:
        """Encode activations [..., N, D] into tokens [..., N, D]."""
        if self.shared_projector is not None:
            x = self.shared_projector(activations)
        else:
            assert self.layer_projectors is not None
            x = _project_layers(self.layer_projectors, activations)
        if self.layer_pos_embed is not None:
            x = x + self.layer_pos_embed
        x = self.input_norm(x)
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = self.output_norm(self.output_proj(x))
        return tokens


Encoder = SelectiveEncoder | MultiTokenEncoder | TransformerEncoder


def build_encoder(config: WrapperConfig, dims: Dims) -> Encoder:
    """Create the encoder of a wrapper, whose weights are loaded later.

    Args:
        config: the wrapper's config.
        dims: sizes and optional parts of its tensors, from ``metadeploy.sidecar.layout.infer``.

    Returns:
        The encoder.

    Raises:
        ValueError: a width cannot be split into ``enc_num_heads`` heads.
    """
    num_layers = len(config.target_layers)
    if config.encoder_type == "selective":
        return SelectiveEncoder(hidden_dim=config.hidden_dim, encoder_dim=config.encoder_dim, num_layers=num_layers)
    if config.encoder_type == "multi_token":
        return MultiTokenEncoder(
            hidden_dim=config.hidden_dim,
            encoder_dim=config.encoder_dim,
            num_layers=num_layers,
            num_tokens=config.num_cognitive_tokens,
            num_heads=config.enc_num_heads,
            prenorm_projector=dims.prenorm_projector,
        )
    return TransformerEncoder(
        hidden_dim=config.hidden_dim,
        encoder_dim=config.encoder_dim,
        num_layers=num_layers,
        num_blocks=dims.n_blocks,
        num_heads=config.enc_num_heads,
        ffn_dim=dims.sizes.get("F"),
        prenorm_projector=dims.prenorm_projector,
        shared_projector=dims.shared_projector,
        layer_pos_embed=dims.layer_pos_embed,
    )


def _check_heads(subject: str, dim: int, num_heads: int) -> None:
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"{subject}: width is {dim}, expected a multiple of the number of heads {num_heads}")


def _projector(hidden_dim: int, encoder_dim: int, *, prenorm: bool) -> nn.Module:
    if prenorm:
        return nn.Sequential(nn.LayerNorm(hidden_dim), nn.Linear(hidden_dim, encoder_dim), nn.GELU())
    return nn.Linear(hidden_dim, encoder_dim, bias=False)


def _output_projection(encoder_dim: int, hidden_dim: int, *, bias: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(encoder_dim),
        nn.Linear(encoder_dim, hidden_dim, bias=bias),
        nn.GELU(),
        nn.Linear(hidden_dim, hidden_dim, bias=bias),
    )


def _project_layers(projectors: nn.ModuleList, activations: Tensor) -> Tensor:
    """Apply projector i to layer i: [..., N, D] to [..., N, E]."""
    return torch.stack([project(activations[..., i, :]) for i, project in enumerate(projectors)], dim=-2)
