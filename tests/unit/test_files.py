"""Files are written completely, only files are replaced, and an input is never overwritten."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metadeploy._files import (
    content_digest,
    json_text,
    refuse_overwriting,
    replacing,
    scratch_folder,
    sha256,
    write_atomically,
    write_json,
)
from metadeploy.errors import Error

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX locks, modes, links and pipes")

ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.json"
    write_atomically(path, "ä")
    assert path.read_bytes() == "ä".encode()
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("disk full"))
    with pytest.raises(pytest.fail.Exception):
        write_atomically(path, b"other")
    assert path.read_bytes() == "ä".encode()
    assert names(path.parent) == ["a.json"]


def test_links_and_pipes_stay(tmp_path: Path) -> None:
    target, link, pipe = (tmp_path / name for name in ("target", "link", "pipe"))
    target.write_text("old")
    link.symlink_to(target)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "not there yet")
    write_atomically(dangling, "made")
    assert (dangling.is_symlink(), (tmp_path / "not there yet").read_text()) == (True, "made")
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, "said")
        assert os.read(reading, 10) == b"said"
    finally:
        os.close(reading)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("redirection", ["| cat", "> {file}; cat {file}", ">> {file}; cat {file}"])
def test_standard_output_is_no_file_to_be_replaced(redirection: str, tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("before\n")
    program = (
        "import sys, pathlib; from metadeploy._files import write_atomically; print('said', flush=True); "
        "write_atomically(pathlib.Path('/dev/stdout'), 'written\\n'); print('more')"
    )
    run = subprocess.run(
        f'"{sys.executable}" -c "{program}" {redirection.format(file=file)}',
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == ("before\n" if ">>" in redirection else "") + "said\nwritten\nmore\n"
    assert names(tmp_path) == ["out"]


# --- several at once --------------------------------------------------------------------------------------------------


def test_writers_and_a_reader_at_once_see_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    contents = [bytes([65 + number]) * (200_000 + number) for number in range(3)]
    write_atomically(path, contents[0])
    stop = threading.Event()
    faults: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(60):
                write_atomically(path, content)
        except BaseException as fault:
            faults.append(fault)

    torn: list[int] = []

    def read() -> None:
        while not stop.is_set():
            content = path.read_bytes()
            if content not in contents:
                torn.append(len(content))

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert (faults, torn) == ([], [])
    assert names(tmp_path) == ["a.json"]


# --- leftovers of a killed process ------------------------------------------------------------------------------------

_WAITS_WHILE_WRITING = """
import sys, time, pathlib
from metadeploy._files import replacing
with replacing(pathlib.Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    pathlib.Path(sys.argv[2]).touch()
    time.sleep(100)
"""


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A file that another process has begun to replace."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path, ready = folder / "a.json", tmp_path / "ready"
    path.write_text("old")
    with subprocess.Popen([sys.executable, "-c", _WAITS_WHILE_WRITING, path, ready], cwd=ROOT) as process:
        try:
            deadline = time.monotonic() + 60
            while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(names(folder)) == 2
            yield path, process
        finally:
            process.kill()


def test_the_next_writer_deletes_leftovers_of_a_killed_one(writing: tuple[Path, subprocess.Popen[bytes]]) -> None:
    path, process = writing
    process.kill()
    process.wait()
    assert path.read_text() == "old"
    (left,) = (name for name in names(path.parent) if name != "a.json")
    assert left.startswith(".a.json.") and left.endswith(".tmp")
    write_atomically(path.with_name("another.json"), "x")
    assert left in names(path.parent), "a temporary file of another target must stay"
    write_atomically(path, "new")
    assert (path.read_text(), names(path.parent)) == ("new", ["a.json", "another.json"])


def test_files_in_progress_are_left_alone(writing: tuple[Path, subprocess.Popen[bytes]]) -> None:
    path, process = writing
    before = names(path.parent)
    write_atomically(path, "new")
    assert (path.read_text(), names(path.parent)) == ("new", before)
    process.send_signal(signal.SIGINT)
    process.wait()
    assert (path.read_text(), names(path.parent)) == ("new", ["a.json"])


def test_a_leftover_of_the_program_is_a_file(tmp_path: Path) -> None:
    """csrc/files.cpp writes a file where Python makes a folder."""
    (tmp_path / ".a.json.0123456789ab.tmp").write_text("half")
    strangers = [".a.json.tmp", ".a.json.0123456789ag.tmp", ".b.json.0123456789ab.tmp", "a.json.0123456789ab.tmp"]
    for name in strangers:
        (tmp_path / name).touch()
    write_atomically(tmp_path / "a.json", "new")
    assert names(tmp_path) == sorted([*strangers, "a.json"])


def test_a_scratch_folder_goes_with_its_content(tmp_path: Path) -> None:
    left = tmp_path / ".download.0123456789ab.tmp"
    left.mkdir()
    (left / "half").touch()
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path, "download") as folder:
        assert names(tmp_path) == [folder.name]
        (folder / "more").mkdir()
        raise KeyboardInterrupt
    assert names(tmp_path) == []


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    if step == "write":
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        code = errno.EFBIG
    else:
        code = errno.ENOSPC

        def fail(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, step, fail)
    try:
        with pytest.raises(OSError) as raised:
            write_atomically(path, b"x" * 200_000)
    finally:
        if step == "write":
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (raised.value.errno, raised.value.filename) == (code, str(path)), (
        "the message names the target, not the temporary file"
    )
    assert (path.read_text(), names(tmp_path)) == ("old", ["a.json"])


def test_a_full_device(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(Path("/dev/full"), "x")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_the_file_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watch_fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def watch_replace(source: Path, target: Path) -> None:
        steps.append("replace")
        assert source.stat().st_dev == target.parent.stat().st_dev, "renaming is atomic only within one file system"
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    write_atomically(tmp_path / "a", "x")
    assert steps == ["file", "replace", "folder"]


# --- modes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_modes_stay_and_new_files_have_the_usual_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, "x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for mode in (0o600, 0o444, 0o755):
        path.chmod(mode)
        write_atomically(path, str(mode))
        assert (stat.S_IMODE(path.stat().st_mode), path.read_text()) == (mode, str(mode))


@pytest.mark.usefixtures("umask")
def test_libraries_that_replace_files_by_their_own_do_not_change_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with replacing(path) as temporary:
        other = temporary.with_name("other")
        other.write_text("x")
        other.chmod(0o600)
        other.replace(temporary)
    assert (stat.S_IMODE(path.stat().st_mode), path.read_text(), names(tmp_path)) == (0o640, "x", ["a"])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only the superuser can change the owner of a file")
def test_owners_stay(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    os.chown(path, 1234, 2345)
    write_atomically(path, "x")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_names_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)
    write_atomically(path, "x")
    assert names(tmp_path) == [path.name]


# --- inputs and content -----------------------------------------------------------------------------------------------


def test_an_input_is_recognized_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link, hard_link = tmp_path / "in", tmp_path / "link", tmp_path / "hard"
    path.write_text("x")
    link.symlink_to(path)
    os.link(path, hard_link)
    monkeypatch.chdir(tmp_path)
    for output in (path, link, hard_link, Path("in"), Path("../") / tmp_path.name / "in"):
        with pytest.raises(Error, match=r"^card '.*': is the same file as the input '.*/in', expected another one"):
            refuse_overwriting(output, None, "no such file", path, what="card")
    (tmp_path / "other").write_text("x")
    refuse_overwriting(tmp_path / "other", path)
    refuse_overwriting(tmp_path / "new", tmp_path / "new")


def test_a_digest_depends_on_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than is read at once
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == content_digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_folder_has_a_digest_of_its_content(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    first = content_digest(folder)
    (folder / ".cache").write_text("not part of it")
    assert content_digest(folder) == first
    (folder / "config.json").write_text("{ }")
    assert content_digest(folder) != first
    (folder / "config.json").write_text("{}")
    (folder / "more").touch()
    assert content_digest(folder) != first


def test_json_keeps_every_character(tmp_path: Path) -> None:
    assert json_text({"a": "üñ"}) == '{"a": "üñ"}'
    broken = os.fsdecode(b"\xff\xc3\xbc.gguf")  # a file's name that is not UTF-8
    assert json.loads(json_text([broken, "ü"])) == [broken, "ü"]
    write_json(tmp_path / "a.json", [broken])
    assert json.loads((tmp_path / "a.json").read_text(encoding="ascii")) == [broken]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", float("nan"))
    assert names(tmp_path) == ["a.json"]
