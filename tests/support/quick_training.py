"""A wrapper for a real base, trained in minutes on a few questions."""

from __future__ import annotations

from pathlib import Path

from transformers.utils import logging

from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.data.question import write_jsonl
from metadeploy.demo.questions import load_questions
from metadeploy.training.collect import CollectSettings, collect
from metadeploy.training.settings import FitSettings, TrainSettings
from metadeploy.training.train import train

__all__ = ["train_quickly"]


def train_quickly(folder: Path, base: Path) -> RunDir:
    """Collect and train on 160 of the demo's questions and calibrate on 80. The quality does not matter.

    Args:
        folder: the run directory, which must not exist yet.
        base: a GGUF with a chat template.

    Returns:
        The run directory with its checkpoint.
    """
    logging.disable_progress_bar()
    questions = load_questions()
    source = folder / "questions"
    source.mkdir(parents=True)
    for part, chosen in {"train": questions[:160], "val": questions[160:240], "test": questions[240:250]}.items():
        write_jsonl(source / f"{part}.jsonl", chosen)
    run = RunDir(folder, create=True)
    collect(
        run,
        CollectSettings(
            base=str(base), questions=str(source), dtype="float32", device="cpu", max_new_tokens=12, batch_size=40
        ),
    )
    train(run, TrainSettings(fit=FitSettings(folds=1, pretrain_epochs=5, epochs=2), device="cpu"))
    return run
