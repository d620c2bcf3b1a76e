"""A linear probe: logistic regression on the base's activations at the last prompt token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from metadeploy.evaluation.metrics import auroc
from metadeploy.training.records import Collected

__all__ = ["Probe", "linear_probe"]

#: Inverse strengths of the L2 penalty that are tried.
_STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Probe:
    """The probe that does best on the validation questions.

    Attributes:
        layer: whose output it reads.
        strength: scikit-learn's C.
        val_auroc: what it was chosen by.
        doubt: float64 [n] in [0, 1], probability of a base error.
    """

    layer: int
    strength: float
    val_auroc: float
    doubt: NDArray[np.float64]


def linear_probe(
    train: Collected, val: Collected, activations: Tensor, *, progress: Callable[[int, int], None] | None = None
) -> Probe | None:
    """Train a probe on each collected layer, and take the best on the validation questions.

    Args:
        train: what it learns from.
        val: what layer and penalty are chosen on, by AUROC.
        activations: [n, n_layers, D] of the questions to be judged, in the layers of ``train``.
        progress: called after each layer with layers done and in all.

    Returns:
        The probe; None where the training or the validation questions are all right or all wrong.
    """
    wrong = np.array([not record.correct for record in train.records])
    val_right = np.array([record.correct for record in val.records], dtype=np.bool_)
    if wrong.all() or not wrong.any():
        return None
    best: tuple[float, int, float, Any] | None = None
    for number, layer in enumerate(train.layers):
        scaler = StandardScaler().fit(_rows(train.layers_at([layer])))
        seen, val_seen = (scaler.transform(_rows(part.layers_at([layer]))) for part in (train, val))
        for strength in _STRENGTHS:
            regression = LogisticRegression(C=strength, max_iter=1000).fit(seen, wrong)
            score = auroc(regression.decision_function(val_seen).astype(np.float64), val_right)
            if score is not None and (best is None or score > best[0]):
                best = (score, number, strength, make_pipeline(scaler, regression))
        if progress is not None:
            progress(number + 1, len(train.layers))
    if best is None:
        return None
    score, number, strength, probe = best
    doubt = probe.predict_proba(_rows(activations[:, [number]]))[:, 1]
    return Probe(train.layers[number], strength, score, doubt.astype(np.float64))


def _rows(activations: Tensor) -> NDArray[np.float32]:
    """[n, 1, D] as F32 [n, D]."""
    rows: NDArray[np.float32] = activations[:, 0].float().numpy()
    return rows
