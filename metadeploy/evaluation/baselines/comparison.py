"""The Doubter against another way of declining, on the same questions and at the same coverage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metadeploy.evaluation.samples import Samples
from metadeploy.metrics import (
    aurc,
    auroc,
    auroc_difference,
    bootstrap_interval,
    coverage,
    macro_auroc,
    matched_coverage,
    selective_accuracy,
    share_intervals,
)
from metadeploy.metrics._ranking import category_pairs, qualified
from metadeploy.proportion import Share, figure

__all__ = ["Comparison"]

#: A category's own AUROC needs as many errors and as many right answers.
_MIN_EACH: Final = 5


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What everything is compared with: the Doubter on some questions.

    Intervals are those of a bootstrap over the questions, in which those about one entity are drawn together.

    Attributes:
        samples: the questions.
        n_bootstrap: draws of each interval.
        seed: of the draws, and of the lot among ties.
    """

    samples: Samples
    n_bootstrap: int = 2000
    seed: int = 0

    def score(self, name: str, doubt: NDArray[np.float64], *, n_answered: int) -> dict[str, Any]:
        """Compare with a score that ranks the base's own answers.

        Args:
            name: what it is called.
            doubt: float64 [n], higher means more doubt.
            n_answered: how many questions both answer, the least doubted ones.

        Returns:
            ``name``, ``kind`` = ``score``, ``auroc``, ``macro_auroc`` and ``aurc`` (value, low, high),
            ``selective_accuracy`` at that coverage (value, low, high, n) and ``doubter``: its selective accuracy there,
            the paired test of the two (``p_value``; ``only_doubter`` and ``only_baseline`` count the questions that one
            of them answers rightly and the other not) and ``auroc_difference`` (Doubter − baseline).
        """
        base = self.samples.base_correct
        difference = auroc_difference(
            self.samples.doubt,
            doubt,
            base,
            entity=self.samples.entity,
            n_resamples=self.n_bootstrap,
            seed=self.seed,
        )
        matched = self._matched(doubt, base, n_answered)
        low, high = (difference.interval if difference is not None else None) or (None, None)
        matched["doubter"]["auroc_difference"] = {
            "value": None if difference is None else difference.value,
            "low": low,
            "high": high,
            "p_value": None if difference is None else difference.p_value,
        }
        _, codes = np.unique(self.samples.category, return_inverse=True)
        # which categories count is decided once, and not anew by each draw with its chance numbers of errors
        counts = qualified(category_pairs(doubt, base, codes), _MIN_EACH)[codes]

        def within(at: NDArray[np.intp]) -> float | None:
            among = at[counts[at]]
            return macro_auroc(doubt[among], base[among], codes[among], min_each=1)

        return {
            "name": name,
            "kind": "score",
            "auroc": self._interval(lambda at: auroc(doubt[at], base[at])),
            "macro_auroc": self._interval(within),
            "aurc": self._interval(lambda at: aurc(doubt[at], base[at])),
            **matched,
        }

    def point(self, name: str, declined: NDArray[np.bool_], correct: NDArray[np.bool_]) -> dict[str, Any]:
        """Compare with what declines in its own way and has no score.

        Args:
            name: what it is called.
            declined: bool [n].
            correct: bool [n], whether its answer is right; of no matter where it declined.

        Returns:
            ``name``, ``kind`` = ``point``, ``coverage``, and the rest as in `score`, at that coverage.
        """
        answered = int((~declined).sum())
        return {
            "name": name,
            "kind": "point",
            "coverage": self._share(lambda at: coverage(~declined[at])),
            **self._matched(declined.astype(np.float64), correct, answered),
        }

    def _matched(
        self, doubt: NDArray[np.float64], correct: NDArray[np.bool_], n_answered: int
    ) -> dict[str, dict[str, Any]]:
        found = matched_coverage(
            self.samples.doubt, self.samples.answer_correct, doubt, correct, n_answered=n_answered, seed=self.seed
        )
        return {
            "selective_accuracy": self._selective(found.second_answered, correct),
            "doubter": {
                "selective_accuracy": self._selective(found.first_answered, self.samples.answer_correct),
                "only_doubter": found.test.only_first,
                "only_baseline": found.test.only_second,
                "p_value": found.test.p_value,
            },
        }

    def _selective(self, answered: NDArray[np.bool_], correct: NDArray[np.bool_]) -> dict[str, Any]:
        return self._share(lambda at: selective_accuracy(answered[at], correct[at]))

    def _share(self, share: Callable[[NDArray[np.intp]], Share]) -> dict[str, Any]:
        found = share(np.arange(len(self.samples)))
        (interval,) = share_intervals(
            lambda at: [share(at)],
            len(self.samples),
            entity=self.samples.entity,
            n_resamples=self.n_bootstrap,
            seed=self.seed,
        )
        return figure(found.value, interval, found.total)

    def _interval(self, statistic: Callable[[NDArray[np.intp]], float | None]) -> dict[str, float | None]:
        value = statistic(np.arange(len(self.samples)))
        interval = bootstrap_interval(
            statistic,
            len(self.samples),
            entity=self.samples.entity,
            n_resamples=self.n_bootstrap,
            seed=self.seed,
        )
        low, high = interval or (None, None)
        return {"value": value, "low": low, "high": high}
