"""The rules for options of MetaLlama and of its calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from metadeploy import _core
from metadeploy._checks import (
    Rule,
    any_number,
    any_whole_number,
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
from metadeploy.schedule import InjectionSchedule

__all__ = ["CALL", "GENERATION", "LOADING", "engine_options", "given"]

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
    "logprobs": whole_number(0).or_none(),
}

#: Options of a whole call, not of one answer.
CALL: Final[Mapping[str, Rule]] = {"raw": flag(), "cancel": function().or_none()}


def engine_options(values: Mapping[str, Any]) -> _core.EngineOptions:
    """The options of `LOADING`, checked, as the core takes them.

    Args:
        values: each option by name; ``chat_template`` is a text, empty for the model's own.
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


def given(**options: Any) -> dict[str, Any]:
    """Return the options that are not None: in OpenAI's API, null means the default."""
    return {name: value for name, value in options.items() if value is not None}
