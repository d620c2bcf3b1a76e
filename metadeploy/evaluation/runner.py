"""`metadeploy eval`: a run directory, an engine and questions in; samples, results and plots out."""

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
from metadeploy.evaluation._run import Stage, draw_places, fingerprint, quiet, results_head
from metadeploy.evaluation.baselines import STRENGTHS, category_doubt, linear_probe
from metadeploy.evaluation.engines import AS_SHIPPED, Engine
from metadeploy.evaluation.figures import draw
from metadeploy.evaluation.loading import Loaded, asked_with, load_engine
from metadeploy.evaluation.samples import Samples
from metadeploy.evaluation.sampling import Plan, gather
from metadeploy.evaluation.scoring import SCHEMA, baseline_scores, judge
from metadeploy.evaluation.settings import EvalSettings
from metadeploy.sidecar.spec import DEFAULT_REFUSAL_TEXT
from metadeploy.training.calibration import OperatingPoint, calibrate
from metadeploy.training.records import Collected

__all__ = ["Evaluation", "evaluate"]

_PROBE: Final = "linear probe"
_CATEGORY: Final = "category alone"


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        results: as written.
        path: of the results.
        files: everything that was written.
    """

    results: dict[str, Any]
    path: Path
    files: tuple[Path, ...]


def evaluate(run: RunDir, settings: EvalSettings, *, stage: Stage | None = None) -> Evaluation:
    """Ask the base and its Doubter, and judge both against each other and against the baselines.

    Answers that are there already, by the same settings and files, are not asked for again: an interrupted evaluation
    goes on, and another threshold is only judged anew.

    Args:
        run: a run directory with collected questions and a trained wrapper.
        settings: what to evaluate.
        stage: told what goes on.

    Returns:
        The results. Written to the run's ``eval`` folder are ``results_*.json``, ``samples_*.jsonl`` and plots.

    Raises:
        RunDirError: something is missing in the run directory, or the wrapper was trained on other questions than are
            collected there now.
        ModelLoadError: the base cannot be loaded.
        ModelMismatchError: base and wrapper do not fit each other.
    """
    stage = stage or quiet
    run.require("model_name", "collect", made_by="collect")
    run.refuse_stale_checkpoint()
    started = time.monotonic()
    questions = _questions(run, settings, settings.split)
    chosen, swept = _drawn(len(questions), settings)
    with _loaded(run, settings, stage) as (loaded, engine):
        tag = f"{settings.engine}_{loaded.tag}_{_set_name(settings, questions, chosen)}"
        path = run.eval / f"results_{tag}.json"
        samples_path = run.eval / f"samples_{tag}.jsonl"
        for written in (path, samples_path):
            refuse_overwriting(written, settings.base, settings.sidecar, settings.questions, settings.source)
        plan = _plan(
            loaded,
            [(place, questions[place]) for place in chosen],
            gains=tuple(gain for gain in settings.gains if gain != AS_SHIPPED),
            swept=swept if settings.gains else frozenset(),
            told=settings.baselines,
        )
        asked = time.monotonic()
        samples = gather(engine, plan, samples_path, progress=_named(stage, "ask"))
        asked = time.monotonic() - asked
        threshold = _threshold(run, settings, loaded, engine, stage)
    trained, notes = _trained_scores(run, settings, samples, stage) if settings.baselines else ({}, {})
    scores = baseline_scores(samples, trained) if settings.baselines else {}
    stage("judge", 0, 1)
    judged = judge(
        samples,
        threshold=threshold["value"],
        refusal_text=loaded.refusal_text,
        scores=scores,
        n_bootstrap=settings.n_bootstrap,
        seed=settings.seed,
    )
    results = {
        **results_head(SCHEMA),
        "config": {
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
        },
        "environment": loaded.environment,
        "threshold": threshold,
        **judged,
        "trained_baselines": notes,
        "samples": {"file": samples_path.name, "fingerprint": plan.fingerprint},
        "timings": {"asking_s": round(asked, 3), "total_s": round(time.monotonic() - started, 3)},
    }
    pictures = draw(run.eval, tag, samples, results, scores, loaded.gates, loaded.token_preferences)
    results["plots"] = [picture.name for picture in pictures]
    write_json(path, results)
    stage("judge", 1, 1)
    return Evaluation(results, path, (path, samples_path, *pictures))


@contextmanager
def _loaded(run: RunDir, settings: EvalSettings, stage: Stage) -> Iterator[tuple[Loaded, Engine]]:
    """The engine while it is needed."""
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
    """For file names: a look at some of the questions, or at others of the same name, leaves the results of all."""
    name: str = settings.split
    if settings.questions is not None:
        path = Path(settings.questions)
        name = path.stem if path.is_file() else f"{path.name}-{settings.split}"
        if path.exists() or settings.source is not None:
            name += f"-{hashlib.sha256(repr(questions).encode()).hexdigest()[:8]}"
    return name if len(chosen) == len(questions) else f"{name}-{len(chosen)}"


def _drawn(count: int, settings: EvalSettings) -> tuple[list[int], frozenset[int]]:
    """The places of the questions that are asked, and of those in the sweep: a smaller limit draws some of the same."""
    lot = draw_places(count, settings.limit, settings.seed)
    return sorted(lot), frozenset(lot[: settings.most_swept])


def _plan(
    loaded: Loaded,
    questions: Sequence[tuple[int, Question]],
    *,
    gains: tuple[float, ...] = (),
    swept: frozenset[int] = frozenset(),
    told: bool = False,
) -> Plan:
    asked = {
        "schema": SCHEMA,
        "engine": loaded.described,
        # of a checkpoint, run.json beside it has a say in how it is asked
        "wrapper": {name: value for name, value in asdict(loaded.wrapper).items() if name != "base_model"},
        "environment": asked_with(loaded.environment),
        "limits": asdict(loaded.limits),
        "questions": [(place, asdict(question)) for place, question in questions],
        "gains": gains,
        "swept": sorted(swept) if gains else [],
        "told": told,
    }
    if loaded.refusal_text != DEFAULT_REFUSAL_TEXT:  # run.json or an option may say it, and neither is in the files
        asked["refusal_text"] = loaded.refusal_text
    return Plan(
        fingerprint=fingerprint(asked),
        questions=questions,
        gains=gains,
        swept=swept if gains else frozenset(),
        told=told,
        whole_answer=loaded.limits.whole_answer,
    )


def _threshold(run: RunDir, settings: EvalSettings, loaded: Loaded, engine: Engine, stage: Stage) -> dict[str, Any]:
    """Where it declines, and what that rests on."""
    if settings.target_coverage is None and settings.max_over_refusal is None:
        return {"value": settings.threshold, "chosen": "as shipped" if settings.threshold == 0.5 else "by hand"}
    found = Collected.read(run.collect, "val")
    plan = _plan(loaded, [(place, found.records[place].question) for place in found.excluding(_left_out(run))])
    path = run.eval / f"calibration_{settings.engine}_{loaded.tag}.jsonl"
    val = gather(engine, plan, path, progress=_named(stage, "ask for the threshold"))
    point = OperatingPoint(max_over_refusal=settings.max_over_refusal, target_coverage=settings.target_coverage)
    # the order of the doubts is that of the margins: a line between two doubts is the threshold
    line = calibrate(val.doubt, val.base_correct, point)
    return {
        "value": min(1.0, max(0.0, -line.bias)),
        "chosen": "on the validation questions",
        "target_coverage": settings.target_coverage,
        "max_over_refusal": settings.max_over_refusal,
        "val": {"n": len(val), **line.summary()},
    }


def _trained_scores(
    run: RunDir, settings: EvalSettings, samples: Samples, stage: Stage
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """The baselines that learn from the training questions, and what is to be said of them."""
    whole = (Collected.read(run.collect, split) for split in ("train", "val"))
    # what was kept from the wrapper is kept from them as well
    train, val = (found.at(found.excluding(_left_out(run))) for found in whole)
    if not train.records or not val.records:
        raise RunDirError(f"run directory '{run.path}': has no training or validation questions, expected some")
    scores = {}
    notes: dict[str, Any] = {}
    if settings.questions is None:
        asked = Collected.read(run.collect, settings.split)
        activations = asked.activations[[sample.index for sample in samples]]
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
            notes[_PROBE] = {"left_out": "the base has all or none of the training or validation questions right"}
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
    """Categories that the wrapper was not trained on."""
    left_out: Sequence[str] = run.manifest.get("train", {}).get("leave_out", ())
    return left_out


def _named(stage: Stage, name: str) -> Callable[[int, int], None]:
    return lambda done, total: stage(name, done, total)
