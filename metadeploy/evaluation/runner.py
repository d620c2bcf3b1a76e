"""`metadeploy eval`: asks questions with an engine, and writes samples, results and plots to a run directory."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metadeploy._files import refuse_overwriting, write_json
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.data.question import Question, read_jsonl
from metadeploy.data.splits import load_set
from metadeploy.errors import RunDirError
from metadeploy.evaluation._run import Stage, draw_indices, fingerprint, quiet, results_head
from metadeploy.evaluation.baselines import STRENGTHS, category_doubt, linear_probe
from metadeploy.evaluation.engines import DEFAULT_GAIN, Engine
from metadeploy.evaluation.figures import draw_plots
from metadeploy.evaluation.loading import Loaded, answer_environment, load_engine
from metadeploy.evaluation.samples import Samples
from metadeploy.evaluation.sampling import SamplePlan, collect_samples
from metadeploy.evaluation.scoring import SCHEMA, baseline_scores, score_samples
from metadeploy.evaluation.settings import EvalSettings
from metadeploy.sidecar.spec import DEFAULT_REFUSAL_TEXT
from metadeploy.training.calibration import OperatingPoint, calibrate
from metadeploy.training.records import Collected

__all__ = ["Evaluation", "evaluate"]

_PROBE: Final = "linear probe"
_CATEGORY: Final = "category alone"


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        results: the content of the results file.
        path: the results file.
        files: all files that were written.
    """

    results: dict[str, Any]
    path: Path
    files: tuple[Path, ...]


def evaluate(run: RunDir, settings: EvalSettings, *, stage: Stage | None = None) -> Evaluation:
    """Ask the base and its Doubter, and compare both with each other and with the baselines.

    Stored answers from the same settings and files are used again. So an interrupted evaluation continues, and an
    evaluation with another threshold asks nothing.

    Args:
        run: a run directory with collected questions and a trained wrapper.
        settings: what to evaluate.
        stage: called with the progress.

    Returns:
        The results. The run's ``eval`` folder gets ``results_*.json``, ``samples_*.jsonl`` and plots.

    Raises:
        RunDirError: something is missing in the run directory, or the wrapper was trained on other questions than
            those in the run directory.
        ModelLoadError: the base cannot be loaded.
        ModelMismatchError: base and wrapper do not fit each other.
    """
    stage = stage or quiet
    run.require("model_name", "collect", made_by="collect")
    run.refuse_stale_checkpoint()
    start_time = time.monotonic()
    questions = _questions(run, settings, settings.split)
    chosen, swept = _draw_questions(len(questions), settings)
    with _loaded(run, settings, stage) as (loaded, engine):
        tag = f"{settings.engine}_{loaded.tag}_{_set_name(settings, questions, chosen)}"
        path = run.eval / f"results_{tag}.json"
        samples_path = run.eval / f"samples_{tag}.jsonl"
        for output in (path, samples_path):
            refuse_overwriting(output, settings.base, settings.sidecar, settings.questions, settings.source)
        plan = _plan(
            loaded,
            [(index, questions[index]) for index in chosen],
            gains=tuple(gain for gain in settings.gains if gain != DEFAULT_GAIN),
            swept=swept if settings.gains else frozenset(),
            prompted=settings.baselines,
        )
        asking_start = time.monotonic()
        samples = collect_samples(engine, plan, samples_path, progress=_named(stage, "ask"))
        asking_s = time.monotonic() - asking_start
        threshold = _threshold(run, settings, loaded, engine, stage)
    trained, notes = _trained_scores(run, settings, samples, stage) if settings.baselines else ({}, {})
    scores = baseline_scores(samples, trained) if settings.baselines else {}
    stage("score", 0, 1)
    scored = score_samples(
        samples,
        threshold=threshold["value"],
        refusal_text=loaded.refusal_text,
        scores=scores,
        n_bootstrap=settings.n_bootstrap,
        seed=settings.seed,
    )
    results = {
        **results_head(SCHEMA),
        "config": _config(run, settings, loaded),
        "environment": loaded.environment,
        "threshold": threshold,
        **scored,
        "trained_baselines": notes,
        "samples": {"file": samples_path.name, "fingerprint": plan.fingerprint},
        "timings": {"asking_s": round(asking_s, 3), "total_s": round(time.monotonic() - start_time, 3)},
    }
    plots = draw_plots(run.eval, tag, samples, results, scores, loaded.gates, loaded.token_preferences)
    results["plots"] = [plot.name for plot in plots]
    write_json(path, results)
    stage("score", 1, 1)
    return Evaluation(results, path, (path, samples_path, *plots))


def _config(run: RunDir, settings: EvalSettings, loaded: Loaded) -> dict[str, Any]:
    return {
        "run": run.path.resolve().name,
        "engine": settings.engine,
        **loaded.described,
        "questions": settings.questions or run.manifest.get("dataset"),
        "source": settings.source if settings.questions else run.manifest["collect"].get("source"),
        "split": settings.split,
        "seed": settings.seed,
        "limit": settings.limit,
        "refusal_text": loaded.refusal_text,
        **asdict(loaded.limits),
        "gains": list(settings.gains),
    }


@contextmanager
def _loaded(run: RunDir, settings: EvalSettings, stage: Stage) -> Iterator[tuple[Loaded, Engine]]:
    """Load the engine, and close it at the end of the ``with`` block."""
    stage("load the base", 0, 1)
    loaded = load_engine(run, settings)
    stage("load the base", 1, 1)
    try:
        yield loaded, loaded.engine
    finally:
        loaded.engine.close()


def _questions(run: RunDir, settings: EvalSettings, split: str) -> list[Question]:
    if settings.questions is None:
        return [record.question for record in Collected.read(run.collect, split).records]
    if settings.source is None and Path(settings.questions).is_file():
        return read_jsonl(settings.questions)
    seed = run.manifest["collect"].get("seed", 0)
    return load_set(settings.questions, seed=seed, source=settings.source)[split]


def _set_name(settings: EvalSettings, questions: Sequence[Question], chosen: Sequence[int]) -> str:
    """Name the questions, for file names. Other questions, or only some of them, never replace the results of all."""
    name: str = settings.split
    if settings.questions is not None:
        path = Path(settings.questions)
        name = path.stem if path.is_file() else f"{path.name}-{settings.split}"
        if path.exists() or settings.source is not None:
            name += f"-{hashlib.sha256(repr(questions).encode()).hexdigest()[:8]}"
    return name if len(chosen) == len(questions) else f"{name}-{len(chosen)}"


def _draw_questions(count: int, settings: EvalSettings) -> tuple[list[int], frozenset[int]]:
    """Draw the indices of the questions and of those in the sweep. A smaller limit draws some of the same questions."""
    indices = draw_indices(count, settings.limit, settings.seed)
    return sorted(indices), frozenset(indices[: settings.max_swept])


def _plan(
    loaded: Loaded,
    questions: Sequence[tuple[int, Question]],
    *,
    gains: tuple[float, ...] = (),
    swept: frozenset[int] = frozenset(),
    prompted: bool = False,
) -> SamplePlan:
    inputs = {
        "schema": SCHEMA,
        "engine": loaded.described,
        # the configuration of a checkpoint depends on the run.json beside it too
        "wrapper": {name: value for name, value in asdict(loaded.wrapper).items() if name != "base_model"},
        "environment": answer_environment(loaded.environment),
        "limits": asdict(loaded.limits),
        "questions": [(index, asdict(question)) for index, question in questions],
        "gains": gains,
        "swept": sorted(swept) if gains else [],
        "told": prompted,
    }
    if loaded.refusal_text != DEFAULT_REFUSAL_TEXT:  # it may come from run.json or an option, not from the files
        inputs["refusal_text"] = loaded.refusal_text
    return SamplePlan(
        fingerprint=fingerprint(inputs),
        questions=questions,
        gains=gains,
        swept=swept if gains else frozenset(),
        prompted=prompted,
        whole_answer=loaded.limits.whole_answer,
    )


def _threshold(run: RunDir, settings: EvalSettings, loaded: Loaded, engine: Engine, stage: Stage) -> dict[str, Any]:
    """Return the threshold, and how it was chosen."""
    if settings.target_coverage is None and settings.max_over_refusal is None:
        return {"value": settings.threshold, "chosen": "as shipped" if settings.threshold == 0.5 else "by hand"}
    collected = Collected.read(run.collect, "val")
    indices = collected.excluding(_left_out(run))
    plan = _plan(loaded, [(index, collected.records[index].question) for index in indices])
    path = run.eval / f"calibration_{settings.engine}_{loaded.tag}.jsonl"
    val = collect_samples(engine, plan, path, progress=_named(stage, "ask for the threshold"))
    point = OperatingPoint(max_over_refusal=settings.max_over_refusal, target_coverage=settings.target_coverage)
    # doubts have the same order as margins, so a bias for doubts is a negative threshold
    calibration = calibrate(val.doubt, val.base_correct, point)
    return {
        "value": min(1.0, max(0.0, -calibration.bias)),
        "chosen": "on the validation questions",
        "target_coverage": settings.target_coverage,
        "max_over_refusal": settings.max_over_refusal,
        "val": {"n": len(val), **calibration.summary()},
    }


def _trained_scores(
    run: RunDir, settings: EvalSettings, samples: Samples, stage: Stage
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Train baselines on the training questions. Return their scores, and notes about them."""
    splits = (Collected.read(run.collect, split) for split in ("train", "val"))
    # categories that were left out of the wrapper's training are left out here too
    train, val = (collected.at(collected.excluding(_left_out(run))) for collected in splits)
    if not train.records or not val.records:
        raise RunDirError(f"run directory '{run.path}': has no training or validation questions, expected some")
    scores = {}
    notes: dict[str, Any] = {}
    if settings.questions is None:
        collected = Collected.read(run.collect, settings.split)
        activations = collected.activations[[sample.index for sample in samples]]
        probe = linear_probe(train, val, activations, progress=_named(stage, "train the linear probe"))
        if probe is not None:
            scores[_PROBE] = probe.doubt
            notes[_PROBE] = {
                "layer": probe.layer,
                "strength": probe.strength,
                "val_auroc": probe.val_auroc,
                "val_auroc_by_strength": dict(zip(map(str, STRENGTHS), probe.val_aurocs, strict=True)),
                "converged": probe.converged,
            }
        else:
            notes[_PROBE] = {"left_out": "the base is right on all or none of the training or validation questions"}
    else:
        notes[_PROBE] = {"left_out": "there are no collected activations of these questions"}
    scores[_CATEGORY] = category_doubt(
        [record.question.category for record in train.records],
        [record.correct for record in train.records],
        samples.category,
    )
    notes[_CATEGORY] = {"categories": len({record.question.category for record in train.records})}
    return scores, notes


def _left_out(run: RunDir) -> Sequence[str]:
    """Return the categories that were left out of training."""
    left_out: Sequence[str] = run.manifest.get("train", {}).get("leave_out", ())
    return left_out


def _named(stage: Stage, name: str) -> Callable[[int, int], None]:
    return lambda n_done, total: stage(name, n_done, total)
