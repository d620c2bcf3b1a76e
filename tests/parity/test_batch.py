"""Many prompts at once: each gets the same answer as alone, whatever the other prompts are and however they end.

The passes over a prompt, and so its doubt and first token, are bit-identical. A later token goes through
products of one row or of several, which differ in their last digits. Nothing else may differ.
K/V cache in F32, flash attention off (``EXACT``), except for the real model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import tolerances
from metadeploy import Cancelled, ContextOverflowError, GenerationResult, MetaLlama, Request
from metadeploy.sidecar.spec import InjectFrom
from support.k_quants import write_k_quants
from support.other_batches import N_TOP, check_answer
from support.parity import Question
from support.runtime_pair import PAIR_KINDS, STATEFUL, RuntimePair, pass2_kind, reusable, runtime_pair
from support.tiny_models import TinyModel

N_PARALLEL = 3
#: more prompts than sequences; the longest goes through several micro-batches while others answer
LENGTHS = (5, 60, 1, 17, 100, 17, 2, 33)
GAINS = (1.0, 0.5, -1.0, 0.0, 1.0, 1.0, 2.0, 1.0)


@pytest.fixture(scope="module", params=PAIR_KINDS)
def pair(
    request: pytest.FixtureRequest, tiny: Callable[[str], TinyModel], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RuntimePair]:
    folder = tmp_path_factory.mktemp("archs")
    options = {"tested": {"n_parallel": N_PARALLEL}, "plain": {"prefix_cache_mib": 0}}
    with runtime_pair(request.param, folder, tiny, **options, n_ubatch=32) as two:
        yield two


@pytest.fixture
def attached(pair: RuntimePair, tmp_path: Path) -> RuntimePair:
    """Attach a wrapper that injects into the upper half of the blocks."""
    pair.attach(tmp_path, [pair.num_layers // 2, pair.num_layers - 1])
    return pair


def requests(pair: RuntimePair) -> list[Request]:
    return [
        Request(prompt=pair.prompt(length, seed=seed), gain=gain)
        for seed, (length, gain) in enumerate(zip(LENGTHS, GAINS, strict=True))
    ]


def same_answer(
    pair: RuntimePair, actual: GenerationResult | None, request: Request, *, reuses: bool = False
) -> GenerationResult:
    """Assert that an answer equals that of the base with one sequence; ``reuses``: its prompt may be cached in part."""
    expected = pair.plain.generate(request.prompt, gain=request.gain, max_tokens=12, logprobs=0)
    assert actual is not None
    assert (actual.token_ids, actual.text, actual.finish_reason, actual.gain) == (
        expected.token_ids,
        expected.text,
        expected.finish_reason,
        expected.gain,
    )
    limit = limit_of(pair)
    assert actual.doubt == pytest.approx(expected.doubt, abs=limit if reuses else 0, rel=0)
    assert actual.logprobs is not None
    assert expected.logprobs is not None
    for i, (one, other) in enumerate(zip(actual.logprobs, expected.logprobs, strict=True)):
        assert one.logprob == pytest.approx(other.logprob, abs=limit if i > 0 or reuses else 0, rel=0)
    return expected


def limit_of(pair: RuntimePair) -> float:
    kind = "gemma" if pair.kind.startswith("gemma") else pair.kind
    return tolerances.BATCH_MAX_ABS.get(kind, tolerances.BATCH_MAX_ABS["others"])


@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
def test_each_is_answered_as_alone(inject_from: InjectFrom, pair: RuntimePair, tmp_path: Path) -> None:
    pair.attach(tmp_path, [pair.num_layers // 2, pair.num_layers - 1], inject_from=inject_from)
    batch = requests(pair)
    for _ in range(2):  # the second time, the sequences hold tokens of other prompts, which nothing may reuse
        answers = list(pair.tested.generate_batch(batch, max_tokens=12, logprobs=0))
        assert [answer.index for answer in answers] == list(range(len(batch)))
        for answer, request in zip(answers, batch, strict=True):
            expected = same_answer(pair, answer.result, request)
            assert answer.result is not None
            times = answer.result.timings
            assert times.n_reused == 0
            assert (times.n_prompt, times.n_generated) == (expected.timings.n_prompt, expected.timings.n_generated)
            assert times.pass2 == expected.timings.pass2


@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
def test_each_conversation_reuses_its_own_cache(inject_from: InjectFrom, pair: RuntimePair, tmp_path: Path) -> None:
    """Three conversations at once: their order and their gains change in each turn."""
    pair.attach(tmp_path, [pair.num_layers // 2, pair.num_layers - 1], inject_from=inject_from)
    stateful = pair.kind in STATEFUL
    prompts, before = [pair.prompt(length) for length in (9, 13, 60)], [0, 0, 0]
    for turn, gains in enumerate([(1.0, 0.5, 2.0), (-1.0, 1.0, 0.5), (0.7, -0.5, 1.0)]):
        batch = [Request(prompt=prompt, gain=gain) for prompt, gain in zip(prompts, gains, strict=True)]
        answers = list(pair.tested.generate_batch(batch, max_tokens=12, logprobs=0))
        for answer, request, n_cached in zip(answers, batch, before, strict=True):
            same_answer(pair, answer.result, request, reuses=turn > 0)
            assert answer.result is not None
            times = answer.result.timings
            assert times.n_reused == (reusable(pair, n_cached, n_cached) if turn else 0)
            assert times.pass2 == pass2_kind(pair, times.n_prompt, inject_from=inject_from)
        prompts = [*prompts[1:], prompts[0]]
        # if only the last token is injected into, a state is stored before it
        before = [len(prompt) - (stateful and inject_from == "last_prompt_token") for prompt in prompts]
        prompts = [[*prompt, *pair.prompt(3, seed=turn)] for prompt in prompts]


def test_one_prompt_is_computed_as_without_the_others(attached: RuntimePair) -> None:
    """The results are bit-identical: the graph of a micro-batch with one sequence equals that of a context for one."""
    for length in (1, 40, 100):
        ids = attached.prompt(length)
        np.testing.assert_array_equal(attached.tested.logits(ids), attached.plain.logits(ids))
        actual, expected = (llm.generate(ids, max_tokens=8, logprobs=0) for llm in (attached.tested, attached.plain))
        assert (actual.token_ids, actual.logprobs, actual.doubt) == (
            expected.token_ids,
            expected.logprobs,
            expected.doubt,
        )
        assert actual.timings.pass2 == expected.timings.pass2


def test_neighbors_that_fail_or_end_early(attached: RuntimePair) -> None:
    """One is too long, one empty, one has unknown tokens, one an invalid gain, and one is closed after two tokens."""
    good = requests(attached)
    bad = [
        Request(prompt=attached.prompt(600)),
        Request(prompt=[]),
        Request(prompt=[attached.tested.n_vocab]),
        Request(prompt=attached.prompt(4), gain=float("nan")),
    ]
    batch = [good[0], bad[0], good[1], good[4], bad[1], good[7], bad[2], bad[3], good[2]]
    closed = 3
    results: dict[int, GenerationResult] = {}
    errors = {}
    n_chunks = 0
    for answer, chunk in attached.tested.stream_batch(batch, max_tokens=12, logprobs=0):
        if chunk is None:
            errors[answer.index] = answer.error
        elif chunk.result is not None:
            results[answer.index] = chunk.result
        if answer.index == closed:
            n_chunks += 1
            if n_chunks == 2:
                answer.close()
    assert n_chunks == 2
    assert sorted(errors) == [1, 4, 6, 7]
    assert isinstance(errors[1], ContextOverflowError)
    for index, text in ((1, "600 tokens, the context 512"), (4, "empty"), (6, "not in the vocabulary"), (7, "gain")):
        assert text in str(errors[index])
    assert sorted(results) == [0, 2, 5, 8]
    for index, result in results.items():
        same_answer(attached, result, batch[index], reuses=True)


def test_no_prompt_reuses_the_cache_of_another(attached: RuntimePair) -> None:
    """The same prompts run among other prompts and in other sequences, with the base between them."""
    batch = requests(attached)
    for order in ([7, 6, 5, 4, 3, 2, 1, 0], [4, 4, 4, 0, 0, 1]):
        answers = attached.tested.generate_batch([batch[i] for i in order], max_tokens=12, logprobs=0)
        for answer, i in zip(answers, order, strict=True):
            same_answer(attached, answer.result, batch[i], reuses=True)
    mixed = [Request(prompt=batch[1].prompt, inject=inject) for inject in (True, False, True)]
    one, base, other = (answer.result for answer in attached.tested.generate_batch(mixed, max_tokens=12))
    assert one is not None
    assert base is not None
    assert other is not None
    assert one.token_ids == other.token_ids
    assert base.token_ids == attached.plain.generate(batch[1].prompt, max_tokens=12, inject=False).token_ids
    assert (base.doubt, base.gain, base.timings.pass2) == (None, 0.0, "none")


def test_a_long_prompt_does_not_hold_answers_up(tiny: Callable[[str], TinyModel], tmp_path: Path) -> None:
    """Its passes take 16 micro-batches, with a token of the other answer after each."""
    with runtime_pair("llama", tmp_path, tiny, tested={"n_parallel": 2}, plain={}, n_ubatch=32) as pair:
        pair.attach(tmp_path, [0])
        short, long = pair.prompt(4), pair.prompt(256)
        before = 0
        for answer, chunk in pair.tested.stream_batch([short, long], max_tokens=30):
            assert chunk is not None
            if answer.index == 1:
                break
            before += 1
        assert before >= 16


@pytest.mark.parametrize("n_steps", [0, 3, 12])
def test_one_can_end_before_its_first_token(n_steps: int, attached: RuntimePair) -> None:
    """It ends before it begins, in pass 1 (8 steps), or in pass 2. The others and its successor continue."""
    batch = [Request(prompt=attached.prompt(length), gain=gain) for length, gain in ((5, 1.0), (17, -1.0), (9, 1.0))]
    calls = itertools.count()
    ended = Request(prompt=attached.prompt(250), cancel=lambda: next(calls) >= n_steps)
    one, other, canceled, last = attached.tested.generate_batch(
        [*batch[:2], ended, batch[2]], max_tokens=12, logprobs=0
    )
    assert isinstance(canceled.error, Cancelled)
    assert canceled.result is None
    assert next(calls) == n_steps + 1
    for answer, request in zip((one, other, last), batch, strict=True):
        same_answer(attached, answer.result, request, reuses=True)


@pytest.mark.parametrize("kind", ["llama", *STATEFUL])
def test_repeated_prompts_beside_any_others(kind: str, tiny: Callable[[str], TinyModel], tmp_path: Path) -> None:
    """One to three of a few prompts run at once, so that all or part of each is cached in some sequence."""
    options = {"tested": {"n_parallel": 4}, "plain": {"prefix_cache_mib": 0}}
    with runtime_pair(kind, tmp_path, tiny, **options, n_ubatch=16) as pair:
        pair.attach(tmp_path, [pair.num_layers // 2, pair.num_layers - 1])
        beginnings = [pair.prompt(length) for length in (7, 20, 33)]
        pool = [[*ids, *pair.prompt(n, seed=n)] for ids in beginnings for n in (0, 3, 12)]
        rng = np.random.default_rng(0)
        n_whole = 0
        for _ in range(40):
            chosen = [pool[i] for i in rng.integers(0, len(pool), size=rng.integers(1, 4))]
            batch = [Request(prompt=ids, gain=float(rng.choice([1.0, 0.5]))) for ids in chosen]
            for answer, request in zip(
                pair.tested.generate_batch(batch, max_tokens=12, logprobs=0), batch, strict=True
            ):
                same_answer(pair, answer.result, request, reuses=True)
                assert answer.result is not None
                n_whole += answer.result.timings.n_reused == answer.result.timings.n_prompt
        assert n_whole > 0


@pytest.mark.parametrize("kind", ["llama", "qwen3_5"])
def test_a_long_prompt_does_not_hold_other_prompts_up(
    kind: str, tiny: Callable[[str], TinyModel], tmp_path: Path
) -> None:
    """A prompt that arrives in the middle of the long one's second pass ends before it."""
    options = {"tested": {"n_parallel": 2}, "plain": {"prefix_cache_mib": 0}}
    with runtime_pair(kind, tmp_path, tiny, **options, n_ubatch=32, n_ctx=640) as pair:
        pair.attach(tmp_path, [0])
        # the first one's answer ends after 24 steps, when 16 were pass 1 of the second one, and 16 will be pass 2
        batch = [Request(prompt=pair.prompt(length)) for length in (4, 512, 5)]
        results: dict[int, GenerationResult] = {}
        first: list[int] = []
        for answer, chunk in pair.tested.stream_batch(batch, max_tokens=24, logprobs=0):
            assert chunk is not None
            first += [answer.index] if answer.index not in first else []
            if chunk.result is not None:
                results[answer.index] = chunk.result
        assert first == [0, 2, 1]
        for index, request in enumerate(batch):
            assert results[index].timings.pass2 == "tail"
            assert results[index].token_ids == pair.plain.generate(request.prompt, max_tokens=24).token_ids


def test_cache_size_is_bounded(tiny: Callable[[str], TinyModel], tmp_path: Path) -> None:
    """Eight sequences share 1 MiB of hidden states, 512 rows each, and 1 MiB of K/V cache, some 85 tokens each."""
    options = {
        "tested": {"n_parallel": 8, "hidden_cache_mib": 1, "prefix_cache_mib": 1},
        "plain": {"prefix_cache_mib": 0},
    }
    with runtime_pair("llama", tmp_path, tiny, **options, n_ctx=768) as pair:
        pair.attach(tmp_path, [3])
        prompts = [pair.prompt(length) for length in (40, 509, 513, 70, 100)]
        for turn, n_cached in enumerate([(0, 0, 0, 0, 0), (40, 0, 0, 70, 0), (43, 0, 0, 73, 0)]):
            batch = [Request(prompt=prompt) for prompt in prompts]
            answers = list(pair.tested.generate_batch(batch, max_tokens=12, logprobs=0))
            for answer, request, n_reused in zip(answers, batch, n_cached, strict=True):
                same_answer(pair, answer.result, request, reuses=n_reused > 0)
                assert answer.result is not None
                times = answer.result.timings
                assert times.n_reused == n_reused
                n_rows = times.n_prompt if times.n_prompt <= 512 else 0
                assert (times.pass2, times.hidden_bytes) == ("tail" if n_rows else "full", 4 * 64 * n_rows)
            prompts = [[*prompt, *pair.prompt(3, seed=turn)] for prompt in prompts]


@pytest.mark.parametrize("flash_attn", [True, False])
def test_smollm2(flash_attn: bool, base_gguf: Path, trained_sidecar: Path, questions: list[Question]) -> None:
    """The real base in its shipped type (Q4_1). No two prompts share a batch, so doubts and first tokens are exact.

    Later tokens are computed together: whether one row and several have the same bits depends on the processor.
    """
    texts = [question.question for question in questions[:24]]
    options = {"n_ctx": 512, "n_threads": 2, "flash_attn": flash_attn, "prefix_cache_mib": 0}
    with (
        MetaLlama(base_gguf, trained_sidecar, n_parallel=6, **options) as many,
        MetaLlama(base_gguf, trained_sidecar, **options) as one,
    ):
        answers = many.generate_batch(texts, max_tokens=8, logprobs=N_TOP)
        results = [answer.result for answer in answers if answer.result is not None]
        expected = [one.generate(question, max_tokens=8, logprobs=N_TOP) for question in texts]
    assert [result.timings.pass2 for result in results] == ["tail"] * len(texts)
    for ours, theirs in zip(results, expected, strict=True):
        assert (ours.doubt, (ours.logprobs or [])[:1]) == (theirs.doubt, (theirs.logprobs or [])[:1])
        check_answer(ours, theirs)


@pytest.mark.parametrize("flash_attn", [True, False])
def test_prompts_in_k_quants(flash_attn: bool, tmp_path: Path) -> None:
    """Some kernels, such as Q4_K's, round a single row in another way than one of several: later tokens may differ.

    No two prompts share a batch, so their doubts and first tokens do not differ.
    """
    base, sidecar = write_k_quants(tmp_path)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(20, 250, size=length).tolist() for length in (5, 40, 1, 17, 100, 9, 33, 4)]
    options = {"n_ctx": 256, "n_ubatch": 16, "n_threads": 2, "flash_attn": flash_attn, "prefix_cache_mib": 0}
    with MetaLlama(base, sidecar, n_parallel=6, **options) as many, MetaLlama(base, sidecar, **options) as one:
        for answer in list(many.generate_batch(prompts, max_tokens=12, logprobs=20)):
            expected = one.generate(prompts[answer.index], max_tokens=1, logprobs=20)
            result = answer.result
            assert result is not None
            assert result.logprobs is not None
            assert (result.doubt, result.logprobs[:1]) == (expected.doubt, expected.logprobs)
