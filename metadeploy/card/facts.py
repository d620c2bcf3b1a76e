"""What a card may say: read from the files of a run directory, and checked against each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from metadeploy._files import sha256
from metadeploy._json import read
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.errors import RunDirError

__all__ = ["Evaluation", "ListedFile", "Measured", "Repetition", "hub_id", "list_files", "read_measured", "short_name"]

#: Versions of each command's results that a card can show.
SCHEMAS: Final[Mapping[str, tuple[int, ...]]] = {"eval": (1,), "ladder": (1, 2)}
_HUB_ID: Final = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
#: Keys of the results of one run.
_OF_ONE_RUN: Final = ("config", "n", "threshold", "mcnemar", "refusals", "categories", "plots")

#: What a run directory may hold, in the order of the card.
_KNOWN: Final = (
    ("doubter_sidecar.gguf", "the Doubter for llama.cpp, to load beside a GGUF of the base"),
    ("doubter_checkpoint.pt", "the same for PyTorch"),
    ("run.json", "every setting of collecting and training"),
    ("collect/*.jsonl", "questions, the base's answers, and whether they are right"),
    ("collect/*.safetensors", "activations of the base at the last prompt token"),
    ("train/curves.csv", "loss and validation figures of each epoch"),
    ("train/curves.png", "the same as a picture"),
    ("eval/results_*.json", "the results that this card shows"),
    ("eval/samples_*.jsonl", "each question with both answers and the doubt"),
    ("eval/calibration_*.jsonl", "validation questions that a threshold was chosen on"),
    ("eval/*.png", "plot"),
    ("ladder/results.json", "results for other types of base and sidecar"),
    ("ladder/rung_*.json", "each question's outcome with one type"),
    ("ladder/*.png", "plot"),
)


@dataclass(frozen=True)
class ListedFile:
    """A file of the run directory.

    Attributes:
        name: below the run directory, with forward slashes.
        size: in bytes.
        sha256: hex digest.
        what: what it is.
    """

    name: str
    size: int
    sha256: str
    what: str


@dataclass(frozen=True)
class Evaluation:
    """One results file of `metadeploy eval`.

    Attributes:
        path: the file.
        results: what it holds.
        dataset: what the questions are called.
        is_own: whether they are the run's own questions, of which there are splits.
    """

    path: Path
    results: Mapping[str, Any]
    dataset: str
    is_own: bool

    @property
    def split(self) -> str:
        """Of the questions."""
        return str(self.results["config"]["split"])

    @property
    def engine(self) -> str:
        """What answered: ``PyTorch, bfloat16`` or ``llama.cpp, base-Q4_K_M.gguf``."""
        config = self.results["config"]
        if config["engine"] == "runtime":
            return f"llama.cpp, {config['base']['name']}"
        return f"PyTorch, {config['quantization'] or config['dtype']}"

    @property
    def title(self) -> str:
        """What was asked and what answered."""
        return f"{self.dataset}{f', {self.split} split' if self.is_own else ''} ({self.engine})"

    @property
    def _rank(self) -> tuple[bool, bool, bool, str]:
        """The run's own test questions in PyTorch come first."""
        return not self.is_own, self.split != "test", self.results["config"]["engine"] != "torch", self.path.name


@dataclass(frozen=True)
class Repetition:
    """A file of means over several trainings, `metadeploy eval A B C --output`.

    Attributes:
        path: the file.
        results: what it holds.
    """

    path: Path
    results: Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """Everything that was measured.

    Attributes:
        evaluations: the most telling one first.
        repetitions: means over trainings.
        ladder: results of `metadeploy ladder`; None where there are none.
    """

    evaluations: tuple[Evaluation, ...] = ()
    repetitions: tuple[Repetition, ...] = ()
    ladder: Mapping[str, Any] | None = None

    def __bool__(self) -> bool:
        return bool(self.evaluations or self.repetitions or self.ladder)


def hub_id(name: str) -> str | None:
    """A model's name if it is a hub id, ``owner/name``; None for paths."""
    is_id = _HUB_ID.fullmatch(name) and not name.lower().endswith(".gguf") and not Path(name).exists()
    return name if is_id else None


def short_name(name: str) -> str:
    """A hub id as it is, and the last part of a path."""
    return hub_id(name) or re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def list_files(run: RunDir) -> list[ListedFile]:
    """The files of a run directory that are known, each once, with their hashes."""
    found: dict[Path, str] = {}
    for pattern, what in _KNOWN:
        for path in sorted(run.path.glob(pattern)):
            if path.is_file() and not path.name.startswith("."):
                found.setdefault(path, what)
    return [
        ListedFile(path.relative_to(run.path).as_posix(), path.stat().st_size, sha256(path), what)
        for path, what in found.items()
    ]


def read_measured(run: RunDir, files: list[ListedFile]) -> Measured:
    """Read every results file.

    Args:
        run: the run directory.
        files: what is in it.

    Raises:
        RunDirError: a file is no results file, or its figures are those of another wrapper than the one that is there.
    """
    digests = {file.name: file.sha256 for file in files}
    evaluations, repetitions, ladder = [], [], None
    for path in (run.path / file.name for file in files):
        if path.match("ladder/results.json"):
            ladder = _read(path, "ladder", "config", "n", "reference", "rungs")
            _refuse_other_wrapper(path, ladder["config"]["checkpoint"], digests, "ladder")
        elif path.match("eval/results_*.json"):
            results = _read(path, "eval", "metrics", "baselines")
            if "runs" in results:  # means have neither questions nor a wrapper of their own
                repetitions.append(Repetition(path, results))
                continue
            _require(path, results, "eval", _OF_ONE_RUN)
            evaluations.append(_evaluation(run, path, results))
            _refuse_other_wrapper(path, results["config"]["wrapper"], digests, "eval")
    return Measured(tuple(sorted(evaluations, key=lambda each: each._rank)), tuple(repetitions), ladder)


def _refuse_other_wrapper(path: Path, wrapper: Mapping[str, Any], digests: Mapping[str, str], command: str) -> None:
    """Figures of another wrapper are not this one's, nor are those of what it was before it was trained anew."""
    if wrapper.get("sha256") not in digests.values():
        raise RunDirError(
            f"results '{path}': were measured with another {wrapper['name']} than what is in the run directory "
            f"(hint: run metadeploy {command} again, or delete the file)"
        )


def _evaluation(run: RunDir, path: Path, results: Mapping[str, Any]) -> Evaluation:
    config, collected = results["config"], run.manifest.get("collect") or {}
    asked, own = (str(name or "questions") for name in (config["questions"], run.manifest.get("dataset")))
    is_own = asked == own and config.get("source") == collected.get("source")
    return Evaluation(path, results, Path(short_name(asked)).stem, is_own)


def _read(path: Path, command: str, *keys: str) -> dict[str, Any]:
    expected = _expected(command)
    found = read(path, subject=f"results '{path}'", error=RunDirError, expected=expected)
    if not isinstance(found, dict) or found.get("schema") not in SCHEMAS[command]:
        raise RunDirError(f"results '{path}': are of another kind, {expected}")
    _require(path, found, command, keys)
    return found


def _require(path: Path, found: Mapping[str, Any], command: str, keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in found]
    if missing:
        raise RunDirError(f"results '{path}': lack {', '.join(missing)}, {_expected(command)}")


def _expected(command: str) -> str:
    versions = " or ".join(map(str, SCHEMAS[command]))
    return f"expected version {versions} of what metadeploy {command} writes (hint: run metadeploy {command} again)"
