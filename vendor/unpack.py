"""Put the pinned, patched llama.cpp source into ``vendor/llama.cpp``.

CMake runs this at the start of every configuration; ``python vendor/unpack.py`` does the same by hand. It needs only
Python's standard library, and pip to download the source. ``vendor/README.md`` explains the pin.
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from patching import PatchError, apply_patch

#: Environment variable that names a source archive on this machine.
SDIST_VARIABLE: Final = "METADEPLOY_LLAMA_CPP_SDIST"

#: Parts of llama.cpp's tree that the build, the converter and the tests use (a quarter of 200 MB).
KEEP: Final = (
    "CMakeLists.txt",
    "LICENSE",
    "cmake",
    "common",
    "conversion",
    "convert_hf_to_gguf.py",
    "ggml",
    "gguf-py",
    "include",
    "licenses",
    "models/templates",
    "src",
    "tools",
    "vendor",
)

#: A file of llama.cpp, and the word in it that shows that the patches have been applied.
SEAM: Final = ("src/llama-graph.h", "llm_block_hook")

STAMP_NAME: Final = ".metadeploy-stamp.json"


class UnpackError(Exception):
    """The source is not available or not usable; the message names the cause and the remedy."""


@dataclass(frozen=True)
class Pin:
    """The source distribution that contains the llama.cpp tree."""

    project: str = "llama-cpp-python"
    version: str = "0.3.36"
    sha256: str = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"

    @property
    def stem(self) -> str:
        """Name of the archive without its suffix; also the name of the only folder in it."""
        return f"{self.project.replace('-', '_')}-{self.version}"

    @property
    def archive(self) -> str:
        """File name of the archive."""
        return f"{self.stem}.tar.gz"

    @property
    def tree(self) -> str:
        """Path of the llama.cpp tree inside the archive."""
        return f"{self.stem}/vendor/llama.cpp/"


@dataclass(frozen=True)
class Vendor:
    """The folder ``vendor/`` and its contents."""

    root: Path
    pin: Pin = field(default_factory=Pin)

    @property
    def target(self) -> Path:
        """The folder of the patched tree."""
        return self.root / "llama.cpp"

    @property
    def cache(self) -> Path:
        """The folder of the archive and of unfinished work; may be deleted at any time."""
        return self.root / "cache"

    @property
    def patches(self) -> list[Path]:
        """The patch series in the order of its names."""
        return sorted((self.root / "patches").glob("*.patch"))


def prepare(vendor: Vendor) -> None:
    """Bring ``vendor/llama.cpp`` up to date if it is not.

    A tree that this script did not unpack belongs to the user and is not changed. The new tree is completed beside the
    old one and then renamed, so that an interrupted run leaves the old tree, or none.

    Args:
        vendor: the folder and the pin.

    Raises:
        UnpackError: no source, a wrong hash, an unsafe archive, or a user's tree without the patches.
        PatchError: a patch does not apply.
    """
    pin, target = vendor.pin, vendor.target
    if _is_users_own(target):
        _say(f"'{target}' was not unpacked by metadeploy and is used as it is")
        _check_seam(vendor)
        return
    if not vendor.patches:
        raise UnpackError(f"'{vendor.root / 'patches'}': holds no *.patch, expected the patch series (a partial copy?)")
    wanted = _stamp(vendor)
    if _read_stamp(target) == wanted:
        _say(f"llama.cpp of {pin.project} {pin.version} is unpacked and patched already")
        return
    archive = find_archive(vendor)
    vendor.cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=vendor.cache) as scratch:
        tree = Path(scratch, "llama.cpp")
        _say(f"unpacking llama.cpp of {pin.project} {pin.version} into '{target}'")
        with archive.open("rb") as file:
            _check_hash(file, archive, pin)
            extract(file, tree, pin)
        for patch in vendor.patches:
            _say(f"applying {patch.name}")
            apply_patch(patch, tree)
        _carry_mtimes(target, tree)
        (tree / STAMP_NAME).write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        _replace(target, tree, Path(scratch, "replaced"))


# --- the archive ---


def find_archive(vendor: Vendor) -> Path:
    """Find the source archive on this machine, or download it.

    Args:
        vendor: the folder and the pin.

    Returns:
        The file in METADEPLOY_LLAMA_CPP_SDIST, else the one in ``vendor/cache``, which is downloaded if absent.

    Raises:
        UnpackError: the named file is absent, or the download failed.
    """
    named = os.environ.get(SDIST_VARIABLE)
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise UnpackError(f"{SDIST_VARIABLE}: '{path}' is not a file, expected {vendor.pin.archive}")
        return path
    cached = vendor.cache / vendor.pin.archive
    if cached.is_file():
        if _sha256(cached) == vendor.pin.sha256:
            return cached
        _say(f"'{cached}' is damaged and is replaced")
    return _download(vendor)


def _download(vendor: Vendor) -> Path:
    """Download the archive with pip, which knows the user's package index, proxy and certificates."""
    pin = vendor.pin
    _say(f"downloading {pin.archive} (77 MB)")
    vendor.cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="download-", dir=vendor.cache) as scratch:
        # pip runs code of the archive to prepare metadata; with a hash it checks the hash before that
        requirements = Path(scratch, "requirements.txt")
        requirements.write_text(f"{pin.project}=={pin.version} --hash=sha256:{pin.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "download", "--quiet"]
        command += ["--no-deps", "--no-binary", pin.project, "--require-hashes"]
        command += ["--requirement", str(requirements), "--dest", scratch]
        if importlib.util.find_spec("scikit_build_core"):  # the archive's build backend is installed already
            command.append("--no-build-isolation")
        # the version is pinned above; a user's constraints file would need hashes as well
        environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
        result = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        downloaded = Path(scratch, pin.archive)
        if result.returncode != 0 or not downloaded.is_file():
            raise UnpackError(_download_failure(pin, result.stdout))
        return Path(shutil.move(downloaded, vendor.cache / pin.archive))


def _download_failure(pin: Pin, output: str) -> str:
    """Return why pip failed, from its output."""
    if "DO NOT MATCH THE HASHES" in output:
        cause = "the package index serves a file with another sha256 than the pinned one, so it was not used"
    elif "No module named pip" in output:
        cause = f"'{sys.executable}' has no pip to download with"
    else:
        cause = "pip could not download it (no network, or a package index that lacks it)"
    said = "\n".join(f"  pip: {line}" for line in output.strip().splitlines()[-8:])
    return (
        f"{pin.archive}: {cause}\n{said}\n"
        f"  Get the file on a machine with a network (pip download --no-deps --no-binary {pin.project} "
        f"{pin.project}=={pin.version})\n"
        f"  and set {SDIST_VARIABLE} to its path, or put it into vendor/cache/."
    )


def _check_hash(file: BinaryIO, path: Path, pin: Pin) -> None:
    """Refuse an archive that is not the pinned one, then rewind it."""
    found = _digest(file)
    if found != pin.sha256:
        raise UnpackError(f"'{path}': sha256 is {found}, expected {pin.sha256} (damaged, or another release?)")
    file.seek(0)


def extract(file: BinaryIO, tree: Path, pin: Pin) -> None:
    """Write the parts of llama.cpp in ``KEEP`` to a folder.

    Only plain files are written, each under a path that is checked here. So this is safe with every version of
    tarfile, including versions without extraction filters.

    Args:
        file: the archive (.tar.gz), at its start.
        tree: folder to create.
        pin: names the tree inside the archive.

    Raises:
        UnpackError: a path leads out of the tree, an entry is a link or device, or nothing was found.
    """
    tree.mkdir()
    count = 0
    try:
        with tarfile.open(fileobj=file, mode="r:gz") as tar:
            for member in tar:
                path = _wanted_path(member.name, pin)
                if path is None or member.isdir():
                    continue
                source = tar.extractfile(member) if member.isfile() else None
                if source is None:
                    raise UnpackError(f"{pin.archive}: '{member.name}' is a link or a device, expected a file")
                destination = tree / path
                destination.parent.mkdir(parents=True, exist_ok=True)
                with destination.open("xb") as out:
                    shutil.copyfileobj(source, out)
                destination.chmod(0o755 if member.mode & 0o100 else 0o644)
                count += 1
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise UnpackError(f"{pin.archive}: cannot be unpacked: {error}") from error
    if count == 0:
        raise UnpackError(f"{pin.archive}: holds nothing under '{pin.tree}', expected the llama.cpp tree there")


def _wanted_path(name: str, pin: Pin) -> PurePosixPath | None:
    """Return the path of an archive member below llama.cpp's root, or None if it is not needed."""
    if not name.startswith(pin.tree):
        return None
    path = PurePosixPath(name[len(pin.tree) :])
    if path.is_absolute() or ".." in path.parts or re.search(r"[\\:]", str(path)):
        raise UnpackError(f"{pin.archive}: the path '{name}' leads out of the tree")
    return path if any(path.is_relative_to(kept) for kept in KEEP) else None


# --- the tree in place ---


def _is_users_own(target: Path) -> bool:
    """Return whether a tree exists that this script did not unpack."""
    if not target.is_dir() or not any(target.iterdir()):
        return False
    return not (target / STAMP_NAME).is_file() or (target / ".git").exists()


def _check_seam(vendor: Vendor) -> None:
    """Refuse a user's tree without the patches, because the compiler's error would be less clear."""
    name, word = SEAM
    path = vendor.target / name
    if path.is_file() and word in path.read_text(encoding="utf-8", errors="replace"):
        return
    raise UnpackError(
        f"'{vendor.target}': {name} has no '{word}', expected a llama.cpp tree with metadeploy's patches\n"
        "  Apply them:  cd vendor/llama.cpp && git apply ../patches/*.patch\n"
        f"  (made for the llama.cpp in {vendor.pin.project} {vendor.pin.version}), or move that folder away and build\n"
        "  again to have the pinned source unpacked there."
    )


def _stamp(vendor: Vendor) -> dict[str, object]:
    """Return what the tree is made from; equal stamps mean equal trees."""
    return {
        "archive": vendor.pin.archive,
        "sha256": vendor.pin.sha256,
        "keep": list(KEEP),
        "patches": {patch.name: _sha256(patch) for patch in vendor.patches},
    }


def _read_stamp(target: Path) -> object:
    try:
        return json.loads((target / STAMP_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _carry_mtimes(old: Path, new: Path) -> None:
    """Keep the modification time of unchanged files, so that only changed files are compiled again."""
    for path in new.rglob("*"):
        twin = old / path.relative_to(new)
        if path.is_file() and twin.is_file() and filecmp.cmp(path, twin, shallow=False):
            times = twin.stat()
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _replace(target: Path, tree: Path, aside: Path) -> None:
    """Replace ``target`` with ``tree``; move ``target`` aside, and back if that fails."""
    moved = target.exists()
    if moved:
        target.rename(aside)
    try:
        tree.rename(target)
    except OSError:
        if moved:
            aside.rename(target)
        raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _say(message: str) -> None:
    print(f"-- metadeploy: {message}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program and return the exit code."""
    parser = argparse.ArgumentParser(
        description="Put the pinned, patched llama.cpp source into vendor/llama.cpp, if it is not there.",
        epilog=f"{SDIST_VARIABLE} may name a source archive on this machine.",
    )
    parser.parse_args(arguments)
    try:
        prepare(Vendor(Path(__file__).resolve().parent))
    except (UnpackError, PatchError) as error:
        print(f"metadeploy: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"metadeploy: cannot write vendor/llama.cpp: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
