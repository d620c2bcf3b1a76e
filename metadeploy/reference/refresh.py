"""Compute cognitive tokens again while an answer grows, as ``metadeploy.schedule.Refresh`` defines it."""

from __future__ import annotations

import torch
from torch import Tensor

from metadeploy.reference.context import CleanContext
from metadeploy.reference.injection import Injection
from metadeploy.schedule import Refresh


class Refresher:
    """Follows an answer and updates its injection.

    Attributes:
        injection: the current injection.
    """

    def __init__(self, refresh: Refresh, injection: Injection, *, clean: CleanContext, encoded: Tensor) -> None:
        """Begin after a prompt.

        Args:
            refresh: settings of the refresh.
            injection: the injection with the prompt's cognitive tokens.
            clean: a context that has evaluated the prompt, and nothing after it.
            encoded: activations [n_target, D] from which the prompt's cognitive tokens were computed.
        """
        self.injection = injection
        self._refresh = refresh
        self._clean = clean
        self._unseen: list[int] = []  # the clean context evaluates these at the next comparison
        self._encoded = encoded
        self._t = self._t_encoded = self._t_compared = 0
        self._interval = refresh.min_interval

    def step(self, token_id: int) -> Injection:
        """Add the answer's next token, and return the injection that applies from that token on."""
        self._t += 1
        self._unseen.append(token_id)
        position = self.injection.n_prompt + self._t - 1
        overdue = self._t == self._t_encoded + self._refresh.max_interval
        due = overdue or self._t == self._t_compared + self._interval
        if not due or self.injection.gain_at(position) == 0:
            return self.injection
        activations = self._clean.feed(self._unseen)
        self._unseen = []
        self._t_compared = self._t
        if overdue or mean_cosine(activations, self._encoded) < self._refresh.threshold:
            self._encoded, self._t_encoded = activations, self._t
            self._interval = self._refresh.min_interval
            self.injection = self.injection.renewed(position, self.injection.doubter.encode(activations))
        else:
            self._interval += self._refresh.min_interval
        return self.injection


def mean_cosine(a: Tensor, b: Tensor) -> float:
    """Return the mean over rows of the cosine of two [n, D], computed in float64."""
    return float(torch.cosine_similarity(a.double(), b.double(), dim=-1).mean())
