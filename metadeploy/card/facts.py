"""Reads the facts of a card from the files of a run directory, and checks that the files belong together."""

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
_RUN_KEYS: Final = ("config", "n", "threshold", "mcnemar", "refusals", "categories", "plots")

#: Files of a run directory that the card lists, in this order.
_KNOWN_FILES: Final = (
    ("doubter_sidecar.gguf", "the Doubter for llama.cpp, to load beside a GGUF of the base"),
    ("doubter_checkpoint.pt", "the Doubter for PyTorch"),
    ("run.json", "every setting of collecting and training"),
    ("collect/*.jsonl", "questions, the base's answers, and whether they are right"),
    ("collect/*.safetensors", "activations of the base at the last prompt token"),
    ("train/curves.csv", "loss and validation figures of each epoch"),
    ("train/curves.png", "plot of curves.csv"),
    ("eval/results_*.json", "the results that this card shows"),
    ("eval/samples_*.jsonl", "each question with both answers and the doubt"),
    ("eval/calibration_*.jsonl", "validation questions on which a threshold was chosen"),
    ("eval/*.png", "plot"),
    ("ladder/results.json", "results for other types of base and sidecar"),
    ("ladder/rung_*.json", "each question's outcome with one type"),
    ("ladder/*.png", "plot"),
)


@dataclass(frozen=True)
class ListedFile:
    """A file of the run directory.

    Attributes:
        name: path relative to the run directory, with forward slashes.
        size: number of bytes.
        sha256: hex digest.
        what: its description.
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
        results: its content.
        dataset: name of the questions.
        is_own: whether these are the run's own questions, which have splits.
    """

    path: Path
    results: Mapping[str, Any]
    dataset: str
    is_own: bool

    @property
    def split(self) -> str:
        """Split of the questions."""
        return str(self.results["config"]["split"])

    @property
    def engine(self) -> str:
        """The engine with its type or base: ``PyTorch, bfloat16`` or ``llama.cpp, base-Q4_K_M.gguf``."""
        config = self.results["config"]
        if config["engine"] == "runtime":
            return f"llama.cpp, {config['base']['name']}"
        return f"PyTorch, {config['quantization'] or config['dtype']}"

    @property
    def title(self) -> str:
        """The questions and the engine."""
        return f"{self.dataset}{f', {self.split} split' if self.is_own else ''} ({self.engine})"

    @property
    def _rank(self) -> tuple[bool, bool, bool, str]:
        """Sort key: the run's own test questions in PyTorch come first."""
        return not self.is_own, self.split != "test", self.results["config"]["engine"] != "torch", self.path.name


@dataclass(frozen=True)
class Repetition:
    """A file of means over several trainings, from `metadeploy eval A B C --output`.

    Attributes:
        path: the file.
        results: its content.
    """

    path: Path
    results: Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """All results of a run directory.

    Attributes:
        evaluations: the most important one first.
        repetitions: means over trainings.
        ladder: results of `metadeploy ladder`; None if there are none.
    """

    evaluations: tuple[Evaluation, ...] = ()
    repetitions: tuple[Repetition, ...] = ()
    ladder: Mapping[str, Any] | None = None

    def __bool__(self) -> bool:
        return bool(self.evaluations or self.repetitions or self.ladder)


def hub_id(name: str) -> str | None:
    """Return a model's name if it is a hub id such as ``owner/name``; None for a path."""
    is_id = _HUB_ID.fullmatch(name) and not name.lower().endswith(".gguf") and not Path(name).exists()
    return name if is_id else None


def short_name(name: str) -> str:
    """Return a hub id unchanged, or the last part of a path."""
    return hub_id(name) or re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def list_files(run: RunDir) -> list[ListedFile]:
    """Return the known files of a run directory, each once, with their hashes."""
    descriptions: dict[Path, str] = {}
    for pattern, what in _KNOWN_FILES:
        for path in sorted(run.path.glob(pattern)):
            if path.is_file() and not path.name.startswith("."):
                descriptions.setdefault(path, what)
    return [
        ListedFile(path.relative_to(run.path).as_posix(), path.stat().st_size, sha256(path), what)
        for path, what in descriptions.items()
    ]


def read_measured(run: RunDir, files: list[ListedFile]) -> Measured:
    """Read every results file.

    Args:
        run: the run directory.
        files: the files in it.

    Raises:
        RunDirError: a file is not a results file, or its figures are from a wrapper that is not in the run directory.
    """
    digests = {file.name: file.sha256 for file in files}
    evaluations, repetitions, ladder = [], [], None
    for path in (run.path / file.name for file in files):
        if path.match("ladder/results.json"):
            ladder = _read(path, "ladder", "config", "n", "reference", "rungs")
            _refuse_other_wrapper(path, ladder["config"]["checkpoint"], digests, "ladder")
        elif path.match("eval/results_*.json"):
            results = _read(path, "eval", "metrics", "baselines")
            if "runs" in results:  # means over runs have no questions and no wrapper of their own
                repetitions.append(Repetition(path, results))
                continue
            _require(path, results, "eval", _RUN_KEYS)
            evaluations.append(_evaluation(run, path, results))
            _refuse_other_wrapper(path, results["config"]["wrapper"], digests, "eval")
    evaluations.sort(key=lambda evaluation: evaluation._rank)
    return Measured(tuple(evaluations), tuple(repetitions), ladder)


def _refuse_other_wrapper(path: Path, wrapper: Mapping[str, Any], digests: Mapping[str, str], command: str) -> None:
    """Refuse figures of another wrapper, or of this wrapper before it was trained again."""
    if wrapper.get("sha256") not in digests.values():
        raise RunDirError(
            f"results '{path}': were measured with another {wrapper['name']} than the one in the run directory "
            f"(hint: run metadeploy {command} again, or delete the file)"
        )


def _evaluation(run: RunDir, path: Path, results: Mapping[str, Any]) -> Evaluation:
    config, collected = results["config"], run.manifest.get("collect") or {}
    name, own_name = (str(name or "questions") for name in (config["questions"], run.manifest.get("dataset")))
    is_own = name == own_name and config.get("source") == collected.get("source")
    return Evaluation(path, results, Path(short_name(name)).stem, is_own)


def _read(path: Path, command: str, *keys: str) -> dict[str, Any]:
    expected = _expected(command)
    results = read(path, subject=f"results '{path}'", error=RunDirError, expected=expected)
    if not isinstance(results, dict) or results.get("schema") not in SCHEMAS[command]:
        raise RunDirError(f"results '{path}': are of another kind, {expected}")
    _require(path, results, command, keys)
    return results


def _require(path: Path, results: Mapping[str, Any], command: str, keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in results]
    if missing:
        raise RunDirError(f"results '{path}': lack {', '.join(missing)}, {_expected(command)}")


def _expected(command: str) -> str:
    versions = " or ".join(map(str, SCHEMAS[command]))
    return f"expected results of metadeploy {command}, version {versions} (hint: run metadeploy {command} again)"
