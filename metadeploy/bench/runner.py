"""`metadeploy bench`: measures a base with its sidecar in every part of the benchmark."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from metadeploy import _core
from metadeploy.bench.busy import busy_process
from metadeploy.bench.harness import BenchHarness
from metadeploy.bench.limits import Limits, limits
from metadeploy.bench.measurements import Figure, Report, Spread, machine
from metadeploy.bench.settings import PARTS, BenchSettings
from metadeploy.bench.timing import Floats, Tick, interleave, timed
from metadeploy.errors import Error
from metadeploy.sidecar import Sidecar, read_sidecar, write_sidecar
from metadeploy.sidecar.base_model import base_from_file, check_base
from metadeploy.sidecar.gguf_file import read_gguf
from metadeploy.sidecar.spec import InjectFrom

__all__ = ["READING", "run_bench", "with_mode"]

#: Tokens in the context before decoding starts.
_N_PROMPT: Final = 32
#: Room for the prompt of `BenchHarness.batch_rate`, in tokens.
_N_BATCH_PROMPT: Final = 128
_N_WARM_UP: Final = 16
#: Tokens that the next turn of a chat adds: an answer and a question.
_N_TURN: Final = 64

#: Parts that need real answers.
_ANSWER_PARTS: Final = {"batch": "generate_batch", "refresh": "a refresh"}

#: How the ratios are to be read.
READING: Final = "prompts compare times (1 is free, more is worse), decoding compares speeds (1 is free, less is worse)"


def run_bench(settings: BenchSettings, *, tick: Tick | None = None) -> Report:
    """Measure a base with its sidecar against the base alone.

    Args:
        settings: what to measure.
        tick: called with the progress.

    Returns:
        The figures, and the machine that they come from.

    Raises:
        ModelLoadError: the base does not exist, or llama.cpp cannot load it.
        SidecarError: the sidecar does not exist, or it is malformed.
        ModelMismatchError: the two do not fit each other.
        Error: a length or a count is out of range.
    """
    _check(settings)
    sidecar = read_sidecar(settings.sidecar)
    check_base(settings.base, sidecar.config)
    bench = _Bench(settings, sidecar, limits(settings.base, sidecar.config), tick)
    machine_before = machine()
    with ExitStack() as stack:
        figures = tuple(bench.figures(stack))
    conditions = {
        "machine": machine_before,
        "load_average_after": machine()["load_average"],
        "base": _base_facts(settings.base),
        "sidecar": _sidecar_facts(sidecar),
        "pairs": settings.pairs,
        "steps": settings.steps,
        "threads": settings.threads,
    }
    title = f"{settings.base.name} with {settings.sidecar.name}"
    return Report(title=title, conditions=conditions, figures=figures, notes=bench.notes)


def with_mode(sidecar: Sidecar, mode: InjectFrom, folder: Path) -> Path:
    """Write a copy of a sidecar with another ``inject_from``, to measure its cost. Its answers mean nothing."""
    path = folder / f"{mode}.gguf"
    write_sidecar(path, replace(sidecar.config, inject_from=mode), sidecar.tensors)
    return path


class _Bench:
    """Measures the parts one after another."""

    def __init__(self, settings: BenchSettings, sidecar: Sidecar, on_paper: Limits | None, tick: Tick | None) -> None:
        self.settings, self.sidecar, self.on_paper, self.tick = settings, sidecar, on_paper, tick
        self._notes: list[str] = [READING]
        if on_paper is None:
            self._notes.append("no limits on paper: the base's file does not hold all blocks")

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def figures(self, stack: ExitStack) -> Iterator[Figure]:
        settings, parts = self.settings, self.settings.parts
        if "prompt" in parts or "load" in parts:
            n_ctx = max(settings.prompts) + _N_WARM_UP
            with BenchHarness(settings.base, n_ctx=n_ctx, threads=settings.threads) as harness:
                if "load" in parts:
                    yield self._load(harness)
                if "prompt" in parts:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                    for mode in settings.modes or (self.sidecar.config.inject_from,):
                        yield from self._prompts(harness, mode, folder)
        if "busy" in parts:
            n_ctx = _N_PROMPT + settings.steps * (2 * settings.pairs + 2)
            with BenchHarness(settings.base, n_ctx=n_ctx, threads=settings.threads) as harness:
                harness.attach(settings.sidecar)
                yield from self._busy(harness)
        if "turn" in parts:
            n_ctx = max(settings.prompts) + _N_TURN
            with BenchHarness(settings.base, n_ctx=n_ctx, threads=settings.threads, cache_prompts=True) as harness:
                harness.attach(settings.sidecar)
                yield from self._turns(harness)
        if {"decode", "batch", "refresh"} & set(parts):
            n_ctx = _N_BATCH_PROMPT + 2 * settings.steps * (settings.pairs + 2)
            n_parallel = max(*settings.sequences, 2)
            with BenchHarness(settings.base, n_ctx=n_ctx, n_parallel=n_parallel, threads=settings.threads) as harness:
                harness.attach(settings.sidecar)
                if "decode" in parts:
                    for count in settings.sequences:
                        yield self._decode(harness, count)
                if not harness.has_text:
                    missing = [what for part, what in _ANSWER_PARTS.items() if part in parts]
                    self._notes += [f"no figures of {what}: the base has no vocabulary" for what in missing]
                    return
                if "batch" in parts:
                    for count in settings.sequences:
                        yield from self._batch(harness, count)
                if "refresh" in parts:
                    yield from self._refresh(harness)

    def _interleave(self, kinds: Mapping[str, Callable[[], float]], what: str) -> dict[str, Floats]:
        return interleave(kinds, rounds=self.settings.pairs, what=what, tick=self.tick)

    def _prompt_limit(self, n_tokens: int, mode: InjectFrom, *, n_reused: int = 0) -> tuple[float, float] | None:
        if self.on_paper is None:
            return None
        limit = self.on_paper.prompt(n_tokens, mode, n_reused=n_reused)
        return limit, limit

    def _load(self, harness: BenchHarness) -> Figure:
        harness.attach(self.settings.sidecar)
        kinds = {"load": lambda: 1e3 * harness.attach(self.settings.sidecar)}
        measured = self._interleave(kinds, "loading the sidecar")
        return Figure(part="load", label="load the sidecar", unit="ms", value=Spread.of(measured["load"]))

    def _prompts(self, harness: BenchHarness, mode: InjectFrom, folder: Path) -> Iterator[Figure]:
        is_own = mode == self.sidecar.config.inject_from
        harness.attach(self.settings.sidecar if is_own else with_mode(self.sidecar, mode, folder))
        name = "everywhere" if mode == "prompt" else "from the last on"
        for inject in (True, False):
            harness.prefill(harness.tokens(_N_WARM_UP), inject=inject)
        for length in self.settings.prompts:
            timings: list[_core.Timings] = []
            tokens = harness.tokens(length)

            def two_passes(tokens: list[int] = tokens, timings: list[_core.Timings] = timings) -> float:
                return timed(lambda: timings.append(harness.prefill(tokens, inject=True)))

            def one_pass(tokens: list[int] = tokens) -> float:
                return timed(lambda: harness.prefill(tokens, inject=False))

            what = f"prompt of {length} tokens, injected {name}"
            kinds = {"two passes": two_passes, "one": one_pass}
            measured = self._interleave(kinds, what)
            label = f"two passes ÷ one, {length} tokens, injected {name}"
            limit = self._prompt_limit(length, mode)
            yield Figure.ratio("prompt", label, measured, unit="ms", limit=limit, at=length, series=f"injected {name}")
            if mode == "prompt" and timings[-1].pass2 == "full":
                self._notes.append(f"pass 2 over {length} tokens went through all blocks")
            value = Spread.of(np.array([timing.encode_ms for timing in timings]))
            yield Figure(part="prompt", label=f"encoder and fold, {length} tokens", unit="ms", value=value)

    def _busy(self, harness: BenchHarness) -> Iterator[Figure]:
        """Measure encoder and decoding while another process keeps one CPU busy, against a quiet machine."""
        prompt = harness.tokens(_N_PROMPT)

        def encode() -> float:
            return float(np.median([harness.prefill(prompt, inject=True).encode_ms for _ in range(3)]))

        def decode() -> float:
            return float(np.median(harness.decode(1, self.settings.steps, inject=True)))

        def while_busy(measure: Callable[[], float]) -> float:
            with busy_process():
                return measure()

        for label, measure in (("encoder and fold", encode), ("a decoded token", decode)):
            harness.prefill(prompt, inject=True)
            measure()
            kinds: dict[str, Callable[[], float]] = {"busy": partial(while_busy, measure), "quiet": measure}
            what = f"{label} beside a busy process"
            measured = self._interleave(kinds, what)
            yield Figure.ratio("busy", f"{what} ÷ on a quiet machine", measured, unit="ms")

    def _turns(self, harness: BenchHarness) -> Iterator[Figure]:
        """Measure the next turn of a chat against one clean pass over the whole chat."""
        mode = self.sidecar.config.inject_from
        for length in self.settings.prompts:
            reused: list[int] = []

            def turn(length: int = length, reused: list[int] = reused) -> float:
                before = harness.tokens(length)
                harness.prefill(before, inject=True)
                chat = before + harness.tokens(_N_TURN)
                return timed(lambda: reused.append(harness.prefill(chat, inject=True).n_reused))

            def whole_chat(length: int = length) -> float:
                chat = harness.tokens(length + _N_TURN)
                return timed(lambda: harness.prefill(chat, inject=False))

            what = f"{_N_TURN} tokens after {length}"
            kinds = {"next turn": turn, "all of it": whole_chat}
            measured = self._interleave(kinds, what)
            n_reused = min(reused)
            if n_reused == 0:
                self._notes.append(f"nothing of {length} tokens was kept for the next turn")
            label = f"{what}, two passes ÷ one over all"
            limit = self._prompt_limit(length + _N_TURN, mode, n_reused=n_reused)
            yield Figure.ratio("turn", label, measured, unit="ms", limit=limit, at=length)

    def _decode(self, harness: BenchHarness, count: int) -> Figure:
        steps = self.settings.steps
        for sequence in range(count):
            harness.prefill(harness.tokens(_N_PROMPT), inject=True, sequence=sequence)
        for inject in (True, False):
            harness.decode(count, 2, inject=inject)

        def rate(inject: bool) -> float:
            return 1e3 * count / float(np.median(harness.decode(count, steps, inject=inject)))

        measured = self._interleave(
            {"injected": lambda: rate(True), "clean": lambda: rate(False)},
            f"decoding {_sequences(count)}",
        )
        return Figure.ratio(
            "decode",
            f"injected ÷ clean, {_sequences(count)}",
            measured,
            unit="tokens/s",
            limit=self.on_paper.decode(count) if self.on_paper else None,
            at=count,
        )

    def _batch(self, harness: BenchHarness, count: int) -> Iterator[Figure]:
        steps = self.settings.steps
        what = f"generate_batch of {_sequences(count)}"
        harness.batch_rate(count, 2)
        measured = self._interleave(
            {
                "injected": lambda: harness.batch_rate(count, steps),
                "bare decoding": lambda: 1e3 * count / harness.decode(count, steps, inject=False).mean(),
            },
            what,
        )
        if np.isnan(measured["injected"]).any():
            self._notes.append(f"no figure for {what}: an answer ended before the others had two tokens")
            return
        yield Figure.ratio(
            "batch",
            f"generate_batch ÷ bare decoding, {_sequences(count)}",
            measured,
            unit="tokens/s",
            limit=self.on_paper.decode(count) if self.on_paper else None,
            at=count,
        )

    def _refresh(self, harness: BenchHarness) -> Iterator[Figure]:
        steps = self.settings.steps
        what = "one answer with a refresh"
        harness.batch_rate(1, 2, refresh=True)
        measured = self._interleave(
            {
                "refreshed": lambda: harness.batch_rate(1, steps, refresh=True),
                "injected": lambda: harness.batch_rate(1, steps),
            },
            what,
        )
        if np.isnan([*measured.values()]).any():
            self._notes.append(f"no figure for {what}: it ended before its second token")
            return
        yield Figure.ratio("refresh", "refreshed ÷ injected, 1 answer", measured, unit="tokens/s")


def _sequences(count: int) -> str:
    return f"{count} sequence{'s' * (count > 1)}"


def _check(settings: BenchSettings) -> None:
    for what, values, minimum in (
        ("prompt lengths", settings.prompts, 2),
        ("numbers of sequences", settings.sequences, 1),
        ("pairs", (settings.pairs,), 1),
        ("steps", (settings.steps,), 2),
    ):
        if not values or min(values) < minimum:
            raise Error(f"bench: {what} are {list(values)}, expected at least one, and each {minimum} or more")
    unknown = sorted(set(settings.parts) - set(PARTS))
    if unknown or not settings.parts:
        raise Error(f"bench: parts are {', '.join(settings.parts) or 'none'}, expected some of {', '.join(PARTS)}")


def _base_facts(path: Path) -> dict[str, Any]:
    base = base_from_file(read_gguf(path, role="base model"))
    return {
        "name": base.name or path.stem,
        "file": path.name,
        "architecture": base.architecture,
        "blocks": base.block_count,
        "width": base.hidden_dim,
        "size": base.size,
    }


def _sidecar_facts(sidecar: Sidecar) -> dict[str, Any]:
    config = sidecar.config
    return {
        "file": sidecar.path.name,
        "size": sidecar.path.stat().st_size,
        "encoder": config.encoder_type,
        "inject_from": config.inject_from,
        "cognitive_tokens": config.num_cognitive_tokens,
        "heads": config.ca_num_heads,
        "bottleneck": config.bottleneck_dim,
        "target_layers": list(config.target_layers),
        "cross_attn_layers": list(config.cross_attn_layers),
    }
