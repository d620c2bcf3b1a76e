"""Baselines that a user could use instead of a Doubter, on the same questions.

Scores rank the base's own answers: its log-probabilities, a linear probe on its activations, and the error rate of the
kind of question. Points have no score: the prompted baseline, and the Doubter at other gains.
"""

from __future__ import annotations

from metadeploy.evaluation.baselines.category import category_doubt
from metadeploy.evaluation.baselines.comparison import Comparison
from metadeploy.evaluation.baselines.probe import STRENGTHS, Probe, linear_probe

__all__ = ["STRENGTHS", "Comparison", "Probe", "category_doubt", "linear_probe"]
