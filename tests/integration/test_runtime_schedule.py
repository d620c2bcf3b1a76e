"""Schedules and given cognitive tokens in MetaLlama's calls with a tiny random base: options, errors, and ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metadeploy import Decay, Error, InjectionSchedule, MetaLlama, ModelMismatchError, Refresh, Request
from metadeploy.sidecar import read_sidecar, write_sidecar
from support.program import TinyCase

PROMPT = "What is the capital of France?"
STATIC = InjectionSchedule()
FADING = InjectionSchedule(decay=Decay(floor=0.0, tau=2.0), window=9)
REFRESHING = InjectionSchedule(refresh=Refresh(threshold=1.1, min_interval=2))


@pytest.fixture(scope="module")
def shared_two(tiny_case: TinyCase) -> Iterator[MetaLlama]:
    with tiny_case.load(n_parallel=2) as llm:
        yield llm


@pytest.fixture
def two(shared_two: MetaLlama, tiny_case: TinyCase) -> Iterator[MetaLlama]:
    """The tiny base with two sequences."""
    yield shared_two
    shared_two.attach(tiny_case.sidecar)


@pytest.fixture
def goal_anchor(tiny_case: TinyCase, tmp_path: Path) -> Path:
    """The tiny wrapper as a goal anchor, which declines nothing and ignores its bias."""
    source = read_sidecar(tiny_case.sidecar)
    path = tmp_path / "goal.gguf"
    write_sidecar(path, replace(source.config, kind="goal_anchor"), source.tensors)
    return path


def test_every_call_takes_them(two: MetaLlama) -> None:
    goal = two.encode("be short", raw=True)
    static = two.generate(PROMPT, max_tokens=20)
    messages: Any = [{"role": "user", "content": PROMPT}]
    for options in ({"schedule": FADING}, {"schedule": REFRESHING}, {"cognitive_tokens": goal}):
        more: dict[str, Any] = {"max_tokens": 20, **options}
        result = two.generate(PROMPT, **more)
        assert result.token_ids != static.token_ids
        assert [chunk.result for chunk in two.stream(PROMPT, **more)][-1].text == result.text  # type: ignore[union-attr]
        (answer,) = two.generate_batch([PROMPT], **more)
        (requested,) = two.generate_batch([Request(prompt=PROMPT, **options)], max_tokens=20)  # type: ignore[arg-type]
        assert answer.result is not None
        assert requested.result is not None
        assert answer.result.text == requested.result.text == result.text
        chat: Any = two.create_chat_completion(messages, **more)
        assert chat["choices"][0]["message"]["content"] == result.text
        chunks: Any = two.create_chat_completion(messages, stream=True, **more)
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert text == result.text
        raw: Any = two.create_completion(two.apply_chat_template(messages), **more)
        assert raw["choices"][0]["text"] == result.text
        assert chat["timings"]["n_refreshed"] == (9 if options.get("schedule") is REFRESHING else 0)


def test_encode_matches_the_tokens_of_the_prompt(two: MetaLlama) -> None:
    tokens = two.encode(PROMPT)
    assert tokens.shape == (3, two.n_embd)
    np.testing.assert_array_equal(tokens, two.cognitive_tokens(PROMPT))
    own = two.generate(PROMPT, max_tokens=20)
    held = two.generate(PROMPT, max_tokens=20, cognitive_tokens=tokens.tolist())
    assert held.token_ids == own.token_ids
    assert (held.timings.pass1_ms, held.timings.pass2) == (0.0, "full")


def test_gain_zero_is_the_base(two: MetaLlama) -> None:
    base = two.generate(PROMPT, max_tokens=20, inject=False)
    for options in ({"schedule": FADING}, {"schedule": REFRESHING}, {"cognitive_tokens": two.encode("x")}):
        result = two.generate(PROMPT, max_tokens=20, gain=0.0, logprobs=0, **options)  # type: ignore[arg-type]
        assert (result.token_ids, result.timings.n_refreshed, result.timings.pass2) == (base.token_ids, 0, "none")


def test_contradictory_options_are_refused(two: MetaLlama, llm: MetaLlama) -> None:
    goal = two.encode("x")
    with pytest.raises(Error, match="are given and stay as they are, but the schedule refreshes them"):
        two.generate(PROMPT, cognitive_tokens=goal, schedule=REFRESHING)
    with pytest.raises(Error, match="cognitive tokens are given, but the base answers alone: the injection is off"):
        two.generate(PROMPT, cognitive_tokens=goal, inject=False)
    with pytest.raises(Error, match="a schedule is given, but the base answers alone: the injection is off"):
        two.generate(PROMPT, schedule=FADING, inject=False)
    with pytest.raises(ModelMismatchError, match=r"have shape \[3, 31\], expected \[3, 32\] \(encoded by another"):
        two.generate(PROMPT, cognitive_tokens=goal[:, 1:])
    with pytest.raises(ModelMismatchError, match=r"have shape \[96\], expected \[3, 32\]"):
        two.generate(PROMPT, cognitive_tokens=goal.ravel())
    for factor in (np.nan, np.inf, 1e30):  # an overflow would stay in memory and spoil later answers
        with pytest.raises(ModelMismatchError, match="huge or not finite"):
            two.generate(PROMPT, cognitive_tokens=goal * factor)
        with pytest.raises(Error, match=r"the gain is .* expected a number such as 1\.0"):
            two.generate(PROMPT, gain=factor)
    strong = two.generate(PROMPT, gain=9e5, max_tokens=4, logprobs=0)
    assert strong.logprobs is not None
    assert all(np.isfinite(item.logprob) for item in strong.logprobs)
    with pytest.raises(Error, match=r"a refresh needs a second sequence .* the context has one \(give n_parallel=2\)"):
        llm.generate(PROMPT, schedule=REFRESHING)
    two.detach()
    with pytest.raises(Error, match="a schedule is given, but the base answers alone: no sidecar is attached"):
        two.generate(PROMPT, schedule=FADING)


def test_one_that_is_refused_leaves_the_others(two: MetaLlama) -> None:
    requests = [
        Request(prompt=PROMPT),
        Request(prompt=PROMPT, cognitive_tokens=two.encode("x"), schedule=REFRESHING),
        Request(prompt=PROMPT, schedule=REFRESHING),
        Request(prompt=PROMPT, schedule=FADING),
    ]
    answers = list(two.generate_batch(requests, max_tokens=9))
    assert "the schedule refreshes them" in str(answers[1].error)
    for i in (0, 2, 3):
        result = answers[i].result
        assert result is not None
        assert result.token_ids == two.generate(PROMPT, max_tokens=9, schedule=requests[i].schedule or STATIC).token_ids


def micro_batches(messages: list[str]) -> list[list[int]]:
    """Return the tokens of each batch's micro-batches, from llama.cpp's log with LLAMA_BATCH_DEBUG."""
    groups: list[list[int]] = []
    in_micro_batch = False
    for message in messages:
        if message.endswith(("input batch info:", "added ubatch to split:")):
            in_micro_batch = "ubatch" in message
            groups += [] if in_micro_batch else [[]]
        elif in_micro_batch and " n_tokens " in message:
            groups[-1].append(int(message.split("=")[1]))
    return groups


def test_a_clean_context_gets_its_tokens_together(
    tiny_case: TinyCase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The clean context is not evaluated at every token. It catches up in one batch before each comparison."""
    monkeypatch.setenv("LLAMA_BATCH_DEBUG", "1")
    logged = caplog.at_level(logging.DEBUG, logger="metadeploy.llama_cpp")
    with logged, tiny_case.load(n_parallel=4, prefix_cache_mib=0) as llm:

        def evaluated(n_answers: int, schedule: InjectionSchedule) -> list[list[int]]:
            caplog.clear()
            answers = list(llm.generate_batch(["hello", "there"][:n_answers], max_tokens=5, schedule=schedule))
            assert [answer.error for answer in answers] == [None] * n_answers
            return micro_batches(caplog.messages)

        rarely = InjectionSchedule(refresh=Refresh(threshold=0.0, min_interval=20))
        passes = [[5], [5]]
        assert evaluated(1, STATIC) == passes + [[1]] * 4
        assert evaluated(1, rarely) == passes + [[1]] * 4
        assert evaluated(1, REFRESHING) == [*passes, [1], [2], [1], [1], [2], [1]]
        assert evaluated(2, rarely) == 2 * passes + [[2]] * 4
        assert evaluated(2, REFRESHING) == [*passes, *passes, [2], [4], [2], [2], [4], [2]]


def test_closing_a_refreshed_answer_frees_both_of_its_sequences(two: MetaLlama) -> None:
    expected = two.generate(PROMPT, max_tokens=9, schedule=REFRESHING)
    steps = two.stream_batch([PROMPT] * 3, max_tokens=9, schedule=REFRESHING)
    results = []
    for answer, chunk in steps:
        if answer.index == 0:
            answer.close()
        if chunk is not None and chunk.result is not None:
            results.append((answer.index, chunk.result.token_ids))
    assert results == [(1, expected.token_ids), (2, expected.token_ids)]
    assert two.generate(PROMPT, max_tokens=9, schedule=REFRESHING).token_ids == expected.token_ids


def test_up_to_the_end_of_the_context(tiny_case: TinyCase) -> None:
    """The clean context has as many tokens as the injected one, and only evaluated tokens are compared."""
    every = InjectionSchedule(refresh=Refresh(threshold=1.1, min_interval=1))
    with tiny_case.load(n_parallel=2, n_ctx=256) as llm:
        result = llm.generate([65] * 240, max_tokens=None, schedule=every)
        assert result.finish_reason == "length"
        assert result.timings.n_generated == 17
        assert result.timings.n_refreshed == 16


def test_goal_anchors_have_no_refusal(two: MetaLlama, goal_anchor: Path) -> None:
    before = two.generate(PROMPT, max_tokens=9)
    two.attach(goal_anchor)
    result = two.generate(PROMPT, max_tokens=9)
    assert (result.token_ids, result.doubt, result.abstained) == (before.token_ids, None, False)
    goal = two.encode("never say the word", raw=True)
    assert two.generate(PROMPT, max_tokens=9, cognitive_tokens=goal).token_ids != result.token_ids
    with pytest.raises(Error, match=r"doubt: a wrapper of kind 'goal_anchor' has no refusal, expected a doubter"):
        two.doubt(PROMPT)
    with pytest.raises(Error, match=r"the doubt threshold is 0.4\d*: a wrapper of kind 'goal_anchor' has no refusal"):
        two.generate(PROMPT, doubt_threshold=0.4)
