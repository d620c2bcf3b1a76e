"""Writes files atomically, refuses to write over inputs, and computes digests of content.

Data goes into a temporary file, is flushed to disk, and replaces the target in one step. If the process is killed at
any moment, the target is the old file or the new one, complete. The temporary file is in a folder next to the target.
The folder is named ``.TARGET.TWELVE-HEX-DIGITS.tmp``, and its writer locks it. A folder without a lock was left by a
killed process, and the next writer of the same target deletes it. csrc/files.cpp does the same in C++.
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
#: Longer names are cut, so that the name of the temporary file fits into 255 bytes.
_MAX_NAME_BYTES: Final = 200
#: The longest chain of links that is followed.
_MAX_LINKS: Final = 40
#: Errors of a file system that cannot flush folders; the file itself has been flushed by then.
_CANNOT_SYNC_FOLDERS: Final = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM)


# -- writing


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all. A missing folder is created.

    A symbolic link stays a link, and the new file gets the mode and owner of the file that it replaces. A target that
    is not a file, such as ``/dev/stdout``, is written to and not replaced.

    Args:
        path: the file.
        content: text is written in UTF-8.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    if (descriptor := _own_descriptor(path)) is not None:
        with open(os.dup(descriptor), "wb") as stream:  # continues at the current position, if it is a file
            stream.write(data)
        return
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any, *, allow_nan: bool = False) -> None:
    """Write a JSON document in UTF-8, indented, as `write_atomically` does.

    Raises:
        OSError: it cannot be written.
        ValueError: a number is not finite and ``allow_nan`` is False.
    """
    write_atomically(path, json_text(value, indent=2, allow_nan=allow_nan) + "\n")


def json_text(value: Any, *, indent: int | None = None, allow_nan: bool = False) -> str:
    """Return a value as JSON text that UTF-8 can encode without loss.

    Characters are not escaped, except if a text has half a surrogate pair, as in the name of a file that is not UTF-8.
    Then everything beyond ASCII is escaped.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=allow_nan)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, allow_nan=allow_nan)
    return text


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file that replaces ``path`` if the block succeeds, and is deleted if it fails.

    Args:
        path: the file; its folder must exist. If it is a link, the file that the link points to is replaced.

    Yields:
        The empty temporary file, to be written by its name. It lies in a separate folder, because some libraries put
        their own temporary files next to the file that they write.

    Raises:
        OSError: it cannot be written. ``filename`` is the target's, not the temporary file's.
    """
    path = Path(os.path.realpath(path))
    try:
        replaced = path.stat() if path.exists() else None
        with scratch_folder(path.parent, path.name) as folder:
            temporary = folder / "new"
            temporary.touch()
            mode = (replaced or temporary.stat()).st_mode
            yield temporary
            with temporary.open("r+b") as file:
                _copy_mode_and_owner(replaced, mode, temporary)
                os.fsync(file.fileno())
            os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename is None or _temporary_stem(path.name) in os.fsdecode(error.filename):
            error.filename = str(path)  # the caller does not know the temporary file
            del error.filename2
        raise


def move_into_place(source: Path, target: Path) -> None:
    """Flush a complete file to disk, then rename it over another one in the same folder.

    Raises:
        OSError: that failed; both files are unchanged.
    """
    with source.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(source, target)
    _sync_folder(target.parent)


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """Create a folder in ``parent`` and delete it with its content when the block ends.

    Folders of the same ``name`` that killed processes left are deleted first.
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
    """Return the descriptor that a path such as ``/dev/stdout`` names; None if the path names a file."""
    if sys.platform == "win32":
        return None
    open_files = (f"/proc/{os.getpid()}/fd", "/dev/fd")
    for _ in range(_MAX_LINKS):
        if os.path.realpath(path.parent) in open_files and path.name.isdigit():
            return int(path.name)
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return None


def _temporary_stem(name: str) -> str:
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}."


def _locked_folder(parent: Path, stem: str) -> tuple[Path, int | None]:
    """Create a folder. Return it and the descriptor that holds its lock, or None if there are no locks."""
    while True:
        folder = parent / f"{stem}{secrets.token_hex(6)}.tmp"
        folder.mkdir(mode=0o700)
        if sys.platform == "win32":  # an open folder cannot be deleted there
            return folder, None
        with suppress(FileNotFoundError):  # another writer may delete it as a leftover before it is locked
            lock = os.open(folder, os.O_RDONLY)
            try_lock(lock, wait=True)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _delete_leftovers(parent: Path, stem: str) -> None:
    """Delete what killed writers of the same target left. Folders in use are locked and stay."""
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
            path.unlink()  # a temporary file of csrc/files.cpp
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, *, wait: bool = False) -> bool:
    """Take an exclusive advisory lock on an open file or folder, until it is closed.

    Args:
        descriptor: the descriptor of the file or folder.
        wait: whether to wait until the lock is free.

    Returns:
        Whether it is locked now; False if the platform or the file system has no such locks.

    Raises:
        BlockingIOError: someone else holds the lock, and ``wait`` is False.
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


def _copy_mode_and_owner(replaced: os.stat_result | None, mode: int, temporary: Path) -> None:
    """Give a file a mode, and the owner of the file that it replaces."""
    if sys.platform == "win32":
        return
    created = temporary.stat()
    if replaced is not None and (created.st_uid, created.st_gid) != (replaced.st_uid, replaced.st_gid):
        with suppress(PermissionError):  # only the superuser may give files away
            os.chown(temporary, replaced.st_uid, replaced.st_gid)
    os.chmod(temporary, stat.S_IMODE(mode))


def _sync_folder(folder: Path) -> None:
    """Flush a folder, so that a new name in it is durable. Windows has no such call and needs none."""
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
    """Refuse to write over an input, even under another name (another spelling, a link, a hard link).

    Args:
        output: the file to write.
        inputs: the files that are read; None and paths that are not files are skipped.
        what: the word for the output in the message.

    Raises:
        Error: an input is the same file as the output.
    """
    if not output.exists():
        return
    for source in inputs:
        if source is not None and Path(source).exists() and output.samefile(source):
            raise Error(
                f"{what} '{output}': is the same file as the input '{source}', expected another one (an output never "
                "replaces its own input)"
            )


# -- content


def sha256(path: Path) -> str:
    """Return the hex digest of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def content_digest(path: Path) -> str:
    """Return the hex digest of a file's content, or of the names and contents of the files directly in a folder."""
    if not path.is_dir():
        return sha256(path)
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    return hashlib.sha256(json.dumps([[file.name, sha256(file)] for file in files]).encode()).hexdigest()
