"""`metadeploy bench`: a base and its sidecar through every part of the benchmark."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from metadeploy import _core
from metadeploy.bench.busy import busy_process
from metadeploy.bench.harness import Stand
from metadeploy.bench.limits import Limits, limits
from metadeploy.bench.measurements import Figure, Report, Spread, machine
from metadeploy.bench.settings import PARTS, BenchSettings
from metadeploy.bench.timing import Tick, interleave, timed
from metadeploy.errors import Error
from metadeploy.sidecar import Sidecar, read_sidecar, write_sidecar
from metadeploy.sidecar.base_model import base_from_file, check_base
from metadeploy.sidecar.gguf_file import read_gguf
from metadeploy.sidecar.spec import InjectFrom

__all__ = ["READING", "run_bench", "with_mode"]

#: Tokens before the first one that is decoded.
_DEPTH: Final = 32
#: Tokens of the prompt that `Stand.serve` answers, and more than that.
_SERVED_PROMPT: Final = 128
_WARM_UP: Final = 16
#: Tokens that a chat's next turn adds, an answer and a question.
_TURN: Final = 64

#: Parts that take real answers.
_ANSWERS: Final = {"batch": "generate_batch", "refresh": "a refresh"}

#: How the ratios are to be read.
READING: Final = (
    "of prompts the time is compared (1 is free, more is worse), of decoding the speed (1 is free, less is worse)"
)


def run_bench(settings: BenchSettings, *, tick: Tick | None = None) -> Report:
    """Measure a base with its sidecar against the base alone.

    Args:
        settings: what to measure.
        tick: progress.

    Returns:
        The figures, with the machine they come from.

    Raises:
        ModelLoadError: no base there, or llama.cpp cannot load it.
        SidecarError: no sidecar there, or it is malformed.
        ModelMismatchError: the two do not fit each other.
        Error: lengths or counts that cannot be.
    """
    _check(settings)
    sidecar = read_sidecar(settings.sidecar)
    check_base(settings.base, sidecar.config)
    bench = _Bench(settings, sidecar, limits(settings.base, sidecar.config), tick)
    before = machine()
    with ExitStack() as stack:
        figures = tuple(bench.figures(stack))
    conditions = {
        "machine": before,
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
    """A copy of a sidecar that injects from elsewhere, for what that costs; its answers mean nothing."""
    path = folder / f"{mode}.gguf"
    write_sidecar(path, replace(sidecar.config, inject_from=mode), sidecar.tensors)
    return path


class _Bench:
    """The parts, one after the other."""

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
            n_ctx = max(settings.prompts) + _WARM_UP
            with Stand(settings.base, n_ctx=n_ctx, threads=settings.threads) as stand:
                if "load" in parts:
                    yield self._load(stand)
                if "prompt" in parts:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                    for mode in settings.modes or (self.sidecar.config.inject_from,):
                        yield from self._prompts(stand, mode, folder)
        if "busy" in parts:
            n_ctx = _DEPTH + settings.steps * (2 * settings.pairs + 2)
            with Stand(settings.base, n_ctx=n_ctx, threads=settings.threads) as stand:
                stand.attach(settings.sidecar)
                yield from self._busy(stand)
        if "turn" in parts:
            n_ctx = max(settings.prompts) + _TURN
            with Stand(settings.base, n_ctx=n_ctx, threads=settings.threads, keeps_prompts=True) as stand:
                stand.attach(settings.sidecar)
                yield from self._turns(stand)
        if {"decode", "batch", "refresh"} & set(parts):
            n_ctx = _SERVED_PROMPT + 2 * settings.steps * (settings.pairs + 2)
            n_parallel = max(*settings.sequences, 2)
            with Stand(settings.base, n_ctx=n_ctx, n_parallel=n_parallel, threads=settings.threads) as stand:
                stand.attach(settings.sidecar)
                if "decode" in parts:
                    for count in settings.sequences:
                        yield self._decode(stand, count)
                if not stand.has_text:
                    missing = [what for part, what in _ANSWERS.items() if part in parts]
                    self._notes += [f"no figures of {what}: the base has no vocabulary" for what in missing]
                    return
                if "batch" in parts:
                    for count in settings.sequences:
                        yield from self._serve(stand, count)
                if "refresh" in parts:
                    yield from self._refresh(stand)

    def _load(self, stand: Stand) -> Figure:
        stand.attach(self.settings.sidecar)
        kinds = {"load": lambda: 1e3 * stand.attach(self.settings.sidecar)}
        seen = interleave(kinds, rounds=self.settings.pairs, what="loading the sidecar", tick=self.tick)
        return Figure(part="load", label="load the sidecar", unit="ms", value=Spread.of(seen["load"]))

    def _prompts(self, stand: Stand, mode: InjectFrom, folder: Path) -> Iterator[Figure]:
        own = mode == self.sidecar.config.inject_from
        stand.attach(self.settings.sidecar if own else with_mode(self.sidecar, mode, folder))
        name = "everywhere" if mode == "prompt" else "from the last on"
        for inject in (True, False):
            stand.prefill(stand.tokens(_WARM_UP), inject=inject)
        for length in self.settings.prompts:
            parts: list[_core.Timings] = []
            tokens = stand.tokens(length)

            def two(tokens: list[int] = tokens, parts: list[_core.Timings] = parts) -> float:
                return timed(lambda: parts.append(stand.prefill(tokens, inject=True)))

            def one(tokens: list[int] = tokens) -> float:
                return timed(lambda: stand.prefill(tokens, inject=False))

            what = f"prompt of {length} tokens, injected {name}"
            seen = interleave({"two passes": two, "one": one}, rounds=self.settings.pairs, what=what, tick=self.tick)
            paper = self.on_paper.prompt(length, mode) if self.on_paper else None
            label = f"two passes ÷ one, {length} tokens, injected {name}"
            limit = None if paper is None else (paper, paper)
            yield Figure.ratio("prompt", label, seen, unit="ms", limit=limit, at=length, series=f"injected {name}")
            if mode == "prompt" and parts[-1].pass2 == "full":
                self._notes.append(f"pass 2 over {length} tokens went through all blocks")
            value = Spread.of(np.array([each.encode_ms for each in parts]))
            yield Figure(part="prompt", label=f"encoder and fold, {length} tokens", unit="ms", value=value)

    def _busy(self, stand: Stand) -> Iterator[Figure]:
        """Encoder and decoding while another process keeps one CPU busy, against a quiet machine."""
        prompt = stand.tokens(_DEPTH)

        def encode() -> float:
            return float(np.median([stand.prefill(prompt, inject=True).encode_ms for _ in range(3)]))

        def decode() -> float:
            return float(np.median(stand.decode(1, self.settings.steps, inject=True)))

        def beside_another(measure: Callable[[], float]) -> float:
            with busy_process():
                return measure()

        for label, measure in (("encoder and fold", encode), ("a decoded token", decode)):
            stand.prefill(prompt, inject=True)
            measure()
            kinds: dict[str, Callable[[], float]] = {"busy": partial(beside_another, measure), "quiet": measure}
            what = f"{label} beside a busy process"
            seen = interleave(kinds, rounds=self.settings.pairs, what=what, tick=self.tick)
            yield Figure.ratio("busy", f"{what} ÷ on a quiet machine", seen, unit="ms")

    def _turns(self, stand: Stand) -> Iterator[Figure]:
        """The next turn of a chat, against one clean pass over all of it."""
        mode = self.sidecar.config.inject_from
        for length in self.settings.prompts:
            reused: list[int] = []

            def turn(length: int = length, reused: list[int] = reused) -> float:
                before = stand.tokens(length)
                stand.prefill(before, inject=True)
                chat = before + stand.tokens(_TURN)
                return timed(lambda: reused.append(stand.prefill(chat, inject=True).n_reused))

            def whole(length: int = length) -> float:
                chat = stand.tokens(length + _TURN)
                return timed(lambda: stand.prefill(chat, inject=False))

            what = f"{_TURN} tokens after {length}"
            seen = interleave(
                {"next turn": turn, "all of it": whole}, rounds=self.settings.pairs, what=what, tick=self.tick
            )
            n_reused = min(reused)
            if n_reused == 0:
                self._notes.append(f"nothing of {length} tokens was kept for the next turn")
            paper = self.on_paper.prompt(length + _TURN, mode, n_reused=n_reused) if self.on_paper else None
            label = f"{what}, two passes ÷ one over all"
            limit = None if paper is None else (paper, paper)
            yield Figure.ratio("turn", label, seen, unit="ms", limit=limit, at=length)

    def _decode(self, stand: Stand, count: int) -> Figure:
        steps = self.settings.steps
        for sequence in range(count):
            stand.prefill(stand.tokens(_DEPTH), inject=True, sequence=sequence)
        for inject in (True, False):
            stand.decode(count, 2, inject=inject)

        def rate(inject: bool) -> float:
            return 1e3 * count / float(np.median(stand.decode(count, steps, inject=inject)))

        seen = interleave(
            {"injected": lambda: rate(True), "clean": lambda: rate(False)},
            rounds=self.settings.pairs,
            what=f"decoding {_sequences(count)}",
            tick=self.tick,
        )
        return Figure.ratio(
            "decode",
            f"injected ÷ clean, {_sequences(count)}",
            seen,
            unit="tokens/s",
            limit=self.on_paper.decode(count) if self.on_paper else None,
            at=count,
        )

    def _serve(self, stand: Stand, count: int) -> Iterator[Figure]:
        steps = self.settings.steps
        what = f"generate_batch of {_sequences(count)}"
        stand.serve(count, 2)
        seen = interleave(
            {
                "injected": lambda: stand.serve(count, steps),
                "bare decoding": lambda: 1e3 * count / stand.decode(count, steps, inject=False).mean(),
            },
            rounds=self.settings.pairs,
            what=what,
            tick=self.tick,
        )
        if np.isnan(seen["injected"]).any():
            self._notes.append(f"no figure for {what}: an answer ended before the others had two tokens")
            return
        yield Figure.ratio(
            "batch",
            f"generate_batch ÷ bare decoding, {_sequences(count)}",
            seen,
            unit="tokens/s",
            limit=self.on_paper.decode(count) if self.on_paper else None,
            at=count,
        )

    def _refresh(self, stand: Stand) -> Iterator[Figure]:
        steps = self.settings.steps
        what = "one answer with a refresh"
        stand.serve(1, 2, refresh=True)
        seen = interleave(
            {"refreshed": lambda: stand.serve(1, steps, refresh=True), "injected": lambda: stand.serve(1, steps)},
            rounds=self.settings.pairs,
            what=what,
            tick=self.tick,
        )
        if np.isnan([*seen.values()]).any():
            self._notes.append(f"no figure for {what}: it ended before its second token")
            return
        yield Figure.ratio("refresh", "refreshed ÷ injected, 1 answer", seen, unit="tokens/s")


def _sequences(count: int) -> str:
    return f"{count} sequence{'s' * (count > 1)}"


def _check(settings: BenchSettings) -> None:
    for what, values, least in (
        ("prompt lengths", settings.prompts, 2),
        ("numbers of sequences", settings.sequences, 1),
        ("pairs", (settings.pairs,), 1),
        ("steps", (settings.steps,), 2),
    ):
        if not values or min(values) < least:
            raise Error(f"bench: {what} are {list(values)}, expected at least one, and each {least} or more")
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
