"""Read and write a trained wrapper: its checkpoint, its run.json and its run directory.

The names are loaded on first use. torch is imported only when a checkpoint is read or written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metadeploy._lazy import lazy_names

if TYPE_CHECKING:
    from metadeploy.checkpoint.load import Wrapper, load_wrapper
    from metadeploy.checkpoint.run_dir import RunDir

__all__ = ["RunDir", "Wrapper", "load_wrapper"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "RunDir": "metadeploy.checkpoint.run_dir",
        "Wrapper": "metadeploy.checkpoint.load",
        "load_wrapper": "metadeploy.checkpoint.load",
    },
)
