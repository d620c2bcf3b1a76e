"""Sends llama.cpp's messages to Python's logger ``metadeploy.llama_cpp``, which is silent by default."""

from __future__ import annotations

import atexit
import logging
from typing import Final

from metadeploy import _core

__all__ = ["configure"]

_LEVELS: Final = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}

_package_logger = logging.getLogger("metadeploy")
_logger = logging.getLogger("metadeploy.llama_cpp")
# without a handler, logging would print warnings of a library to stderr
_package_logger.addHandler(logging.NullHandler())


def _on_message(level: int, line: str) -> None:
    _logger.log(_LEVELS.get(level, logging.INFO), "%s", line)


def configure(verbose: bool) -> None:
    """Send messages from the logger's level on to ``logging``; the core does not pass others to Python.

    Args:
        verbose: also print messages to stderr, from level INFO on.
    """
    if verbose and not any(type(handler) is logging.StreamHandler for handler in _package_logger.handlers):
        _package_logger.addHandler(logging.StreamHandler())
        _package_logger.setLevel(min(logging.INFO, _package_logger.getEffectiveLevel()))
    level = _logger.getEffectiveLevel()
    _core.set_log_callback(
        _on_message,
        min((llama_level for llama_level, python_level in _LEVELS.items() if python_level >= level), default=4),
    )


#: Maximum wait for running computations, which check after each node of a graph whether they should end.
_DRAIN_MS: Final = 10_000


def _shut_down() -> None:
    """Wait for the threads in the core, because none may return to Python after the interpreter is gone."""
    _core.set_log_callback(None, 4)
    _core.drain_threads(_DRAIN_MS)


atexit.register(_shut_down)
