"""The quantization ladder: how smaller weights change the decisions of a Doubter, compared with PyTorch in F32.

The names are loaded when they are first used, because the settings and the runtime's part need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metadeploy._lazy import lazy_names

if TYPE_CHECKING:
    from metadeploy.evaluation.ladder.runner import Ladder, run_ladder
    from metadeploy.evaluation.ladder.settings import LadderSettings, parse_sidecar_types, parse_types

__all__ = ["Ladder", "LadderSettings", "parse_sidecar_types", "parse_types", "run_ladder"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Ladder": "metadeploy.evaluation.ladder.runner",
        "LadderSettings": "metadeploy.evaluation.ladder.settings",
        "run_ladder": "metadeploy.evaluation.ladder.runner",
        "parse_sidecar_types": "metadeploy.evaluation.ladder.settings",
        "parse_types": "metadeploy.evaluation.ladder.settings",
    },
)
