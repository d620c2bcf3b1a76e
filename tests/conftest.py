"""Fixtures that several tests share: paths, the demo's base model and its trained sidecar."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import hypothesis
import pytest

from metadeploy.demo import assets
from support.missing import unavailable

ROOT = Path(__file__).resolve().parents[1]

# no deadline: the time of an example depends on what else the machine does
hypothesis.settings.register_profile("metadeploy", deadline=None)
hypothesis.settings.load_profile("metadeploy")

# a shell makes background processes ignore Ctrl-C, and programs that a test starts would inherit this
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# each worker of pytest-xdist gets its own CPUs: threads of two workers on one CPU would wait for each other
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    worker, workers = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, usable[worker::workers] or [usable[worker % len(usable)]])


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Reference data beside the checkout, which is not part of the repository."""
    path = ROOT.parent / "shared" / "reference"
    if not path.is_dir():
        pytest.skip("no reference data beside this checkout")
    return path


@pytest.fixture(scope="session")
def base_gguf() -> Path:
    """SmolLM2-135M-Instruct, Q4_1: from the cache or from a wheel on this machine, never from the network."""
    path = assets.cached_base_model()
    if path is None and os.environ.get(assets.WHEEL_VARIABLE):
        path = assets.base_model_path()
    if path is None:
        unavailable(
            f"the demo's base model is not in the cache: run `metadeploy demo` once, or set {assets.WHEEL_VARIABLE}"
        )
    return path


@pytest.fixture(scope="session")
def trained_sidecar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped Doubter as an F32 sidecar, exported by the code under test."""
    from metadeploy.export import export

    return export(assets.CHECKPOINT, output=tmp_path_factory.mktemp("trained") / "doubter_sidecar.gguf").path


@pytest.fixture(scope="session")
def llama_meta_generate() -> Path:
    """The program: the installed one, or one from a build folder of this checkout."""
    installed = shutil.which("llama-meta-generate")
    if installed:
        return Path(installed)
    built = sorted(ROOT.glob("build/*/csrc/llama-meta-generate*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in built:
        # the sanitizers of the preset of that name are many times slower
        if path.suffix in ("", ".exe") and os.access(path, os.X_OK) and path.parts[-3] != "asan":
            return path
    unavailable("llama-meta-generate is neither installed nor built")
