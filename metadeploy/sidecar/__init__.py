"""The sidecar: a small GGUF file that holds a trained wrapper, read and written here.

The names are loaded when they are first used: `spec`, which the command line needs for its defaults, wants no NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

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

_MODULES: Final = {
    "DEFAULT_REFUSAL_TEXT": "spec",
    "FORMAT_VERSION": "spec",
    "Examination": "examination",
    "Metadata": "writer",
    "Sidecar": "reader",
    "WrapperConfig": "spec",
    "WriteReport": "writer",
    "examine": "examination",
    "read_sidecar": "reader",
    "write_sidecar": "writer",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"metadeploy.sidecar.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
