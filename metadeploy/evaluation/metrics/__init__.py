"""Metrics of declining, one in a file, with formula, range, direction and source in its docstring.

Shares of questions come as a `Share` (hits, total, value, and Wilson's interval as if the questions were independent),
the others as a float; both are None where they are undefined, never NaN. What the arrays mean is told in
`metadeploy.evaluation.metrics.inputs`.

All of them at once, with intervals::

    from metadeploy.evaluation.metrics import summarise

    report = summarise(base_correct, answered, correct, same_words, doubt, category, entity=entity)
    report["metrics"]["auroc"]  # {"value": 0.84, "low": 0.81, "high": 0.87, "n": 1166}
"""

from __future__ import annotations

import importlib.util

from metadeploy.errors import MissingDependencyError

if importlib.util.find_spec("scipy") is None or importlib.util.find_spec("sklearn") is None:
    raise MissingDependencyError(
        "metadeploy.evaluation.metrics: SciPy or scikit-learn is not installed, both are needed for metrics "
        "(pip install 'metadeploy[eval]')"
    )

from metadeploy.evaluation.metrics.abstention import Abstention, abstention
from metadeploy.evaluation.metrics.auprc import auprc
from metadeploy.evaluation.metrics.aurc import aurc
from metadeploy.evaluation.metrics.auroc import auroc
from metadeploy.evaluation.metrics.auroc_difference import AUROCDifference, auroc_difference
from metadeploy.evaluation.metrics.base_accuracy import base_accuracy
from metadeploy.evaluation.metrics.bootstrap import bootstrap_interval, bootstrap_intervals, share_intervals
from metadeploy.evaluation.metrics.brier import brier
from metadeploy.evaluation.metrics.corrections import Corrections, corrections
from metadeploy.evaluation.metrics.coverage import coverage
from metadeploy.evaluation.metrics.e_aurc import e_aurc
from metadeploy.evaluation.metrics.ece import ece
from metadeploy.evaluation.metrics.inputs import MetricInputError
from metadeploy.evaluation.metrics.kept_rate import kept_rate
from metadeploy.evaluation.metrics.macro_auroc import macro_auroc
from metadeploy.evaluation.metrics.matched_coverage import MatchedCoverage, matched_coverage
from metadeploy.evaluation.metrics.mcnemar import McNemar, mcnemar
from metadeploy.evaluation.metrics.over_refusal_rate import over_refusal_rate
from metadeploy.evaluation.metrics.pooled_auroc import pooled_auroc
from metadeploy.evaluation.metrics.prr import prr
from metadeploy.evaluation.metrics.refusal_precision import refusal_precision
from metadeploy.evaluation.metrics.refusal_rate import refusal_rate
from metadeploy.evaluation.metrics.risk_coverage import RiskCoverage, risk_coverage
from metadeploy.evaluation.metrics.same_words_rate import same_words_rate
from metadeploy.evaluation.metrics.seed_mean import SeedMean, seed_mean
from metadeploy.evaluation.metrics.selective_accuracy import selective_accuracy
from metadeploy.evaluation.metrics.selective_accuracy_at import selective_accuracies_at, selective_accuracy_at
from metadeploy.evaluation.metrics.smart_refusal_rate import smart_refusal_rate
from metadeploy.evaluation.metrics.summary import shares, summarise
from metadeploy.proportion import Interval, Share

__all__ = [
    "AUROCDifference",
    "Abstention",
    "Corrections",
    "Interval",
    "MatchedCoverage",
    "McNemar",
    "MetricInputError",
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
    "kept_rate",
    "macro_auroc",
    "matched_coverage",
    "mcnemar",
    "over_refusal_rate",
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
    "summarise",
]
