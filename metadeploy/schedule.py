"""How the injection changes while an answer grows.

Time ``t`` counts tokens of the answer: it is 0 at every token of the prompt and k at the k-th token after it, when that
token is processed, so that the injection at ``t = k`` acts on the choice of token k + 1. Everything here is off unless
asked for, and all of it can be combined. What has been injected stays: keys and values of earlier tokens are never made
again.
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
    """Let the injection fade: it is multiplied by alpha(t) = floor + (1 - floor) · exp(-t / tau).

    Without it, what is injected feeds on itself in a long answer.

    Attributes:
        floor: what alpha falls to, 0 to 1.
        tau: tokens after which all but 1/e of the way is gone; above 0.
    """

    floor: float = 0.3
    tau: float = 16.0

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        _check(self, {"floor": number(0, 1), "tau": number(above=0)})

    def alpha(self, t: int) -> float:
        """The factor at time t: 1 at 0."""
        return self.floor + (1 - self.floor) * math.exp(-t / self.tau)


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """Make the cognitive tokens anew when what the base thinks has moved on.

    A clean context, never injected into, gets the same tokens as the injected one. A comparison at time t is of its
    activations (outputs of the target layers) at the token of time t with those last encoded, at first the prompt's:
    the cosine of each layer, and of these the mean. It comes before that token is injected into, so new cognitive
    tokens hold from that token on.

    Let s be the time of the last encoding (at first 0) and c that of the last comparison or encoding. At t = s +
    ``max_interval`` the activations are encoded without being compared; else at t = c + interval they are compared, and
    encoded where the mean is below ``threshold``. The interval is ``min_interval`` after every encoding, and after a
    comparison that changes nothing longer by ``min_interval``. Where nothing is injected (gain 0, or past the
    schedule's window), nothing is compared either.

    With the defaults, as long as nothing changes: comparisons at 3 and 9 and 18, encoding at 20, comparisons at 23, ….

    Attributes:
        threshold: lowest mean cosine at which the tokens stay; any number, above 1 encodes at every comparison, -1
            or less never because of one.
        min_interval: tokens from an encoding to the first comparison, 1 or more.
        max_interval: most tokens from one encoding to the next, ``min_interval`` or more.
    """

    threshold: float = 0.5
    min_interval: int = 3
    max_interval: int = 20

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        _check(self, {"threshold": number(), "min_interval": whole_number(1), "max_interval": whole_number()})
        if self.max_interval < self.min_interval:
            raise ValueError(
                f"Refresh: max_interval is {self.max_interval}, expected at least min_interval {self.min_interval}"
            )


@dataclass(frozen=True, kw_only=True)
class InjectionSchedule:
    """What becomes of the injection over time; by default it stays as it is.

    Attributes:
        decay: let it fade.
        window: inject as long as t is at most this, and not afterwards; 0 or more. 0 is the prompt alone, N the prompt
            and the first N tokens of the answer. None never ends.
        refresh: renew the cognitive tokens.
    """

    decay: Decay | None = None
    window: int | None = None
    refresh: Refresh | None = None

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        _check(
            self,
            {
                "decay": instance(Decay).or_none(),
                "window": whole_number(0).or_none(),
                "refresh": instance(Refresh).or_none(),
            },
        )

    def strength(self, t: int) -> float:
        """What the gain is multiplied by at time t, 0 to 1."""
        if self.window is not None and t > self.window:
            return 0.0
        return 1.0 if self.decay is None else self.decay.alpha(t)


def _check(settings: object, rules: Mapping[str, Rule]) -> None:
    """Refuse values that are not allowed; the message names all of them.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is out of range.
    """
    found = [fault for name, rule in rules.items() if (fault := rule.fault(name, getattr(settings, name)))]
    if found:
        kind = TypeError if any(isinstance(fault, TypeError) for fault in found) else ValueError
        raise kind(faults_message(type(settings).__name__, [str(fault) for fault in found]))


#: Nothing changes: how wrappers are trained, and run by default.
STATIC: Final = InjectionSchedule()
