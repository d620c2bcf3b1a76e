"""metadeploy: run trained Doubters with any GGUF base model.

The public names are loaded on first use, so that importing the package is fast. Running a model needs only NumPy;
``metadeploy.export`` and ``metadeploy.reference`` need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from metadeploy.errors import (
    Cancelled,
    CheckpointError,
    ContextOverflowError,
    DecodeError,
    Error,
    MissingDependencyError,
    ModelLoadError,
    ModelMismatchError,
    OptionError,
    RunDirError,
    RunJSONError,
    SidecarError,
)

if TYPE_CHECKING:
    from metadeploy.runtime import (
        BatchAnswer,
        GenerationChunk,
        GenerationResult,
        Message,
        MetaLlama,
        Request,
        Timings,
        TokenLogprob,
    )
    from metadeploy.schedule import Decay, InjectionSchedule, Refresh

__all__ = [
    "BatchAnswer",
    "Cancelled",
    "CheckpointError",
    "ContextOverflowError",
    "Decay",
    "DecodeError",
    "Error",
    "GenerationChunk",
    "GenerationResult",
    "InjectionSchedule",
    "Message",
    "MetaLlama",
    "MissingDependencyError",
    "ModelLoadError",
    "ModelMismatchError",
    "OptionError",
    "Refresh",
    "Request",
    "RunDirError",
    "RunJSONError",
    "SidecarError",
    "Timings",
    "TokenLogprob",
    "__version__",
]

_SCHEDULE_NAMES = frozenset({"Decay", "InjectionSchedule", "Refresh"})


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from metadeploy._version import own_version

        return own_version() or "unknown"
    if name in __all__:  # the errors are already imported
        return getattr(import_module(f"metadeploy.{'schedule' if name in _SCHEDULE_NAMES else 'runtime'}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
