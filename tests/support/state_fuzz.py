"""Sequences of operations on one instance, each compared with the same operation on a fresh instance without caches.

The traces of an operation (cells, states, cached prompts, taps, tables, plans, a canceled pass) must not change the
results of a later one. Frozen dataclasses describe a run. Their ``repr`` is valid code, so a failing run can be pasted
into a test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

import tolerances
from metadeploy import Cancelled, Error, InjectionSchedule, MetaLlama, Request, SidecarError
from metadeploy.runtime.types import GenerationResult, TokenLogprob
from metadeploy.sidecar import write_sidecar
from metadeploy.sidecar.spec import EncoderType, InjectFrom
from support.parity import FloatArray
from support.random_wrapper import random_wrapper
from support.tiny_archs import ARCHS, NUM_LAYERS, SMALL_ARCHS, WIDTH, write_tiny_arch

#: keys of ``ARCHS`` and ``SMALL_ARCHS``
KINDS: Final = ("small_llama", "gemma2", "small_gemma3", "small_qwen35", "mamba", "rwkv7", "small_moe")
N_CTX: Final = 256
N_TOP: Final = 10
#: the first token of a refusal
REFUSAL: Final = 30
END_OF_TURN: Final = 258


@dataclass(frozen=True)
class Case:
    """An instance under test."""

    kind: str
    tied: bool = False
    n_parallel: int = 1
    n_ubatch: int = 32
    hidden_cache_mib: int = 64
    prefix_cache_mib: int = 64


@dataclass(frozen=True)
class Wrapper:
    """A random wrapper; the lowest of ``layers`` is where pass 2 begins."""

    layers: tuple[int, ...]
    inject_from: InjectFrom = "prompt"
    encoder: EncoderType = "selective"


LAST: Final = NUM_LAYERS - 1
WRAPPERS: Final = tuple(
    Wrapper(layers, inject_from, encoder)
    for layers, encoder in (
        ((0, 3, LAST), "selective"),
        ((3, 4), "multi_token"),
        ((LAST,), "selective"),
        ((0,), "transformer"),
    )
    for inject_from in ("prompt", "last_prompt_token")
)


@dataclass(frozen=True)
class Prompt:
    """The first ``length`` tokens of a shared trunk, and a tail of its own."""

    trunk: int
    length: int
    tail: tuple[int, ...] = ()

    def tokens(self) -> list[int]:
        """Return token ids; every 23rd of a trunk ends a turn."""
        trunk = np.random.default_rng(self.trunk).integers(20, 250, size=2 * N_CTX)
        trunk[22::23] = END_OF_TURN
        return [*trunk[: self.length].tolist(), *self.tail]


@dataclass(frozen=True)
class Options:
    """Options of one answer."""

    max_tokens: int = 6
    gain: float | None = None
    inject: bool | None = None
    schedule: InjectionSchedule | None = None
    held: Prompt | None = None
    doubt_threshold: float | None = None

    def keywords(self, held: FloatArray | None) -> dict[str, Any]:
        """Return the options of `Request` that are set."""
        named = {
            "gain": self.gain,
            "inject": self.inject,
            "schedule": self.schedule,
            "doubt_threshold": self.doubt_threshold,
            "cognitive_tokens": held,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class Ask:
    """One answer. ``chunks``: drop the stream after this number. ``cancel``: end it at this call of cancel."""

    prompt: Prompt
    options: Options = Options()
    chunks: int | None = None
    cancel: int | None = None


@dataclass(frozen=True)
class Batch:
    """Several answers at once, with the same number of tokens. ``cancel`` ends all; an `Ask`'s own ends one."""

    asks: tuple[Ask, ...]
    max_tokens: int = 6
    cancel: int | None = None


@dataclass(frozen=True)
class Look:
    """An inspection call, by its method's name."""

    what: str
    prompt: Prompt
    gain: float = 1.0
    inject: bool = True
    layers: tuple[int, ...] = (LAST,)


@dataclass(frozen=True)
class Attach:
    """Another sidecar, or none."""

    wrapper: Wrapper | None


@dataclass(frozen=True)
class AttachDamaged:
    """A file that must be refused."""


Operation = Ask | Batch | Look | Attach | AttachDamaged


def countdown(n: int | None) -> Callable[[], bool] | None:
    """Return a ``cancel`` that returns true from its n-th call on."""
    if n is None:
        return None
    left = n

    def cancel() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    return cancel


@dataclass(frozen=True)
class Files:
    """Bases and sidecars, each written once."""

    folder: Path

    def base(self, kind: str, tied: bool) -> Path:
        """Return a base of this kind."""
        path = self.folder / f"{kind}-{tied}.gguf"
        if not path.exists():
            write_tiny_arch(path, kind, tied=tied)
        return path

    def sidecar(self, wrapper: Wrapper) -> Path:
        """Return a sidecar that reads the first, a middle and the last block."""
        path = self.folder / f"{WRAPPERS.index(wrapper)}.gguf"
        if not path.exists():
            config, tensors = random_wrapper(
                wrapper.encoder,
                hidden_dim=WIDTH,
                target_layers=[LAST, 0, 3],
                cross_attn_layers=wrapper.layers,
                inject_from=wrapper.inject_from,
            )
            config = replace(config, refusal_token_ids=(REFUSAL,))
            write_sidecar(path, config, {name: tensor.numpy() for name, tensor in tensors.items()})
        return path

    def load(self, case: Case, wrapper: Wrapper | None) -> MetaLlama:
        """Load with K/V cache in F32 and no flash attention, so that only the order of summation may differ."""
        return MetaLlama(
            self.base(case.kind, case.tied),
            None if wrapper is None else self.sidecar(wrapper),
            n_ctx=N_CTX,
            n_parallel=case.n_parallel,
            n_ubatch=case.n_ubatch,
            n_threads=1,
            hidden_cache_mib=case.hidden_cache_mib,
            prefix_cache_mib=case.prefix_cache_mib,
            type_k="f32",
            type_v="f32",
            flash_attn=False,
        )


@cache
def _expected(files: Files, case: Case, wrapper: Wrapper | None, operation: Ask | Look) -> Any:
    """Return the result of a fresh instance without caches, or the error that it raises."""
    with files.load(case, wrapper) as llm:
        try:
            if isinstance(operation, Look):
                return _look(llm, operation)
            held = _held(files, case, wrapper, operation.options)
            keywords = operation.options.keywords(held)
            ids = operation.prompt.tokens()
            return llm.generate(ids, max_tokens=operation.options.max_tokens, logprobs=N_TOP, **keywords)
        except Error as error:
            return error


def _held(files: Files, case: Case, wrapper: Wrapper | None, options: Options) -> FloatArray | None:
    if options.held is None:
        return None
    if wrapper is None:
        return np.zeros((3, WIDTH), np.float32)
    tokens = _expected(files, case, wrapper, Look("cognitive_tokens", options.held))
    return np.zeros((3, WIDTH), np.float32) if isinstance(tokens, Error) else tokens


def _look(llm: MetaLlama, look: Look) -> FloatArray:
    ids = look.prompt.tokens()
    match look.what:
        case "logits":
            return llm.logits(ids, inject=look.inject, gain=look.gain)
        case "layer_outputs":
            return llm.layer_outputs(ids, look.layers, inject=look.inject, gain=look.gain)
        case "doubt":
            return np.array(llm.doubt(ids, gain=look.gain))
        case "cognitive_attention":
            return llm.cognitive_attention(ids, gain=look.gain)
        case what:
            return getattr(llm, what)(ids)  # type: ignore[no-any-return]


def _same_error(actual: Error, expected: object) -> None:
    assert isinstance(expected, Error), f"{actual!r}, a fresh instance gives {expected!r}"
    assert (type(actual), str(actual)) == (type(expected), str(expected))


@dataclass
class Heard:
    """An answer so far."""

    ask: Ask
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    doubt: float | None = None
    result: GenerationResult | None = None

    def add(self, chunk: Any) -> None:
        """Add a chunk."""
        self.tokens += chunk.token_ids
        self.logprobs += chunk.logprobs or ()
        self.doubt = chunk.doubt
        self.result = chunk.result


class Run:
    """One instance and its operations so far."""

    def __init__(self, files: Files, case: Case) -> None:
        self._files = files
        self._case = case
        self._plain = replace(case, hidden_cache_mib=0, prefix_cache_mib=0)
        self._wrapper: Wrapper | None = None
        self._limit = tolerances.STATE_MAX_ABS.get(case.kind, tolerances.STATE_MAX_ABS["others"])
        self._llm = files.load(case, None)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._llm.close()

    def do(self, operation: Operation) -> None:
        """Run an operation and compare its result.

        Raises:
            AssertionError: a fresh instance gives another result.
        """
        if isinstance(operation, Attach):
            self._wrapper = operation.wrapper
            if operation.wrapper is None:
                self._llm.detach()
            else:
                self._llm.attach(self._files.sidecar(operation.wrapper))
        elif isinstance(operation, AttachDamaged):
            with pytest.raises(SidecarError):
                self._llm.attach(self._files.base(self._case.kind, self._case.tied))
        elif isinstance(operation, Look):
            self._do_look(operation)
        elif isinstance(operation, Ask):
            self._do_batch(Batch((operation,), operation.options.max_tokens), alone=True)
        else:
            self._do_batch(operation, alone=False)

    def _expected(self, operation: Ask | Look) -> Any:
        case = self._plain
        if isinstance(operation, Ask):
            operation = Ask(operation.prompt, operation.options)
            schedule = operation.options.schedule
            n_sequences = 2 if schedule is not None and schedule.refresh is not None else 1
            case = replace(case, n_parallel=min(n_sequences, case.n_parallel))
        else:
            case = replace(case, n_parallel=1)
        return _expected(self._files, case, self._wrapper, operation)

    def _do_look(self, look: Look) -> None:
        expected = self._expected(look)
        try:
            actual = _look(self._llm, look)
        except Error as error:
            _same_error(error, expected)
            return
        assert not isinstance(expected, Error), f"a fresh instance gives {expected!r}"
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=self._limit * scale)

    def _do_batch(self, batch: Batch, *, alone: bool) -> None:
        asks = [replace(ask, options=replace(ask.options, max_tokens=batch.max_tokens)) for ask in batch.asks]
        answers = [Heard(ask) for ask in asks]
        try:
            if alone:
                self._stream(answers[0])
            else:
                self._stream_batch(answers, batch)
        except Cancelled:
            assert batch.cancel is not None or (alone and asks[0].cancel is not None)
        for record in answers:
            self._compare(record)

    def _stream(self, answer: Heard) -> None:
        ask = answer.ask
        keywords = ask.options.keywords(_held(self._files, self._plain, self._wrapper, ask.options))
        stream = self._llm.stream(
            ask.prompt.tokens(),
            max_tokens=ask.options.max_tokens,
            logprobs=N_TOP,
            cancel=countdown(ask.cancel),
            **keywords,
        )
        try:
            for chunk in islice(stream, ask.chunks):
                answer.add(chunk)
        except Cancelled:
            raise
        except Error as error:
            _same_error(error, self._expected(ask))
        finally:
            stream.close()  # type: ignore[attr-defined]

    def _stream_batch(self, answers: Sequence[Heard], batch: Batch) -> None:
        requests = []
        for record in answers:
            held = _held(self._files, self._plain, self._wrapper, record.ask.options)
            keywords = record.ask.options.keywords(held)
            requests.append(Request(prompt=record.ask.prompt.tokens(), cancel=countdown(record.ask.cancel), **keywords))
        n_chunks = [0] * len(answers)
        steps = self._llm.stream_batch(
            requests, max_tokens=batch.max_tokens, logprobs=N_TOP, cancel=countdown(batch.cancel)
        )
        for answer, chunk in steps:
            record = answers[answer.index]
            if chunk is None:
                assert answer.error is not None
                if isinstance(answer.error, Cancelled):
                    assert record.ask.cancel is not None
                else:
                    _same_error(answer.error, self._expected(record.ask))
                continue
            record.add(chunk)
            n_chunks[answer.index] += 1
            if record.ask.chunks is not None and n_chunks[answer.index] >= record.ask.chunks:
                answer.close()

    def _compare(self, answer: Heard) -> None:
        """Assert that the chunks begin a fresh instance's answer, and are all of it if the answer has ended."""
        if not answer.tokens and answer.result is None:
            return
        expected = self._expected(answer.ask)
        assert isinstance(expected, GenerationResult), f"a fresh instance gives {expected!r}"
        self._compare_doubt(answer.doubt, expected.doubt)
        assert expected.logprobs is not None
        for i, token in enumerate(answer.tokens):
            assert i < len(expected.token_ids), f"{answer.tokens}, a fresh instance gives {expected.token_ids}"
            actual, other = answer.logprobs[i], expected.logprobs[i]
            values = ([logprob for _, _, logprob in entry.top] for entry in (actual, other))
            np.testing.assert_allclose(*values, rtol=0, atol=self._limit, err_msg=f"token {i}")
            if token != expected.token_ids[i]:
                self._check_tied(i, token, other, expected.doubt, answer.ask.options)
                return
        if answer.result is not None:
            assert answer.result.token_ids == expected.token_ids
            assert answer.result.finish_reason == expected.finish_reason

    def _compare_doubt(self, actual: float | None, expected: float | None) -> None:
        assert (actual is None) == (expected is None)
        if actual is not None and expected is not None:
            assert abs(actual - expected) <= self._limit, f"doubt {actual}, a fresh instance gives {expected}"

    def _check_tied(self, i: int, token: int, other: TokenLogprob, doubt: float | None, options: Options) -> None:
        """Check a token that differs: if two are almost equally likely, the last digits may decide between them."""
        threshold = 0.5 if options.doubt_threshold is None else options.doubt_threshold
        if i == 0 and doubt is not None and abs(doubt - threshold) <= self._limit:
            return
        logprobs = {token_id: logprob for token_id, _, logprob in other.top}
        gap = abs(logprobs.get(token, -np.inf) - other.logprob)
        assert gap <= 2 * self._limit, f"token {i} is {token}, a fresh instance gives {other}"


def tied_of(kind: str) -> tuple[bool, ...]:
    """Return whether a base of this kind can have a tied output matrix."""
    return (ARCHS | SMALL_ARCHS)[kind].tied
