"""The layers of csrc (docs/architecture.md): which folder may include which, and no cycles of headers."""

from __future__ import annotations

import re
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"
BELOW = {
    "sidecar": set(),
    "graph": {"sidecar"},
    "text": {"sidecar"},
    "model": {"sidecar", "graph", "text"},
    "generation": {"sidecar", "graph", "text", "model"},
    "inspect": {"sidecar", "graph", "text", "model", "generation"},
    "cli": {"sidecar", "graph", "text", "model", "generation", "inspect"},
    "bindings": {"sidecar", "graph", "text", "model", "generation", "inspect"},
}
SOURCES = {path.relative_to(CSRC).as_posix(): path for path in CSRC.rglob("*") if path.suffix in {".h", ".cpp"}}


def included(name: str) -> list[str]:
    """Our own files that a file includes."""
    text = SOURCES[name].read_text(encoding="utf-8")
    return [header for header in re.findall(r'^#include "([^"]+)"', text, re.MULTILINE) if header in SOURCES]


def folder(name: str) -> str:
    return name.rpartition("/")[0]


def test_every_folder_has_a_layer() -> None:
    assert {folder(name) for name in SOURCES} == BELOW.keys() | {""}


def test_includes_point_down() -> None:
    upward = [
        f"{name} includes {other}"
        for name in sorted(SOURCES)
        for other in included(name)
        if folder(other) not in {"", folder(name)} | BELOW.get(folder(name), set())
    ]
    assert upward == []


def test_headers_have_no_cycle() -> None:
    visited: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in visited:
            for other in included(name):
                visit(other, (*path, name))
            visited.add(name)

    for name in SOURCES:
        visit(name, ())
