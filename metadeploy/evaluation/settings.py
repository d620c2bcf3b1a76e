"""What `metadeploy eval` is asked for."""

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

_COUNT: Final = whole_number(-(2**31), 2**31 - 1)  # the range is checked below, in words that say why
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

#: The dial from the base exactly to where the feedback runs away.
GAINS: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """What to evaluate, and how.

    Attributes:
        engine: ``torch`` or ``runtime``.
        base: base in place of run.json's; a GGUF for the runtime.
        sidecar: wrapper in place of the run's.
        refusal_text: what the wrapper was trained to decline with, for files that do not say so.
        split: of the collected questions, or of ``questions``.
        questions: other questions: a set's name or a folder, of which the split is taken, or a file, taken whole.
        source: a local copy of that set, where ``questions`` is ``mmlu``, ``triviaqa`` or ``gsm8k``.
        limit: most questions, drawn at random.
        seed: of that drawing and of the bootstrap.
        threshold: declined where doubt reaches it; 0.5 is as shipped.
        target_coverage: choose the threshold so that this share of the validation questions is answered.
        max_over_refusal: choose it so that at most this share of what the base has right is declined there.
        gains: of the sweep; none leaves it out.
        sweep_limit: most questions of the sweep; None: 1000, and 200 for the runtime, which asks one by one.
        baselines: whether the Doubter is compared with them.
        n_bootstrap: draws of each interval.
        dtype: of the base's weights in PyTorch, in place of run.json's.
        device: a torch device, or ``auto``.
        batch_size: questions at once in PyTorch.
        threads: of either engine; None leaves it to them.
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
    def most_swept(self) -> int:
        """Most questions of the sweep."""
        return self.sweep_limit or (1000 if self.engine == "torch" else 200)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, all at once.

        Raises:
            Error: a value is out of range, or two say how the threshold is chosen.
        """
        wrong = flag_faults(_TYPES, self)
        if wrong:
            raise Error(faults_message("eval", wrong))
        shares = (
            ("--threshold", self.threshold),
            ("--target-coverage", self.target_coverage),
            ("--max-over-refusal", self.max_over_refusal),
        )
        faults = [
            f"{name} is {value}, expected 0 to 1" for name, value in shares if value is not None and not 0 <= value <= 1
        ]
        ways = [name for name, value in shares[1:] if value is not None]
        if self.threshold != 0.5:
            ways.append("--threshold")
        if len(ways) > 1:
            faults.append(f"{' and '.join(ways)} are given, expected one: each chooses the threshold")
        if self.source is not None and self.questions is None:
            faults.append("--source is given, expected only with --questions: it is a local copy of that set")
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
    """Read gains as people write them: numbers between commas; ``none`` for none.

    Raises:
        ValueError: something is not a number.
    """
    if text.strip() == "none":
        return ()
    return tuple(dict.fromkeys(float(part) for part in text.split(",")))
