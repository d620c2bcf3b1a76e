"""Apply unified diffs exactly and deterministically, without git or patch on the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

_HINT: Final = "(a patch made for another version?)"


class PatchError(Exception):
    """A patch is malformed or does not apply; the message names patch, file and hunk."""


@dataclass(frozen=True)
class Hunk:
    """Replaces the lines ``old`` from line ``start`` (counted from 0) with ``new``."""

    start: int
    old: list[bytes]
    new: list[bytes]


@dataclass(frozen=True)
class FilePatch:
    """All hunks for one file. Its original lines are known exactly, because the hash pins the source."""

    path: str
    creates: bool
    hunks: list[Hunk] = field(default_factory=list)


def apply_patch(patch: Path, tree: Path) -> None:
    """Apply a unified diff (as ``git diff`` writes it); every context line must match at its line number.

    Args:
        patch: the diff; may change and create files.
        tree: llama.cpp's root.

    Raises:
        PatchError: the diff is malformed or does not apply; names patch, file and hunk.
    """
    for change in parse_patch(patch):
        path = tree / change.path
        if path.is_file() == change.creates:
            fact = "exists already" if change.creates else "is not in the source"
            raise PatchError(f"{patch.name}: does not apply: '{change.path}' {fact} {_HINT}")
        lines = [] if change.creates else _split_lines(path.read_bytes())
        result: list[bytes] = []
        position = 0
        for number, hunk in enumerate(change.hunks, 1):
            end = hunk.start + len(hunk.old)
            if hunk.start < position or lines[hunk.start : end] != hunk.old:
                raise PatchError(
                    f"{patch.name}: does not apply: hunk {number} of '{change.path}' does not match the source "
                    f"at line {hunk.start + 1} {_HINT}"
                )
            result += lines[position : hunk.start] + hunk.new
            position = end
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(result + lines[position:]))


def parse_patch(patch: Path) -> list[FilePatch]:
    """Read a unified diff.

    Args:
        patch: the file; text between the diffs (a commit message, git's extended headers) is skipped.

    Returns:
        One entry for each file, in order.

    Raises:
        PatchError: nothing in it, a hunk cut short, or a change that is neither a creation nor an edit.
    """
    lines = iter(_split_lines(patch.read_bytes()))
    changes: list[FilePatch] = []
    for line in lines:
        if line.startswith(b"--- "):
            old, new = _header_path(line), _header_path(next(lines, b""))
            if not new or PurePosixPath(new).is_absolute() or ".." in PurePosixPath(new).parts:
                raise PatchError(f"{patch.name}: '{new}' is not a path inside llama.cpp (deletions are not supported)")
            changes.append(FilePatch(new, creates=not old))
        elif line.startswith(b"@@ ") and changes:
            changes[-1].hunks.append(_parse_hunk(line, lines, patch))
        elif line.startswith((b"rename ", b"copy ", b"GIT binary patch", b"Binary files ", b"\\ No newline")):
            raise PatchError(f"{patch.name}: '{_text(line)}' is not supported")
        elif changes and line.startswith((b" ", b"+", b"-")) and line != b"-- \n":  # that ends git's mails
            raise PatchError(f"{patch.name}: '{_text(line)}' stands outside of a hunk (wrong line counts?)")
    if not changes or not all(change.hunks for change in changes):
        raise PatchError(f"{patch.name}: holds no complete unified diff")
    return changes


def _header_path(line: bytes) -> str:
    """Return the path in a ``---`` or ``+++`` line without ``a/`` or ``b/``; empty for /dev/null and other lines."""
    match = re.match(rb"(?:---|\+\+\+) [ab]/([^\t\n]+)", line)
    return match[1].decode() if match else ""


def _parse_hunk(header: bytes, lines: Iterator[bytes], patch: Path) -> Hunk:
    """Read the body of one hunk, whose header has the number of lines."""
    match = re.match(rb"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@", header)
    if match is None:
        raise PatchError(f"{patch.name}: malformed hunk header '{_text(header)}'")
    start, n_old, n_new = (int(group) if group is not None else 1 for group in match.groups())
    old: list[bytes] = []
    new: list[bytes] = []
    while len(old) < n_old or len(new) < n_new:
        line = next(lines, b"")
        if line[:1] not in (b" ", b"-", b"+"):
            raise PatchError(f"{patch.name}: the hunk '{_text(header)}' is cut short")
        if line[:1] != b"+":
            old.append(line[1:])
        if line[:1] != b"-":
            new.append(line[1:])
    # a hunk header without old lines names the line before the insertion
    return Hunk(start - 1 if n_old else start, old, new)


def _text(line: bytes) -> str:
    return line.decode(errors="replace").strip()


def _split_lines(data: bytes) -> list[bytes]:
    """Split at line feeds only and keep them; a lone carriage return is part of its line."""
    return re.findall(rb"[^\n]*\n|[^\n]+", data)
