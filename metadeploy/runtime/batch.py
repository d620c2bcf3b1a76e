"""Many prompts at once: each in a sequence of its own, computed together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from numpy.typing import ArrayLike

from metadeploy import _core
from metadeploy._checks import check, check_all
from metadeploy.errors import Cancelled, Error
from metadeploy.runtime.options import CALL
from metadeploy.runtime.stream import Stream
from metadeploy.runtime.types import (
    CancelCallback,
    FinishReason,
    GenerationChunk,
    GenerationResult,
    Pass2Kind,
    Prompt,
    Timings,
    TokenLogprob,
)
from metadeploy.schedule import InjectionSchedule

__all__ = ["BatchAnswer", "BatchStep", "Request", "answers", "run", "stream_batch"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A prompt with options of its own; those that are None are the call's.

    Attributes:
        prompt: as in :meth:`MetaLlama.generate`.
        gain: strength of the injection.
        inject: False lets the base answer alone.
        schedule: how the injection changes while the answer grows.
        cognitive_tokens: in place of the prompt's own.
        doubt_threshold: decline where doubt reaches it.
        cancel: asked after each step, while the prompt is processed too; True ends this one alone, with
            :class:`Cancelled` as its error.
    """

    prompt: Prompt
    gain: float | None = None
    inject: bool | None = None
    schedule: InjectionSchedule | None = None
    cognitive_tokens: ArrayLike | None = None
    doubt_threshold: float | None = None
    cancel: CancelCallback | None = None


@dataclass(eq=False)
class BatchAnswer:
    """One of several answers that grow at once.

    Attributes:
        index: its place among the prompts, from 0 on.
        result: the answer; None until it is complete.
        error: what went wrong with this prompt; the others are not affected.
    """

    index: int
    result: GenerationResult | None = None
    error: Error | None = None
    _closed: bool = field(default=False, repr=False)
    _cancel: CancelCallback | None = field(default=None, repr=False)

    def close(self) -> None:
        """Nothing more of it is wanted: no chunk of it comes any more, and its place goes to the next prompt."""
        self._closed = True

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    @property
    def cancelled(self) -> bool:
        """Whether its own :attr:`Request.cancel` says so."""
        return self._cancel is not None and self._cancel()


#: Options that a request may have of its own.
_OF_A_REQUEST: Final = ("gain", "inject", "schedule", "cognitive_tokens", "doubt_threshold")

#: An answer that has grown, and by what; None where it has ended with an error.
BatchStep = tuple[BatchAnswer, "GenerationChunk | None"]


def stream_batch(
    prompts: Iterable[Prompt | Request],
    options: Mapping[str, Any],
    params_of: Callable[[Mapping[str, Any]], _core.GenerationParams],
    run: Callable[..., Stream[BatchStep]],
) -> Stream[BatchStep]:
    """Answer many prompts; see :meth:`MetaLlama.stream_batch`.

    Args:
        prompts: taken one by one.
        options: every option of the call.
        params_of: checks the options of one answer.
        run: answers requests while it holds the instance.
    """
    if isinstance(prompts, (str, bytes, bytearray, Mapping)):
        kind = "one text" if isinstance(prompts, str) else f"of type {type(prompts).__name__}"
        raise TypeError(f"prompts is {kind}, expected several prompts")
    check_all(CALL, {name: options[name] for name in CALL})

    def request_params(request: Request) -> _core.GenerationParams:
        check("cancel", request.cancel, CALL["cancel"])
        own = {name: getattr(request, name) for name in _OF_A_REQUEST}
        return params_of({**options, **{name: value for name, value in own.items() if value is not None}})

    request_params(Request(prompt=""))  # what is wrong for all is said at once
    each = (prompt if isinstance(prompt, Request) else Request(prompt=prompt) for prompt in prompts)
    coming = ((request, request_params(request)) for request in each)
    return run(coming, options["raw"], options["cancel"], ahead=isinstance(prompts, Sequence)).wanting(_is_wanted)


def answers(steps: Stream[BatchStep], order: Literal["input", "completion"]) -> Stream[BatchAnswer]:
    """Return the complete answers of a stream, in the order of their prompts or as they come."""
    complete = steps.through(_complete)
    return complete.through(_in_order) if order == "input" else complete


def _is_wanted(step: BatchStep) -> bool:
    return not step[0].closed


def _complete(steps: Iterator[BatchStep]) -> Generator[BatchAnswer]:
    return (answer for answer, chunk in steps if chunk is None or chunk.result is not None)


def _in_order(answers: Iterator[BatchAnswer]) -> Generator[BatchAnswer]:
    early: dict[int, BatchAnswer] = {}
    index = 0
    for answer in answers:
        early[answer.index] = answer
        while index in early:
            yield early.pop(index)
            index += 1


@dataclass
class _Open:
    answer: BatchAnswer
    params: _core.GenerationParams
    logprobs: list[TokenLogprob] = field(default_factory=list)


def run(
    engine: _core.Engine,
    requests: Iterable[tuple[BatchAnswer, list[int] | Error, _core.GenerationParams]],
    cancel: CancelCallback | None,
) -> Generator[BatchStep]:
    """Answer requests, as many at once as there are sequences.

    Args:
        engine: not used otherwise meanwhile.
        requests: tokens, or why there are none; taken one by one.
        cancel: ends all.
    """
    scheduler = _core.Scheduler(engine)
    running: dict[int, _Open] = {}
    coming = iter(requests)
    while True:
        while scheduler.n_free > 0 and (request := next(coming, None)) is not None:
            answer, tokens, params = request
            if isinstance(tokens, Error):
                answer.error = tokens
                yield answer, None
            else:
                running[scheduler.add(tokens, params)] = _Open(answer, params)
        if not running:
            return
        for key, text, token_ids, items, more, outcome in scheduler.step(cancel):
            each = running[key]
            if not each.answer.closed:
                yield each.answer, _chunk(engine, each, text, token_ids, items, more, outcome)
            if not more:
                del running[key]
        for key, each in list(running.items()):
            cancelled = not each.answer.closed and each.answer.cancelled
            if cancelled or each.answer.closed:
                scheduler.cancel(key)
                del running[key]
            if cancelled:
                each.answer.error = Cancelled("cancelled")
                yield each.answer, None


def _chunk(
    engine: _core.Engine,
    each: _Open,
    text: str,
    token_ids: list[int],
    items: Sequence[tuple[int, bytes, float, list[tuple[int, bytes, str, float]]]],
    more: bool,
    outcome: _core.Answer | Error,
) -> GenerationChunk | None:
    if isinstance(outcome, Error):
        each.answer.error = outcome
        return None
    found = tuple(_logprob(*item) for item in items)
    each.logprobs.extend(found)
    wanted = each.params.n_logprobs >= 0
    if not more:
        each.answer.result = _result(outcome, each, injects=each.params.inject and engine.sidecar is not None)
    return GenerationChunk(text, tuple(token_ids), found if wanted else None, outcome.doubt, each.answer.result)


def _logprob(token: int, raw: bytes, logprob: float, top: Sequence[tuple[int, bytes, str, float]]) -> TokenLogprob:
    return TokenLogprob(
        token_id=token,
        text=raw.decode("utf-8", "replace"),
        logprob=logprob,
        top=tuple((each, name, value) for each, _, name, value in top),
        raw=raw,
        top_raw=tuple(data for _, data, _, _ in top),
    )


def _result(answer: _core.Answer, each: _Open, *, injects: bool) -> GenerationResult:
    times = answer.timings
    return GenerationResult(
        text=answer.text,
        token_ids=tuple(answer.tokens),
        abstained=answer.abstained,
        doubt=answer.doubt,
        finish_reason=cast(FinishReason, answer.finish_reason),
        logprobs=tuple(each.logprobs) if each.params.n_logprobs >= 0 else None,
        timings=Timings(
            pass1_ms=times.pass1_ms,
            encode_ms=times.encode_ms,
            pass2_ms=times.pass2_ms,
            decode_ms=times.decode_ms,
            pass2=cast(Pass2Kind, times.pass2),
            hidden_bytes=times.hidden_bytes,
            n_prompt=times.n_prompt,
            n_reused=times.n_reused,
            n_generated=times.n_generated,
            n_refreshed=times.n_refreshed,
        ),
        gain=each.params.gain if injects else 0.0,
    )
