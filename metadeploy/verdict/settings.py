"""What to train a verdict head on, and how. Imports neither torch nor the compiled runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["CALIBRATION_FRACTION", "PARTS", "CalibrationSettings", "VerdictSettings", "candidate_layers"]

#: Parts of the questions. ``calibration`` is used for the calibration and the guarantee alone.
PARTS: Final = ("train", "val", "calibration", "test")

#: Proportion of the training questions' entities that are kept for the calibration.
CALIBRATION_FRACTION: Final = 0.11


@dataclass(frozen=True, kw_only=True)
class VerdictSettings:
    """What to train a verdict head on, and how.

    Attributes:
        base: GGUF of the base, in the type that will run.
        sidecar: the sidecar to add the head to. Answers are the base's own, without its injection.
        questions: as in `metadeploy.data.load_set`.
        source: a local copy of a set from the hub.
        limit: maximum number of questions in each part.
        seed: seed of the questions, the parts and the training.
        max_new_tokens: maximum length of an answer.
        whole_answer: judge whole answers, not their first sentences.
        prompt_layers: layers to read at the prompt's last token; None chooses one of `candidate_layers`.
        answer_layers: layers to average over the answer's tokens; None chooses two of `candidate_layers`.
        n_hidden: hidden units of each network.
        n_networks: networks whose logits are averaged.
        epochs: passes over the training questions.
        dropout: proportion of hidden units that are left out in training.
        delta: probability that a guarantee may fail.
        n_resamples: draws of the bootstrap that compares the verdict with each baseline.
        n_parallel: answers at once.
        threads: threads of the runtime and of the training.
    """

    base: Path
    sidecar: Path
    questions: str = "facts"
    source: str | None = None
    limit: int | None = None
    seed: int = 0
    max_new_tokens: int = 32
    whole_answer: bool = False
    prompt_layers: tuple[int, ...] | None = None
    answer_layers: tuple[int, ...] | None = None
    n_hidden: int = 128
    n_networks: int = 2
    epochs: int = 12
    dropout: float = 0.3
    delta: float = 0.1
    n_resamples: int = 1000
    n_parallel: int = 16
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """How to calibrate a verdict head for a base.

    Attributes:
        sidecar: a sidecar with a verdict head.
        base: GGUF of the base, in the type that will run.
        output: the new sidecar.
        questions: as in `metadeploy.data.load_set`.
        source: a local copy of a set from the hub.
        limit: maximum number of questions in each part.
        seed: seed of the questions and the parts; for the set that the head was trained on, the seed of that training.
        max_new_tokens: maximum length of an answer.
        delta: probability that a guarantee may fail.
        n_parallel: answers at once.
        threads: threads of the runtime.
    """

    sidecar: Path
    base: Path
    output: Path
    questions: str = "facts"
    source: str | None = None
    limit: int | None = None
    seed: int = 0
    max_new_tokens: int = 32
    delta: float = 0.1
    n_parallel: int = 16
    threads: int | None = None


def candidate_layers(n_layers: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the prompt layers and the answer layers to choose from, for a base with this number of layers.

    They lie between a third and five sixths of the depth, where probes of other models are best too.
    """
    middle = min(n_layers // 2 + 1, n_layers - 1)
    prompt = {n_layers // 3, middle, 2 * n_layers // 3, 5 * n_layers // 6}
    answer = {2 * n_layers // 5, n_layers // 2, 3 * n_layers // 5, 2 * n_layers // 3, 3 * n_layers // 4}
    return tuple(sorted(prompt)), tuple(sorted(answer | {5 * n_layers // 6}))
