"""MetaLlama with SmolLM2-135M and the trained Doubter: tests that need a slow model, or one that knows facts."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from metadeploy import Cancelled, MetaLlama
from support.other_batches import N_TOP, ROWS_MATTER, check_answer
from support.parity import nmse
from support.program import REFUSAL
from tolerances import FLASH_ATTN_NMSE, QUANT_SPLIT_NMSE

QUESTION = "What is the atomic number of xenon?"  # which the Doubter declines
#: Seconds of work for one thread.
LONG_PROMPT = "A long story about a small town by the sea. " * 300
#: The base continues this prompt endlessly.
COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,"


@pytest.fixture(scope="module")
def shared(base_gguf: Path, trained_sidecar: Path) -> Iterator[MetaLlama]:
    with MetaLlama(base_gguf, trained_sidecar, n_threads=1) as llm:
        yield llm


@pytest.fixture
def llm(shared: MetaLlama, trained_sidecar: Path) -> Iterator[MetaLlama]:
    yield shared
    assert shared.generate(QUESTION).text == REFUSAL, "the test left the instance unusable"


def test_it_declines(llm: MetaLlama) -> None:
    result = llm.generate(QUESTION)
    assert (result.text, result.abstained, result.finish_reason) == (REFUSAL, True, "stop")
    assert llm.refusal_text == REFUSAL
    base = llm.generate(QUESTION, inject=False, max_tokens=12)
    assert base.abstained is False
    assert base.text not in ("", REFUSAL)
    # a refusal that is cut off inside the sentence still counts
    assert llm.generate(QUESTION, max_tokens=5).abstained is True
    known = llm.generate("The capital of France is", raw=True, max_tokens=4)
    assert (known.text.split()[0].strip("."), known.abstained) == ("Paris", False)


def test_chat_completion(llm: MetaLlama) -> None:
    completion = llm.create_chat_completion([{"role": "user", "content": QUESTION}], logprobs=True)
    choice = completion["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": REFUSAL}
    assert (choice["abstained"], choice["finish_reason"]) == (True, "stop")
    assert len(choice["logprobs"]["content"]) == completion["usage"]["completion_tokens"]
    chunks = list(llm.create_chat_completion([{"role": "user", "content": QUESTION}], stream=True))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == REFUSAL


def test_completion_is_raw(llm: MetaLlama) -> None:
    completion = llm.create_completion("The capital of France is", inject=False, max_tokens=6)
    assert "Paris" in completion["choices"][0]["text"]
    assert completion["usage"]["prompt_tokens"] == 5
    assert llm("The capital of France is", inject=False, max_tokens=6)["choices"] == completion["choices"]


def test_unicode(llm: MetaLlama) -> None:
    text = "Größe, 首都, 😀 naïve\n"
    assert llm.detokenize(llm.tokenize(text)) == text
    chunks = list(llm.stream("Repeat: 😀 首都 😀 首都 😀 首都 😀", raw=True, inject=False, max_tokens=24))
    assert chunks[-1].result is not None
    assert "".join(chunk.text for chunk in chunks) == chunks[-1].result.text
    # a character of several tokens appears as a whole
    assert not any("\ufffd" in chunk.text for chunk in chunks[:-1])


def test_the_base_is_the_same_before_and_after_injection(llm: MetaLlama) -> None:
    ids = llm.tokenize(QUESTION)
    before = llm.logits(ids, inject=False)
    llm.generate(QUESTION, max_tokens=4)
    np.testing.assert_array_equal(llm.logits(ids, inject=False), before)
    np.testing.assert_array_equal(llm.logits(ids, gain=0.0), before)
    assert np.abs(llm.logits(ids) - before).max() > 1.0


QUESTIONS = (QUESTION, "What is the plural of mouse?", "Who wrote Hamlet? " * 20)


@pytest.mark.parametrize(("n_batch", "n_ubatch"), [(2048, 8), (16, 16)])
def test_batch_sizes_do_not_change_the_answer(
    n_batch: int, n_ubatch: int, base_gguf: Path, trained_sidecar: Path
) -> None:
    """Answers are bit-identical without AMX. With AMX, they differ by no more than its tiles and other kernels do."""
    sizes = {"n_batch": n_batch, "n_ubatch": n_ubatch}
    with (
        MetaLlama(base_gguf, trained_sidecar, n_threads=1, flash_attn=False) as llm,
        MetaLlama(base_gguf, trained_sidecar, n_threads=1, flash_attn=False, **sizes) as other,
    ):
        for question in QUESTIONS:
            error = nmse(other.activations(question), llm.activations(question))
            assert error < QUANT_SPLIT_NMSE if ROWS_MATTER else error == 0
            for inject in (True, False):
                expected = llm.generate(question, max_tokens=12, inject=inject, logprobs=N_TOP)
                result = other.generate(question, max_tokens=12, inject=inject, logprobs=N_TOP)
                check_answer(result, expected)


def test_batch_sizes_with_flash_attention(llm: MetaLlama, base_gguf: Path, trained_sidecar: Path) -> None:
    """For a few tokens it sums in another order and type than for many. The decision stays the same."""
    with MetaLlama(base_gguf, trained_sidecar, n_threads=1, n_ubatch=8) as other:
        for question in QUESTIONS:
            assert nmse(other.activations(question), llm.activations(question)) < FLASH_ATTN_NMSE
            answers = [instance.generate(question, max_tokens=12) for instance in (llm, other)]
            assert answers[0].abstained == answers[1].abstained


def test_other_threads_run_meanwhile(llm: MetaLlama) -> None:
    """A thread that keeps asking for the GIL gets it while the model computes."""
    stop = threading.Event()
    gaps: list[float] = []

    def tick() -> None:
        last = time.perf_counter()
        while not stop.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=tick)
    thread.start()
    started = time.perf_counter()
    try:
        llm.generate(LONG_PROMPT[:1500], max_tokens=2)
    finally:
        stop.set()
        thread.join()
    elapsed = time.perf_counter() - started
    # if the GIL were held for the whole prompt, one gap would be that long
    assert max(gaps) < elapsed / 3
    assert len(gaps) > 20


def raised_soon(call: Callable[[], object], error: type[BaseException], *, within: float = 5.0) -> None:
    started = time.perf_counter()
    with pytest.raises(error):
        call()
    assert time.perf_counter() - started < within, "the call was not interrupted"


def test_canceling_during_a_long_prompt(llm: MetaLlama) -> None:
    started = time.perf_counter()
    raised_soon(lambda: llm.generate(LONG_PROMPT, cancel=lambda: time.perf_counter() - started > 0.3), Cancelled)


def test_canceling_during_the_answer(llm: MetaLlama) -> None:
    started = time.perf_counter()
    raised_soon(
        lambda: llm.generate(
            COUNTING, raw=True, inject=False, max_tokens=None, cancel=lambda: time.perf_counter() - started > 1.0
        ),
        Cancelled,
    )


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize(("what", "delay"), [("prompt", 0.3), ("answer", 1.0), ("activations", 0.3), ("logits", 0.3)])
def test_ctrl_c(what: str, delay: float, llm: MetaLlama) -> None:
    ids = llm.tokenize(LONG_PROMPT)
    calls: dict[str, Callable[[], object]] = {
        "prompt": lambda: llm.generate(LONG_PROMPT),
        "answer": lambda: llm.generate(COUNTING, raw=True, inject=False, max_tokens=None),
        "activations": lambda: llm.activations(LONG_PROMPT),
        "logits": lambda: llm.logits(ids[:1500]),
    }
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        raised_soon(calls[what], KeyboardInterrupt)
    finally:
        timer.cancel()


def test_close_ends_another_threads_stream(base_gguf: Path, trained_sidecar: Path) -> None:
    llm = MetaLlama(base_gguf, trained_sidecar, n_threads=1)
    begun, tokens = threading.Event(), []

    def read() -> None:
        for chunk in llm.stream("Tell me a long story.", inject=False, max_tokens=40):
            tokens.extend(chunk.token_ids)
            begun.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(timeout=60)
    llm.close()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert 0 < len(tokens) <= 40
