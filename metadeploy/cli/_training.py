"""Code that the commands which run PyTorch for minutes share."""

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

_PACKAGES: Final = ("torch", "safetensors", "transformers", "sklearn", "matplotlib")


def prepare_process() -> None:
    """Prepare the process for PyTorch. Call it before anything imports torch.

    After this, transformers reports only errors, and shows progress bars of downloads only on a terminal.

    Raises:
        MissingDependencyError: a package of the extra `train` is not installed.
    """
    from metadeploy.cli._process import prepare

    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"metadeploy: {', '.join(missing)} not installed, needed for training (pip install 'metadeploy[train]')"
        )
    prepare()
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    from transformers.utils import logging

    transformers_logging: Any = logging
    transformers_logging.set_verbosity_error()


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C inside the ``with`` block, so that finished work is saved."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
