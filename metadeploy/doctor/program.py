"""Finds the program ``llama-meta-generate`` and the id of its build."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["PROGRAM", "Program", "find_programs"]

PROGRAM: Final = "llama-meta-generate"
#: The build id in the first line that ``--version`` prints (csrc/build_info.cpp).
_BUILD: Final = re.compile(r"^metadeploy \S+ \(build ([0-9a-f]+)\)")
_TIMEOUT: Final = 60.0


@dataclass(frozen=True)
class Program:
    """A copy of the program.

    Attributes:
        path: its path.
        build: the id of its build; None if it prints none.
        fault: why there is no id; empty if there is one.
    """

    path: Path
    build: str | None
    fault: str = ""


def find_programs() -> list[Program]:
    """Return the program next to this Python, and the one that a shell would start if that is another file.

    This runs each of them to get its build id.
    """
    suffix = ".exe" if os.name == "nt" else ""
    installed = Path(sysconfig.get_path("scripts"), PROGRAM + suffix)
    paths = [installed] if installed.is_file() else []
    on_path = shutil.which(PROGRAM)
    if on_path is not None and not any(path.samefile(on_path) for path in paths):
        paths.append(Path(on_path))
    return [_examine(path) for path in paths]


def _examine(path: Path) -> Program:
    try:
        process = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT,
        )
    except OSError as error:
        return Program(path, None, f"cannot be started: {error.strerror or error}")
    except subprocess.TimeoutExpired:
        return Program(path, None, f"did not print its version within {_TIMEOUT:g} seconds")
    if process.returncode < 0:
        return Program(path, None, f"was killed by {signal.Signals(-process.returncode).name}")
    match = _BUILD.match(process.stdout)
    if process.returncode != 0 or match is None:
        return Program(path, None, "does not print its build id (an older version?)")
    return Program(path, match[1])
