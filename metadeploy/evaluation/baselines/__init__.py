"""What a sceptic would use instead of a Doubter, on the same questions.

Scores, which rank the base's own answers: its log-probabilities, a linear probe on its activations, and the error rate
of the kind of question. And points: the base told that it may decline, and the Doubter's gain turned up and down.
"""

from __future__ import annotations

from metadeploy.evaluation.baselines.category import category_doubt
from metadeploy.evaluation.baselines.comparison import Comparison
from metadeploy.evaluation.baselines.probe import STRENGTHS, Probe, linear_probe

__all__ = ["STRENGTHS", "Comparison", "Probe", "category_doubt", "linear_probe"]
