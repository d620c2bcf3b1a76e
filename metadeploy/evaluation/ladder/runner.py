"""`metadeploy ladder`: a run directory and a base in; a table, its figures and a plot out."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import torch

from metadeploy import plots
from metadeploy._core import system_info
from metadeploy._files import write_atomically, write_json
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.data.question import Question
from metadeploy.errors import RunDirError
from metadeploy.evaluation._run import Stage, draw_places, fingerprint, quiet, results_head
from metadeploy.evaluation.ladder.compare import against_reference, outcome
from metadeploy.evaluation.ladder.files import WorkFolder, described_file, matrix_types, quantised_note
from metadeploy.evaluation.ladder.reference import ask_pytorch
from metadeploy.evaluation.ladder.report import markdown
from metadeploy.evaluation.ladder.runtime import BaseInRuntime
from metadeploy.evaluation.ladder.samples import LadderSample, RungSamples
from metadeploy.evaluation.ladder.settings import EXACT_SIDECAR, LadderSettings, Rung
from metadeploy.evaluation.ladder.vectors import Vectors
from metadeploy.evaluation.loading import answer_limits, asked_with, environment, identity
from metadeploy.export import load_wrapper
from metadeploy.sidecar.base_model import check_base
from metadeploy.sidecar.spec import DEFAULT_THRESHOLD
from metadeploy.training.records import Collected

__all__ = ["Ladder", "climb"]

#: Version of the results' layout.
_SCHEMA: Final = 2

#: What of the settings answers do not depend on, or the wrapper says as well.
_NOT_ASKED: Final = ("run", "limit", "seed", "refusal_text")


@dataclass(frozen=True)
class Ladder:
    """What a ladder came to.

    Attributes:
        results: as written.
        files: everything that was written.
    """

    results: dict[str, Any]
    files: tuple[Path, ...]


def climb(
    run: RunDir,
    settings: LadderSettings,
    *,
    stage: Stage | None = None,
    say: Callable[[str], None] | None = None,
) -> Ladder:
    """Put the same questions to PyTorch in F32 and to the runtime on every rung, and compare.

    A rung that is there already, by the same settings and files, is not asked again.

    Args:
        run: a run directory with collected questions and a trained wrapper.
        settings: what to compare.
        stage: told what goes on. While rungs are asked, done and total count the questions of all of them.
        say: told what one should know beforehand.

    Returns:
        The results. Written to the run's ``ladder`` folder are ``results.json``, ``table.md``, ``ladder.png`` and the
        samples of each rung.

    Raises:
        RunDirError: something is missing in the run directory, or the wrapper was trained on other questions than are
            collected there now.
        CheckpointError: the checkpoint cannot be used.
        ModelLoadError: the base cannot be loaded or quantised.
        ModelMismatchError: base and wrapper do not fit each other.
    """
    started = time.monotonic()
    return _Climb(run, settings, stage or quiet, say or _silent).result(started)


class _Climb:
    """One call of `climb`: what is asked is known from the start, what was found grows rung by rung."""

    def __init__(self, run: RunDir, settings: LadderSettings, stage: Stage, say: Callable[[str], None]) -> None:
        run.require("collect", made_by="collect")
        if not run.checkpoint.exists():
            raise RunDirError(
                f"wrapper '{run.checkpoint}': is not there, expected one (hint: run metadeploy train first)"
            )
        run.refuse_stale_checkpoint()
        wrapper = load_wrapper(run.path, refusal_text=settings.refusal_text).config
        check_base(settings.base, wrapper)
        self._run, self._settings, self._stage = run, settings, stage
        self._folder = run.path / "ladder"
        self._limits = answer_limits(run)
        self._questions = _drawn(run, settings)
        self._note = quantised_note(settings.base, matrix_types(settings.base))
        if self._note is not None:
            say(self._note)
        self._base, checkpoint = identity(settings.base), identity(run.checkpoint)
        self._config = {
            "run": run.path.resolve().name,
            "base": self._base,
            "checkpoint": checkpoint,
            "split": settings.split,
            "limit": settings.limit,
            "seed": settings.seed,
            "threshold": DEFAULT_THRESHOLD,
            "cache_type": settings.cache_type,
            "device": settings.device,
            "threads": settings.threads,
            "refusal_text": wrapper.refusal_text,
            **asdict(self._limits),
        }
        self._environment = environment("torch", "transformers", "gguf") | {"llama.cpp": system_info().strip()}
        self._asked = {
            **{name: value for name, value in self._config.items() if name not in _NOT_ASKED},
            "schema": _SCHEMA,
            "environment": asked_with(self._environment),
            "wrapper": asdict(wrapper),
            "questions": [(place, asdict(question)) for place, question in self._questions],
        }
        self._work = WorkFolder(
            settings.work_dir or self._folder / "work",
            keep=settings.work_dir is not None,
            base=settings.base,
            base_sha256=self._base["sha256"],
            checkpoint=run.checkpoint,
            refusal_text=settings.refusal_text,
            threads=settings.threads,
        )

    def result(self, started: float) -> Ladder:
        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)
        rungs = self._settings.rungs
        finished = {
            rung: found
            for rung in rungs
            if (found := RungSamples.read(self._path(rung), self._fingerprint(rung))) is not None
        }
        missing = [rung for rung in rungs if rung not in finished]
        reference, vectors = self._reference(needs_vectors=bool(missing))
        if vectors is not None:
            self._ask(missing, vectors, finished)
        self._work.close()
        samples = {rung: finished[rung] for rung in rungs}
        return self._written(reference, samples, started)

    # --- PyTorch ---

    def _reference(self, *, needs_vectors: bool) -> tuple[tuple[LadderSample, ...], Vectors | None]:
        path, fingerprint = self._folder / "rung_pytorch.json", self._fingerprint(None)
        vectors_path = self._work.path / "reference.safetensors"
        found = RungSamples.read(path, fingerprint)
        vectors = Vectors.read(vectors_path, fingerprint) if needs_vectors else None
        if found is not None and (vectors is not None or not needs_vectors):
            return found.samples, vectors
        self._stage("load the base in PyTorch", 0, 1)
        samples, vectors = ask_pytorch(
            self._settings.base,
            self._run.checkpoint,
            self._questions,
            refusal_text=self._settings.refusal_text,
            limits=self._limits,
            device=self._settings.device,
            progress=lambda done, total: self._stage("PyTorch F32", done, total),
        )
        gc.collect()  # the model is in cycles, and its memory is wanted for the rungs
        self._work.path.mkdir(parents=True, exist_ok=True)
        vectors.write(vectors_path, fingerprint)
        files = {"base": self._base, "checkpoint": self._config["checkpoint"]}
        RungSamples(fingerprint=fingerprint, files=files, samples=samples).write(path)
        return samples, vectors

    # --- the rungs ---

    def _ask(self, missing: Sequence[Rung], theirs: Vectors, finished: dict[Rung, RungSamples]) -> None:
        """Ask the rungs that are missing, base by base."""
        before, total = 0, len(missing) * len(self._questions)
        for kind, rungs in groupby(missing, key=lambda rung: rung.base):
            if not self._work.base_path(kind).exists():
                self._stage(f"quantise {kind}", 0, 1)
            path = self._work.base(kind)
            described = described_file(path)
            base = BaseInRuntime(
                path,
                self._questions,
                limits=self._limits,
                cache_type=self._settings.cache_type,
                threads=self._settings.threads,
            )
            with closing(base):
                alone = finished.get(Rung(kind, EXACT_SIDECAR))
                if alone is not None:
                    base.alone(alone.samples)
                for rung in rungs:
                    sidecar = self._work.sidecar(rung.sidecar)
                    tell = _counted(self._stage, f"ask {rung.name}", before, total)
                    samples = base.ask(sidecar, theirs, progress=tell)
                    files = {"base": described, "sidecar": identity(sidecar)}
                    finished[rung] = RungSamples(fingerprint=self._fingerprint(rung), files=files, samples=samples)
                    finished[rung].write(self._path(rung))
                    before += len(self._questions)
            self._work.release(kind)

    def _path(self, rung: Rung) -> Path:
        return self._folder / f"rung_{rung.base}_{rung.sidecar}.json"

    def _fingerprint(self, rung: Rung | None) -> str:
        """Of everything that the samples of a rung, or of PyTorch, depend on."""
        return fingerprint(self._asked, rung and tuple(rung))

    # --- what is written ---

    def _written(self, reference: Sequence[LadderSample], finished: dict[Rung, RungSamples], started: float) -> Ladder:
        rows = [
            {
                "name": rung.name,
                "base": rung.base,
                "sidecar": rung.sidecar,
                "files": found.files,
                **against_reference(found.samples, reference),
                **outcome(found.samples),
                "samples": self._path(rung).name,
            }
            for rung, found in finished.items()
        ]
        plot = self._folder / "ladder.png"
        results = {
            **results_head(_SCHEMA),
            "config": self._config,
            "environment": self._environment,
            "notes": [] if self._note is None else [self._note],
            "n": len(self._questions),
            "reference": {"name": "PyTorch F32", **outcome(reference), "samples": "rung_pytorch.json"},
            "rungs": rows,
            "plots": [plot.name],
            "timings": {"total_s": round(time.monotonic() - started, 3)},
        }
        _draw(results, plot)
        table, path = self._folder / "table.md", self._folder / "results.json"
        write_atomically(table, markdown(results))
        write_json(path, results)
        kept = [self._folder / "rung_pytorch.json", *(self._path(rung) for rung in finished)]
        return Ladder(results, (path, table, plot, *kept))


def _counted(stage: Stage, name: str, before: int, total: int) -> Callable[[int], None]:
    """Turns the questions of one rung into questions of all of them."""
    return lambda done: stage(name, before + done, total)


def _drawn(run: RunDir, settings: LadderSettings) -> list[tuple[int, Question]]:
    """Questions and their places in the split: a smaller limit draws some of the same."""
    records = Collected.read(run.collect, settings.split).records
    if not records:
        raise RunDirError(f"run directory '{run.path}': has no {settings.split} questions, expected some")
    places = draw_places(len(records), settings.limit, settings.seed)
    return [(place, records[place].question) for place in sorted(places)]


def _draw(results: dict[str, Any], path: Path) -> None:
    """The types of the base, the largest file first."""
    rungs = [
        plots.Rung(
            row["base"],
            row["files"]["base"]["size"],
            row["decisions"]["agree"]["value"],
            row["metrics"]["selective_accuracy"]["value"],
        )
        for row in results["rungs"]
        if row["sidecar"] == EXACT_SIDECAR
    ]
    plots.ladder(
        sorted(rungs, key=lambda rung: rung.size, reverse=True),
        path,
        n=results["n"],
        reference_accuracy=results["reference"]["metrics"]["selective_accuracy"]["value"],
    )


def _silent(_text: str) -> None:
    pass
