"""The errors of metadeploy: one hierarchy, shared by Python and the compiled core.

Every message has the same form: subject, fact, expectation, likely cause or next step, as in

    sidecar 'x.gguf': tensor 'ca.21.k_proj.weight' has shape [64, 2048], expected [64, 2560] (wrong base model?)

The compiled core raises the same classes: the bindings import this module and register each C++ exception with the
Python class of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = [
    "Cancelled",
    "CheckpointError",
    "ContextOverflowError",
    "DecodeError",
    "Error",
    "MissingDependencyError",
    "ModelLoadError",
    "ModelMismatchError",
    "OptionError",
    "RunDirError",
    "RunJSONError",
    "SidecarError",
]


class Error(Exception):
    """Base class of all errors that metadeploy raises."""


class OptionError(Error, ValueError):
    """The value of an option is out of range."""


class CheckpointError(Error):
    """A PyTorch checkpoint, run.json or safetensors file cannot be used."""


class SidecarError(Error):
    """A sidecar GGUF is malformed, incomplete or contradicts itself."""


class RunDirError(Error):
    """A run directory lacks data that a step needs, or its data does not fit the step."""


class RunJSONError(CheckpointError, RunDirError):
    """A run.json cannot be read, or has an invalid key or value."""


class ModelLoadError(Error):
    """A base model cannot be loaded."""


class ModelMismatchError(Error):
    """A sidecar and a base model do not fit each other."""


class ContextOverflowError(Error):
    """A prompt, or a prompt and its answer, do not fit into the context."""


class DecodeError(Error):
    """llama.cpp failed to evaluate a batch, or its results are not finite."""


class Cancelled(Error):
    """The caller's cancel callback asked to stop."""


class MissingDependencyError(Error, ImportError):
    """An optional package is needed for this call; the message holds the pip command that installs it."""


#: The most characters of a text from a file that a message shows.
_MAX_SHOWN: Final = 100
#: The most faults that a message lists; it gives the number of the others.
_MAX_FAULTS: Final = 100


def shown(text: object) -> str:
    """Return a value from a file as text for a message, shortened if it is long."""
    whole = str(text)
    return whole if len(whole) <= _MAX_SHOWN else whole[:_MAX_SHOWN] + "..."


def faults_message(subject: str, faults: Sequence[str]) -> str:
    """Format one or several faults of one subject.

    Args:
        subject: what the faults are about, e.g. ``sidecar 'x.gguf'``.
        faults: at least one fault, each a phrase without the subject.

    Returns:
        ``subject: fault`` for one fault, else the subject, a count and one indented line for each.
    """
    if len(faults) == 1:
        return f"{subject}: {faults[0]}"
    lines = [f"  - {fault}" for fault in faults[:_MAX_FAULTS]]
    if len(faults) > _MAX_FAULTS:
        lines.append(f"  - and {len(faults) - _MAX_FAULTS} more")
    return "\n".join([f"{subject}: {len(faults)} faults", *lines])
