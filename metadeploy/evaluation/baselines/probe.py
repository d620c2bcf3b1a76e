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

#: Inverse strengths of the L2 penalty, ascending: from a very strong penalty to one without effect.
STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
#: Newton's method takes about five steps from zero, and fewer from the solution of the previous strength.
_MAX_STEPS: Final = 100


@dataclass(frozen=True)
class Probe:
    """The best probe on the validation questions.

    Attributes:
        layer: the layer whose output it reads.
        strength: scikit-learn's C, one of `STRENGTHS`.
        val_auroc: its AUROC on the validation questions, by which it was chosen.
        val_aurocs: the AUROC of each of `STRENGTHS` on this layer.
        converged: whether every fit on this layer converged; scikit-learn warns if one does not.
        doubt: float64 [n] in [0, 1], probability of an error of the base.
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
    """Train a probe on each collected layer with each of `STRENGTHS`, and choose the best on the validation questions.

    Args:
        train: the training questions.
        val: the validation questions, whose AUROC chooses layer and penalty.
        activations: [n, n_layers, D] of the questions to score, in the layers of ``train``.
        progress: called after each layer with the number of finished layers and of all layers.

    Returns:
        The probe. Among equally good probes, it is the one with the lowest layer and the strongest penalty. None if the
        base is right on all or on none of the training questions, or of the validation questions.
    """
    if len(_verdicts(train)) < 2 or len(_verdicts(val)) < 2:
        return None
    probes = []
    for number, layer in enumerate(train.layers):
        probes.append(_layer_probe(layer, train, val, activations[:, [number]]))
        if progress is not None:
            progress(number + 1, len(train.layers))
    return max(probes, key=lambda probe: probe.val_auroc)


def _verdicts(collected: Collected) -> set[bool]:
    return {record.correct for record in collected.records}


def _layer_probe(layer: int, train: Collected, val: Collected, activations: Tensor) -> Probe:
    """Return the best probe of one layer, for activations [n, 1, D]."""
    wrong = [not record.correct for record in train.records]
    val_right = [record.correct for record in val.records]
    scaler = StandardScaler().fit(_rows(train.layers_at([layer])))
    train_x, val_x, test_x = (
        scaler.transform(_rows(tensor)) for tensor in (train.layers_at([layer]), val.layers_at([layer]), activations)
    )
    # Newton's method in F64, because activations are so correlated that L-BFGS takes hundreds of steps. Each strength
    # starts from the solution of the previous one.
    regression = LogisticRegression(solver="newton-cholesky", max_iter=_MAX_STEPS, warm_start=True)
    aurocs: list[float] = []
    doubts: list[NDArray[np.float64]] = []
    converged = True
    for strength in STRENGTHS:
        regression.set_params(C=strength).fit(train_x, wrong)
        converged &= bool(regression.n_iter_[0] < _MAX_STEPS)
        score = auroc(regression.decision_function(val_x), val_right)
        assert score is not None  # because there are right answers and errors
        aurocs.append(score)
        doubts.append(regression.predict_proba(test_x)[:, 1])
    best = int(np.argmax(aurocs))
    return Probe(layer, STRENGTHS[best], aurocs[best], tuple(aurocs), converged, doubts[best])


def _rows(activations: Tensor) -> NDArray[np.float64]:
    """Convert [n, 1, D] to F64 [n, D]."""
    rows: NDArray[np.float64] = activations[:, 0].double().numpy()
    return rows
