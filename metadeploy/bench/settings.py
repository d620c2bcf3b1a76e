"""Settings of `metadeploy bench`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from metadeploy.sidecar.spec import InjectFrom

__all__ = ["PARTS", "BenchSettings"]

#: The parts of the benchmark.
PARTS: Final = ("prompt", "turn", "decode", "batch", "refresh", "load", "busy")


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What to measure.

    Attributes:
        base: GGUF of the base.
        sidecar: a sidecar for it.
        prompts: lengths in tokens.
        sequences: numbers of sequences to decode at once.
        pairs: measurements of each side of a ratio.
        steps: tokens of an answer in each measurement.
        modes: where the injection begins; empty for the sidecar's own value.
        parts: some of ``PARTS``.
        threads: None for llama.cpp's default.
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
        """Return short settings, which show that everything runs. Their figures say little."""
        return replace(self, prompts=(16, 48), sequences=(1, 2), pairs=2, steps=4)
