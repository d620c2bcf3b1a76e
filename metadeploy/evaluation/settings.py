"""Settings of `metadeploy eval`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from metadeploy._checks import any_number, choice, flag, flag_faults, path, visible_text, whole_number
from metadeploy._types import SPLITS, DType, Split
from metadeploy.errors import Error, faults_message

__all__ = ["GAINS", "EngineName", "EvalSettings", "parse_gains"]

EngineName = Literal["torch", "runtime"]

_COUNT: Final = whole_number(-(2**31), 2**31 - 1)  # __post_init__ checks the range, with a message of its own
_TYPES: Final = {
    "engine": choice(*get_args(EngineName)),
    "base": path().or_none(),
    "sidecar": path().or_none(),
    "split": choice(*SPLITS),
    "questions": visible_text().or_none(),
    "source": visible_text().or_none(),
    "limit": _COUNT.or_none(),
    "seed": whole_number(0, 2**63 - 1),
    "threshold": any_number(),
    "target_coverage": any_number().or_none(),
    "max_over_refusal": any_number().or_none(),
    "sweep_limit": _COUNT.or_none(),
    "baselines": flag(),
    "n_bootstrap": _COUNT,
    "dtype": choice(*get_args(DType)).or_none(),
    "device": visible_text(),
    "batch_size": _COUNT,
    "threads": _COUNT.or_none(),
}

#: Gains of the sweep, from the base exactly to gains at which answers degrade.
GAINS: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """What to evaluate, and how.

    Attributes:
        engine: ``torch`` or ``runtime``.
        base: another base than run.json's; a GGUF for the runtime.
        sidecar: another wrapper than the run's.
        refusal_text: the trained refusal, for files that do not have it.
        split: split of the collected questions, or of ``questions``.
        questions: other questions: the name of a set or a folder with splits, or a file without splits.
        source: a local copy of the set, if ``questions`` is ``mmlu``, ``triviaqa`` or ``gsm8k``.
        limit: maximum number of questions, drawn at random.
        seed: seed that draws the questions and the bootstrap samples.
        threshold: decline if doubt is at least this; 0.5 is the default of a wrapper.
        target_coverage: choose the threshold that answers this proportion of the validation questions.
        max_over_refusal: choose the threshold that declines at most this proportion of the base's right answers to the
            validation questions.
        gains: gains of the sweep; empty for no sweep.
        sweep_limit: maximum number of questions of the sweep; None for 1000, or 200 for the slower runtime.
        baselines: whether to compare with baselines.
        n_bootstrap: number of draws for each interval.
        dtype: another type of the base's weights in PyTorch than run.json's.
        device: a torch device, or ``auto``.
        batch_size: questions at once in PyTorch.
        threads: threads of the engine; None for its default.
    """

    engine: EngineName = "torch"
    base: str | None = None
    sidecar: Path | None = None
    refusal_text: str | None = None
    split: Split = "test"
    questions: str | None = None
    source: str | None = None
    limit: int | None = None
    seed: int = 0
    threshold: float = 0.5
    target_coverage: float | None = None
    max_over_refusal: float | None = None
    gains: tuple[float, ...] = GAINS
    sweep_limit: int | None = None
    baselines: bool = True
    n_bootstrap: int = 2000
    dtype: DType | None = None
    device: str = "auto"
    batch_size: int = 128
    threads: int | None = None

    @property
    def max_swept(self) -> int:
        """Maximum number of questions of the sweep."""
        return self.sweep_limit or (1000 if self.engine == "torch" else 200)

    def __post_init__(self) -> None:
        """Refuse invalid settings, with all faults in one message.

        Raises:
            Error: a value is out of range, or more than one setting chooses the threshold.
        """
        type_faults = flag_faults(_TYPES, self)
        if type_faults:
            raise Error(faults_message("eval", type_faults))
        shares = (
            ("--threshold", self.threshold),
            ("--target-coverage", self.target_coverage),
            ("--max-over-refusal", self.max_over_refusal),
        )
        faults = [
            f"{name} is {value}, expected 0 to 1" for name, value in shares if value is not None and not 0 <= value <= 1
        ]
        choices = [name for name, value in shares[1:] if value is not None]
        if self.threshold != 0.5:
            choices.append("--threshold")
        if len(choices) > 1:
            faults.append(f"{' and '.join(choices)} are given, expected one: each chooses the threshold")
        if self.source is not None and self.questions is None:
            faults.append("--source is given, expected only with --questions: it is a local copy of a set")
        faults += [f"--gains has {gain}, expected finite numbers" for gain in self.gains if not math.isfinite(gain)]
        if self.engine == "runtime" and self.dtype is not None:
            faults.append("--dtype is given, expected only with --engine torch (a GGUF has its own types)")
        for name, count in (
            ("--limit", self.limit),
            ("--sweep-limit", self.sweep_limit),
            ("--bootstrap", self.n_bootstrap),
            ("--batch-size", self.batch_size),
            ("--threads", self.threads),
        ):
            if count is not None and count < 1:
                faults.append(f"{name} is {count}, expected at least 1")
        if faults:
            raise Error(faults_message("eval", faults))


def parse_gains(text: str) -> tuple[float, ...]:
    """Parse gains: numbers separated by commas, or ``none``.

    Raises:
        ValueError: an item is not a number.
    """
    if text.strip() == "none":
        return ()
    return tuple(dict.fromkeys(float(gain) for gain in text.split(",")))
