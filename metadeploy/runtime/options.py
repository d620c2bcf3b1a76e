"""What the options of MetaLlama and of an answer take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from metadeploy.checks import (
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

__all__ = ["CALL", "GENERATION", "LOADING", "given"]

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
    "type_k": text(),  # the core knows which there are
    "type_v": text(),
    "flash_attn": Rule("True, False or 'auto'", lambda value: isinstance(value, (bool, str))),
    "hidden_cache_mib": whole_number(0),
    "prefix_cache_mib": whole_number(0),
    "gain": any_number(),
    "refusal_text": visible_text().or_none(),
    "verbose": flag(),
}

#: Options of :meth:`MetaLlama.generate` and its like. The core checks the ranges of gain and repeat_penalty, and of
#: cognitive_tokens everything.
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

#: Those of calls rather than of answers.
CALL: Final[Mapping[str, Rule]] = {"raw": flag(), "cancel": function().or_none()}


def given(**options: Any) -> dict[str, Any]:
    """Options without those that are None: in OpenAI's API, null is the default."""
    return {name: value for name, value in options.items() if value is not None}
