"""The doubt of a batch, from the logits where its answers begin."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["doubt_margin", "mask_token"]


def doubt_margin(logits: Tensor, refusal_token: int) -> Tensor:
    """How far the refusal's first token is ahead of all others: [B] of [B, V]; doubt is its sigmoid."""
    logits = logits.float()
    return logits[:, refusal_token] - mask_token(logits, refusal_token).amax(-1)


def mask_token(logits: Tensor, token: int) -> Tensor:
    """Logits [B, V] with one token ruled out."""
    penalty = torch.zeros(logits.shape[-1]).index_fill_(0, torch.tensor(token), -torch.inf)
    return logits + penalty.to(logits.device)
