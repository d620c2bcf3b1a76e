"""The training loss: the decision at the first token, the words of new targets, and the change of the base's own words.

At the first token, the refusal competes with all other tokens. Let z be the log-odds of the refusal's first token in
the injected model, plus a bias that makes them start near 0, and d in [0, 1] the label::

    decision = -d · log σ(z / SHARPNESS) - (1 - d) · log σ(-z / SHARPNESS)
    wording  = mean over the tokens of refusals, corrections and ends of turns of -log p(token)
    keeping  = mean over the tokens of the base's own answers of KL(base ‖ injected)
    loss     = decision_weight · decision + wording + keep_weight · keeping

The base prefers some first tokens for reasons that have nothing to do with right and wrong. SHARPNESS spreads the
decision over that many times as many nats, so that these preferences matter little. Its price is that doubt is
overconfident, and not a calibrated probability.

Keeping compares distributions, not tokens, so it is 0 if the wrapper changes nothing. At first tokens, both
distributions exclude the refusal's token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from metadeploy.batched.doubt import doubt_margin, mask_token
from metadeploy.training.examples import Batch

__all__ = ["SHARPNESS", "Losses", "losses"]

#: Nats of the log-odds z for one nat of the decision.
SHARPNESS: Final = 4.0

#: Logit of a masked token. It is finite, so that the difference of two masked logits is defined.
_MASKED: Final = -1e4


@dataclass(frozen=True)
class Losses:
    """Mean losses of a batch, each a scalar with a gradient, and the doubt margins of its examples.

    Attributes:
        decision: loss of the first token, refusal against answer.
        wording: loss of the targets that are not the base's own words.
        keeping: divergence from the base at its own words.
        margin: [B] doubt margins.
    """

    decision: Tensor
    wording: Tensor
    keeping: Tensor
    margin: Tensor

    def total(self, *, decision_weight: float, keep_weight: float) -> Tensor:
        """Return the weighted sum."""
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
    """Compare the injected model's logits with the targets.

    Args:
        logits: [n, V] at the batch's target positions.
        batch: the examples.
        refusal_token: the refusal's first token.
        own_logits: [n_own, V] of the base alone at its own words; None omits the keeping loss.
        bias: offset that is added to the log-odds of the refusal.
        declined_weight: weight in the decision of a question to be declined; a question to be answered has weight 1.

    Returns:
        The losses.
    """
    # index_select throughout: the gradient of indexing with a tensor is many times as expensive
    first = logits.index_select(0, batch.is_first.nonzero()[:, 0]).float()  # [B, V]
    refusal = first.select(1, refusal_token)
    log_odds = (refusal - torch.logsumexp(mask_token(first, refusal_token), -1) + bias) / SHARPNESS
    weight = torch.where(batch.declines, declined_weight, 1.0)
    decision = (
        nn.functional.binary_cross_entropy_with_logits(log_odds, batch.doubt, weight, reduction="sum") / weight.sum()
    )

    zero = logits.sum() * 0
    in_refusal = batch.declines.index_select(0, batch.rows)
    new_words = (~batch.is_own & ~(batch.is_first & in_refusal)).nonzero()[:, 0]
    wording = zero
    if len(new_words):
        predicted = _target_logits(logits, new_words, batch, refusal_token)
        wording = nn.functional.cross_entropy(predicted, batch.targets.index_select(0, new_words))
    own_words = batch.is_own.nonzero()[:, 0]
    keeping = zero
    if own_logits is not None and len(own_words):
        predicted = _target_logits(logits, own_words, batch, refusal_token).log_softmax(-1)
        expected = own_logits.float()
        mask = _refusal_mask(own_words, batch, refusal_token, expected.shape[1])
        expected = expected.masked_fill(mask, _MASKED).log_softmax(-1)
        keeping = nn.functional.kl_div(predicted, expected, reduction="batchmean", log_target=True)
    return Losses(decision, wording, keeping, doubt_margin(first, refusal_token))


def _target_logits(logits: Tensor, rows: Tensor, batch: Batch, refusal_token: int) -> Tensor:
    """Return the logits of some targets in float32; at first tokens the refusal is masked: the decision covers it."""
    selected = logits.index_select(0, rows).float()
    return selected.masked_fill(_refusal_mask(rows, batch, refusal_token, selected.shape[1]), _MASKED)


def _refusal_mask(rows: Tensor, batch: Batch, refusal_token: int, n_vocab: int) -> Tensor:
    """Return bool [len(rows), V]: True at the refusal's first token in the rows of first tokens."""
    tokens = torch.arange(n_vocab, device=rows.device)
    return batch.is_first.index_select(0, rows)[:, None] & (tokens == refusal_token)
