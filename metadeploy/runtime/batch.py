"""Answer many prompts at once, each in its own sequence."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

from numpy.typing import ArrayLike

from metadeploy import _core
from metadeploy._checks import check, check_all
from metadeploy.errors import Cancelled, Error
from metadeploy.runtime.options import CALL
from metadeploy.runtime.stream import Stream
from metadeploy.runtime.types import (
    AnswerFeatures,
    CancelCallback,
    FinishReason,
    GenerationChunk,
    GenerationResult,
    Pass2Kind,
    Prompt,
    SentenceFeatures,
    SentenceVerdict,
    Timings,
    TokenLogprob,
    Verdict,
)
from metadeploy.schedule import InjectionSchedule

__all__ = ["BatchAnswer", "BatchStep", "Request", "answers", "run", "stream_batch"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A prompt with its own options. An option that is None has the value of the call.

    Attributes:
        prompt: as in :meth:`MetaLlama.generate`.
        gain: strength of the injection.
        inject: False lets the base answer alone.
        schedule: how the injection changes while the answer grows.
        cognitive_tokens: cognitive tokens to inject instead of the prompt's own.
        doubt_threshold: the doubt from which on the model declines.
        cancel: called after each step, also while the prompt is evaluated. True ends this answer only, with
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
        index: index of its prompt.
        result: the answer; None until it is complete.
        error: the error of this prompt; the others continue.
    """

    index: int
    result: GenerationResult | None = None
    error: Error | None = None
    _closed: bool = field(default=False, repr=False)
    _cancel: CancelCallback | None = field(default=None, repr=False)

    def close(self) -> None:
        """End this answer: it gets no more chunks, and its sequence becomes free for the next prompt."""
        self._closed = True

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    @property
    def cancelled(self) -> bool:
        """Whether its :attr:`Request.cancel` returns True."""
        return self._cancel is not None and self._cancel()


#: Options that a request can have.
_REQUEST_OPTIONS: Final = ("gain", "inject", "schedule", "cognitive_tokens", "doubt_threshold")

#: An answer and its next chunk, or None if it has ended with an error.
BatchStep = tuple[BatchAnswer, "GenerationChunk | None"]


def stream_batch(
    prompts: Iterable[Prompt | Request],
    options: Mapping[str, Any],
    params_of: Callable[[Mapping[str, Any]], _core.GenerationParams],
    run: Callable[..., Stream[BatchStep]],
) -> Stream[BatchStep]:
    """Answer many prompts; see :meth:`MetaLlama.stream_batch`.

    Args:
        prompts: the prompts, which are taken one by one.
        options: all options of the call.
        params_of: checks and converts the options of one answer.
        run: answers requests while it holds the instance.
    """
    if isinstance(prompts, (str, bytes, bytearray, Mapping)):
        kind = "one text" if isinstance(prompts, str) else f"of type {type(prompts).__name__}"
        raise TypeError(f"prompts is {kind}, expected several prompts")
    check_all(CALL, {name: options[name] for name in CALL})

    def request_params(request: Request) -> _core.GenerationParams:
        check("cancel", request.cancel, CALL["cancel"])
        own = {name: getattr(request, name) for name in _REQUEST_OPTIONS}
        return params_of({**options, **{name: value for name, value in own.items() if value is not None}})

    request_params(Request(prompt=""))  # an invalid option of the call raises now, not at the first prompt
    requests = (prompt if isinstance(prompt, Request) else Request(prompt=prompt) for prompt in prompts)
    checked = ((request, request_params(request)) for request in requests)
    steps = run(checked, options["raw"], options["cancel"], ahead=isinstance(prompts, Sequence))
    return steps.filtered(_is_open)


def answers(steps: Stream[BatchStep], order: Literal["input", "completion"]) -> Stream[BatchAnswer]:
    """Return the complete answers of a stream, in the order of their prompts or as they come."""
    complete = steps.through(_complete)
    return complete.through(_in_order) if order == "input" else complete


def _is_open(step: BatchStep) -> bool:
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
class _OpenAnswer:
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
        engine: the engine; nothing else may use it meanwhile.
        requests: answers with their tokens, or the error of the prompt; they are taken one by one.
        cancel: ends all answers.
    """
    scheduler = _core.Scheduler(engine)
    running: dict[int, _OpenAnswer] = {}
    pending = iter(requests)
    while True:
        while scheduler.n_free > 0 and (request := next(pending, None)) is not None:
            answer, tokens, params = request
            if isinstance(tokens, Error):
                answer.error = tokens
                yield answer, None
            else:
                running[scheduler.add(tokens, params)] = _OpenAnswer(answer, params)
        if not running:
            return
        for key, text, token_ids, items, more, outcome in scheduler.step(cancel):
            open_answer = running[key]
            if not open_answer.answer.closed:
                yield open_answer.answer, _chunk(engine, open_answer, text, token_ids, items, more, outcome)
            if not more:
                del running[key]
        for key, open_answer in list(running.items()):
            cancelled = not open_answer.answer.closed and open_answer.answer.cancelled
            if cancelled or open_answer.answer.closed:
                scheduler.cancel(key)
                del running[key]
            if cancelled:
                open_answer.answer.error = Cancelled("cancelled")
                yield open_answer.answer, None


def _chunk(
    engine: _core.Engine,
    open_answer: _OpenAnswer,
    text: str,
    token_ids: list[int],
    items: Sequence[tuple[int, bytes, float, list[tuple[int, bytes, str, float]]]],
    more: bool,
    outcome: _core.Answer | Error,
) -> GenerationChunk | None:
    if isinstance(outcome, Error):
        open_answer.answer.error = outcome
        return None
    logprobs = tuple(_logprob(*item) for item in items)
    open_answer.logprobs.extend(logprobs)
    has_logprobs = open_answer.params.n_logprobs >= 0
    if not more:
        params = open_answer.params
        is_judged = params.max_error is not None or params.max_p_wrong is not None
        injects = params.inject and not is_judged and engine.sidecar is not None
        open_answer.answer.result = replace(
            _result(outcome, open_answer, injects=injects),
            verdict=_verdict(outcome),
            withheld=outcome.withheld,
            features=_features(outcome, engine.n_embd),
        )
    result = open_answer.answer.result
    p_wrong = outcome.p_wrong
    if p_wrong is not None and outcome.abstained and outcome.withheld is None:
        p_wrong = None  # a refusal is neither right nor wrong
    return GenerationChunk(text, tuple(token_ids), logprobs if has_logprobs else None, outcome.doubt, result, p_wrong)


def _logprob(token: int, raw: bytes, logprob: float, top: Sequence[tuple[int, bytes, str, float]]) -> TokenLogprob:
    return TokenLogprob(
        token_id=token,
        text=raw.decode("utf-8", "replace"),
        logprob=logprob,
        top=tuple((top_id, name, value) for top_id, _, name, value in top),
        raw=raw,
        top_raw=tuple(data for _, data, _, _ in top),
    )


def _verdict(answer: _core.Answer) -> Verdict | None:
    verdicts = answer.verdicts
    if verdicts is None or (answer.abstained and answer.withheld is None):
        return None
    return Verdict(answer.p_wrong, tuple(SentenceVerdict(*verdict) for verdict in verdicts), answer.too_doubtful)


def _features(answer: _core.Answer, n_embd: int) -> AnswerFeatures | None:
    features = answer.features(n_embd)
    if features is None:
        return None
    prompt, rows = features
    *sentences, whole = (SentenceFeatures(*row) for row in rows)
    return AnswerFeatures(prompt if len(prompt) else None, tuple(sentences), whole)


def _result(answer: _core.Answer, open_answer: _OpenAnswer, *, injects: bool) -> GenerationResult:
    times = answer.timings
    return GenerationResult(
        text=answer.text,
        token_ids=tuple(answer.tokens),
        abstained=answer.abstained,
        doubt=answer.doubt,
        finish_reason=cast(FinishReason, answer.finish_reason),
        logprobs=tuple(open_answer.logprobs) if open_answer.params.n_logprobs >= 0 else None,
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
        gain=open_answer.params.gain if injects else 0.0,
    )
