"""MetaLlama with a tiny random base: state between calls, instances, threads, logging and imports."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metadeploy import Cancelled, Error, GenerationResult, MetaLlama, SidecarError
from metadeploy.errors import ModelLoadError, ModelMismatchError
from metadeploy.sidecar import write_sidecar
from support.program import TinyCase
from support.random_wrapper import random_wrapper
from tolerances import ONE_ROW_MAX_ABS

PROMPT = "What is the capital of France?"


# --- state -----------------------------------------------------------------------------------------------------------


def test_the_base_is_the_same_before_and_after_injection(llm: MetaLlama) -> None:
    ids = llm.tokenize(PROMPT)
    before = llm.logits(ids, inject=False)
    injected = llm.logits(ids)
    assert np.abs(injected - before).max() > 0.1
    np.testing.assert_array_equal(llm.logits(ids, inject=False), before)
    llm.generate("another prompt", max_tokens=20)
    np.testing.assert_array_equal(llm.logits(ids, inject=False), before)
    np.testing.assert_array_equal(llm.logits(ids, gain=0.0), before)
    np.testing.assert_array_equal(llm.logits(ids), injected)
    llm.detach()
    np.testing.assert_array_equal(llm.logits(ids), before)


def test_gain(llm: MetaLlama, tiny_case: TinyCase) -> None:
    base = llm.generate(PROMPT, max_tokens=20, inject=False)
    zero = llm.generate(PROMPT, max_tokens=20, gain=0.0)
    assert (zero.token_ids, zero.gain) == (base.token_ids, 0.0)
    ids = llm.tokenize(PROMPT)
    clean = llm.logits(ids, inject=False)
    half, one, minus = (np.abs(llm.logits(ids, gain=gain) - clean).max() for gain in (0.5, 1.0, -1.0))
    assert 0 < half < one
    assert minus > 0
    with tiny_case.load(gain=0.0) as other:
        assert other.generate(PROMPT, max_tokens=20).token_ids == base.token_ids
        assert (
            other.generate(PROMPT, max_tokens=20, gain=1.0).token_ids == llm.generate(PROMPT, max_tokens=20).token_ids
        )
    with pytest.raises(Error, match="gain"):
        llm.generate(PROMPT, gain=float("nan"))


def test_one_prompt_does_not_affect_the_next(llm: MetaLlama) -> None:
    prompts = ["one", "a longer second prompt", "x" * 100, "one"]
    first = [llm.generate(prompt, max_tokens=15).token_ids for prompt in prompts]
    again = [llm.generate(prompt, max_tokens=15).token_ids for prompt in reversed(prompts)]
    assert first == again[::-1]
    assert first[0] == first[3]


@pytest.mark.parametrize(("n_batch", "n_ubatch"), [(2048, 8), (16, 16), (16, 8), (1, 1), (7, 512)])
def test_batch_sizes_do_not_change_the_answer(n_batch: int, n_ubatch: int, llm: MetaLlama, tiny_case: TinyCase) -> None:
    prompts = ["a", "x" * 16, "a prompt that is longer than any of these batches, so that it comes in pieces " * 2]
    tolerance = ONE_ROW_MAX_ABS if n_ubatch == 1 else 0.0  # 0: the same bits
    with tiny_case.load(n_batch=n_batch, n_ubatch=n_ubatch) as other:
        for prompt in prompts:
            for inject in (True, False):
                expected = llm.generate(prompt, max_tokens=12, inject=inject, logprobs=0)
                result = other.generate(prompt, max_tokens=12, inject=inject, logprobs=0)
                assert result.token_ids == expected.token_ids
                np.testing.assert_allclose(_logprobs(result), _logprobs(expected), rtol=0, atol=tolerance)
            np.testing.assert_array_equal(other.activations(prompt), llm.activations(prompt))
        ids = llm.tokenize(prompts[2])
        np.testing.assert_allclose(other.logits(ids), llm.logits(ids), rtol=0, atol=tolerance)


def _logprobs(answer: GenerationResult) -> list[float]:
    assert answer.logprobs is not None
    return [token.logprob for token in answer.logprobs]


@pytest.mark.parametrize("prompt", ["x", PROMPT, "x" * 100])
def test_injection_from_the_last_prompt_token_on(prompt: str, llm: MetaLlama, tmp_path: Path) -> None:
    config, tensors = random_wrapper(
        "selective",
        hidden_dim=32,
        target_layers=(0, 2),
        cross_attn_layers=(0, 1, 2),
        inject_from="last_prompt_token",
    )
    late = tmp_path / "late.gguf"
    write_sidecar(late, config, {name: tensor.numpy() for name, tensor in tensors.items()})
    llm.attach(late)
    ids = llm.tokenize(prompt)
    clean, injected = llm.logits(ids, inject=False), llm.logits(ids)
    np.testing.assert_array_equal(injected[:-1], clean[:-1])  # the prompt without its last token stays clean
    assert np.abs(injected[-1] - clean[-1]).max() > 0.1
    first = llm.generate(prompt, max_tokens=10, logprobs=0)
    assert first.logprobs is not None
    assert first.token_ids[0] == injected[-1].argmax()
    expected = injected[-1].max() - np.log(np.exp(injected[-1].astype(np.float64)).sum())
    assert first.logprobs[0].logprob == pytest.approx(expected, abs=1e-4)
    llm.generate("another", max_tokens=10)
    assert llm.generate(prompt, max_tokens=10, logprobs=0).logprobs == first.logprobs
    np.testing.assert_array_equal(llm.logits(ids, inject=False), clean)


def test_the_sidecar_is_swapped_at_run_time(llm: MetaLlama, tiny_case: TinyCase, tmp_path: Path) -> None:
    config, tensors = random_wrapper(
        "multi_token", hidden_dim=32, target_layers=(2,), cross_attn_layers=(0,), num_layers=3, seed=5
    )
    other = tmp_path / "other.gguf"
    write_sidecar(other, config, {name: tensor.numpy() for name, tensor in tensors.items()})
    first = llm.generate(PROMPT, max_tokens=15).token_ids
    llm.attach(other)
    second = llm.generate(PROMPT, max_tokens=15).token_ids
    assert second != first
    assert (llm.target_layers, llm.cross_attn_layers) == ((2,), (0,))
    assert llm.cognitive_tokens(PROMPT).shape == (3, 32)
    llm.attach(tiny_case.sidecar)
    assert llm.generate(PROMPT, max_tokens=15).token_ids == first
    llm.attach(other)
    assert llm.generate(PROMPT, max_tokens=15).token_ids == second


def test_on_an_error_the_old_sidecar_stays(llm: MetaLlama, tiny_case: TinyCase, tmp_path: Path) -> None:
    expected = llm.generate(PROMPT, max_tokens=15).token_ids
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_case.sidecar.read_bytes()[:-100])
    for path, error in (
        (broken, SidecarError),
        (tiny_case.for_another_base, ModelMismatchError),
        (tmp_path / "absent.gguf", SidecarError),
        (tiny_case.base, SidecarError),
    ):
        with pytest.raises(error):
            llm.attach(path)
        assert llm.generate(PROMPT, max_tokens=15).token_ids == expected
    llm.detach()
    base = llm.generate(PROMPT, max_tokens=15).token_ids
    with pytest.raises(SidecarError):
        llm.attach(broken)
    assert llm.generate(PROMPT, max_tokens=15).token_ids == base


def test_a_sidecars_prompt_settings_apply(llm: MetaLlama, tmp_path: Path) -> None:
    config, tensors = random_wrapper("selective", hidden_dim=32, target_layers=(1,), cross_attn_layers=(1,))
    path = tmp_path / "told.gguf"
    settings = {"answer_suffix": " Be brief.", "refusal_text": "No idea at all, sorry."}
    write_sidecar(path, replace(config, **settings), {name: tensor.numpy() for name, tensor in tensors.items()})  # type: ignore[arg-type]
    llm.attach(path)
    assert llm.refusal_text == "No idea at all, sorry."
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert llm.apply_chat_template(messages) == "a Be brief.b"  # type: ignore[arg-type]
    assert llm.generate("a", max_tokens=1).timings.n_prompt == len("a Be brief.")
    assert llm.generate("a", max_tokens=1, raw=True).timings.n_prompt == 1
    llm.detach()
    assert llm.generate("a", max_tokens=1).timings.n_prompt == 1


# --- instances and threads -------------------------------------------------------------------------------------------


def test_two_instances(llm: MetaLlama, tiny_case: TinyCase) -> None:
    expected = llm.generate(PROMPT, max_tokens=15).token_ids
    base = llm.generate(PROMPT, max_tokens=15, inject=False).token_ids
    with tiny_case.load() as second, MetaLlama(tiny_case.base, n_threads=1) as bare:
        mine, theirs = llm.stream(PROMPT, max_tokens=15), second.stream(PROMPT, max_tokens=15)
        pairs = list(zip(mine, theirs, strict=True))  # in turns
        for chunk in pairs[-1]:
            assert chunk.result is not None
            assert chunk.result.token_ids == expected
        assert bare.generate(PROMPT, max_tokens=15).token_ids == base
    assert llm.generate(PROMPT, max_tokens=15).token_ids == expected  # those are closed, this one is open


def test_threads_on_one_instance_wait_for_one_another(llm: MetaLlama) -> None:
    prompts = [f"prompt number {n} " * (1 + n % 3) for n in range(8)]
    expected = {prompt: llm.generate(prompt, max_tokens=15).token_ids for prompt in prompts}
    answers: dict[str, tuple[int, ...]] = {}
    problems: list[BaseException] = []

    def ask(mine: list[str]) -> None:
        try:
            for prompt in mine:
                answers[prompt] = llm.generate(prompt, max_tokens=15).token_ids
                assert llm.tokenize(prompt)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=ask, args=(prompts[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert problems == []
    assert answers == expected


def test_a_second_call_while_a_stream_is_open(llm: MetaLlama) -> None:
    stream = llm.stream(PROMPT, max_tokens=5)
    next(stream)
    for call in (lambda: llm.generate("x"), lambda: llm.tokenize("x"), lambda: llm.n_ctx, lambda: llm.detach()):
        with pytest.raises(Error, match="busy with a stream of the same thread"):
            call()
    assert list(stream)[-1].result is not None
    assert llm.tokenize("x")
    # a stream that is dropped halfway also releases the instance
    stream = llm.stream(PROMPT, max_tokens=5)
    next(stream)
    del stream
    assert llm.tokenize("x")


def test_closing(tiny_case: TinyCase) -> None:
    llm = tiny_case.load()
    stream = llm.stream(PROMPT, max_tokens=5)
    next(stream)
    llm.close()
    llm.close()
    with pytest.raises(StopIteration):
        next(stream)
    for call in (
        lambda: llm.generate(PROMPT),
        lambda: llm.tokenize("x"),
        lambda: llm.activations(PROMPT),
        lambda: llm.attach(tiny_case.sidecar),
        lambda: llm.n_ctx,
    ):
        with pytest.raises(Error, match="the model is closed"):
            call()
    with tiny_case.load() as other:
        pass
    with pytest.raises(Error, match="the model is closed"):
        other.generate(PROMPT)


def test_canceling(llm: MetaLlama) -> None:
    calls = []

    def after_five() -> bool:
        calls.append(None)
        return len(calls) >= 5

    with pytest.raises(Cancelled):
        # at least one call of cancel for each of some hundred tokens
        llm.generate(PROMPT, max_tokens=200, cancel=after_five, temperature=3.0, seed=3)

    def fails() -> bool:
        raise LookupError("from the callback")

    with pytest.raises(LookupError, match="from the callback"):
        llm.generate(PROMPT, cancel=fails)
    assert llm.generate(PROMPT, max_tokens=3, cancel=lambda: False).timings.n_generated == 3


# --- logging and imports ---------------------------------------------------------------------------------------------


def test_silent_by_default(tiny_case: TinyCase, capfd: pytest.CaptureFixture[str]) -> None:
    with tiny_case.load() as llm:
        llm.generate(PROMPT, max_tokens=2)
    with pytest.raises(ModelLoadError):
        MetaLlama(tiny_case.sidecar)
    assert capfd.readouterr() == ("", "")


def test_messages_go_through_logging(tiny_case: TinyCase, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="metadeploy.llama_cpp"), tiny_case.load():
        pass
    records = [record for record in caplog.records if record.name == "metadeploy.llama_cpp"]
    assert any("llama" in record.getMessage() for record in records)
    assert all(record.levelno >= logging.INFO for record in records)
    caplog.clear()
    with caplog.at_level(logging.ERROR, logger="metadeploy.llama_cpp"), tiny_case.load():
        pass
    assert caplog.records == []


SCRIPT = """
import sys
from metadeploy import MetaLlama
with MetaLlama(sys.argv[1], sys.argv[2], n_threads=1, verbose={verbose}) as llm:
    print(llm.generate("hello", max_tokens=3).timings.n_generated)
print(sorted({{"torch", "transformers", "safetensors", "gguf"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_a_script_of_a_user(verbose: bool, tiny_case: TinyCase) -> None:
    """Running needs only NumPy, prints only the answer, and the interpreter exits cleanly."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(verbose=verbose), str(tiny_case.base), str(tiny_case.sidecar)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "3\n[]\n"), run.stderr
    assert bool(run.stderr) is verbose
