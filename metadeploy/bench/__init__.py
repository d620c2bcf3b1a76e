"""Measures the cost of a wrapper: injected and clean runs take turns in one process, and their ratios are reported.

The names are loaded when they are first used, because the settings need neither NumPy nor the compiled core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metadeploy._lazy import lazy_names

if TYPE_CHECKING:
    from metadeploy.bench.measurements import Figure, Report, Spread
    from metadeploy.bench.runner import run_bench
    from metadeploy.bench.settings import PARTS, BenchSettings

__all__ = ["PARTS", "BenchSettings", "Figure", "Report", "Spread", "run_bench"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "PARTS": "metadeploy.bench.settings",
        "BenchSettings": "metadeploy.bench.settings",
        "Figure": "metadeploy.bench.measurements",
        "Report": "metadeploy.bench.measurements",
        "Spread": "metadeploy.bench.measurements",
        "run_bench": "metadeploy.bench.runner",
    },
)
