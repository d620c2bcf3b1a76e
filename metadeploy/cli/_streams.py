"""Standard streams for commands: a failure of stdout is an error, a failure of stderr is ignored.

A command fails if its result cannot be printed. If the disk is full or stdout is closed, it ends with exit code 1 and
one message, whichever part of the command was writing. If the reader closes its end of a pipe, as ``head`` does, it has
enough: the process then ends by SIGPIPE without a message. Stderr only informs people, so a failure to write to it
changes nothing.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Streams", "checked_streams", "end_as_sigpipe_does", "refuse_closed_stdout"]

#: ASCII replacements for our own decoration, for encodings that lack it.
_LOOK_ALIKES: Final = {"█": "#", "░": "-", "·": ".", "…": "...", "–": "-", "✓": "+", "✗": "x"}
_LOSSLESS: Final = "metadeploy-lossless"


def _lossless(error: UnicodeError) -> tuple[str | bytes, int]:
    r"""Replace a character that an encoding lacks with an escape that identifies it.

    Bytes of a file name that is not UTF-8 stay unchanged. All other characters become ``\xfc`` or ``\u2026``.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff" and not error.encoding.startswith(("utf-16", "utf-32")):
        return bytes([ord(character) - 0xDC00]), error.start + 1
    replacement = _LOOK_ALIKES.get(character) or character.encode("ascii", "backslashreplace").decode()
    return replacement, error.start + 1


codecs.register_error(_LOSSLESS, _lossless)


class Streams:
    """The state of stdout.

    Attributes:
        failure: the error of a failed write; None if all writes succeeded.
    """

    failure: OSError | None = None

    def flush(self) -> None:
        """Write the rest of the buffer. A failure is recorded, not raised."""
        with suppress(OSError):  # recorded by the stream itself
            sys.stdout.flush()


class _Raw(io.RawIOBase):
    """Writes bytes to the file of a text stream."""

    def __init__(self, stream: TextIO) -> None:
        self._inner = getattr(stream.buffer, "raw", stream.buffer)  # an unbuffered stream (python -u) is raw itself

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._inner.fileno())

    def isatty(self) -> bool:
        return bool(self._inner.isatty())


class _Stdout(_Raw):
    """Records the first failure and drops all later output, so that the failure is reported once."""

    def __init__(self, stream: TextIO, streams: Streams) -> None:
        super().__init__(stream)
        self._streams = streams

    def write(self, data: ReadableBuffer, /) -> int | None:
        if self._streams.failure is not None:
            return memoryview(data).nbytes
        try:
            written: int | None = self._inner.write(data)
        except OSError as error:
            self._streams.failure = error
            raise
        return written


class _Stderr(_Raw):
    """Drops output that cannot be written."""

    def write(self, data: ReadableBuffer, /) -> int | None:
        try:
            written: int | None = self._inner.write(data)
        except OSError:
            return memoryview(data).nbytes
        return written


@contextmanager
def checked_streams() -> Iterator[Streams]:
    """Record failures of stdout and ignore those of stderr while the block runs. Neither loses a character."""
    streams, before = Streams(), (sys.stdout, sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _text(sys.stdout, _Stdout(sys.stdout, streams))
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _text(sys.stderr, _Stderr(sys.stderr))
    ours = sys.stdout, sys.stderr
    try:
        yield streams
    finally:
        for stream in ours:
            with suppress(OSError):
                stream.flush()
        sys.stdout, sys.stderr = before


def _text(stream: io.TextIOWrapper, raw: _Raw) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=_LOSSLESS,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def refuse_closed_stdout() -> None:
    """End the process if stdout is closed, before it does work whose result it could not print.

    Standard descriptors that are closed are opened on the null device. Otherwise a file that is opened later could get
    one of them, and messages would be written into that file.
    """
    closed = [descriptor for descriptor in (0, 1, 2) if not _is_open(descriptor)]
    for _ in closed:  # open() takes the lowest free descriptor each time
        os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    if sys.stdout is None:
        print("error: standard output is closed, expected somewhere to print to (hint: >/dev/null)", file=sys.stderr)
        sys.exit(1)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError as error:
        return error.errno != errno.EBADF
    return True


def end_as_sigpipe_does() -> None:
    """End the process by SIGPIPE, as programs do when their reader closes the pipe; shells show 141."""
    if sys.platform != "win32":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it
        os.kill(os.getpid(), signal.SIGPIPE)
    sys.exit(141)
