"""Metrics of declining. The docstring of each metric has its formula, range, direction and source.

Proportions of questions are returned as a `Share` (hits, total, value, and Wilson's interval as if the questions were
independent), all other metrics as a float. An undefined metric is None, never NaN. Malformed input raises
`MetricInputError`.

The arrays have one dimension and one length n, with an entry for each question:

* ``base_correct`` bool: the base alone is right;
* ``answered`` bool: the base with its Doubter answers instead of declining;
* ``correct`` bool: this answer is right; False if the Doubter declined;
* ``same_words`` bool: this answer is the base's own text, except for surrounding space; ignored if the Doubter
  declined;
* ``doubt`` float: higher means more doubt. ECE, Brier score and summary read it as a probability in [0, 1]. The other
  metrics use only its order, so it may be any finite number;
* ``category``: the kind of question, as text or as a number;
* ``entity``: the subject of the question, as text or as a number. Each question with an empty text is an entity of its
  own.

All metrics at once, with intervals::

    from metadeploy.metrics import summarize

    report = summarize(base_correct, answered, correct, same_words, doubt, category, entity=entity)
    report["metrics"]["auroc"]  # {"value": 0.84, "low": 0.81, "high": 0.87, "n": 1166}
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

from metadeploy.errors import MissingDependencyError

if importlib.util.find_spec("scipy") is None or importlib.util.find_spec("sklearn") is None:
    raise MissingDependencyError(
        "metadeploy.metrics: SciPy or scikit-learn is not installed, both are needed for metrics "
        "(pip install 'metadeploy[eval]')"
    )

from metadeploy.metrics._calibration import PlattCalibration, brier, ece, ece_noise_floor, platt_calibration
from metadeploy.metrics._guarantee import Guarantee, guaranteed_threshold, most_evident_threshold, one_per_entity
from metadeploy.metrics._inputs import MetricInputError
from metadeploy.metrics._intervals import SeedMean, bootstrap_interval, bootstrap_intervals, seed_mean, share_intervals
from metadeploy.metrics._proportions import (
    Abstention,
    Corrections,
    abstention,
    base_accuracy,
    corrections,
    coverage,
    kept_rate,
    over_refusal_rate,
    refusal_precision,
    refusal_rate,
    same_words_rate,
    selective_accuracy,
    smart_refusal_rate,
)
from metadeploy.metrics._ranking import (
    RiskCoverage,
    auprc,
    aurc,
    auroc,
    e_aurc,
    macro_auroc,
    pooled_auroc,
    prr,
    risk_coverage,
    selective_accuracies_at,
    selective_accuracy_at,
)
from metadeploy.metrics._significance import (
    AUROCDifference,
    MatchedCoverage,
    McNemar,
    auroc_difference,
    holm,
    matched_coverage,
    mcnemar,
)
from metadeploy.metrics._summary import shares, summarize
from metadeploy.proportion import Interval, Share

__all__ = [
    "AUROCDifference",
    "Abstention",
    "Corrections",
    "Guarantee",
    "Interval",
    "MatchedCoverage",
    "McNemar",
    "MetricInputError",
    "PlattCalibration",
    "RiskCoverage",
    "SeedMean",
    "Share",
    "abstention",
    "auprc",
    "aurc",
    "auroc",
    "auroc_difference",
    "base_accuracy",
    "bootstrap_interval",
    "bootstrap_intervals",
    "brier",
    "corrections",
    "coverage",
    "e_aurc",
    "ece",
    "ece_noise_floor",
    "guaranteed_threshold",
    "holm",
    "kept_rate",
    "macro_auroc",
    "matched_coverage",
    "mcnemar",
    "most_evident_threshold",
    "one_per_entity",
    "over_refusal_rate",
    "platt_calibration",
    "pooled_auroc",
    "prr",
    "refusal_precision",
    "refusal_rate",
    "risk_coverage",
    "same_words_rate",
    "seed_mean",
    "selective_accuracies_at",
    "selective_accuracy",
    "selective_accuracy_at",
    "share_intervals",
    "shares",
    "smart_refusal_rate",
    "summarize",
]


def __getattr__(name: str) -> Any:
    if name == "summarise":
        warnings.warn(f"{__name__}.summarise is deprecated, use summarize", DeprecationWarning, stacklevel=2)
        return summarize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
