"""vendor/unpack.py on small made-up archives: its results and its error messages."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import unpack

GRAPH_H = b"#pragma once\nstruct llm_graph_context;\nvoid build();\n"
SOURCES = {
    "CMakeLists.txt": b"project(llama.cpp)\n",
    "src/llama-graph.h": GRAPH_H,
    "src/llama.cpp": b"int llama;\n",
    "docs/manual.md": b"not needed\n",
    "models/big.gguf": b"not needed\n",
    "models/templates/chatml.jinja": b"{{ messages }}\n",
}
PATCH = """\
--- a/src/llama-graph.h
+++ b/src/llama-graph.h
@@ -1,3 +1,4 @@
 #pragma once
 struct llm_graph_context;
+struct llm_block_hook;
 void build();
"""


def write_archive(path: Path, sources: Mapping[str, bytes], extra: tarfile.TarInfo | None = None) -> unpack.Pin:
    """Write an archive with the given llama.cpp tree; returns the pin that fits it."""
    pin = unpack.Pin(project="fake-llama", version="1.0", sha256="")
    with tarfile.open(path, "w:gz") as tar:
        for name, data in sources.items():
            member = tarfile.TarInfo(pin.tree + name)
            member.size = len(data)
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(data))
        if extra is not None:
            tar.addfile(extra, io.BytesIO(b"\0" * extra.size))
    return unpack.Pin(pin.project, pin.version, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> unpack.Vendor:
    """A vendor folder with one patch, whose archive the environment variable names."""
    archive = tmp_path / "source.tar.gz"
    pin = write_archive(archive, SOURCES)
    monkeypatch.setenv(unpack.SDIST_VARIABLE, str(archive))
    patches = tmp_path / "vendor" / "patches"
    patches.mkdir(parents=True)
    (patches / "0001-hook.patch").write_text(PATCH)
    return unpack.Vendor(tmp_path / "vendor", pin)


def tree_of(root: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and modification time of every file."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def make_old(root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))


def test_unpacks_the_wanted_parts_and_patches_them(vendor: unpack.Vendor) -> None:
    unpack.prepare(vendor)
    tree = tree_of(vendor.target)
    wanted = {name for name in SOURCES if not name.startswith(("docs", "models/big"))}
    assert set(tree) == wanted | {unpack.STAMP_NAME}
    assert tree["src/llama-graph.h"][0] == GRAPH_H.replace(b"void", b"struct llm_block_hook;\nvoid")
    assert tree["src/llama.cpp"][0] == SOURCES["src/llama.cpp"]
    assert list(vendor.cache.iterdir()) == []


def test_second_run_changes_nothing_and_needs_no_archive(
    vendor: unpack.Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack.prepare(vendor)
    before = tree_of(vendor.target)
    monkeypatch.setenv(unpack.SDIST_VARIABLE, "/nowhere/at/all.tar.gz")
    unpack.prepare(vendor)
    assert tree_of(vendor.target) == before


def test_changed_patch_touches_only_what_it_changes(vendor: unpack.Vendor) -> None:
    unpack.prepare(vendor)
    make_old(vendor.target)
    before = tree_of(vendor.target)
    (vendor.root / "patches/0001-hook.patch").write_text(PATCH.replace("struct llm_block_hook;", "// llm_block_hook"))
    unpack.prepare(vendor)
    after = tree_of(vendor.target)
    assert b"// llm_block_hook" in after["src/llama-graph.h"][0]
    # a file that changes must look newer than every object made from it, in whichever direction it changes
    assert after["src/llama-graph.h"][1] > before["src/llama-graph.h"][1]
    assert after["src/llama.cpp"] == before["src/llama.cpp"]


def test_removed_patch_is_undone(vendor: unpack.Vendor) -> None:
    second = vendor.root / "patches/0002-more.patch"
    second.write_text("--- a/src/llama.cpp\n+++ b/src/llama.cpp\n@@ -1 +1 @@\n-int llama;\n+int patched;\n")
    unpack.prepare(vendor)
    assert (vendor.target / "src/llama.cpp").read_bytes() == b"int patched;\n"
    second.unlink()
    unpack.prepare(vendor)
    assert (vendor.target / "src/llama.cpp").read_bytes() == SOURCES["src/llama.cpp"]


def test_wrong_hash_is_refused_before_anything_is_unpacked(vendor: unpack.Vendor, tmp_path: Path) -> None:
    with (tmp_path / "source.tar.gz").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(
        unpack.UnpackError, match=rf"source\.tar\.gz': sha256 is \w{{64}}, expected {vendor.pin.sha256}"
    ):
        unpack.prepare(vendor)
    assert not vendor.target.exists()


def test_named_archive_must_exist(vendor: unpack.Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(unpack.SDIST_VARIABLE, "/nowhere/at/all.tar.gz")
    with pytest.raises(unpack.UnpackError, match=r"'/nowhere/at/all\.tar\.gz' is not a file"):
        unpack.prepare(vendor)


@pytest.mark.parametrize("broken", ["patch", "archive", "interrupt"])
def test_failed_run_leaves_the_old_tree_whole(
    vendor: unpack.Vendor, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack.prepare(vendor)
    before = tree_of(vendor.target)
    expected: type[BaseException] = unpack.UnpackError
    if broken == "patch":
        (vendor.root / "patches/0002.patch").write_text(PATCH)  # its context is gone: the first one changed it
        expected = unpack.PatchError
    else:
        (vendor.root / "patches/0001-hook.patch").write_text(PATCH + "\n")
    if broken == "archive":
        monkeypatch.setenv(unpack.SDIST_VARIABLE, str(vendor.root))
    if broken == "interrupt":
        expected = KeyboardInterrupt

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(unpack, "apply_patch", interrupted)
    with pytest.raises(expected):
        unpack.prepare(vendor)
    assert tree_of(vendor.target) == before
    assert not vendor.cache.exists() or list(vendor.cache.iterdir()) == []


def test_first_run_interrupted_leaves_nothing(vendor: unpack.Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(unpack, "_carry_mtimes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpack.prepare(vendor)
    assert not vendor.target.exists()
    unpack.prepare(vendor)
    assert (vendor.target / "CMakeLists.txt").is_file()


def test_old_tree_comes_back_when_the_new_one_cannot_take_its_place(
    vendor: unpack.Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack.prepare(vendor)
    before = tree_of(vendor.target)
    (vendor.root / "patches/0001-hook.patch").write_text(PATCH + "\n")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "llama.cpp" and target == vendor.target:
            raise PermissionError(13, "in use")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(PermissionError):
        unpack.prepare(vendor)
    assert tree_of(vendor.target) == before


@pytest.mark.parametrize("mark", ["no stamp", "git"])
def test_users_own_checkout_is_left_alone(
    vendor: unpack.Vendor, mark: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unpack.prepare(vendor)
    if mark == "git":
        (vendor.target / ".git").mkdir()
    else:
        (vendor.target / unpack.STAMP_NAME).unlink()
    (vendor.target / "CMakeLists.txt").write_bytes(b"mine\n")
    (vendor.root / "patches/0001-hook.patch").write_text(PATCH + "\n")  # its own tree would be unpacked again
    monkeypatch.setenv(unpack.SDIST_VARIABLE, "/nowhere/at/all.tar.gz")
    before = tree_of(vendor.target)
    unpack.prepare(vendor)
    assert tree_of(vendor.target) == before
    assert "used as it is" in capsys.readouterr().out


def test_users_own_checkout_without_the_hook_is_explained(vendor: unpack.Vendor) -> None:
    graph = vendor.target / "src/llama-graph.h"
    graph.parent.mkdir(parents=True)
    graph.write_bytes(GRAPH_H)
    with pytest.raises(unpack.UnpackError, match=r"no 'llm_block_hook'[\s\S]*git apply \.\./patches") as info:
        unpack.prepare(vendor)
    assert "fake-llama 1.0" in str(info.value)
    assert graph.read_bytes() == GRAPH_H


def test_an_empty_folder_may_be_used(vendor: unpack.Vendor) -> None:
    vendor.target.mkdir()
    unpack.prepare(vendor)
    assert (vendor.target / "CMakeLists.txt").is_file()


def test_missing_patch_series_is_an_error(vendor: unpack.Vendor) -> None:
    (vendor.root / "patches/0001-hook.patch").unlink()
    with pytest.raises(unpack.UnpackError, match=r"holds no \*\.patch"):
        unpack.prepare(vendor)


@pytest.mark.parametrize("name", ["../../../../escape", "src/../../../../escape", "/etc/escape", "src/c:\\escape"])
def test_paths_out_of_the_tree_are_refused(vendor: unpack.Vendor, tmp_path: Path, name: str) -> None:
    pin = write_archive(tmp_path / "source.tar.gz", SOURCES, tarfile.TarInfo(vendor.pin.tree + name))
    with pytest.raises(unpack.UnpackError, match="leads out of the tree"):
        unpack.prepare(unpack.Vendor(vendor.root, pin))
    assert not vendor.target.exists()
    assert not list(tmp_path.rglob("*escape*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(vendor: unpack.Vendor, tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo(vendor.pin.tree + "src/link")
    member.type = kind
    member.linkname = "/etc/passwd"
    pin = write_archive(tmp_path / "source.tar.gz", SOURCES, member)
    with pytest.raises(unpack.UnpackError, match=r"src/link' is a link or a device"):
        unpack.prepare(unpack.Vendor(vendor.root, pin))
    assert not vendor.target.exists()


def test_archive_without_the_tree(vendor: unpack.Vendor, tmp_path: Path) -> None:
    pin = write_archive(tmp_path / "source.tar.gz", {})
    with pytest.raises(unpack.UnpackError, match="holds nothing under"):
        unpack.prepare(unpack.Vendor(vendor.root, pin))


def test_truncated_archive_that_hashes_right(vendor: unpack.Vendor, tmp_path: Path) -> None:
    archive = tmp_path / "source.tar.gz"
    archive.write_bytes(archive.read_bytes()[:200])
    pin = unpack.Pin("fake-llama", "1.0", hashlib.sha256(archive.read_bytes()).hexdigest())
    with pytest.raises(unpack.UnpackError, match="cannot be unpacked"):
        unpack.prepare(unpack.Vendor(vendor.root, pin))
    assert not vendor.target.exists()


class TestDownload:
    """Downloads through pip, from folders instead of a package index."""

    @pytest.fixture(autouse=True)
    def offline(self, vendor: unpack.Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("pip")
        monkeypatch.delenv(unpack.SDIST_VARIABLE)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
        (tmp_path / "index").mkdir()

    def test_no_network(self, vendor: unpack.Vendor) -> None:
        with pytest.raises(unpack.UnpackError) as info:
            unpack.prepare(vendor)
        message = str(info.value)
        assert message.startswith("fake_llama-1.0.tar.gz: pip could not download it (no network")
        assert "No matching distribution" in message  # pip's own words
        assert unpack.SDIST_VARIABLE in message
        assert list(vendor.cache.iterdir()) == []

    def test_wrong_hash_at_the_index(self, vendor: unpack.Vendor, tmp_path: Path) -> None:
        write_archive(tmp_path / "index" / vendor.pin.archive, {})
        with pytest.raises(unpack.UnpackError, match="another sha256 than the pinned one"):
            unpack.prepare(vendor)

    def test_download_is_kept_and_a_damaged_one_replaced(self, vendor: unpack.Vendor, tmp_path: Path) -> None:
        pyproject = tarfile.TarInfo(f"{vendor.pin.stem}/pyproject.toml")
        pin = write_archive(tmp_path / "index" / vendor.pin.archive, SOURCES, pyproject)
        # pip asks the archive for its metadata: a backend inside it answers, so that nothing has to be installed
        pin = _with_backend(tmp_path / "index" / vendor.pin.archive, pin)
        vendor = unpack.Vendor(vendor.root, pin)
        vendor.cache.mkdir()
        (vendor.cache / pin.archive).write_bytes(b"damaged")
        unpack.prepare(vendor)
        assert hashlib.sha256((vendor.cache / pin.archive).read_bytes()).hexdigest() == pin.sha256
        assert [path.name for path in vendor.cache.iterdir()] == [pin.archive]
        assert (vendor.target / "CMakeLists.txt").is_file()


def _with_backend(path: Path, pin: unpack.Pin) -> unpack.Pin:
    """Rewrite an archive so that pip can ask it for metadata."""
    files = {
        "pyproject.toml": b"[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n",
        "PKG-INFO": b"Metadata-Version: 2.1\nName: fake-llama\nVersion: 1.0\n",
        "backend.py": b"""
import pathlib
def prepare_metadata_for_build_wheel(directory, settings=None):
    info = pathlib.Path(directory, "fake_llama-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: fake-llama\\nVersion: 1.0\\n")
    return info.name
""",
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, data in {**files, **{f"vendor/llama.cpp/{name}": data for name, data in SOURCES.items()}}.items():
            member = tarfile.TarInfo(f"{pin.stem}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return unpack.Pin(pin.project, pin.version, hashlib.sha256(path.read_bytes()).hexdigest())


def test_as_a_program(vendor: unpack.Vendor, tmp_path: Path) -> None:
    """CMake relies on the exit code and shows stderr."""
    scripts = Path(unpack.__file__).parent
    for name in ("unpack.py", "patching.py"):
        (vendor.root / name).write_bytes((scripts / name).read_bytes())
    result = subprocess.run(
        [sys.executable, str(vendor.root / "unpack.py")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1  # the made-up archive is not the one that the script pins
    assert result.stderr.startswith(f"metadeploy: '{tmp_path / 'source.tar.gz'}': sha256 is ")
    assert "Traceback" not in result.stderr


def test_pinned_patches_apply_to_the_pinned_tree() -> None:
    """The unpacked tree of this checkout has the block hook, and its stamp is current."""
    vendor = unpack.Vendor(Path(unpack.__file__).parent)
    if not (vendor.target / unpack.STAMP_NAME).is_file():
        pytest.skip("vendor/llama.cpp is not unpacked by metadeploy")
    name, word = unpack.SEAM
    assert word in (vendor.target / name).read_text(encoding="utf-8")
    unpack.prepare(vendor)
