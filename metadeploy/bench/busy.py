"""Another process that keeps a CPU busy, as a laptop's other programs do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["busy_process"]

# Prints a line once it runs. Ends when its parent does, even a killed one: its stdin is closed then.
_SPIN: Final = """
import os, sys, threading
def end_with_parent():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=end_with_parent, daemon=True).start()
print("spinning", flush=True)
while True:
    pass
"""


@contextmanager
def busy_process() -> Iterator[None]:
    """Let one other process spin on one CPU inside the ``with`` block."""
    process = subprocess.Popen([sys.executable, "-c", _SPIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()
