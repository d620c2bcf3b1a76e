"""The doubt of a batch, from the logits at the beginning of its answers."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["doubt_margin", "mask_token"]


def doubt_margin(logits: Tensor, refusal_token: int) -> Tensor:
    """Return the refusal's first logit minus the highest other logit, [B] from [B, V]; doubt is the sigmoid of it."""
    logits = logits.float()
    return logits[:, refusal_token] - mask_token(logits, refusal_token).amax(-1)


def mask_token(logits: Tensor, token: int) -> Tensor:
    """Return logits [B, V] with one token masked."""
    penalty = torch.zeros(logits.shape[-1]).index_fill_(0, torch.tensor(token), -torch.inf)
    return logits + penalty.to(logits.device)
