"""The cross-attention that injects cognitive tokens into the base (source: docs/sidecar-format.md)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class BottleneckCrossAttention(nn.Module):
    """Multi-head cross-attention from hidden states to cognitive tokens, through a bottleneck and behind a gate.

    With x = LayerNorm(h), q = q_proj(down_proj(x)), k = k_proj(cog), v = v_proj(cog) and H heads of B/H::

        weights = softmax over c of (q · k_c / sqrt(B/H) + token_preference[c])
        h ← h + gain · tanh(gate) · up_proj(concat over heads of (weights · v))

    No Linear has a bias. ``token_preference`` is shared by the heads. Everything is computed in the module's own
    dtype; the names in ``state_dict`` are those of the checkpoint's ``ca_state``.

    Attributes:
        gate: [1], before the tanh; 0 switches the layer off.
        token_preference: [C], added to the scores.
    """

    def __init__(self, *, hidden_dim: int, bottleneck_dim: int, num_heads: int, num_tokens: int) -> None:
        """Create a layer with a closed gate.

        Args:
            hidden_dim: D, width of the hidden states and of the cognitive tokens.
            bottleneck_dim: B, a multiple of ``num_heads``.
            num_heads: H.
            num_tokens: C, number of cognitive tokens.

        Raises:
            ValueError: the bottleneck cannot be split into the heads.
        """
        super().__init__()
        if num_heads < 1 or bottleneck_dim % num_heads:
            raise ValueError(
                f"BottleneckCrossAttention: bottleneck_dim is {bottleneck_dim}, expected a multiple of num_heads "
                f"{num_heads}"
            )
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(hidden_dim)
        self.down_proj = nn.Linear(hidden_dim, bottleneck_dim, bias=False)
        self.q_proj = nn.Linear(bottleneck_dim, bottleneck_dim, bias=False)
        self.k_proj = nn.Linear(hidden_dim, bottleneck_dim, bias=False)
        self.v_proj = nn.Linear(hidden_dim, bottleneck_dim, bias=False)
        self.up_proj = nn.Linear(bottleneck_dim, hidden_dim, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))
        self.token_preference = nn.Parameter(torch.zeros(num_tokens))

    def attention(self, hidden: Tensor, cognitive_tokens: Tensor) -> Tensor:
        """Return the attention weights of each position.

        Args:
            hidden: [..., T, D] outputs of the decoder block.
            cognitive_tokens: [..., C, D], or [C, D] for all.

        Returns:
            [..., H, T, C] weights that sum to 1 over C.
        """
        query = self._split_heads(self.q_proj(self.down_proj(self.norm(hidden))))
        key = self._split_heads(self.k_proj(cognitive_tokens))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        return torch.softmax(scores + self.token_preference, dim=-1)

    def forward(self, hidden: Tensor, cognitive_tokens: Tensor, *, gain: float = 1.0) -> Tensor:
        """Inject into hidden states.

        Args:
            hidden: [..., T, D] outputs of the decoder block.
            cognitive_tokens: [..., C, D], or [C, D] for all.
            gain: factor of the injection; 1 as trained, negative inverts.

        Returns:
            [..., T, D], the hidden states with the injection added.
        """
        value = self._split_heads(self.v_proj(cognitive_tokens))
        mixed = self.attention(hidden, cognitive_tokens) @ value  # [..., H, T, B/H]
        update: Tensor = self.up_proj(mixed.transpose(-2, -3).flatten(-2))
        injected: Tensor = hidden + gain * torch.tanh(self.gate) * update
        return injected

    def _split_heads(self, x: Tensor) -> Tensor:
        """Reshape [..., n, B] to [..., H, n, B/H]."""
        return x.reshape(*x.shape[:-1], self.num_heads, -1).transpose(-2, -3)
