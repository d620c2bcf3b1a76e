"""Measure how the cost depends on prompt length, injected layers, cognitive tokens and threads.

    python benchmarks/scaling.py [--base BASE --sidecar SIDECAR] [--parts prompt,layers,tokens,threads] [--plot FILE]

The default is the demo's SmolLM2-135M. The wrappers are random, with the sidecar's bottleneck and heads, and inject
into the highest blocks. The table has ratios of pairs and the limits on paper.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import reporting
from synthetic_doubter import draw

from metadeploy import Error
from metadeploy.bench import Figure, Report
from metadeploy.bench.harness import BenchHarness
from metadeploy.bench.limits import limits
from metadeploy.bench.measurements import machine
from metadeploy.bench.runner import READING
from metadeploy.bench.timing import Tick, interleave, timed
from metadeploy.sidecar import read_sidecar, write_sidecar
from metadeploy.sidecar.spec import WrapperConfig

PARTS: Final = ("prompt", "layers", "tokens", "threads")


class Scaling:
    """Measures one base with one wrapper after another."""

    def __init__(self, base: Path, sidecar: Path, arguments: argparse.Namespace, folder: Path, tick: Tick) -> None:
        self.base, self.arguments, self.folder, self.tick = base, arguments, folder, tick
        self.sidecar = read_sidecar(sidecar)
        n_block = self.sidecar.config.base_block_count or max(self.sidecar.config.cross_attn_layers) + 1
        self.blocks = range(n_block)

    def figures(self) -> Iterator[Figure]:
        arguments, late = self.arguments, len(self.blocks) // 3
        if "threads" in arguments.parts:
            for threads in powers(os.cpu_count() or 1):
                yield from self.pair("threads", threads, self.wrapper(n_layer=late), threads=threads)
        if "prompt" in arguments.parts:
            for length in arguments.prompts:
                yield self.prompt("prompt", length, self.wrapper(n_layer=late), length)
        if "layers" in arguments.parts:
            for n_layer in powers(len(self.blocks)):
                yield from self.pair("layers", n_layer, self.wrapper(n_layer=n_layer))
        if "tokens" in arguments.parts:
            for n_cog in powers(arguments.most_tokens):
                yield from self.pair("cognitive tokens", n_cog, self.wrapper(n_layer=late, n_cog=n_cog))

    def wrapper(self, *, n_layer: int, n_cog: int = 11) -> WrapperConfig:
        """Return a wrapper that injects into the last blocks; multi_token allows any number of tokens."""
        return replace(
            self.sidecar.config,
            encoder_type="multi_token",
            encoder_dim=self.sidecar.config.bottleneck_dim,
            num_cognitive_tokens=n_cog,
            enc_num_heads=self.sidecar.config.ca_num_heads,
            target_layers=tuple(self.blocks[-n_layer:]),
            cross_attn_layers=tuple(self.blocks[-n_layer:]),
            inject_from="prompt",
            refusal_token_ids=None,
            refusal_bias=0.0,
        )

    def pair(self, part: str, at: int, config: WrapperConfig, *, threads: int | None = None) -> Iterator[Figure]:
        yield self.prompt(part, at, config, self.arguments.length, threads=threads)
        yield self.decoding(part, at, config, threads=threads)

    def harness(self, config: WrapperConfig, n_ctx: int, threads: int | None) -> BenchHarness:
        path = self.folder / "sidecar.gguf"
        write_sidecar(path, config, draw(config), force=True)
        harness = BenchHarness(self.base, n_ctx=n_ctx, threads=self.arguments.threads if threads is None else threads)
        harness.attach(path)
        return harness

    def prompt(self, part: str, at: int, config: WrapperConfig, length: int, *, threads: int | None = None) -> Figure:
        with self.harness(config, length, threads) as harness:
            tokens = harness.tokens(length)
            for inject in (True, False):
                harness.prefill(tokens[:16], inject=inject)
            measured = interleave(
                {
                    "two passes": lambda: timed(lambda: harness.prefill(tokens, inject=True)),
                    "one": lambda: timed(lambda: harness.prefill(tokens, inject=False)),
                },
                rounds=self.arguments.rounds,
                what=f"{part} {at}: prompt",
                tick=self.tick,
            )
        on_paper = limits(self.base, config)
        paper = None if on_paper is None else on_paper.prompt(length, "prompt")
        label = f"{part} {at}: two passes ÷ one" + ("" if part == "prompt" else f", {length} tokens")
        limit = None if paper is None else (paper, paper)
        return Figure.ratio(
            part, label, measured, unit="ms", limit=limit, at=at, series="prompt, two passes ÷ one, time"
        )

    def decoding(self, part: str, at: int, config: WrapperConfig, *, threads: int | None) -> Figure:
        steps, rounds = self.arguments.steps, self.arguments.rounds
        with self.harness(config, 32 + 2 * steps * (rounds + 1), threads) as harness:
            harness.prefill(harness.tokens(32), inject=True)
            for inject in (True, False):
                harness.decode(1, 2, inject=inject)
            measured = interleave(
                {
                    "injected": lambda: 1e3 / float(np.median(harness.decode(1, steps, inject=True))),
                    "clean": lambda: 1e3 / float(np.median(harness.decode(1, steps, inject=False))),
                },
                rounds=rounds,
                what=f"{part} {at}: decoding",
                tick=self.tick,
            )
        on_paper = limits(self.base, config)
        return Figure.ratio(
            part,
            f"{part} {at}: injected ÷ clean",
            measured,
            unit="tokens/s",
            limit=None if on_paper is None else on_paper.decode(1),
            at=at,
            series="decoding, injected ÷ clean, speed",
        )


def powers(maximum: int) -> list[int]:
    """Return the powers of two up to a number, and the number."""
    return sorted({maximum, *(1 << i for i in range(maximum.bit_length()))})


def measure(arguments: argparse.Namespace, tick: Tick) -> Report:
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        raise Error(f"scaling: parts are {', '.join(arguments.parts)}, expected some of {', '.join(PARTS)}")
    base, sidecar = reporting.base_and_sidecar(arguments)
    machine_before = machine()
    with tempfile.TemporaryDirectory() as folder:
        figures = tuple(Scaling(base, sidecar, arguments, Path(folder), tick).figures())
    conditions = {
        "machine": machine_before,
        "load_average_after": machine()["load_average"],
        "base": base.name,
        "threads": arguments.threads,
    }
    return Report(title=f"{base.name}: how it grows", conditions=conditions, figures=figures, notes=(READING,))


def main() -> None:
    parser = reporting.parser(__doc__)
    reporting.add_base(parser)
    parser.add_argument("--parts", type=lambda text: tuple(text.split(",")), default=PARTS)
    parser.add_argument("--prompts", type=reporting.numbers, default=(32, 64, 128, 256, 512, 1024, 2048))
    parser.add_argument("--length", type=int, default=256, help="prompt length in the other parts")
    parser.add_argument("--most-tokens", type=int, default=128, help="maximum number of cognitive tokens")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    reporting.run(lambda tick: measure(arguments, tick), arguments)


if __name__ == "__main__":
    main()
