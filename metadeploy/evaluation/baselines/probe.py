"""A linear probe: logistic regression on the base's activations at the last prompt token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from metadeploy.metrics import auroc
from metadeploy.training.records import Collected

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["STRENGTHS", "Probe", "linear_probe"]

#: Inverse strengths of the L2 penalty that are tried, ascending: from hardly learning to where it no longer counts.
STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
#: Newton's method takes about five steps from nothing, and fewer from the last strength.
_MOST_STEPS: Final = 100


@dataclass(frozen=True)
class Probe:
    """The probe that does best on the validation questions.

    Attributes:
        layer: whose output it reads.
        strength: scikit-learn's C, one of `STRENGTHS`.
        val_auroc: what it was chosen by.
        val_aurocs: what each of `STRENGTHS` reaches on that layer.
        converged: whether each fit on that layer came to its end; scikit-learn warns of one that does not.
        doubt: float64 [n] in [0, 1], probability of a base error.
    """

    layer: int
    strength: float
    val_auroc: float
    val_aurocs: tuple[float, ...]
    converged: bool
    doubt: NDArray[np.float64]


def linear_probe(
    train: Collected, val: Collected, activations: Tensor, *, progress: Callable[[int, int], None] | None = None
) -> Probe | None:
    """Train a probe on each collected layer with each of `STRENGTHS`, and take the best on the validation questions.

    Args:
        train: what it learns from.
        val: what layer and penalty are chosen on, by AUROC.
        activations: [n, n_layers, D] of the questions to be judged, in the layers of ``train``.
        progress: called after each layer with layers done and in all.

    Returns:
        The probe, of equally good ones that of the lowest layer and the strongest penalty; None where the training or
        the validation questions are all right or all wrong.
    """
    if len(_verdicts(train)) < 2 or len(_verdicts(val)) < 2:
        return None
    probes = []
    for number, layer in enumerate(train.layers):
        probes.append(_of_layer(layer, train, val, activations[:, [number]]))
        if progress is not None:
            progress(number + 1, len(train.layers))
    return max(probes, key=lambda probe: probe.val_auroc)


def _verdicts(part: Collected) -> set[bool]:
    return {record.correct for record in part.records}


def _of_layer(layer: int, train: Collected, val: Collected, activations: Tensor) -> Probe:
    """The best probe of one layer, for activations [n, 1, D]."""
    wrong = [not record.correct for record in train.records]
    val_right = [record.correct for record in val.records]
    scaler = StandardScaler().fit(_rows(train.layers_at([layer])))
    seen, val_seen, asked = (
        scaler.transform(_rows(part)) for part in (train.layers_at([layer]), val.layers_at([layer]), activations)
    )
    # By Newton's method, in F64: activations are so correlated that L-BFGS takes hundreds of steps. Each strength
    # begins where the last one ended.
    regression = LogisticRegression(solver="newton-cholesky", max_iter=_MOST_STEPS, warm_start=True)
    aurocs: list[float] = []
    doubts: list[NDArray[np.float64]] = []
    converged = True
    for strength in STRENGTHS:
        regression.set_params(C=strength).fit(seen, wrong)
        converged &= bool(regression.n_iter_[0] < _MOST_STEPS)
        score = auroc(regression.decision_function(val_seen), val_right)
        assert score is not None  # there are both verdicts
        aurocs.append(score)
        doubts.append(regression.predict_proba(asked)[:, 1])
    best = int(np.argmax(aurocs))
    return Probe(layer, STRENGTHS[best], aurocs[best], tuple(aurocs), converged, doubts[best])


def _rows(activations: Tensor) -> NDArray[np.float64]:
    """[n, 1, D] as F64 [n, D]."""
    rows: NDArray[np.float64] = activations[:, 0].double().numpy()
    return rows
