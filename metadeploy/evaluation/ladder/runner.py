"""`metadeploy ladder`: compares types of a base, and writes tables, results and a plot to a run directory."""

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
from metadeploy.evaluation._run import Stage, draw_indices, fingerprint, quiet, results_head
from metadeploy.evaluation.ladder.compare import against_reference, outcome
from metadeploy.evaluation.ladder.files import WorkFolder, describe_file, matrix_types, quantized_note
from metadeploy.evaluation.ladder.reference import ask_pytorch
from metadeploy.evaluation.ladder.report import markdown
from metadeploy.evaluation.ladder.runtime import RungRunner
from metadeploy.evaluation.ladder.samples import LadderSample, RungSamples
from metadeploy.evaluation.ladder.settings import EXACT_SIDECAR, LadderSettings, Rung
from metadeploy.evaluation.ladder.vectors import Vectors
from metadeploy.evaluation.loading import answer_environment, answer_limits, environment, identity
from metadeploy.export import load_wrapper
from metadeploy.sidecar.base_model import check_base
from metadeploy.sidecar.spec import DEFAULT_THRESHOLD
from metadeploy.training.records import Collected

__all__ = ["Ladder", "run_ladder"]

#: Version of the results' layout.
_SCHEMA: Final = 2

#: Keys of the configuration that do not affect answers, or that are also in the wrapper's configuration.
_IRRELEVANT_KEYS: Final = ("run", "limit", "seed", "refusal_text")


@dataclass(frozen=True)
class Ladder:
    """The result of `run_ladder`.

    Attributes:
        results: the content of the results file.
        files: all files that were written.
    """

    results: dict[str, Any]
    files: tuple[Path, ...]


def run_ladder(
    run: RunDir,
    settings: LadderSettings,
    *,
    stage: Stage | None = None,
    say: Callable[[str], None] | None = None,
) -> Ladder:
    """Ask PyTorch in F32 and the runtime on every rung the same questions, and compare the answers.

    Stored rungs from the same settings and files are used again.

    Args:
        run: a run directory with collected questions and a trained wrapper.
        settings: what to compare.
        stage: called with the progress. The counts of a rung are questions of all rungs.
        say: called with warnings before the work starts.

    Returns:
        The results. The run's ``ladder`` folder gets ``results.json``, ``table.md``, ``ladder.png`` and the samples of
        each rung.

    Raises:
        RunDirError: something is missing in the run directory, or the wrapper was trained on other questions than
            those in the run directory.
        CheckpointError: the checkpoint cannot be used.
        ModelLoadError: the base cannot be loaded or quantized.
        ModelMismatchError: base and wrapper do not fit each other.
    """
    start_time = time.monotonic()
    return _LadderRun(run, settings, stage or quiet, say or _silent).result(start_time)


class _LadderRun:
    """One call of `run_ladder`."""

    def __init__(self, run: RunDir, settings: LadderSettings, stage: Stage, say: Callable[[str], None]) -> None:
        run.require("collect", made_by="collect")
        if not run.checkpoint.exists():
            raise RunDirError(f"wrapper '{run.checkpoint}': does not exist (hint: run metadeploy train first)")
        run.refuse_stale_checkpoint()
        wrapper = load_wrapper(run.path, refusal_text=settings.refusal_text).config
        check_base(settings.base, wrapper)
        self._run, self._settings, self._stage = run, settings, stage
        self._folder = run.path / "ladder"
        self._limits = answer_limits(run)
        self._questions = _draw_questions(run, settings)
        self._note = quantized_note(settings.base, matrix_types(settings.base))
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
        self._inputs = {
            **{name: value for name, value in self._config.items() if name not in _IRRELEVANT_KEYS},
            "schema": _SCHEMA,
            "environment": answer_environment(self._environment),
            "wrapper": asdict(wrapper),
            "questions": [(index, asdict(question)) for index, question in self._questions],
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

    def result(self, start_time: float) -> Ladder:
        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)
        rungs = self._settings.rungs
        finished = {
            rung: stored
            for rung in rungs
            if (stored := RungSamples.read(self._path(rung), self._fingerprint(rung))) is not None
        }
        missing = [rung for rung in rungs if rung not in finished]
        reference, vectors = self._reference(needs_vectors=bool(missing))
        if vectors is not None:
            self._ask(missing, vectors, finished)
        self._work.close()
        samples = {rung: finished[rung] for rung in rungs}
        return self._write(reference, samples, start_time)

    # --- PyTorch ---

    def _reference(self, *, needs_vectors: bool) -> tuple[tuple[LadderSample, ...], Vectors | None]:
        path, fingerprint = self._folder / "rung_pytorch.json", self._fingerprint(None)
        vectors_path = self._work.path / "reference.safetensors"
        stored = RungSamples.read(path, fingerprint)
        vectors = Vectors.read(vectors_path, fingerprint) if needs_vectors else None
        if stored is not None and (vectors is not None or not needs_vectors):
            return stored.samples, vectors
        self._stage("load the base in PyTorch", 0, 1)
        samples, vectors = ask_pytorch(
            self._settings.base,
            self._run.checkpoint,
            self._questions,
            refusal_text=self._settings.refusal_text,
            limits=self._limits,
            device=self._settings.device,
            progress=lambda n_done, total: self._stage("PyTorch F32", n_done, total),
        )
        gc.collect()  # frees the model, which is in reference cycles, because the rungs need its memory
        self._work.path.mkdir(parents=True, exist_ok=True)
        vectors.write(vectors_path, fingerprint)
        files = {"base": self._base, "checkpoint": self._config["checkpoint"]}
        RungSamples(fingerprint=fingerprint, files=files, samples=samples).write(path)
        return samples, vectors

    # --- the rungs ---

    def _ask(self, missing: Sequence[Rung], reference: Vectors, finished: dict[Rung, RungSamples]) -> None:
        """Ask the missing rungs, base by base."""
        n_before, total = 0, len(missing) * len(self._questions)
        for kind, rungs in groupby(missing, key=lambda rung: rung.base):
            if not self._work.base_path(kind).exists():
                self._stage(f"quantize {kind}", 0, 1)
            path = self._work.base(kind)
            base_file = describe_file(path)
            runner = RungRunner(
                path,
                self._questions,
                limits=self._limits,
                cache_type=self._settings.cache_type,
                threads=self._settings.threads,
            )
            with closing(runner):
                same_base = finished.get(Rung(kind, EXACT_SIDECAR))
                if same_base is not None:
                    runner.reuse_base_answers(same_base.samples)
                for rung in rungs:
                    sidecar = self._work.sidecar(rung.sidecar)
                    progress = _counted(self._stage, f"ask {rung.name}", n_before, total)
                    samples = runner.ask(sidecar, reference, progress=progress)
                    files = {"base": base_file, "sidecar": identity(sidecar)}
                    finished[rung] = RungSamples(fingerprint=self._fingerprint(rung), files=files, samples=samples)
                    finished[rung].write(self._path(rung))
                    n_before += len(self._questions)
            self._work.release(kind)

    def _path(self, rung: Rung) -> Path:
        return self._folder / f"rung_{rung.base}_{rung.sidecar}.json"

    def _fingerprint(self, rung: Rung | None) -> str:
        """Hash everything that the samples of a rung, or of PyTorch, depend on."""
        return fingerprint(self._inputs, rung and tuple(rung))

    # --- results ---

    def _write(self, reference: Sequence[LadderSample], finished: dict[Rung, RungSamples], start_time: float) -> Ladder:
        rows = [
            {
                "name": rung.name,
                "base": rung.base,
                "sidecar": rung.sidecar,
                "files": rung_samples.files,
                **against_reference(rung_samples.samples, reference),
                **outcome(rung_samples.samples),
                "samples": self._path(rung).name,
            }
            for rung, rung_samples in finished.items()
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
            "timings": {"total_s": round(time.monotonic() - start_time, 3)},
        }
        _draw(results, plot)
        table, path = self._folder / "table.md", self._folder / "results.json"
        write_atomically(table, markdown(results))
        write_json(path, results)
        sample_files = [self._folder / "rung_pytorch.json", *(self._path(rung) for rung in finished)]
        return Ladder(results, (path, table, plot, *sample_files))


def _counted(stage: Stage, name: str, n_before: int, total: int) -> Callable[[int], None]:
    """Return a function that reports the questions of one rung as questions of all rungs."""
    return lambda n_done: stage(name, n_before + n_done, total)


def _draw_questions(run: RunDir, settings: LadderSettings) -> list[tuple[int, Question]]:
    """Draw questions with their indices in the split. A smaller limit draws some of the same questions."""
    records = Collected.read(run.collect, settings.split).records
    if not records:
        raise RunDirError(f"run directory '{run.path}': has no {settings.split} questions, expected some")
    indices = draw_indices(len(records), settings.limit, settings.seed)
    return [(index, records[index].question) for index in sorted(indices)]


def _draw(results: dict[str, Any], path: Path) -> None:
    """Draw the types of the base, the largest file first."""
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
