"""vendor/patching.py: a unified diff applies exactly, or the error names the place that does not fit."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patching import PatchError, apply_patch

OLD = "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n"


def apply(tmp_path: Path, patch: str, files: dict[str, str]) -> dict[str, str]:
    """Apply a patch to files and return them all."""
    tree = tmp_path / "tree"
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(text.encode())
    path = tmp_path / "0001.patch"
    path.write_bytes(patch.encode())
    apply_patch(path, tree)
    return {p.relative_to(tree).as_posix(): p.read_bytes().decode() for p in tree.rglob("*") if p.is_file()}


def diff(old: str, new: str, name: str = "src/a.cpp", context: int = 3) -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{name}", f"b/{name}", n=context
    )
    return "".join(lines)


def test_several_hunks_and_files_with_a_mail_around_them(tmp_path: Path) -> None:
    first = OLD.replace("two\n", "2\n").replace("ten\n", "ten\neleven\n")
    second = OLD.replace("one\n", "")
    mail = "Subject: [PATCH] x\n\n---\n src/a.cpp | 2 +-\n\ndiff --git a/src/a.cpp b/src/a.cpp\nindex 1..2\n"
    patch = mail + diff(OLD, first) + diff(OLD, second, "b.h") + "-- \n2.39\n"
    assert apply(tmp_path, patch, {"src/a.cpp": OLD, "b.h": OLD}) == {"src/a.cpp": first, "b.h": second}


def test_new_file(tmp_path: Path) -> None:
    patch = "--- /dev/null\n+++ b/new/file.h\n@@ -0,0 +1,2 @@\n+#pragma once\n+int x;\n"
    assert apply(tmp_path, patch, {"a": "a\n"}) == {"a": "a\n", "new/file.h": "#pragma once\nint x;\n"}


lines = st.lists(st.sampled_from(["a\n", "b\n", "\n", "-- x\n", "++ y\n", "c\r\n", "@@ -1 +1 @@\n"]), max_size=12)


@given(old=lines, new=lines, context=st.integers(0, 3))
def test_any_diff_turns_old_into_new(
    tmp_path_factory: pytest.TempPathFactory, old: list[str], new: list[str], context: int
) -> None:
    patch = "".join(difflib.unified_diff(old, new, "a/f", "b/f", n=context))
    if patch:
        result = apply(tmp_path_factory.mktemp("diff"), patch, {"f": "".join(old)})
        assert result == {"f": "".join(new)}


@pytest.mark.parametrize(
    ("patch", "files", "message"),
    [
        (
            diff(OLD, OLD.replace("ten", "X")),
            {"src/a.cpp": OLD.replace("nine", "9")},
            r"hunk 1 of 'src/a\.cpp' does not",
        ),
        (diff(OLD, OLD.replace("ten", "X")), {"src/a.cpp": "zero\n" + OLD}, "at line 7 "),
        (diff(OLD, OLD.replace("ten", "X")), {"src/a.cpp": "one\n"}, "does not match"),
        (diff(OLD, OLD.replace("ten", "X")), {"other": OLD}, r"'src/a\.cpp' is not in the source"),
        ("--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+x\n", {"f": ""}, "'f' exists already"),
        ("--- a/f\n+++ b/../f\n@@ -1 +1 @@\n-x\n+y\n", {"f": "x\n"}, "not a path inside"),
        ("--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n", {"f": "x\n"}, "deletions are not supported"),
        ("--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n-x\n+y\n", {"f": "x\nz\n"}, "cut short"),
        ("--- a/f\n+++ b/f\n@@ -1 +1 @@\n-x\n+y\n+z\n", {"f": "x\n"}, r"'\+z' stands outside of a hunk"),
        ("--- a/f\n+++ b/f\n@@ here @@\n-x\n+y\n", {"f": "x\n"}, "malformed hunk header"),
        ("--- a/f\n+++ b/f\n@@ -1 +1 @@\n-x\n+y\n\\ No newline at end of file\n", {"f": "x\n"}, "not supported"),
        ("diff --git a/f b/g\nrename from f\nrename to g\n", {"f": "x\n"}, "'rename from f' is not supported"),
        ("--- a/f\n+++ b/f\n", {"f": "x\n"}, "no complete unified diff"),
        ("", {"f": "x\n"}, "no complete unified diff"),
    ],
)
def test_faults_are_named(tmp_path: Path, patch: str, files: dict[str, str], message: str) -> None:
    with pytest.raises(PatchError, match=message) as info:
        apply(tmp_path, patch, files)
    assert str(info.value).startswith("0001.patch: ")
