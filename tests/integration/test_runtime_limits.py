"""An integer that does not fit the core's type raises a ValueError that names the option. It never wraps around."""

from __future__ import annotations

from pathlib import Path

import pytest

from metadeploy import Error, InjectionSchedule, MetaLlama, Refresh, _core
from support.program import TinyCase

PROMPT = "What is the capital of France?"
BEYOND = (2**31, 2**32, 2**63, 2**64, 10**30)


@pytest.mark.parametrize("value", [*BEYOND, -(2**31) - 1, -(2**63) - 1])
@pytest.mark.parametrize(
    "name",
    ["n_ctx", "n_parallel", "n_batch", "n_ubatch", "n_threads", "n_threads_batch", "n_gpu_layers", "hidden_cache_mib"],
)
def test_options_of_a_model(name: str, value: int, tiny_case: TinyCase) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value}, expected "):
        MetaLlama(tiny_case.base, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"n_threads": 513}, "n_threads is 513, expected -1 to 512"),
        ({"n_parallel": 257}, "n_parallel is 257, expected 1 to 256"),
        ({"n_ctx": 2**31 - 1}, "a context of 2147483647 tokens for each of 1 sequences is too large"),
        ({"n_ctx": 2**24, "n_parallel": 128}, "a context of 16777216 tokens for each of 128 sequences is too large"),
        ({"n_ctx": 2**23 + 1, "n_parallel": 256}, "a context of 8388609 tokens for each of 256 sequences is too large"),
    ],
)
def test_options_of_a_model_that_are_too_large(options: dict[str, int], expected: str, tiny_case: TinyCase) -> None:
    for kind in (ValueError, Error):
        with pytest.raises(kind, match=expected):
            MetaLlama(tiny_case.base, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", BEYOND)
def test_options_of_an_answer(value: int, llm: MetaLlama) -> None:
    for name in ("max_tokens", "top_k"):
        with pytest.raises(ValueError, match=rf"{name} is {value}, expected at most 2147483647"):
            llm.generate(PROMPT, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"logprobs is {value}, expected at most 2147483647"):
        llm.generate(PROMPT, max_tokens=1, logprobs=value)
    with pytest.raises(ValueError, match=rf"window is {value}, expected at most 2147483647"):
        llm.generate(PROMPT, schedule=InjectionSchedule(window=value))
    with pytest.raises(ValueError, match=rf"max_interval is {value}, expected at most 2147483647"):
        llm.generate(PROMPT, schedule=InjectionSchedule(refresh=Refresh(max_interval=value)))
    for call in (
        lambda: llm.generate([1, value], max_tokens=1),
        lambda: llm.detokenize([value]),
        lambda: llm.logits([value]),
        lambda: llm.activations([value]),
        lambda: llm.layer_outputs([1], [value]),
    ):
        with pytest.raises(
            (Error, ValueError),
            match=rf"token {value} is not in the vocabulary|layer is {value}, expected at most 2147483647",
        ):
            call()
    assert llm.generate(PROMPT, max_tokens=1, seed=value).timings.n_generated == 1  # seeds may have any size


@pytest.mark.parametrize("value", [513, 2**31, -1, 10**30])
def test_numbers_of_threads_of_other_work(value: int, tiny_case: TinyCase, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"n_threads is {value}, expected 0 to 512"):
        _core.quantize(str(tiny_case.base), str(tmp_path / "out.gguf"), "Q8_0", value)
    assert list(tmp_path.iterdir()) == []
