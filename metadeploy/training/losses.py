"""What is minimised: a decision at the first token, the refusal's words, and how far the base's own words are changed.

At the first token the refusal stands against everything else. With z the log-odds of its first token under the injected
model, moved by the bias so that they begin near 0, and d in [0, 1] the doubt that is taught::

    decision = -d · log σ(z / SHARPNESS) - (1 - d) · log σ(-z / SHARPNESS)
    wording  = mean over the tokens of refusals, corrections and ends of turns of -log p(token)
    keeping  = mean over the tokens of the base's own answers of KL(base ‖ injected)
    loss     = decision_weight · decision + wording + keep_weight · keeping

The base has leanings of its own towards one first token or another, which know nothing of right and wrong. A decision
spread over SHARPNESS times as many nats drowns them. The price is that doubt is no probability: it is too sure.

Keeping compares distributions and not tokens, so it is 0 where the wrapper does nothing; at first tokens the refusal's
is ruled out in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from metadeploy.batched.doubt import doubt_margin, mask_token
from metadeploy.training.examples import Batch

__all__ = ["SHARPNESS", "Losses", "losses"]

#: Nats between refusing and answering for a nat of log-odds.
SHARPNESS: Final = 4.0

#: A logit that leaves nothing of a token, finite so that no difference of two is undefined.
_RULED_OUT: Final = -1e4


@dataclass(frozen=True)
class Losses:
    """Mean losses of a batch, each a scalar with a gradient, and the margins of its examples.

    Attributes:
        decision: at the first token, refusal against answer.
        wording: of what the base would not have said.
        keeping: of the base's own words.
        margin: [B] doubt margins.
    """

    decision: Tensor
    wording: Tensor
    keeping: Tensor
    margin: Tensor

    def total(self, *, decision_weight: float, keep_weight: float) -> Tensor:
        """The loss."""
        return decision_weight * self.decision + self.wording + keep_weight * self.keeping


def losses(
    logits: Tensor,
    batch: Batch,
    refusal_token: int,
    *,
    own_logits: Tensor | None = None,
    bias: float = 0.0,
    declined_weight: float = 1.0,
) -> Losses:
    """Compare what the injected model says with what is to be said.

    Args:
        logits: [n, V] at the batch's target positions.
        batch: the examples.
        refusal_token: the refusal's first token.
        own_logits: [n_own, V] of the base alone, where the targets are its own words; None leaves keeping out.
        bias: what is added to the log-odds of the refusal.
        declined_weight: what a question to be declined counts in the decision, where one to be answered counts 1.

    Returns:
        The losses.
    """
    # index_select throughout: the gradient of indexing with a tensor is many times as expensive
    first = logits.index_select(0, batch.is_first.nonzero()[:, 0]).float()  # [B, V]
    refusal = first.select(1, refusal_token)
    odds = (refusal - torch.logsumexp(mask_token(first, refusal_token), -1) + bias) / SHARPNESS
    weight = torch.where(batch.declines, declined_weight, 1.0)
    decision = nn.functional.binary_cross_entropy_with_logits(odds, batch.doubt, weight, reduction="sum") / weight.sum()

    nothing = logits.sum() * 0
    refuses = batch.declines.index_select(0, batch.rows)
    taught = (~batch.is_own & ~(batch.is_first & refuses)).nonzero()[:, 0]
    wording = nothing
    if len(taught):
        said = _spoken(logits, taught, batch, refusal_token)
        wording = nn.functional.cross_entropy(said, batch.targets.index_select(0, taught))
    own = batch.is_own.nonzero()[:, 0]
    keeping = nothing
    if own_logits is not None and len(own):
        said = _spoken(logits, own, batch, refusal_token).log_softmax(-1)
        meant = own_logits.float()
        meant = meant.masked_fill(_refusals(own, batch, refusal_token, meant.shape[1]), _RULED_OUT).log_softmax(-1)
        keeping = nn.functional.kl_div(said, meant, reduction="batchmean", log_target=True)
    return Losses(decision, wording, keeping, doubt_margin(first, refusal_token))


def _spoken(logits: Tensor, rows: Tensor, batch: Batch, refusal_token: int) -> Tensor:
    """Logits of some targets, float32; at first tokens without the refusal, which is the decision's."""
    said = logits.index_select(0, rows).float()
    return said.masked_fill(_refusals(rows, batch, refusal_token, said.shape[1]), _RULED_OUT)


def _refusals(rows: Tensor, batch: Batch, refusal_token: int, n_vocab: int) -> Tensor:
    """Where the refusal's first token would stand: bool [len(rows), V]."""
    tokens = torch.arange(n_vocab, device=rows.device)
    return batch.is_first.index_select(0, rows)[:, None] & (tokens == refusal_token)
