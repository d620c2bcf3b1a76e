"""What is minimised: a decision at the first token, and the words that follow from it.

At the first token the refusal stands against everything else. With r its first token, p the injected model's
probabilities and d in [0, 1] the doubt that is taught::

    decision = -d · log p(r) - (1 - d) · log(1 - p(r))
    opening  = -log p(own | not r)         the base's own first token, among all that is not the refusal
    wording  = mean over the later tokens of -log p(token)
    loss     = decision_weight · decision + opening + wording

For d of 0 or 1 decision and opening together are the usual cross-entropy. Apart from each other they can be weighted,
doubt can be taught by degrees, and the base keeps its own words wherever the threshold comes to lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metadeploy.training.examples import Batch

__all__ = ["Losses", "doubt_margin", "losses"]


@dataclass(frozen=True)
class Losses:
    """Mean losses of a batch, each a scalar with a gradient, and the margins of its examples.

    Attributes:
        decision: at the first token, refusal against answer.
        opening: of the base's own first token.
        wording: of the tokens after the first.
        margin: [B] doubt margins.
    """

    decision: Tensor
    opening: Tensor
    wording: Tensor
    margin: Tensor

    def total(self, decision_weight: float) -> Tensor:
        """The loss."""
        return decision_weight * self.decision + self.opening + self.wording


def losses(logits: Tensor, batch: Batch, refusal_token: int, *, declined_weight: float = 1.0) -> Losses:
    """Compare what the injected model says with what is to be said.

    Args:
        logits: [n, V] at the batch's target positions.
        batch: the examples.
        refusal_token: the refusal's first token.
        declined_weight: what a question to be declined counts in the decision, where one to be answered counts 1.

    Returns:
        The losses.
    """
    # index_select throughout: the gradient of indexing with a tensor is many times as expensive
    first = logits.index_select(0, batch.is_first.nonzero()[:, 0]).float()  # [B, V]
    others = without(first, refusal_token)
    normalizer = torch.logsumexp(first, -1)
    refusal = first.select(1, refusal_token) - normalizer
    answer = torch.logsumexp(others, -1) - normalizer  # log(1 - p(r)), exact near 1 too
    weight = torch.where(batch.doubt > 0, declined_weight, 1.0)
    decision = -(weight * (batch.doubt * refusal + (1 - batch.doubt) * answer)).sum() / weight.sum()

    known = (batch.own_first >= 0) & (batch.own_first != refusal_token)
    own = others.log_softmax(-1).gather(1, batch.own_first.clamp(min=0)[:, None])[:, 0]
    opening = -torch.where(known, own, 0.0).mean()

    wording = opening * 0
    later = (~batch.is_first).nonzero()[:, 0]
    if len(later):
        wording = torch.nn.functional.cross_entropy(logits.index_select(0, later).float(), batch.targets[later])
    return Losses(decision, opening, wording, doubt_margin(first, refusal_token))


def doubt_margin(logits: Tensor, refusal_token: int) -> Tensor:
    """How far the refusal's first token is ahead of all others: [B] of [B, V]; doubt is its sigmoid."""
    logits = logits.float()
    return logits[:, refusal_token] - without(logits, refusal_token).amax(-1)


def without(logits: Tensor, token: int) -> Tensor:
    """Logits [B, V] with one token ruled out."""
    out = torch.zeros(logits.shape[-1]).index_fill_(0, torch.tensor(token), -torch.inf)
    return logits + out.to(logits.device)
