"""The files of the demos in the cache: whole, absent or damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metadeploy._files import sha256
from metadeploy.demo import assets
from metadeploy.errors import SidecarError

__all__ = ["DemoFile", "find_demo_files", "tensors_sha256"]


@dataclass(frozen=True)
class DemoFile:
    """One of the two files of a demo.

    Attributes:
        demo: the demo.
        name: ``base`` or ``sidecar``.
        path: its path, whether or not it exists.
        state: ``whole``, ``absent`` or ``damaged``.
        fault: the damage, as a phrase; empty except for ``damaged``.
    """

    demo: assets.Demo
    name: str
    path: Path
    state: Literal["whole", "absent", "damaged"]
    fault: str = ""

    def to_json(self) -> dict[str, str]:
        """Return it as one object of the report in JSON."""
        return {
            "demo": self.demo.key, "name": self.name, "path": str(self.path), "state": self.state, "fault": self.fault
        }  # fmt: skip


def find_demo_files() -> list[DemoFile]:
    """Return base and sidecar of each demo with their state, after comparing their content with the expected content.

    Only the default demo's files are returned if they are absent.
    """
    files = [check(demo) for demo in assets.DEMOS.values() for check in (_base, _sidecar)]
    return [file for file in files if file.demo.key == assets.SMOLLM2.key or file.state != "absent"]


def tensors_sha256(tensors: Mapping[str, NDArray[np.float32]]) -> str:
    """Return the hex digest of all names, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name], "<f4")
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _base(demo: assets.Demo) -> DemoFile:
    path = demo.base_file
    if not path.is_file():
        return DemoFile(demo, "base", path, "absent")
    size = path.stat().st_size
    if size != demo.base.size:
        return DemoFile(demo, "base", path, "damaged", f"has {size} bytes, expected {demo.base.size}")
    digest = sha256(path)
    if digest != demo.base.sha256:
        return DemoFile(demo, "base", path, "damaged", f"has sha256 {digest}, expected {demo.base.sha256}")
    return DemoFile(demo, "base", path, "whole")


def _sidecar(demo: assets.Demo) -> DemoFile:
    from metadeploy.sidecar import read_sidecar

    path = demo.sidecar_file
    if not path.is_file():
        return DemoFile(demo, "sidecar", path, "absent")
    try:
        sidecar = read_sidecar(path)
    except SidecarError as error:
        return DemoFile(demo, "sidecar", path, "damaged", str(error))
    if sidecar.config.checkpoint_sha256 != sha256(demo.checkpoint):
        return DemoFile(
            demo, "sidecar", path, "damaged", "was exported from another checkpoint than the one in this package"
        )
    if tensors_sha256(sidecar.tensors) != demo.sidecar_tensors_sha256:
        return DemoFile(demo, "sidecar", path, "damaged", "has other weights than its checkpoint")
    return DemoFile(demo, "sidecar", path, "whole")
