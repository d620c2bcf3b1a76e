"""Compares the Doubter with another way of declining, on the same questions and at the same coverage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
from metadeploy.metrics._ranking import MIN_EACH, category_pairs, qualified
from metadeploy.proportion import Share, figure

__all__ = ["Comparison"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Compares baselines with the Doubter on the same questions.

    Intervals are from a bootstrap over the questions, which draws questions about the same entity together.

    Attributes:
        samples: the questions with the Doubter's answers.
        n_bootstrap: number of draws for each interval.
        seed: seed of the draws, and of the random order of ties.
    """

    samples: Samples
    n_bootstrap: int = 2000
    seed: int = 0

    def score(self, name: str, doubt: NDArray[np.float64], *, n_answered: int) -> dict[str, Any]:
        """Compare with a score that ranks the base's own answers.

        Args:
            name: name of the baseline.
            doubt: float64 [n], higher means more doubt.
            n_answered: number of questions that both answer, the least doubted ones of each.

        Returns:
            ``name``, ``kind`` = ``score``, ``auroc``, ``macro_auroc`` and ``aurc`` (value, low, high),
            ``selective_accuracy`` at this coverage (value, low, high, n) and ``doubter``: its selective accuracy at
            this coverage, the paired test of the two (``p_value``; ``only_doubter`` and ``only_baseline`` count the
            questions that only one of them answers correctly) and ``auroc_difference`` (Doubter − baseline).
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
        # decided once, because the number of errors in a category changes from draw to draw
        counts = qualified(category_pairs(doubt, base, codes), MIN_EACH)[codes]

        def within_categories(at: NDArray[np.intp]) -> float | None:
            counted = at[counts[at]]
            return macro_auroc(doubt[counted], base[counted], codes[counted], min_each=1)

        return {
            "name": name,
            "kind": "score",
            "auroc": self._interval(lambda at: auroc(doubt[at], base[at])),
            "macro_auroc": self._interval(within_categories),
            "aurc": self._interval(lambda at: aurc(doubt[at], base[at])),
            **matched,
        }

    def point(self, name: str, declined: NDArray[np.bool_], correct: NDArray[np.bool_]) -> dict[str, Any]:
        """Compare with a baseline that declines without a score.

        Args:
            name: name of the baseline.
            declined: bool [n].
            correct: bool [n], whether its answer is right; ignored if it declined.

        Returns:
            ``name``, ``kind`` = ``point``, ``coverage``, and the other keys of `score`, at this coverage.
        """
        n_answered = int((~declined).sum())
        return {
            "name": name,
            "kind": "point",
            "coverage": self._share(lambda at: coverage(~declined[at])),
            **self._matched(declined.astype(np.float64), correct, n_answered),
        }

    def _matched(
        self, doubt: NDArray[np.float64], correct: NDArray[np.bool_], n_answered: int
    ) -> dict[str, dict[str, Any]]:
        matched = matched_coverage(
            self.samples.doubt, self.samples.answer_correct, doubt, correct, n_answered=n_answered, seed=self.seed
        )
        return {
            "selective_accuracy": self._selective_accuracy(matched.second_answered, correct),
            "doubter": {
                "selective_accuracy": self._selective_accuracy(matched.first_answered, self.samples.answer_correct),
                "only_doubter": matched.test.only_first,
                "only_baseline": matched.test.only_second,
                "p_value": matched.test.p_value,
            },
        }

    def _selective_accuracy(self, answered: NDArray[np.bool_], correct: NDArray[np.bool_]) -> dict[str, Any]:
        return self._share(lambda at: selective_accuracy(answered[at], correct[at]))

    def _share(self, share: Callable[[NDArray[np.intp]], Share]) -> dict[str, Any]:
        overall = share(np.arange(len(self.samples)))
        (interval,) = share_intervals(
            lambda at: [share(at)],
            len(self.samples),
            entity=self.samples.entity,
            n_resamples=self.n_bootstrap,
            seed=self.seed,
        )
        return figure(overall.value, interval, overall.total)

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
