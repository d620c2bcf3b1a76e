"""If a sidecar is truncated or replaced during a read, the result is an error or the old file, never SIGBUS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metadeploy import SidecarError
from metadeploy.sidecar import read_sidecar, write_sidecar
from metadeploy.sidecar.gguf_file import read_gguf
from support.random_wrapper import random_wrapper

pytestmark = pytest.mark.skipif(os.name == "nt", reason="open files cannot be truncated on Windows")


def write(path: Path, *, seed: int = 0, width: int = 64) -> None:
    config, tensors = random_wrapper(
        "selective", hidden_dim=width, target_layers=(0, 1, 2), cross_attn_layers=(1, 2), seed=seed
    )
    write_sidecar(path, config, {name: tensor.numpy() for name, tensor in tensors.items()}, force=True)


TRUNCATED = """
import os, sys
from metadeploy import SidecarError
from metadeploy.sidecar import read_sidecar
path = sys.argv[1]
sidecar = read_sidecar(path)
os.truncate(path, os.path.getsize(path) // 2)
errors = []
for name in sidecar.tensors:
    try:
        sidecar.tensors[name].sum()
    except SidecarError as error:
        errors.append(str(error))
assert 0 < len(errors) < len(sidecar.tensors)
assert all("truncated while it was read?" in error and path in error for error in errors), errors
"""


def test_truncated_between_header_and_tensors(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.gguf"
    write(path)
    run(TRUNCATED, path)


def test_replaced_between_header_and_tensors(tmp_path: Path) -> None:
    """The whole result comes from the file that was opened."""
    path, other = tmp_path / "sidecar.gguf", tmp_path / "other.gguf"
    write(path)
    write(other, seed=1)
    expected = {name: values.copy() for name, values in read_sidecar(path).tensors.items()}
    opened = read_sidecar(path)
    other.replace(path)
    for name, values in expected.items():
        np.testing.assert_array_equal(opened.tensors[name], values)


def test_a_file_that_is_shorter_than_it_was_when_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file ends in the middle of the header."""
    path = tmp_path / "sidecar.gguf"
    write(path)
    size = path.stat().st_size
    fstat = os.fstat

    class Longer:
        st_size = size

    monkeypatch.setattr("metadeploy.sidecar.gguf_file.os.fstat", lambda _: Longer)
    os.truncate(path, 200)
    with pytest.raises(SidecarError, match=r"ends inside .* \(truncated while it was read\?\)"):
        read_gguf(path)
    monkeypatch.setattr("metadeploy.sidecar.gguf_file.os.fstat", fstat)


AT_ONCE = """
import faulthandler, os, sys, threading
faulthandler.enable()
from metadeploy import SidecarError, _core
from metadeploy.sidecar import read_sidecar
path = sys.argv[1]
whole = open(path, "rb").read()
done = threading.Event()

def truncate():
    n = 0
    with open(path, "r+b", buffering=0) as file:
        while not done.is_set():
            n += 1
            file.truncate(len(whole) * (n % 7) // 7)
            file.seek(0)
            file.write(whole)

def read(path):
    for values in read_sidecar(path).tensors.values():
        values.sum()

thread = threading.Thread(target=truncate)
thread.start()
outcomes = set()
for call in (_core.read_sidecar, read):
    for _ in range(60):
        try:
            call(path)
            outcomes.add("read")
        except SidecarError:
            outcomes.add("refused")
done.set()
thread.join()
assert "refused" in outcomes, outcomes
read(path)
_core.read_sidecar(path)
"""


def test_truncated_again_and_again_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.gguf"
    write(path, width=512)
    run(AT_ONCE, path)


def run(script: str, path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
