"""Measure a Doubter on kinds of question that it has never seen.

    python examples/unseen_kinds.py runs/seed-0 [--folds 5]

Every category is left out of one training: fold k leaves out each category whose alphabetical index is k modulo the
number of folds. All folds train with the settings and the questions of RUN_DIR, in RUN_DIR-unseen/fold-K. Each is
tested on the test questions of its left-out categories. The results go to RUN_DIR-unseen/results.json, and a table to
stdout. If RUN_DIR was trained with `metadeploy train --keep-cache`, its cache is reused. After an interruption, the
same command resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metadeploy.cli._process import prepare

prepare()  # before anything imports PyTorch

from metadeploy._files import write_json  # noqa: E402
from metadeploy.checkpoint.run_dir import RunDir  # noqa: E402
from metadeploy.data.question import write_jsonl  # noqa: E402
from metadeploy.evaluation.runner import evaluate  # noqa: E402
from metadeploy.evaluation.samples import Sample, Samples  # noqa: E402
from metadeploy.evaluation.scoring import baseline_scores  # noqa: E402
from metadeploy.evaluation.settings import EvalSettings  # noqa: E402
from metadeploy.metrics import auroc, macro_auroc, summarize  # noqa: E402
from metadeploy.training.records import Collected  # noqa: E402
from metadeploy.training.settings import FitSettings, OperatingPoint, TrainSettings  # noqa: E402
from metadeploy.training.train import TrainCallbacks, finished_with, link_collected, train  # noqa: E402


def settings_of(run: RunDir, leave_out: Sequence[str]) -> TrainSettings:
    """Return the settings of a run's training, with some categories left out."""
    run.require("train", made_by="train")
    train_settings: dict[str, Any] = run.manifest["train"]
    fields = {field.name: train_settings[field.name] for field in dataclasses.fields(TrainSettings)}
    fields |= {"fit": FitSettings(**train_settings["fit"]), "point": OperatingPoint(**train_settings["point"])}
    return TrainSettings(**{**fields, "leave_out": tuple(leave_out), "keep_cache": True})


def fold(run: RunDir, path: Path, leave_out: Sequence[str]) -> Samples:
    """Train without some categories, and evaluate on these categories only."""
    fold_run = RunDir(path, create=True)
    link_collected(fold_run, run)
    settings = settings_of(run, leave_out)
    if not finished_with(fold_run, settings):
        train(
            fold_run,
            settings,
            callbacks=TrainCallbacks(epoch=lambda row: print(f"  epoch {row.epoch}: {row.val_auroc:.3f} on val")),
        )
    questions = path / "unseen.jsonl"
    test_questions = (record.question for record in Collected.read(fold_run.collect, "test").records)
    write_jsonl(questions, [question for question in test_questions if question.category in leave_out])
    evaluate(fold_run, EvalSettings(questions=str(questions), gains=(), baselines=False))
    (samples,) = fold_run.eval.glob("samples_torch_*_unseen-*.jsonl")
    return Samples.read(samples)


def main() -> None:
    """Train, measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--folds", type=int, default=5, help="number of trainings (default: 5)")
    arguments = parser.parse_args()
    run = RunDir(arguments.run_dir)
    categories = sorted({record.question.category for record in Collected.read(run.collect, "test").records})
    output = run.path.with_name(f"{run.path.name}-unseen")
    unseen: list[Sample] = []
    for number in range(arguments.folds):
        leave_out = categories[number :: arguments.folds]
        print(f"fold {number + 1} of {arguments.folds}, without {', '.join(leave_out)}", flush=True)
        unseen += fold(run, output / f"fold-{number}", leave_out)
    samples = Samples(tuple(unseen))
    answered = ~samples.abstained(0.5)
    report = summarize(
        samples.base_correct,
        answered,
        samples.answer_correct & answered,
        samples.same_words,
        samples.doubt,
        samples.category,
        entity=samples.entity,
    )
    baselines = {  # baselines that need no training, on the same questions
        name: {
            "auroc": auroc(doubt, samples.base_correct),
            "macro_auroc": macro_auroc(doubt, samples.base_correct, samples.category),
        }
        for name, doubt in baseline_scores(samples, {}).items()
    }
    results = {"n": len(samples), **report, "baselines": baselines}
    write_json(output / "results.json", results)

    print("\n| category | n | base right | answered | AUROC |\n|---|---|---|---|---|")
    for kind, row in report["categories"].items():
        cells = (kind, row["n"], f"{row['base_accuracy']:.0%}", f"{row['coverage']:.0%}", number_or_dash(row["auroc"]))
        print(f"| {' | '.join(map(str, cells))} |")
    metrics = {name: number_or_dash(metric["value"]) for name, metric in report["metrics"].items()}
    print(
        f"\nall {len(samples)}: coverage {metrics['coverage']}, selective accuracy {metrics['selective_accuracy']}, "
        f"AUROC {metrics['auroc']}, within categories {metrics['macro_auroc']}"
    )
    for name, scores in baselines.items():
        print(f"{name}: AUROC {number_or_dash(scores['auroc'])}, within {number_or_dash(scores['macro_auroc'])}")


def number_or_dash(value: float | None) -> str:
    """Format a metric; a dash if it is undefined: no error, no right answer, or nothing answered."""
    return "–" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
