"""MetaLlama.generate_batch and stream_batch with a tiny random base: order, options, errors, and ends of answers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from metadeploy import BatchAnswer, Cancelled, ContextOverflowError, Error, GenerationResult, MetaLlama, Request
from support.program import TinyCase

PROMPTS = ["one", "a longer second prompt, " * 4, "What is the capital of France?", "x", "The fifth, and the last"]


@pytest.fixture(scope="module")
def shared_many(tiny_case: TinyCase) -> Iterator[MetaLlama]:
    with tiny_case.load(n_parallel=3) as llm:
        yield llm


@pytest.fixture
def many(shared_many: MetaLlama, tiny_case: TinyCase) -> Iterator[MetaLlama]:
    """The tiny base with room for three prompts."""
    yield shared_many
    shared_many.attach(tiny_case.sidecar)


def result_of(answer: BatchAnswer) -> GenerationResult:
    assert answer.error is None
    assert answer.result is not None
    return answer.result


def test_answers_match_one_at_a_time(many: MetaLlama, llm: MetaLlama) -> None:
    options = {"max_tokens": 20, "logprobs": 2, "stop": ["e"], "repeat_penalty": 1.3, "doubt_threshold": 0.7}
    answers = list(many.generate_batch(PROMPTS, **options))  # type: ignore[arg-type]
    assert [answer.index for answer in answers] == list(range(len(PROMPTS)))
    for answer, prompt in zip(answers, PROMPTS, strict=True):
        result, expected = result_of(answer), llm.generate(prompt, **options)  # type: ignore[arg-type]
        assert (result.text, result.token_ids, result.abstained, result.finish_reason) == (
            expected.text,
            expected.token_ids,
            expected.abstained,
            expected.finish_reason,
        )
        assert result.logprobs is not None
        assert expected.logprobs is not None
        assert [[token for token, _, _ in item.top] for item in result.logprobs] == [
            [token for token, _, _ in item.top] for item in expected.logprobs
        ]


def test_one_sequence_answers_one_after_the_other(llm: MetaLlama) -> None:
    assert llm.n_parallel == 1
    answers = list(llm.generate_batch(PROMPTS, max_tokens=6, order="completion"))
    assert [answer.index for answer in answers] == list(range(len(PROMPTS)))
    for answer, prompt in zip(answers, PROMPTS, strict=True):
        assert result_of(answer).token_ids == llm.generate(prompt, max_tokens=6).token_ids


def test_in_order_of_completion(tiny_case: TinyCase) -> None:
    """The first prompt needs 26 micro-batches. The others, one of which fails, end before it does."""
    prompts = ["b" * 200, "a", "c", []]
    with tiny_case.load(n_parallel=3, n_ubatch=16) as many:
        in_order = [answer.index for answer in many.generate_batch(prompts, max_tokens=3, order="input")]
        as_they_come = [answer.index for answer in many.generate_batch(prompts, max_tokens=3, order="completion")]
    assert in_order == [0, 1, 2, 3]
    assert as_they_come[-1] == 0
    assert sorted(as_they_come) == [0, 1, 2, 3]


def test_options_of_single_prompts(many: MetaLlama, llm: MetaLlama) -> None:
    prompt = PROMPTS[2]
    requests = [
        Request(prompt=prompt),
        Request(prompt=prompt, gain=-1.0),
        Request(prompt=prompt, inject=False, doubt_threshold=0.5),
        Request(prompt=prompt, doubt_threshold=0.0),
        Request(prompt=[{"role": "user", "content": prompt}], gain=0.0),
    ]
    results = [
        result_of(answer) for answer in many.generate_batch(requests, max_tokens=9, gain=0.5, doubt_threshold=1.0)
    ]
    expected = [
        llm.generate(prompt, max_tokens=9, gain=0.5, doubt_threshold=1.0),
        llm.generate(prompt, max_tokens=9, gain=-1.0, doubt_threshold=1.0),
        llm.generate(prompt, max_tokens=9, inject=False),
        llm.generate(prompt, max_tokens=9, gain=0.5, doubt_threshold=0.0),
        llm.generate(prompt, max_tokens=9, gain=0.0),
    ]
    assert [result.token_ids for result in results] == [result.token_ids for result in expected]
    assert [result.gain for result in results] == [0.5, -1.0, 0.0, 0.5, 0.0]
    assert [result.doubt is None for result in results] == [False, False, True, False, False]
    assert len({result.token_ids for result in results}) == 4


def test_chunks(many: MetaLlama) -> None:
    texts, results = [""] * len(PROMPTS), [""] * len(PROMPTS)
    most = 0
    growing: set[int] = set()
    for answer, chunk in many.stream_batch(PROMPTS, max_tokens=12):
        assert chunk is not None
        growing.add(answer.index)
        most = max(most, len(growing))
        texts[answer.index] += chunk.text
        if chunk.result is not None:
            growing.remove(answer.index)
            results[answer.index] = chunk.result.text
            assert answer.result is chunk.result
    assert texts == results
    assert most == many.n_parallel


def test_prompts_are_taken_as_sequences_become_free(many: MetaLlama) -> None:
    taken: list[int] = []

    def endless() -> Iterator[str]:
        for n in range(1000):
            taken.append(n)
            yield f"prompt {n}"

    answers = many.generate_batch(endless(), max_tokens=2, order="completion")
    first = result_of(next(answers))
    assert first.timings.n_generated == 2
    assert len(taken) <= 6  # three answers that run, and three that follow in their sequences
    del answers  # half-way
    assert many.tokenize("free again")


def test_alternating_conversations_keep_their_sequences(many: MetaLlama, llm: MetaLlama) -> None:
    """They share their first few words. Reusing these would cost each conversation more of its own cache."""
    chats = [f"You are kind. {name} {'asks a long question; ' * 2}" for name in ("Ada", "Bob", "Cleo")]
    before: dict[int, int] = {}
    for _ in range(3):
        for i, chat in enumerate(chats):
            result = many.generate(chat, max_tokens=4)
            assert result.token_ids == llm.generate(chat, max_tokens=4).token_ids
            assert result.timings.n_reused == before.get(i, 0)
            before[i] = result.timings.n_prompt
            chats[i] += "And?"


def test_no_tokens_and_no_prompts(many: MetaLlama) -> None:
    assert list(many.generate_batch([])) == []
    for answer in many.generate_batch(PROMPTS, max_tokens=0):
        result = result_of(answer)
        assert (result.text, result.finish_reason, result.timings.n_generated) == ("", "length", 0)
        assert result.doubt is not None


def test_each_sequence_has_a_context_of_its_own(tiny_case: TinyCase) -> None:
    prompts = ["x" * 253, "x" * 256, "x" * 251, "y" * 257]
    with tiny_case.load(n_parallel=3, n_ctx=256) as many, tiny_case.load(n_ctx=256) as one:
        assert many.n_ctx == one.n_ctx == 256
        *fitting, too_long = many.generate_batch(prompts, max_tokens=None)
        for answer, prompt in zip(fitting, prompts, strict=False):
            result = result_of(answer)
            assert result.finish_reason == "length"
            assert result.timings.n_prompt + result.timings.n_generated == 257  # the last one need not fit
            assert result.token_ids == one.generate(prompt, max_tokens=None).token_ids
    assert too_long.result is None
    assert isinstance(too_long.error, ContextOverflowError)


def test_an_error_affects_only_its_prompt(many: MetaLlama) -> None:
    prompts = ["one", "", [{"role": "user"}], [999_999], "five"]
    answers = list(many.generate_batch(prompts, max_tokens=4))  # type: ignore[arg-type]
    assert [answer.error is None for answer in answers] == [True, False, False, False, True]
    for answer, text in zip(answers[1:4], ("empty", "message 0", "999999 is not in the vocabulary"), strict=True):
        assert text in str(answer.error)
        assert type(answer.error) is Error
    many.detach()
    refused = many.generate_batch([Request(prompt="x", doubt_threshold=0.2), "y"], max_tokens=2)
    first, second = refused
    assert "no sidecar is attached" in str(first.error)
    assert second.error is None


def test_wrong_options(many: MetaLlama) -> None:
    with pytest.raises(TypeError, match="prompts is one text, expected several"):
        many.generate_batch("What?")
    with pytest.raises(ValueError, match="order is 'random', expected 'input' or 'completion'"):
        many.generate_batch(["x"], order="random")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_tokens is -1"):
        many.generate_batch(["x"], max_tokens=-1)
    with pytest.raises(ValueError, match="doubt_threshold is 2"):
        many.generate_batch(["x"], doubt_threshold=2)
    with pytest.raises(TypeError, match="the prompt is of type int"):
        list(many.generate_batch([1]))  # type: ignore[list-item]
    assert many.tokenize("free")


@pytest.mark.parametrize("n_parallel", [0, -1, 257])
def test_numbers_of_sequences_that_cannot_be(n_parallel: int, tiny_case: TinyCase) -> None:
    with pytest.raises((ValueError, Error), match=rf"{n_parallel}, expected 1"):
        tiny_case.load(n_parallel=n_parallel)
    with pytest.raises(Error, match=r"a context of 100000000 tokens for each of 100 sequences is too large"):
        tiny_case.load(n_parallel=100, n_ctx=100_000_000)


def test_more_sequences_than_a_micro_batch_has_tokens(tiny_case: TinyCase, llm: MetaLlama) -> None:
    with pytest.raises(Error, match=r"5 sequences need a batch of as many tokens, it has 4 \(give a larger -b"):
        tiny_case.load(n_parallel=5, n_batch=4)
    with tiny_case.load(n_parallel=5, n_batch=5, n_ubatch=2) as tight:
        for answer, prompt in zip(tight.generate_batch(PROMPTS, max_tokens=9), PROMPTS, strict=True):
            assert result_of(answer).token_ids == llm.generate(prompt, max_tokens=9).token_ids


# --- ends ------------------------------------------------------------------------------------------------------------


def test_canceling_ends_all(many: MetaLlama) -> None:
    calls: list[None] = []

    def enough() -> bool:
        calls.append(None)
        return len(calls) > 3

    with pytest.raises(Cancelled):
        list(many.generate_batch(PROMPTS * 10, max_tokens=200, cancel=enough))
    assert result_of(next(many.generate_batch(["one"], max_tokens=3))).timings.n_generated == 3


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is a POSIX signal")
def test_ctrl_c(many: MetaLlama) -> None:
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in many.stream_batch((f"prompt {n}" for n in range(100_000)), max_tokens=200):
            pass
    timer.join()
    assert many.tokenize("free")


def test_a_second_call_waits_or_is_an_error(many: MetaLlama) -> None:
    steps = many.stream_batch(PROMPTS, max_tokens=5)
    next(steps)
    with pytest.raises(Error, match="busy with a stream of the same thread"):
        many.generate("x")
    assert len({answer.index for answer, _ in steps}) == len(PROMPTS)
    assert many.generate("x", max_tokens=1).token_ids


def test_closing_the_model(tiny_case: TinyCase) -> None:
    llm = tiny_case.load(n_parallel=2)
    steps, answers = llm.stream_batch(PROMPTS, max_tokens=5), llm.generate_batch(PROMPTS)
    next(steps)
    llm.close()
    assert list(steps) == []
    assert list(answers) == []
    with pytest.raises(Error, match="the model is closed"):
        list(llm.generate_batch(PROMPTS))


def test_with_another_sidecar(many: MetaLlama, llm: MetaLlama, tmp_path: Path, tiny_case: TinyCase) -> None:
    """The tables and taps of every sequence are created again."""
    before = [result_of(answer).token_ids for answer in many.generate_batch(PROMPTS, max_tokens=8)]
    many.detach()
    base = [result_of(answer) for answer in many.generate_batch(PROMPTS, max_tokens=8)]
    assert [result.token_ids for result in base] == [
        llm.generate(prompt, max_tokens=8, inject=False).token_ids for prompt in PROMPTS
    ]
    many.attach(tiny_case.sidecar)
    assert [result_of(answer).token_ids for answer in many.generate_batch(PROMPTS, max_tokens=8)] == before
