"""What the commands that run PyTorch for minutes share."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from metadeploy.errors import MissingDependencyError

__all__ = ["prepare_process", "terminate_as_interrupt"]

_NEEDED: Final = ("torch", "safetensors", "transformers", "sklearn", "matplotlib")


def prepare_process() -> None:
    """Make the process ready for PyTorch, before anything imports it.

    transformers says only what is wrong after this, and draws its bars (a download may take long) on terminals only.

    Raises:
        MissingDependencyError: a package of the extra `train` is not installed.
    """
    from metadeploy.cli._process import prepare

    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"metadeploy: {', '.join(missing)} not installed, needed for training (pip install 'metadeploy[train]')"
        )
    prepare()
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    from transformers.utils import logging

    reporting: Any = logging
    reporting.set_verbosity_error()


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """While it lasts, SIGTERM is what Ctrl-C is: what was done is kept."""
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
