"""Schedules: how the injection changes while an answer grows.

Time ``t`` counts tokens of the answer. It is 0 at all tokens of the prompt, and k when the k-th token after the prompt
is evaluated. So the injection at ``t = k`` affects the choice of token k + 1. Decay, window and refresh are off by
default and can be combined. Earlier injections stay: the keys and values of earlier tokens are never recomputed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from metadeploy._checks import Rule, instance, number, whole_number
from metadeploy.errors import faults_message

__all__ = ["STATIC", "Decay", "InjectionSchedule", "Refresh"]


@dataclass(frozen=True, kw_only=True)
class Decay:
    """Let the injection fade by the factor alpha(t) = floor + (1 - floor) · exp(-t / tau).

    Without decay, the effect of the injection can amplify itself in a long answer.

    Attributes:
        floor: limit of alpha for large t, 0 to 1.
        tau: number of tokens after which 1/e of the distance to ``floor`` remains; above 0.
    """

    floor: float = 0.3
    tau: float = 16.0

    def __post_init__(self) -> None:
        """Refuse values that are out of range."""
        _check(self, {"floor": number(0, 1), "tau": number(above=0)})

    def alpha(self, t: int) -> float:
        """Return the factor at time t; it is 1 at 0."""
        return self.floor + (1 - self.floor) * math.exp(-t / self.tau)


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """Compute the cognitive tokens again when the activations have changed.

    A clean context, without injection, evaluates the same tokens as the injected one. A comparison at time t compares
    its activations at the token of time t with the last encoded ones, at first the prompt's. It takes the cosine of
    each target layer, and their mean. It comes before the injection into that token, so that new cognitive
    tokens apply from that token on.

    Let s be the time of the last encoding (at first 0) and c that of the last comparison or encoding. At t = s +
    ``max_interval``, the activations are encoded without a comparison. Otherwise, at t = c + interval, they are
    compared, and encoded if the mean is below ``threshold``. The interval is ``min_interval`` after every encoding. It
    grows by ``min_interval`` after every comparison without an encoding. While nothing is injected (gain 0, or after
    the schedule's window), nothing is compared.

    With the defaults, if nothing changes: comparisons at 3, 9 and 18, encoding at 20, comparisons at 23, ….

    Attributes:
        threshold: mean cosine below which the activations are encoded. Above 1: at every comparison. -1 or less: only
            at ``max_interval``.
        min_interval: number of tokens from an encoding to the first comparison, 1 or more.
        max_interval: maximum number of tokens from one encoding to the next, ``min_interval`` or more.
    """

    threshold: float = 0.5
    min_interval: int = 3
    max_interval: int = 20

    def __post_init__(self) -> None:
        """Refuse values that are out of range."""
        _check(self, {"threshold": number(), "min_interval": whole_number(1), "max_interval": whole_number()})
        if self.max_interval < self.min_interval:
            raise ValueError(
                f"Refresh: max_interval is {self.max_interval}, expected at least min_interval {self.min_interval}"
            )


@dataclass(frozen=True, kw_only=True)
class InjectionSchedule:
    """How the injection changes over time; by default it does not change.

    Attributes:
        decay: lets the injection fade.
        window: inject only while t is at most this, 0 or more. 0 injects into the prompt only, N into the prompt and
            the first N tokens of the answer. None injects always.
        refresh: computes the cognitive tokens again.
    """

    decay: Decay | None = None
    window: int | None = None
    refresh: Refresh | None = None

    def __post_init__(self) -> None:
        """Refuse values that are out of range."""
        _check(
            self,
            {
                "decay": instance(Decay).or_none(),
                "window": whole_number(0).or_none(),
                "refresh": instance(Refresh).or_none(),
            },
        )

    def strength(self, t: int) -> float:
        """Return the factor of the gain at time t, 0 to 1."""
        if self.window is not None and t > self.window:
            return 0.0
        return 1.0 if self.decay is None else self.decay.alpha(t)


def _check(settings: object, rules: Mapping[str, Rule]) -> None:
    """Refuse values that are not allowed; the message names all of them.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is out of range.
    """
    faults = [fault for name, rule in rules.items() if (fault := rule.fault(name, getattr(settings, name)))]
    if faults:
        kind = TypeError if any(isinstance(fault, TypeError) for fault in faults) else ValueError
        raise kind(faults_message(type(settings).__name__, [str(fault) for fault in faults]))


#: The injection does not change: the default, and the schedule that wrappers are trained with.
STATIC: Final = InjectionSchedule()
