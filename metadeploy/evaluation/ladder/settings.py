"""Settings of `metadeploy ladder`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, cast, get_args

from metadeploy._checks import choice, flag_faults, names, path, visible_text, whole_number
from metadeploy._types import SPLITS, OutType, Split
from metadeploy.errors import Error, faults_message

__all__ = [
    "ALL_TYPES",
    "EXACT_SIDECAR",
    "SIDECAR_TYPES",
    "TYPES",
    "CacheType",
    "LadderSettings",
    "Rung",
    "parse_sidecar_types",
    "parse_types",
]

#: Type of keys and values: ``f32`` without flash attention, so that only the weights differ from PyTorch's; or ``f16``
#: with flash attention if it helps, the runtime's default.
CacheType = Literal["f32", "f16"]

#: File types of a base that llama.cpp can write here, the same as in csrc/inspect/quantize.cpp.
ALL_TYPES: Final = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "Q3_K_M", "Q2_K",
)  # fmt: skip
#: The default types.
TYPES: Final = ("F32", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
SIDECAR_TYPES: Final[tuple[OutType, ...]] = ("f32", "f16", "q8_0")

#: Every type of the base is tried with this sidecar.
EXACT_SIDECAR: Final[OutType] = "f32"
#: Every type of the sidecar is tried with these bases, if they are on the ladder.
_SIDECAR_BASES: Final = ("F32", "Q4_K_M")


_COUNT: Final = whole_number(-(2**31), 2**31 - 1)  # __post_init__ checks the range
_TYPES: Final = {
    "base": path(),
    "types": names(),
    "sidecar_types": names(),
    "split": choice(*SPLITS),
    "limit": _COUNT,
    "seed": whole_number(0, 2**63 - 1),
    "work_dir": path().or_none(),
    "cache_type": choice(*get_args(CacheType)),
    "device": visible_text(),
    "threads": _COUNT.or_none(),
}


class Rung(NamedTuple):
    """A base of one type with a sidecar of one type."""

    base: str
    sidecar: OutType

    @property
    def name(self) -> str:
        """``Q4_K_M``, or ``Q4_K_M + q8_0`` with another sidecar than F32."""
        return self.base if self.sidecar == EXACT_SIDECAR else f"{self.base} + {self.sidecar}"


@dataclass(frozen=True, kw_only=True)
class LadderSettings:
    """What to compare, and how.

    Attributes:
        base: the base as GGUF, preferably in F32, F16 or BF16.
        types: types of the base, each tried with the F32 sidecar.
        sidecar_types: types of the sidecar, each tried with the base in F32 and in Q4_K_M if ``types`` has them, or
            else with the first of ``types``.
        refusal_text: the trained refusal, for files that do not have it.
        split: split of the collected questions.
        limit: maximum number of questions, drawn at random.
        seed: seed that draws the questions.
        work_dir: folder for the quantized files, which stay there; None for a temporary one in the run's ladder folder.
        cache_type: type of keys and values in the runtime.
        device: a torch device for the reference, or ``auto``.
        threads: threads of PyTorch and of the runtime; None for their defaults.
    """

    base: Path
    types: tuple[str, ...] = TYPES
    sidecar_types: tuple[OutType, ...] = SIDECAR_TYPES
    refusal_text: str | None = None
    split: Split = "test"
    limit: int = 300
    seed: int = 0
    work_dir: Path | None = None
    cache_type: CacheType = "f32"
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse invalid settings, with all faults in one message.

        Raises:
            Error: a type does not exist, there are no types, or a number is out of range.
        """
        faults = flag_faults(_TYPES, self)
        if faults:
            raise Error(faults_message("ladder", faults))
        allowed: tuple[tuple[str, Sequence[str], Sequence[str]], ...] = (
            ("--types", self.types, ALL_TYPES),
            ("--sidecar-types", self.sidecar_types, get_args(OutType)),
        )
        for name, kinds, known in allowed:
            faults += [
                f"{name} has '{kind}', expected some of {', '.join(known)}" for kind in kinds if kind not in known
            ]
        if not self.types:
            faults.append("--types is empty, expected at least one")
        if self.limit < 1:
            faults.append(f"--limit is {self.limit}, expected at least 1")
        if self.threads is not None and self.threads < 1:
            faults.append(f"--threads is {self.threads}, expected at least 1")
        if faults:
            raise Error(faults_message("ladder", faults))

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """All pairs to compare. Pairs with the same base are adjacent, the one with the F32 sidecar first."""
        sidecar_bases = [kind for kind in self.types if kind in _SIDECAR_BASES] or self.types[:1]
        return tuple(
            Rung(base, sidecar)
            for base in dict.fromkeys(self.types)
            for sidecar in dict.fromkeys((EXACT_SIDECAR, *(self.sidecar_types if base in sidecar_bases else ())))
        )


def parse_types(text: str) -> tuple[str, ...]:
    """Parse types: names separated by commas, in upper or lower case, without duplicates; ``none`` for no types."""
    names = (name.strip().upper() for name in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name not in ("", "NONE")))


def parse_sidecar_types(text: str) -> tuple[OutType, ...]:
    """Parse types of a sidecar. `LadderSettings` refuses unknown types."""
    return tuple(cast("OutType", name.lower()) for name in parse_types(text))
