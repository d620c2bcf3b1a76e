"""The compiled reader in a separate process, so that the tests survive every hostile file.

As a script, it reads a path from each line of stdin and prints one line of JSON (`Answer`) for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Answer:
    """The compiled reader's result for a file.

    Attributes:
        error: message of the SidecarError, None if the file loaded.
        config: the wrapper's configuration.
        shapes: shapes of its tensors, by name.
        encoded: whether the wrapper from this file encoded and injected, or reported that its tokens overflow.
    """

    error: str | None
    config: dict[str, Any]
    shapes: dict[str, list[int]]
    encoded: bool


class CoreReader:
    """A running worker; a context manager."""

    def __init__(self) -> None:
        self._process = self._start()

    @staticmethod
    def _start() -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> CoreReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def _stop(self) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait(timeout=60)

    def read(self, path: Path, what: str) -> Answer:
        """Read one file, or fail the test if this ends the process. ``what`` names the file."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            status = self._stop()
            self._process = self._start()  # for the tests that follow
            raise AssertionError(f"the compiled reader crashed on {what}: status {status}")
        return Answer(**json.loads(line))


def _answer(path: str) -> dict[str, Any]:
    from metadeploy import _core
    from metadeploy.errors import DecodeError, SidecarError

    try:
        config, shapes = _core.read_sidecar(path)
    except SidecarError as error:
        return {"error": str(error), "config": {}, "shapes": {}, "encoded": False}
    wrapper = _core.HostWrapper(path)
    rng = np.random.default_rng(0)
    activations = rng.normal(size=(len(wrapper.config["target_layers"]), wrapper.config["hidden_dim"]))
    try:
        tokens = wrapper.encode(activations.astype(np.float32))
    except DecodeError as error:
        # finite but huge weights can give values that are not finite; only this step may refuse them
        assert "not finite" in str(error)
        return {"error": None, "config": config, "shapes": shapes, "encoded": True}
    assert np.isfinite(tokens).all()
    for layer in wrapper.config["cross_attn_layers"]:
        wrapper.inject(layer, activations.astype(np.float32), tokens)
    return {"error": None, "config": config, "shapes": shapes, "encoded": tokens.size > 0}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_answer(line.rstrip("\n"))), flush=True)
