"""Files: written as a whole or not at all, never over one of the inputs, and told apart by their content.

What is written goes into a temporary file, is flushed to disk, and takes its target's place in one step. Killed at any
moment, the target is the old file or the new one. The temporary file is in a folder beside the target, which is named
``.TARGET.TWELVE-HEX-DIGITS.tmp`` and locked by its writer. One that nobody locks is left over from a process that was
killed, and the next writer of the same target deletes it. csrc/files.cpp does the same in C++.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from metadeploy.errors import Error

if sys.platform != "win32":
    import fcntl

__all__ = [
    "content_digest",
    "json_text",
    "move_into_place",
    "refuse_overwriting",
    "replacing",
    "scratch_folder",
    "sha256",
    "try_lock",
    "write_atomically",
    "write_json",
]

_CHUNK: Final = 1 << 20
#: Longer names are cut for the temporary file's name, which has to fit into 255 bytes.
_LONGEST_NAME: Final = 200
#: Links to links are followed so far.
_MOST_LINKS: Final = 40
#: What a file system says that cannot flush a folder; the file itself has been flushed then.
_CANNOT_SYNC_FOLDERS: Final = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM)


# -- writing


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there as a whole or not at all; its folder is made where it is missing.

    A link stays one, and a file that is replaced hands down its mode and owner. What is no file, such as
    ``/dev/stdout``, is written to and not replaced.

    Args:
        path: the file.
        content: text is written in UTF-8.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    written = content.encode() if isinstance(content, str) else content
    if (ours := _own_descriptor(path)) is not None:
        with open(os.dup(ours), "wb") as stream:  # where its last writing ended, if it is a file
            stream.write(written)
        return
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.write_bytes(written)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(written)


def write_json(path: Path, value: Any, *, allow_nan: bool = False) -> None:
    """Write a JSON document in UTF-8, indented, as `write_atomically` does.

    Raises:
        OSError: it cannot be written.
        ValueError: a number is not finite and ``allow_nan`` is False.
    """
    write_atomically(path, json_text(value, indent=2, allow_nan=allow_nan) + "\n")


def json_text(value: Any, *, indent: int | None = None, allow_nan: bool = False) -> str:
    """JSON that UTF-8 can hold, with nothing lost.

    Characters stand as they are. Half a surrogate pair, as in the name of a file that is not UTF-8, is no character:
    where there is one, everything beyond ASCII is escaped.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=allow_nan)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, allow_nan=allow_nan)
    return text


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of ``path`` when the block ends well, and vanishes when it does not.

    Args:
        path: the file; its folder must exist. Of a link the file that it points to is replaced.

    Yields:
        The temporary file, empty, to be written by its name. It lies in a folder of its own, for libraries that put
        temporary files of theirs beside what they write.

    Raises:
        OSError: it cannot be written. ``filename`` is the target's, not the temporary file's.
    """
    path = Path(os.path.realpath(path))
    try:
        before = path.stat() if path.exists() else None
        with scratch_folder(path.parent, path.name) as folder:
            temporary = folder / "new"
            temporary.touch()
            mode = (before or temporary.stat()).st_mode
            yield temporary
            with temporary.open("r+b") as file:
                _hand_down(before, mode, temporary)
                os.fsync(file.fileno())
            os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename is None or _temporary_stem(path.name) in os.fsdecode(error.filename):
            error.filename = str(path)  # nobody has heard of the temporary file
            del error.filename2
        raise


def move_into_place(source: Path, target: Path) -> None:
    """Let a complete file take the place of another one in the same folder; it is on disk before it does.

    Raises:
        OSError: it cannot; both files are as they were.
    """
    with source.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(source, target)
    _sync_folder(target.parent)


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder in ``parent``, deleted with all that is in it when the block ends.

    What processes that were killed have left of the same ``name`` is deleted first.
    """
    stem = _temporary_stem(name)
    _delete_leftovers(parent, stem)
    folder, lock = _locked_folder(parent, stem)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _own_descriptor(path: Path) -> int | None:
    """The descriptor that a path such as ``/dev/stdout`` names; None where it names a file."""
    if sys.platform == "win32":
        return None
    open_files = (f"/proc/{os.getpid()}/fd", "/dev/fd")
    for _ in range(_MOST_LINKS):
        if os.path.realpath(path.parent) in open_files and path.name.isdigit():
            return int(path.name)
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return None


def _temporary_stem(name: str) -> str:
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}."


def _locked_folder(parent: Path, stem: str) -> tuple[Path, int | None]:
    """A new folder and what holds its lock, where there are locks."""
    while True:
        folder = parent / f"{stem}{secrets.token_hex(6)}.tmp"
        folder.mkdir(mode=0o700)
        if sys.platform == "win32":  # where a folder that is open cannot be deleted
            return folder, None
        with suppress(FileNotFoundError):  # another writer may take it for a leftover before it is locked
            lock = os.open(folder, os.O_RDONLY)
            try_lock(lock, wait=True)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _delete_leftovers(parent: Path, stem: str) -> None:
    """Delete what a killed writer of the same target has left; what is being written is locked, and stays."""
    leftover = re.compile(re.escape(stem) + r"[0-9a-f]{12}\.tmp")
    with suppress(OSError):
        for name in [name for name in os.listdir(parent) if leftover.fullmatch(name)]:
            with suppress(OSError):
                _delete_unlocked(parent / name)


def _delete_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        if not try_lock(descriptor):
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()  # of csrc/files.cpp
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file or folder against everybody who does the same, until it is closed.

    Args:
        descriptor: of the file or folder.
        wait: until nobody else has the lock.

    Returns:
        Whether it is locked now; False where the platform or the file system has no such locks.

    Raises:
        BlockingIOError: another one has the lock, and ``wait`` is False.
    """
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _hand_down(before: os.stat_result | None, mode: int, temporary: Path) -> None:
    """Give a file the owner of the one that it replaces, and a mode."""
    if sys.platform == "win32":
        return
    made = temporary.stat()
    if before is not None and (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
        with suppress(PermissionError):  # only the superuser may give files away
            os.chown(temporary, before.st_uid, before.st_gid)
    os.chmod(temporary, stat.S_IMODE(mode))


def _sync_folder(folder: Path) -> None:
    """Make a new name durable; Windows has no such call, and needs none."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise
    finally:
        os.close(descriptor)


# -- inputs


def refuse_overwriting(output: Path, *inputs: str | os.PathLike[str] | None, what: str = "output") -> None:
    """Refuse to write over an input, whatever name it goes by: another spelling, a link, a hard link.

    Args:
        output: what is to be written.
        inputs: what is read; None and names of what is no file are passed over.
        what: the output is called that.

    Raises:
        Error: an input is the same file as the output.
    """
    if not output.exists():
        return
    for each in inputs:
        if each is not None and Path(each).exists() and output.samefile(each):
            raise Error(
                f"{what} '{output}': is the same file as the input '{each}', expected another one (an output never "
                "replaces what it is made of)"
            )


# -- content


def sha256(path: Path) -> str:
    """Hex digest of a file, of whatever size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def content_digest(path: Path) -> str:
    """Hex digest of a file's content, or of the names and contents of the files that lie directly in a folder."""
    if not path.is_dir():
        return sha256(path)
    files = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    return hashlib.sha256(json.dumps([[each.name, sha256(each)] for each in files]).encode()).hexdigest()
