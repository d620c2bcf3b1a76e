"""How often answers are wrong, beside how probable their errors were said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from metadeploy.errors import Error
from metadeploy.metrics import ece, ece_noise_floor
from metadeploy.metrics._inputs import scored
from metadeploy.plots.style import BLUE, DARK, GRAY, LIGHT, page, per_cent_axis
from metadeploy.proportion import wilson_interval

__all__ = ["reliability"]

#: Groups of equally many questions.
_GROUPS: Final = 10
_BINS: Final = 20


def reliability(p_wrong: ArrayLike, correct: ArrayLike, path: Path) -> None:
    """Draw the error rate of ten groups of answers against their mean probability of an error.

    Args:
        p_wrong: float [n] in [0, 1].
        correct: bool [n].
        path: ``.png`` or ``.svg``.

    Raises:
        Error: there are no answers, or the file cannot be written.
        MetricInputError: the arrays are malformed.
    """
    probabilities, right = scored(p_wrong, correct, probability=True)
    error = ece(probabilities, right)
    if error is None:
        raise Error(f"plot '{path}': no answers, expected at least one")
    floor = ece_noise_floor(probabilities)
    groups = np.array_split(np.argsort(probabilities, kind="stable"), min(_GROUPS, len(right)))
    expected = [float(probabilities[group].mean()) for group in groups]
    actual = [float((~right[group]).mean()) for group in groups]
    bands = [wilson_interval(int((~right[group]).sum()), len(group)) or (0.0, 1.0) for group in groups]
    bars = np.abs(np.transpose(bands) - np.array(actual))
    caption = (
        f"n = {len(right):,} answers in {len(groups)} groups of equally many. Bars: Wilson's 95 % interval. Gray: how "
        "many answers have that probability. ECE: mean distance in ten bins of equal width; perfect probabilities "
        f"would have {floor:.3f} on as many answers."
    )
    title = f"Probabilities are off by {error:.3f} on average (ECE)"
    with page(path, title=title, caption=caption, height=5.2) as figure:
        axes = figure.subplots()
        heights, edges = np.histogram(probabilities, np.linspace(0, 1, _BINS + 1))
        axes.bar(edges[:-1], 0.25 * heights / heights.max(), width=1 / _BINS, align="edge", color=LIGHT, linewidth=0)
        axes.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle=(0, (1, 2)))
        axes.errorbar(
            expected, actual, yerr=bars, color=BLUE, marker="o", markersize=6, linewidth=1.6, ecolor=DARK, elinewidth=1
        )
        per_cent_axis(axes, "x")
        per_cent_axis(axes, "y", 0, 1.02)
        axes.set_xlabel("p_wrong: probability of an error")
        axes.set_ylabel("answers that are wrong")
