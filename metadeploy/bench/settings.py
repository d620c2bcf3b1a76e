"""What `metadeploy bench` is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from metadeploy.sidecar.spec import InjectFrom

__all__ = ["PARTS", "BenchSettings"]

#: What can be measured.
PARTS: Final = ("prompt", "turn", "decode", "batch", "refresh", "load", "busy")


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What to measure.

    Attributes:
        base: GGUF.
        sidecar: of it.
        prompts: lengths in tokens.
        sequences: how many are decoded at once.
        pairs: measurements of each side.
        steps: tokens of an answer in each measurement.
        modes: where the injection begins; none takes what the sidecar says.
        parts: some of ``PARTS``.
        threads: None leaves it to llama.cpp.
    """

    base: Path
    sidecar: Path
    prompts: tuple[int, ...] = (128, 512, 2048)
    sequences: tuple[int, ...] = (1, 2, 4, 8, 16)
    pairs: int = 7
    steps: int = 32
    modes: tuple[InjectFrom, ...] = ()
    parts: tuple[str, ...] = PARTS
    threads: int | None = None

    def quick(self) -> BenchSettings:
        """The short form, which shows that everything runs and whose figures say little."""
        return replace(self, prompts=(16, 48), sequences=(1, 2), pairs=2, steps=4)
