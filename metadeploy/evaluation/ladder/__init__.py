"""The quantisation ladder: what smaller weights change of a Doubter's decisions, compared with PyTorch in F32."""

from __future__ import annotations

from metadeploy.evaluation.ladder.runner import Ladder, climb
from metadeploy.evaluation.ladder.settings import LadderSettings, parse_sidecar_types, parse_types

__all__ = ["Ladder", "LadderSettings", "climb", "parse_sidecar_types", "parse_types"]
