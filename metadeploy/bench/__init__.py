"""What a wrapper costs: injected and clean in one process by turns, as ratios, beside the limits on paper."""

from __future__ import annotations

from metadeploy.bench.measurements import Figure, Report, Spread
from metadeploy.bench.runner import PARTS, BenchSettings, run_bench

__all__ = ["PARTS", "BenchSettings", "Figure", "Report", "Spread", "run_bench"]
