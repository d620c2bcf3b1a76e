"""`metadeploy verdict`: asks a base, trains and calibrates a verdict head, and writes it into a sidecar."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metadeploy._files import refuse_overwriting, sha256, write_json
from metadeploy._version import own_version
from metadeploy.data.question import Question
from metadeploy.data.splits import check_leakage, load_set, shuffle_questions, split_off
from metadeploy.errors import Error
from metadeploy.metrics import Guarantee, PlattCalibration, platt_calibration
from metadeploy.runtime import MetaLlama
from metadeploy.sidecar import read_sidecar
from metadeploy.sidecar.rewriting import write_verdict
from metadeploy.sidecar.verdict import VerdictConfig, VerdictHead
from metadeploy.verdict.answers import Answers, collect_answers
from metadeploy.verdict.baselines import Baseline, verdict_baselines
from metadeploy.verdict.guarantees import find_guarantees, kept_on, simulate_guarantees, with_guarantees
from metadeploy.verdict.layers import choose_layers
from metadeploy.verdict.measure import compared, draw_plots, measured
from metadeploy.verdict.settings import CALIBRATION_FRACTION, PARTS, VerdictSettings, candidate_layers

__all__ = ["TrainedVerdict", "train_verdict"]

#: Called with the name of a stage, and the number of its items that are done, and of all.
_Stage = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrainedVerdict:
    """The result of `train_verdict`.

    Attributes:
        results: figures on the test questions, the calibration and the guarantees, ready for JSON.
        sidecar: the sidecar with the head.
        path: the file of the results.
        plots: the pictures.
    """

    results: dict[str, Any]
    sidecar: Path
    path: Path
    plots: tuple[Path, ...]


def train_verdict(folder: Path, settings: VerdictSettings, *, stage: _Stage) -> TrainedVerdict:
    """Ask, train, calibrate, measure and write.

    Answers that are already in the folder are used again, so an interrupted run continues.

    Args:
        folder: gets ``answers/``, ``verdict.json``, ``verdict_sidecar.gguf`` and two plots.
        settings: what to train on, and how.
        stage: called with the progress.

    Raises:
        RunDirError: the folder has answers from other settings.
        SidecarError: the sidecar is not valid.
        ModelLoadError: the base cannot be loaded.
        ModelMismatchError: the sidecar does not fit the base.
        Error: a part has no questions, or the base is right on all or on none of them; or the new sidecar would replace
            the old one.
    """
    target = folder / "verdict_sidecar.gguf"
    refuse_overwriting(target, settings.sidecar, settings.base)
    parts = _parts(settings)
    answers = _ask_all(folder / "answers", parts, settings, stage)
    for part in PARTS:
        if not len(answers[part]):
            raise Error(
                f"verdict: none of the answers to the {len(parts[part])} {part} questions can be judged, expected "
                "sentences (hint: other or more questions)"
            )
    for part in ("train", "val", "calibration"):
        if answers[part].correct.all() or not answers[part].correct.any():
            how_many = "all" if answers[part].correct.all() else "none"
            raise Error(
                f"verdict: the base is right on {how_many} of the {len(answers[part])} {part} questions, expected some "
                "of both (hint: other or more questions)"
            )
    head = _trained(answers, _config(answers, settings, stage), settings, stage)
    p_wrong = {part: _probabilities(head, answers[part]) for part in PARTS}
    guarantees = find_guarantees(
        p_wrong["val"],
        answers["val"].correct,
        p_wrong["calibration"],
        answers["calibration"].correct,
        answers["calibration"].entity,
        delta=settings.delta,
        seed=settings.seed,
    )
    config = with_guarantees(
        head.config,
        guarantees,
        delta=settings.delta,
        questions=Path(settings.questions).name,
        base_sha256=sha256(settings.base),
    )
    head = VerdictHead(config, head.tensors)
    baselines = verdict_baselines(
        answers, head.config, settings, progress=lambda n, total: stage("baselines", n, total)
    )
    results = _results(head, p_wrong, answers, baselines, guarantees, settings, stage)
    plots = draw_plots(folder, p_wrong["test"], baselines, answers["test"])
    write_verdict(settings.sidecar, head, target)
    path = folder / "verdict.json"
    write_json(path, {**results, "sidecar_sha256": sha256(target)})
    return TrainedVerdict(results, target, path, plots)


def _parts(settings: VerdictSettings) -> dict[str, list[Question]]:
    splits = load_set(settings.questions, seed=settings.seed, source=settings.source)
    train, calibration = split_off(splits["train"], CALIBRATION_FRACTION, seed=settings.seed)
    parts = {"train": train, "val": splits["val"], "calibration": calibration, "test": splits["test"]}
    check_leakage(parts)
    # in random order, so that a later run with a higher limit asks only the others
    parts = {name: shuffle_questions(parts[name], settings.seed)[: settings.limit] for name in PARTS}
    if empty := [name for name in PARTS if not parts[name]]:
        raise Error(f"questions '{settings.questions}': no question in {', '.join(empty)}, expected more questions")
    return parts


def _ask_all(
    folder: Path, parts: Mapping[str, list[Question]], settings: VerdictSettings, stage: _Stage
) -> dict[str, Answers]:
    total = sum(map(len, parts.values()))
    stage("ask the base", 0, total)
    with MetaLlama(
        settings.base, settings.sidecar, n_ctx=1024, n_parallel=settings.n_parallel, n_threads=settings.threads
    ) as llm:
        prompt_layers, answer_layers = candidate_layers(llm.n_layer)
        prompt_layers = settings.prompt_layers or prompt_layers
        answer_layers = settings.answer_layers or answer_layers
        llm.tap_answers(prompt_layers, answer_layers)
        fingerprint = _fingerprint(settings, prompt_layers, answer_layers)
        answers, n_done = {}, 0
        for name, questions in parts.items():

            def report(n: int, n_done: int = n_done) -> None:
                stage("ask the base", n_done + n, total)

            answers[name] = collect_answers(
                llm,
                questions,
                folder,
                name,
                prompt_layers=prompt_layers,
                answer_layers=answer_layers,
                fingerprint=fingerprint,
                max_new_tokens=settings.max_new_tokens,
                whole_answer=settings.whole_answer,
                progress=report,
            )
            n_done += len(questions)
    return answers


def _fingerprint(settings: VerdictSettings, prompt_layers: Sequence[int], answer_layers: Sequence[int]) -> str:
    """Return a hash of everything but the questions that the shards depend on."""
    sidecar = read_sidecar(settings.sidecar).config
    inputs = {
        "base": sha256(settings.base),
        "settings": [settings.max_new_tokens, settings.whole_answer],
        "prompt": [sidecar.answer_suffix, dict(sidecar.chat_template_kwargs)],
        "layers": [prompt_layers, answer_layers],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _config(answers: Mapping[str, Answers], settings: VerdictSettings, stage: _Stage) -> VerdictConfig:
    prompt_layers, answer_layers = choose_layers(
        answers["train"],
        answers["val"],
        prompt_layers=settings.prompt_layers,
        answer_layers=settings.answer_layers,
        progress=lambda n, total: stage("choose layers", n, total),
    )
    return VerdictConfig(
        prompt_layers=prompt_layers,
        answer_layers=answer_layers,
        hidden_dim=answers["train"].prompt.shape[-1],
        n_hidden=settings.n_hidden,
        window="answer" if settings.whole_answer else "first_sentence",
    )


def _trained(
    answers: Mapping[str, Answers], config: VerdictConfig, settings: VerdictSettings, stage: _Stage
) -> VerdictHead:
    """Train a head, and calibrate it."""
    import torch

    from metadeploy.verdict.train import train_head, verdict_logits

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    head = train_head(
        answers["train"], answers["val"], config, settings, progress=lambda n, total: stage("train", n, total)
    )
    calibration = platt_calibration(
        verdict_logits(head, _inputs(head.config, answers["calibration"])), answers["calibration"].correct
    )
    assert calibration is not None  # there are right and wrong answers
    calibrated = replace(head.config, slope=calibration.slope, intercept=calibration.intercept)
    return VerdictHead(calibrated, head.tensors)


def _results(
    head: VerdictHead,
    p_wrong: Mapping[str, NDArray[np.float64]],
    answers: Mapping[str, Answers],
    baselines: Sequence[Baseline],
    guarantees: Sequence[Guarantee],
    settings: VerdictSettings,
    stage: _Stage,
) -> dict[str, Any]:
    test, doubt = answers["test"], p_wrong["test"]
    return {
        "metadeploy": own_version(),
        "config": {**asdict(settings), "base": settings.base.name, "sidecar": settings.sidecar.name},
        "base_sha256": sha256(settings.base),
        "head": asdict(head.config),
        "parts": {part: {"n": len(answers[part]), "right": float(answers[part].correct.mean())} for part in PARTS},
        "test": measured(doubt, test),
        "baselines": compared(
            doubt,
            baselines,
            test,
            n_resamples=settings.n_resamples,
            seed=settings.seed,
            progress=lambda n, total: stage("compare", n, total),
        ),
        "guarantees": [
            {**asdict(guarantee), "test": kept_on(guarantee, doubt, test.correct)} for guarantee in guarantees
        ],
        "simulation": simulate_guarantees(
            p_wrong["val"],
            answers["val"].correct,
            np.concatenate([p_wrong["calibration"], doubt]),
            np.concatenate([answers["calibration"].correct, test.correct]),
            np.concatenate([answers["calibration"].entity, test.entity]),
            delta=settings.delta,
            seed=settings.seed,
        ),
    }


def _inputs(config: VerdictConfig, answers: Answers) -> NDArray[np.float32]:
    return answers.inputs(config.prompt_layers, config.answer_layers)


def _probabilities(head: VerdictHead, answers: Answers) -> NDArray[np.float64]:
    from metadeploy.verdict.train import verdict_logits

    return PlattCalibration(head.config.slope, head.config.intercept)(
        verdict_logits(head, _inputs(head.config, answers))
    )
