"""Injection into a batch, each example with its own cognitive tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from metadeploy.reference.base import FrozenBase
from metadeploy.reference.decoder import BlockHook
from metadeploy.reference.doubter import Doubter

__all__ = ["injected"]


@contextmanager
def injected(base: FrozenBase, doubter: Doubter, tokens: Tensor, mask: Tensor, *, gain: float = 1.0) -> Iterator[None]:
    """Inject into a batch, with cognitive tokens [B, C, D] of each example, at the positions of ``mask`` [B, T]."""
    everywhere = bool(mask.all())

    def hook(layer: int) -> BlockHook:
        cross_attention = doubter.cross_attention(layer)

        def inject(hidden: Tensor) -> Tensor:
            after: Tensor = cross_attention(hidden.to(tokens), tokens, gain=gain).to(hidden)
            return after if everywhere else torch.where(mask[..., None], after, hidden)

        return inject

    with base.stack.hooked({layer: hook(layer) for layer in doubter.config.cross_attn_layers}):
        yield
