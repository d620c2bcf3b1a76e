"""Plots that are quick to read: the main result is the title, axes are in percent, and the caption states n.

The suffix of the file chooses PNG or SVG. The plots are drawn for a white page, in colors that people with any color
vision can distinguish. The same figures give the same bytes, with the same version of matplotlib.
"""

from __future__ import annotations

import importlib.util

from metadeploy.errors import MissingDependencyError

if importlib.util.find_spec("matplotlib") is None:
    raise MissingDependencyError(
        "metadeploy.plots: matplotlib is not installed, needed for plots (pip install 'metadeploy[eval]')"
    )

from metadeploy.plots.category_bars import category_bars
from metadeploy.plots.doubt_histogram import doubt_histogram
from metadeploy.plots.gates_and_preferences import gates_and_preferences
from metadeploy.plots.ladder import Rung, ladder
from metadeploy.plots.reliability import reliability
from metadeploy.plots.risk_coverage import risk_coverage
from metadeploy.plots.training_curves import training_curves

__all__ = [
    "Rung",
    "category_bars",
    "doubt_histogram",
    "gates_and_preferences",
    "ladder",
    "reliability",
    "risk_coverage",
    "training_curves",
]
