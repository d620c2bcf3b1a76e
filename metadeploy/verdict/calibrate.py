"""`metadeploy calibrate`: fits the calibration and the guarantees of a verdict head to a base. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metadeploy._files import refuse_overwriting, sha256, write_json
from metadeploy._version import own_version
from metadeploy.data.checker import is_correct
from metadeploy.data.question import Question
from metadeploy.data.splits import load_set, shuffle_questions, split, split_off
from metadeploy.errors import Error, SidecarError
from metadeploy.metrics import PlattCalibration, auroc, brier, ece, macro_auroc, platt_calibration
from metadeploy.runtime import MetaLlama
from metadeploy.runtime.types import GenerationResult
from metadeploy.sidecar import read_sidecar
from metadeploy.sidecar.rewriting import write_verdict
from metadeploy.sidecar.verdict import VerdictConfig, VerdictHead
from metadeploy.verdict.guarantees import find_guarantees, kept_on, with_guarantees
from metadeploy.verdict.settings import CALIBRATION_FRACTION, CalibrationSettings
from metadeploy.verdict.shards import Row, ask_base, collect_rows

__all__ = ["Calibrated", "calibrate_verdict"]

#: Parts of the questions, and what each is for: the fit, the candidates for thresholds, the figures.
_PARTS: Final = ("calibration", "val", "test")
#: Proportions of the parts, if the head was not trained on this set.
_FRACTIONS: Final = (0.6, 0.2, 0.2)
#: Verdicts are probabilities in F64; their logits end here.
_MAX_LOGIT: Final = 34.0
#: Called with the name of a stage, and the number of its items that are done, and of all.
_Stage = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Calibrated:
    """The result of `calibrate_verdict`.

    Attributes:
        results: figures on the test questions before and after, and the guarantees, ready for JSON.
        sidecar: the new sidecar.
        path: the file of the results.
    """

    results: dict[str, Any]
    sidecar: Path
    path: Path


@dataclass(frozen=True)
class _Judged:
    """Answers with their verdicts.

    Attributes:
        logit: float64 [n], the logit of the head's ``p_wrong``.
        correct: bool [n].
        category: text [n].
        entity: text [n].
    """

    logit: NDArray[np.float64]
    correct: NDArray[np.bool_]
    category: NDArray[np.str_]
    entity: NDArray[np.str_]


def calibrate_verdict(settings: CalibrationSettings, *, stage: _Stage) -> Calibrated:
    """Ask, fit, measure and write.

    The weights of the head stay as they are: only its slope, its intercept and its guarantees change. Answers are kept
    in a folder beside the new sidecar, so an interrupted run continues.

    Args:
        settings: what to calibrate, and on which questions.
        stage: called with the progress.

    Raises:
        SidecarError: the sidecar is not valid, or has no verdict head.
        RunDirError: the folder has answers from other settings.
        ModelLoadError: the base cannot be loaded.
        ModelMismatchError: the sidecar does not fit the base.
        Error: a part has no questions, or the base is right on all or on none of them; or the new sidecar would replace
            an input.
    """
    head = read_sidecar(settings.sidecar).verdict
    if head is None:
        raise SidecarError(
            f"sidecar '{settings.sidecar}': has no verdict head, expected one (hint: metadeploy verdict trains one)"
        )
    refuse_overwriting(settings.output, settings.base, settings.sidecar)
    parts = _parts(settings, head.config)
    judged = _judge_all(parts, head.config, settings, stage)
    calibration = platt_calibration(judged["calibration"].logit, judged["calibration"].correct)
    if calibration is None:
        how_many = "all" if judged["calibration"].correct.all() else "none"
        raise Error(
            f"calibrate: the base is right on {how_many} of the {len(judged['calibration'].correct)} calibration "
            "questions, expected some of both (hint: other or more questions)"
        )
    p_wrong = {part: calibration(judged[part].logit) for part in _PARTS}
    guarantees = find_guarantees(
        p_wrong["val"],
        judged["val"].correct,
        p_wrong["calibration"],
        judged["calibration"].correct,
        judged["calibration"].entity,
        delta=settings.delta,
        seed=settings.seed,
    )
    config = with_guarantees(
        # the logit is slope * z + intercept of the old calibration
        replace(
            head.config,
            slope=calibration.slope * head.config.slope,
            intercept=calibration.slope * head.config.intercept + calibration.intercept,
        ),
        guarantees,
        delta=settings.delta,
        questions=Path(settings.questions).name,
        base_sha256=sha256(settings.base),
    )
    results = {
        "metadeploy": own_version(),
        "config": {
            **asdict(settings),
            **{name: getattr(settings, name).name for name in ("sidecar", "base", "output")},
        },
        "base_sha256": config.base_sha256,
        "parts": {part: {"n": len(rows.correct), "right": float(rows.correct.mean())} for part, rows in judged.items()},
        "head": asdict(config),
        "before": _figures(PlattCalibration(1.0, 0.0)(judged["test"].logit), judged["test"]),
        "after": _figures(p_wrong["test"], judged["test"]),
        "guarantees": [
            {**asdict(guarantee), "test": kept_on(guarantee, p_wrong["test"], judged["test"].correct)}
            for guarantee in guarantees
        ],
    }
    write_verdict(settings.sidecar, VerdictHead(config, head.tensors), settings.output)
    path = settings.output.with_suffix(".calibration.json")
    write_json(path, {**results, "sidecar_sha256": sha256(settings.output)})
    return Calibrated(results, settings.output, path)


def _parts(settings: CalibrationSettings, head: VerdictConfig) -> dict[str, list[Question]]:
    """Return the parts: only questions that the training never saw, unless the set cannot have been in it.

    The head names only the set of its last calibration. So sets with a split of their own, such as ``facts``, always
    count as those of the training, and a JSON Lines file only if the head names it.
    """
    splits = load_set(settings.questions, seed=settings.seed, source=settings.source)
    path = Path(settings.questions)
    if path.suffix != ".jsonl" or path.name == head.questions:
        _, calibration = split_off(splits["train"], CALIBRATION_FRACTION, seed=settings.seed)
        parts = {"calibration": calibration, "val": splits["val"], "test": splits["test"]}
    else:
        everything = [question for part in splits.values() for question in part]
        by_entity = split(everything, seed=settings.seed, fractions=_FRACTIONS)
        parts = {"calibration": by_entity["train"], "val": by_entity["val"], "test": by_entity["test"]}
    parts = {name: shuffle_questions(parts[name], settings.seed)[: settings.limit] for name in _PARTS}
    if empty := [name for name in _PARTS if not parts[name]]:
        raise Error(f"questions '{settings.questions}': no question in {', '.join(empty)}, expected more questions")
    return parts


def _judge_all(
    parts: Mapping[str, list[Question]], head: VerdictConfig, settings: CalibrationSettings, stage: _Stage
) -> dict[str, _Judged]:
    total, n_before = sum(map(len, parts.values())), 0
    stage("ask the base", 0, total)
    judged = {}
    with MetaLlama(
        settings.base, settings.sidecar, n_ctx=1024, n_parallel=settings.n_parallel, n_threads=settings.threads
    ) as llm:
        for name, questions in parts.items():

            def report(n: int, n_before: int = n_before) -> None:
                stage("ask the base", n_before + n, total)

            rows = collect_rows(
                questions,
                settings.output.with_suffix(".answers"),
                name,
                ("p_wrong", "text"),
                lambda chunk, progress: ask_base(llm, chunk, settings.max_new_tokens, _row, progress),
                fingerprint=_fingerprint(settings),
                progress=report,
            )
            judged[name] = _judged(name, questions, rows, whole_answer=head.window == "answer")
            n_before += len(questions)
    return judged


def _fingerprint(settings: CalibrationSettings) -> str:
    """Return a hash of everything but the questions that the verdicts depend on."""
    inputs = {
        "base": sha256(settings.base),
        "sidecar": sha256(settings.sidecar),
        "max_new_tokens": settings.max_new_tokens,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _row(question: Question, result: GenerationResult) -> Row:
    p_wrong = None if result.verdict is None else result.verdict.p_wrong
    text = json.dumps({"question": question.question, "answer": result.text}, ensure_ascii=False)
    return {"p_wrong": np.nan if p_wrong is None else p_wrong, "text": text}


def _judged(
    part: str, questions: Sequence[Question], rows: Mapping[str, NDArray[Any]], *, whole_answer: bool
) -> _Judged:
    """Return the answers that have a verdict."""
    places: list[int] = np.flatnonzero(np.isfinite(rows["p_wrong"])).tolist()
    if not places:
        raise Error(
            f"calibrate: none of the answers to the {len(questions)} {part} questions has a verdict, expected "
            "sentences (hint: other or more questions)"
        )
    asked = [questions[place] for place in places]
    texts = [json.loads(rows["text"][place])["answer"] for place in places]
    p_wrong = rows["p_wrong"][places]
    with np.errstate(divide="ignore"):
        logit = np.clip(np.log(p_wrong) - np.log1p(-p_wrong), -_MAX_LOGIT, _MAX_LOGIT)
    correct = [is_correct(question, text, whole=whole_answer) for question, text in zip(asked, texts, strict=True)]
    return _Judged(
        logit,
        np.array(correct, dtype=np.bool_),
        np.array([question.category for question in asked], dtype=np.str_),
        np.array([question.entity or "" for question in asked], dtype=np.str_),
    )


def _figures(p_wrong: NDArray[np.float64], judged: _Judged) -> dict[str, float | None]:
    return {
        "auroc": auroc(p_wrong, judged.correct),
        "macro_auroc": macro_auroc(p_wrong, judged.correct, judged.category),
        "ece": ece(p_wrong, judged.correct),
        "brier": brier(p_wrong, judged.correct),
    }
