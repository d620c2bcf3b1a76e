"""Read and write sidecars: small GGUF files that hold a trained wrapper.

The names are loaded on first use, because the command line imports `spec` for its defaults and should not load NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metadeploy._lazy import lazy_names

if TYPE_CHECKING:
    from metadeploy.sidecar.examination import Examination, examine
    from metadeploy.sidecar.reader import Sidecar, read_sidecar
    from metadeploy.sidecar.spec import DEFAULT_REFUSAL_TEXT, FORMAT_VERSION, WrapperConfig
    from metadeploy.sidecar.writer import Metadata, WriteReport, write_sidecar

__all__ = [
    "DEFAULT_REFUSAL_TEXT",
    "FORMAT_VERSION",
    "Examination",
    "Metadata",
    "Sidecar",
    "WrapperConfig",
    "WriteReport",
    "examine",
    "read_sidecar",
    "write_sidecar",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DEFAULT_REFUSAL_TEXT": "metadeploy.sidecar.spec",
        "FORMAT_VERSION": "metadeploy.sidecar.spec",
        "Examination": "metadeploy.sidecar.examination",
        "Metadata": "metadeploy.sidecar.writer",
        "Sidecar": "metadeploy.sidecar.reader",
        "WrapperConfig": "metadeploy.sidecar.spec",
        "WriteReport": "metadeploy.sidecar.writer",
        "examine": "metadeploy.sidecar.examination",
        "read_sidecar": "metadeploy.sidecar.reader",
        "write_sidecar": "metadeploy.sidecar.writer",
    },
)
