"""Standard output that fails aloud, and standard error that fails in silence.

What a command has found must reach whoever asked for it, or the command has failed: a full disk or a closed stdout ends
with exit code 1 and one message, whatever part of the command was writing. A reader that closes its end of a pipe, as
``head`` does, has what it wanted: the process then ends as SIGPIPE ends others, without a word. What goes to stderr is
for people who watch: that it cannot be written changes nothing.
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

#: What our own decoration looks like where the encoding lacks it.
_LOOK_ALIKES: Final = {"█": "#", "░": "-", "·": ".", "…": "...", "–": "-", "✓": "+", "✗": "x"}
_LOSSLESS: Final = "metadeploy-lossless"


def _lossless(error: UnicodeError) -> tuple[str | bytes, int]:
    r"""Stand in for a character that an encoding lacks, so that it can still be told what it was.

    The bytes of a file's name that is not UTF-8 come out as they are, everything else as ``\xfc`` or ``\u2026``.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff" and not error.encoding.startswith(("utf-16", "utf-32")):
        return bytes([ord(character) - 0xDC00]), error.start + 1
    shown = _LOOK_ALIKES.get(character) or character.encode("ascii", "backslashreplace").decode()
    return shown, error.start + 1


codecs.register_error(_LOSSLESS, _lossless)


class Streams:
    """What became of stdout.

    Attributes:
        failure: why something could not be written; None where all of it was.
    """

    failure: OSError | None = None

    def flush(self) -> None:
        """Write what is still held back; a failure is kept and not raised."""
        with suppress(OSError):  # kept by the stream itself
            sys.stdout.flush()


class _Raw(io.RawIOBase):
    """Bytes on their way to where a stream leads."""

    def __init__(self, stream: TextIO) -> None:
        self._inner = getattr(stream.buffer, "raw", stream.buffer)  # an unbuffered one (python -u) is raw itself

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._inner.fileno())

    def isatty(self) -> bool:
        return bool(self._inner.isatty())


class _Stdout(_Raw):
    """Keeps the first failure; what comes after it is dropped, so that it is reported once."""

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
    """Drops what cannot be written."""

    def write(self, data: ReadableBuffer, /) -> int | None:
        try:
            written: int | None = self._inner.write(data)
        except OSError:
            return memoryview(data).nbytes
        return written


@contextmanager
def checked_streams() -> Iterator[Streams]:
    """While it lasts, failures of stdout are kept and those of stderr ignored, and neither loses a character."""
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
    """End the process where nothing can be printed, before work is done that could not be shown.

    The standard descriptors that are closed are taken, lest a file that is opened later gets one of them and with it
    what is meant for people.
    """
    closed = [descriptor for descriptor in (0, 1, 2) if not _is_open(descriptor)]
    for _ in closed:  # the lowest free one is taken each time
        os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
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
    """End the process as a program does whose reader has gone; shells show 141."""
    if sys.platform != "win32":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it
        os.kill(os.getpid(), signal.SIGPIPE)
    sys.exit(141)
