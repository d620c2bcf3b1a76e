"""The options of MetaLlama and of its calls: names, types, defaults and rules, each written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypedDict, TypeVar, get_args

from numpy.typing import ArrayLike

from metadeploy import _core, _prompts
from metadeploy._checks import (
    Rule,
    any_number,
    any_whole_number,
    check_all,
    flag,
    function,
    instance,
    number,
    path,
    text,
    texts,
    visible_text,
    whole_number,
)
from metadeploy.runtime.types import CancelCallback
from metadeploy.schedule import STATIC, InjectionSchedule

__all__ = [
    "CALL",
    "CHAT_DEFAULTS",
    "COMPLETION_DEFAULTS",
    "DEFAULTS",
    "GENERATION",
    "LOADING",
    "AnswerOptions",
    "ChatCompletionOptions",
    "CompletionOptions",
    "GenerationOptions",
    "accepts",
    "complete",
    "engine_options",
    "generation_params",
]

#: llama.cpp chooses a random seed for this value.
_RANDOM_SEED: Final = 0xFFFFFFFF

#: What happens to answers that are too doubtful.
OnDoubt: TypeAlias = Literal["withhold", "flag"]

_F = TypeVar("_F", bound=Callable[..., Any])


class AnswerOptions(TypedDict, total=False):
    """Options of one answer.

    Attributes:
        max_tokens: maximum number of tokens of the answer; None means no limit except the context.
        temperature: sampling temperature. 0 always takes the most likely token (greedy), like any value below 1e-6.
        top_k: sample among the k most likely tokens; 0 or -1 for all.
        top_p: sample among the most likely tokens that together have this probability, 0 to 1.
        min_p: exclude tokens whose probability is below this proportion of the most likely token's, 0 to 1.
        repeat_penalty: above 1, tokens of the last 64 become less likely; 0.001 to 1000.
        seed: the seed of the sampling, taken modulo 2^32 - 1; None uses a random seed.
        stop: strings that end the answer and are not part of it.
        gain: strength of the injection; None uses the instance's.
        inject: False lets the base answer alone.
        schedule: how the injection changes while the answer grows. A refresh needs a second sequence (``n_parallel``)
            for the clean context.
        cognitive_tokens: [n_cog, n_embd] from :meth:`MetaLlama.encode`, injected instead of the prompt's own for the
            whole answer.
        doubt_threshold: the doubt from which on the model declines, from 0 (always) to 1 (never); 0.5 is the calibrated
            threshold. It has no effect at gain 0, which is the base exactly.
        max_error: keep the answers of which at most this proportion is wrong, by a guarantee of the sidecar's verdict
            head (`metadeploy inspect` shows them). The base then answers alone, without the injection, because the head
            judges the base's own answers.
        max_p_wrong: keep the answers whose verdict is at most this probability of being wrong; without a guarantee.
        on_doubt: what happens to the other answers: ``withhold`` replaces them by the refusal, and a stream holds back
            the text until the verdict is there; ``flag`` keeps them, and the verdict marks them.
        logprobs: also return log-probabilities: those of the answer's tokens and of this many most likely tokens.
    """

    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    seed: int | None
    stop: str | Sequence[str] | None
    gain: float | None
    inject: bool
    schedule: InjectionSchedule
    cognitive_tokens: ArrayLike | None
    doubt_threshold: float
    max_error: float | None
    max_p_wrong: float | None
    on_doubt: OnDoubt
    logprobs: int | None


class GenerationOptions(AnswerOptions, total=False):
    """Options of :meth:`MetaLlama.generate` and similar calls: those of one answer, and of the whole call.

    Attributes:
        raw: use a text as the prompt without chat template and answer suffix.
        cancel: called often, also while the prompt is evaluated; True ends the call.
    """

    raw: bool
    cancel: CancelCallback | None


class _OpenAIOptions(TypedDict, total=False):
    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repeat_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    gain: float | None
    inject: bool | None
    schedule: InjectionSchedule | None
    cognitive_tokens: ArrayLike | None
    doubt_threshold: float | None
    max_error: float | None
    max_p_wrong: float | None
    on_doubt: OnDoubt | None
    model: str | None


class ChatCompletionOptions(_OpenAIOptions, total=False):
    """Options of :meth:`MetaLlama.create_chat_completion`; None means the default.

    All but these are those of :class:`AnswerOptions`.

    Attributes:
        logprobs: also return log-probabilities and the bytes of each token, which may be only part of a character.
        top_logprobs: number of most likely tokens to return; only with ``logprobs``.
        model: value of the ``model`` field; None uses the name of the file.
    """

    logprobs: bool | None
    top_logprobs: int | None


class CompletionOptions(_OpenAIOptions, total=False):
    """Options of :meth:`MetaLlama.create_completion`; None means the default, except for ``max_tokens``.

    All but these are those of :class:`AnswerOptions`.

    Attributes:
        logprobs: also return log-probabilities: those of the answer's tokens and of this many most likely tokens.
        echo: begin the text with the prompt.
        model: value of the ``model`` field; None uses the name of the file.
    """

    logprobs: int | None
    echo: bool | None


_ANSWER_DEFAULTS: Final[Mapping[str, Any]] = {
    "max_tokens": 512,
    "temperature": 0.0,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "repeat_penalty": 1.0,
    "seed": None,
    "stop": None,
    "gain": None,
    "inject": True,
    "schedule": STATIC,
    "cognitive_tokens": None,
    "doubt_threshold": 0.5,
    "max_error": None,
    "max_p_wrong": None,
    "on_doubt": "withhold",
    "logprobs": None,
}
#: Defaults of `GenerationOptions`.
DEFAULTS: Final[Mapping[str, Any]] = {**_ANSWER_DEFAULTS, "raw": False, "cancel": None}
#: Defaults of `ChatCompletionOptions`.
CHAT_DEFAULTS: Final[Mapping[str, Any]] = {
    **_ANSWER_DEFAULTS,
    "max_tokens": None,
    "logprobs": False,
    "top_logprobs": None,
    "model": None,
}
#: Defaults of `CompletionOptions`.
COMPLETION_DEFAULTS: Final[Mapping[str, Any]] = {**_ANSWER_DEFAULTS, "max_tokens": 16, "echo": False, "model": None}

#: Options of :class:`MetaLlama`.
LOADING: Final[Mapping[str, Rule]] = {
    "model": path(),
    "sidecar": path().or_none(),
    "n_ctx": whole_number(0),
    "n_parallel": whole_number(1),
    "n_batch": whole_number(1),
    "n_ubatch": whole_number(1),
    "n_threads": whole_number(1).or_none(),
    "n_threads_batch": whole_number(1).or_none(),
    "n_gpu_layers": whole_number(-1),
    "type_k": text(),  # the core checks the name
    "type_v": text(),
    "flash_attn": Rule("True, False or 'auto'", lambda value: isinstance(value, (bool, str))),
    "hidden_cache_mib": whole_number(0),
    "prefix_cache_mib": whole_number(0),
    "gain": any_number(),
    "refusal_text": visible_text().or_none(),
    "verbose": flag(),
}

#: Options of :meth:`MetaLlama.generate` and similar calls. The core checks the ranges of gain and repeat_penalty, and
#: checks cognitive_tokens completely.
GENERATION: Final[Mapping[str, Rule]] = {
    "max_tokens": whole_number(0).or_none(),
    "temperature": number(0, 1e6),
    "top_k": whole_number(-1),
    "top_p": number(0, 1),
    "min_p": number(0, 1),
    "repeat_penalty": any_number(),
    "seed": any_whole_number().or_none(),
    "stop": texts().or_none(),
    "gain": any_number().or_none(),
    "inject": flag(),
    "schedule": instance(InjectionSchedule),
    "doubt_threshold": number(0, 1),
    "max_error": number(0, 1).or_none(),
    "max_p_wrong": number(0, 1).or_none(),
    "on_doubt": Rule("'withhold' or 'flag'", lambda value: value in get_args(OnDoubt)),
    "logprobs": whole_number(0).or_none(),
}

#: Options of a whole call, not of one answer.
CALL: Final[Mapping[str, Rule]] = {"raw": flag(), "cancel": function().or_none()}


def engine_options(values: Mapping[str, Any]) -> _core.EngineOptions:
    """Convert the checked options of `LOADING` to the core's type.

    Args:
        values: all options by name; ``chat_template`` is a text, empty for the model's own.
    """
    options = _core.EngineOptions()
    for name in (
        "model", "chat_template", "n_ctx", "n_parallel", "n_batch", "n_ubatch", "n_gpu_layers", "type_k", "type_v",
        "hidden_cache_mib", "prefix_cache_mib",
    ):  # fmt: skip
        setattr(options, name, values[name])
    for name in ("n_threads", "n_threads_batch"):
        setattr(options, name, -1 if values[name] is None else values[name])
    flash_attn = values["flash_attn"]
    options.flash_attn = flash_attn if isinstance(flash_attn, str) else ("on" if flash_attn else "off")
    return options


def generation_params(options: Mapping[str, Any], *, default_gain: float) -> _core.GenerationParams:
    """Check the options of one answer and convert them to the core's type.

    Args:
        options: all options by name; those of `CALL` are ignored.
        default_gain: the gain if the options have none.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of range.
    """
    stop = options["stop"]
    values = check_all(GENERATION, {**options, "stop": None if stop == "" else stop})
    params = _core.GenerationParams()
    for name in (
        "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "inject", "doubt_threshold", "max_error",
        "max_p_wrong",
    ):  # fmt: skip
        setattr(params, name, values[name])
    params.withhold = values["on_doubt"] == "withhold"
    params.max_tokens = -1 if values["max_tokens"] is None else values["max_tokens"]
    params.seed = _RANDOM_SEED if values["seed"] is None else values["seed"] % _RANDOM_SEED
    params.stop = values["stop"] or []
    params.gain = default_gain if values["gain"] is None else values["gain"]
    schedule: InjectionSchedule = values["schedule"]
    params.decay = None if schedule.decay is None else (schedule.decay.floor, schedule.decay.tau)
    params.window = schedule.window
    if (refresh := schedule.refresh) is not None:
        params.refresh = (refresh.threshold, refresh.min_interval, refresh.max_interval)
    tokens = options["cognitive_tokens"]
    params.cognitive_tokens = None if tokens is None else _prompts.floats("cognitive_tokens", tokens)
    params.n_logprobs = -1 if values["logprobs"] is None else values["logprobs"]
    return params


def complete(call: str, defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults to the options of a call.

    Args:
        call: name of the method, for the message.
        defaults: default values of all options.
        options: the options that the caller has set.

    Raises:
        TypeError: there is no such option.
    """
    for name in options:
        if name not in defaults:
            raise TypeError(f"MetaLlama.{call}() got an unexpected keyword argument '{name}'")
    return {**defaults, **options}


def accepts(defaults: Mapping[str, Any]) -> Callable[[_F], _F]:
    """Decorate a method that takes ``**options``, so that its signature lists every option with its default."""

    def decorated(method: _F) -> _F:
        signature = inspect.signature(method)
        parameters = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in defaults.items()
        ]
        method.__signature__ = signature.replace(parameters=[*parameters, *options])  # type: ignore[attr-defined]
        return method

    return decorated
