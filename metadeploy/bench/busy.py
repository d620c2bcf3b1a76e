"""Another process that keeps a CPU busy, like the other programs on a laptop."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["busy_process"]

# Prints a line when it starts to spin. Ends with its parent, even if that is killed, because its stdin is then closed.
_SPIN_PROGRAM: Final = """
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
    process = subprocess.Popen([sys.executable, "-c", _SPIN_PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()
