"""Writing is all or nothing, whatever interrupts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import metadeploy.sidecar.writer as writer_module
from metadeploy.errors import SidecarError
from metadeploy.sidecar import WrapperConfig, read_sidecar, write_sidecar
from metadeploy.sidecar.writer import LazyArray
from support.random_wrapper import random_wrapper

OLD = b"the old file, whole"


@pytest.fixture
def wrapper() -> tuple[WrapperConfig, dict[str, NDArray[np.float32]]]:
    config, tensors = random_wrapper("selective", hidden_dim=16, target_layers=(1, 2), cross_attn_layers=(2,))
    return config, {name: tensor.numpy() for name, tensor in tensors.items()}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "out.gguf"
    path.write_bytes(OLD)
    return path


@pytest.mark.parametrize("problem", [KeyboardInterrupt, MemoryError, ValueError, SystemExit])
def test_interruption_midway_leaves_the_old_file(problem: type[BaseException], wrapper: Any, old: Path) -> None:
    config, arrays = wrapper
    seen: list[list[str]] = []

    def fail() -> NDArray[np.float32]:
        seen.append(sorted(path.name for path in old.parent.iterdir()))
        raise problem

    names = list(arrays)
    interrupted = {**arrays, names[len(names) // 2]: LazyArray(arrays[names[len(names) // 2]].shape, fail)}
    with pytest.raises(problem):
        write_sidecar(old, config, interrupted, force=True)
    assert len(seen[0]) == 2, "the temporary file must be beside the target"
    assert [path.name for path in old.parent.iterdir()] == ["out.gguf"]
    assert old.read_bytes() == OLD


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(
    step: str, wrapper: Any, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer_module.os, step, fail)
    with pytest.raises(SidecarError, match=r"out.gguf': cannot be written: No space left on device"):
        write_sidecar(old, *wrapper, force=True)
    assert [path.name for path in old.parent.iterdir()] == ["out.gguf"]
    assert old.read_bytes() == OLD


def test_the_file_is_on_disk_before_it_gets_its_name(wrapper: Any, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watch_fsync(descriptor: int) -> None:
        steps.append("fsync")
        fsync(descriptor)

    def watch_replace(source: Path, target: Path) -> None:
        steps.append("replace")
        assert source.stat().st_dev == target.parent.stat().st_dev, "renaming is atomic only within one file system"
        replace(source, target)

    monkeypatch.setattr(writer_module.os, "fsync", watch_fsync)
    monkeypatch.setattr(writer_module.os, "replace", watch_replace)
    write_sidecar(old, *wrapper, force=True)
    assert steps == (["fsync", "replace"] if os.name == "nt" else ["fsync", "replace", "fsync"])
    assert read_sidecar(old).config == wrapper[0]


def test_existing_files_are_not_replaced_unasked(wrapper: Any, old: Path) -> None:
    with pytest.raises(SidecarError, match=r"exists already \(hint: --force"):
        write_sidecar(old, *wrapper)
    assert old.read_bytes() == OLD


def test_targets_that_cannot_be(wrapper: Any, tmp_path: Path) -> None:
    with pytest.raises(SidecarError, match="its directory does not exist"):
        write_sidecar(tmp_path / "absent" / "out.gguf", *wrapper)
    with pytest.raises(SidecarError, match="is a directory"):
        write_sidecar(tmp_path, *wrapper, force=True)
    with pytest.raises(SidecarError, match="outtype is 'q4_k', expected one of f32, f16, bf16, q8_0"):
        write_sidecar(tmp_path / "out.gguf", *wrapper, outtype="q4_k")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need privileges on Windows")
def test_a_link_stays_a_link(wrapper: Any, old: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(old)
    write_sidecar(link, *wrapper, force=True)
    assert link.is_symlink()
    assert read_sidecar(old).config == wrapper[0]


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is a POSIX signal")
def test_control_c_in_another_process(old: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    program = f"""
import pathlib, time, numpy as np
from support.random_wrapper import random_wrapper
from metadeploy.sidecar import write_sidecar
from metadeploy.sidecar.writer import LazyArray
config, tensors = random_wrapper("selective", hidden_dim=16, target_layers=(1, 2), cross_attn_layers=(2,))
def slow(array):
    def load():
        pathlib.Path({str(ready)!r}).touch()
        time.sleep(60)
    return LazyArray(array.shape, load)
arrays = {{name: tensor.numpy() for name, tensor in tensors.items()}}
arrays["ca.2.gate"] = slow(arrays["ca.2.gate"])
write_sidecar({str(old)!r}, config, arrays, force=True)
"""
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (root, root / "tests")))}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(list(tmp_path.glob(".out.gguf.*.tmp"))) == 1
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in stderr
    assert list(tmp_path.glob(".out.gguf.*.tmp")) == []
    assert old.read_bytes() == OLD
