"""Refreshed cognitive tokens over memories of every kind: windows, shared keys and values, states.

K/V cache in F32, flash attention off (``EXACT``). Every prompt is computed as a whole: a restored state has no
tail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

import tolerances
from metadeploy import Decay, GenerationResult, InjectionSchedule, MetaLlama, Refresh, Request
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.sidecar.spec import InjectFrom
from support.parity import END_TOKENS
from support.runtime_pair import RuntimePair, pass2_kind, runtime_pair
from support.tiny_archs import ARCHS
from support.tiny_models import TinyModel

N_NEW: Final = 20
N_TOP: Final = 20
SCHEDULES: Final = {
    "at every token": InjectionSchedule(refresh=Refresh(threshold=1.1, min_interval=1)),
    "now and then": InjectionSchedule(refresh=Refresh(threshold=0.6, min_interval=2, max_interval=9)),
    "all": InjectionSchedule(decay=Decay(), window=15, refresh=Refresh(threshold=0.9, min_interval=2, max_interval=9)),
}
#: one prompt is shorter than the windows, one longer than two micro-batches
LENGTHS: Final = (7, 70)


@pytest.fixture(scope="module", params=["qwen3_5", *ARCHS])
def pair(
    request: pytest.FixtureRequest, tiny: Callable[[str], TinyModel], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RuntimePair]:
    """The plain instance has a single sequence, and so no clean context."""
    folder = tmp_path_factory.mktemp("archs")
    options = {"n_ubatch": 32, "prefix_cache_mib": 0}
    with runtime_pair(request.param, folder, tiny, tested={"n_parallel": 5}, plain={}, **options) as two:
        yield two


def top_logprobs(result: GenerationResult) -> NDArray[np.float64]:
    """Return the highest log-probabilities at each position, [n_tokens, N_TOP]."""
    assert result.logprobs is not None
    return np.array([[logprob for _, _, logprob in item.top] for item in result.logprobs])


def limit(pair: RuntimePair) -> float:
    kind = "gemma" if pair.kind.startswith("gemma") else pair.kind
    return tolerances.BATCH_MAX_ABS.get(kind, tolerances.BATCH_MAX_ABS["others"])


def mean_cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())


def answer_by_hand(
    llm: MetaLlama, ids: list[int], schedule: InjectionSchedule, n_new: int = N_NEW
) -> tuple[list[int], NDArray[np.float64], int]:
    """Return tokens, their logprobs [n_tokens, N_TOP], and the number of refreshes.

    Each token is the first one after its own prompt. This is correct for a wrapper that injects after the last block
    only, because its injection leaves no trace in the cache.
    """
    refresh = schedule.refresh
    assert refresh is not None
    answer: list[int] = []
    rows = []
    encoded, tokens = llm.activations(ids), llm.encode(ids)
    n_made = t_encoded = t_compared = 0
    interval = refresh.min_interval
    for t in range(n_new):
        text, strength = [*ids, *answer], schedule.strength(t)
        overdue = t == t_encoded + refresh.max_interval
        if strength > 0 and (overdue or t == t_compared + interval):
            activations = llm.activations(text)
            t_compared, interval = t, interval + refresh.min_interval
            if overdue or mean_cosine(activations, encoded) < refresh.threshold:
                encoded, tokens = activations, llm.encode(text)
                t_encoded, interval = t, refresh.min_interval
                n_made += 1
        held: dict[str, Any] = {"cognitive_tokens": tokens, "gain": strength} if strength > 0 else {"inject": False}
        result = llm.generate(text, max_tokens=1, logprobs=N_TOP, **held)
        if not result.token_ids:
            break
        rows.append(top_logprobs(result)[0])
        answer += result.token_ids
    return answer, np.array(rows), n_made


def test_as_by_hand(pair: RuntimePair, tmp_path: Path) -> None:
    """The clean context gives the same activations as a prompt of the same tokens."""
    pair.attach(tmp_path, [pair.num_layers - 1])
    for length in LENGTHS:
        ids = pair.prompt(length)
        static = pair.tested.generate(ids, max_tokens=N_NEW, logprobs=N_TOP)
        for schedule in SCHEDULES.values():
            result = pair.tested.generate(ids, max_tokens=N_NEW, schedule=schedule, logprobs=N_TOP)
            tokens, rows, n_made = answer_by_hand(pair.plain, ids, schedule)
            assert (list(result.token_ids), result.timings.n_refreshed) == (tokens, n_made)
            np.testing.assert_allclose(top_logprobs(result), rows, rtol=0, atol=limit(pair))
            assert result.timings.pass2 == static.timings.pass2 == pass2_kind(pair, length)
            n = min(len(rows), len(static.token_ids))
            assert np.abs(top_logprobs(static)[:n] - rows[:n]).max() > 5 * limit(pair)  # the refresh changes the answer


def test_long_intervals(pair: RuntimePair, tmp_path: Path) -> None:
    """The clean context catches up in several batches, and activations are read only for a comparison."""
    pair.attach(tmp_path, [pair.num_layers - 1])
    schedule = InjectionSchedule(refresh=Refresh(threshold=1.1, min_interval=40, max_interval=60))
    result = pair.tested.generate(pair.prompt(7), max_tokens=90, schedule=schedule, logprobs=N_TOP)
    tokens, rows, n_made = answer_by_hand(pair.plain, pair.prompt(7), schedule, 90)
    assert (list(result.token_ids), result.timings.n_refreshed) == (tokens, n_made)
    np.testing.assert_allclose(top_logprobs(result), rows, rtol=0, atol=limit(pair))
    assert len(tokens) < 90 or n_made == 2


@pytest.mark.parametrize("kind", ["llama", "qwen3_5"])
def test_batches_smaller_than_the_clean_contexts_backlog(
    kind: str, tiny: Callable[[str], TinyModel], tmp_path: Path
) -> None:
    small, large = {"n_parallel": 4, "n_batch": 4}, {"n_parallel": 2}
    with runtime_pair(kind, tmp_path, tiny, tested=small, plain=large, prefix_cache_mib=0) as pair:
        pair.attach(tmp_path, [pair.num_layers - 1])
        schedule = InjectionSchedule(refresh=Refresh(threshold=1.1, min_interval=7))
        prompts = [pair.prompt(length) for length in (5, 9)]
        for answer in pair.tested.generate_batch(prompts, max_tokens=N_NEW, schedule=schedule, logprobs=N_TOP):
            alone = pair.plain.generate(prompts[answer.index], max_tokens=N_NEW, schedule=schedule, logprobs=N_TOP)
            assert answer.result is not None
            assert answer.result.token_ids == alone.token_ids
            assert answer.result.timings.n_refreshed == alone.timings.n_refreshed == 2
            np.testing.assert_allclose(top_logprobs(answer.result), top_logprobs(alone), rtol=0, atol=limit(pair))


@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
@pytest.mark.parametrize("pair", ["qwen3_5", "mamba"], indirect=True)
def test_as_in_pytorch(inject_from: InjectFrom, pair: RuntimePair, tmp_path: Path) -> None:
    """Injection into middle blocks, which a recurrent state remembers, and a tail with hybrid memory."""
    n = pair.num_layers
    pair.attach(tmp_path, [1, n // 2, n - 1], inject_from=inject_from)
    config = MetaSpiderConfig(model_name=str(pair.path), device="cpu", dtype="float32")
    pipeline = MetaSpiderPipeline.from_pretrained(config)
    pipeline.attach(Doubter.from_checkpoint(tmp_path / "sidecar.gguf"))
    stop_ids = (pair.tested.n_vocab - 1,) if pair.kind in ARCHS else END_TOKENS
    for length in LENGTHS:
        ids = pair.prompt(length)
        static = pair.tested.generate(ids, max_tokens=N_NEW)
        for schedule in SCHEDULES.values():
            result = pair.tested.generate(ids, max_tokens=N_NEW, schedule=schedule)
            expected = pipeline.generate_ids(ids, N_NEW, stop_ids=stop_ids, schedule=schedule)
            assert list(result.token_ids) == expected
            assert result.token_ids != static.token_ids
            assert result.timings.pass2 == pass2_kind(pair, length, inject_from=inject_from)


@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
def test_many_at_once(inject_from: InjectFrom, pair: RuntimePair, tmp_path: Path) -> None:
    """Two answers with a refresh and one without run together, and others follow in their sequences."""
    n = pair.num_layers
    pair.attach(tmp_path, [1, n // 2, n - 1], inject_from=inject_from)
    schedules = [*SCHEDULES.values(), InjectionSchedule()] * 2
    requests = [
        Request(prompt=pair.prompt(3 + 23 * (i % 4), seed=i), schedule=schedule, gain=(1.0, -0.7)[i // 4])
        for i, schedule in enumerate(schedules)
    ]
    answers = list(pair.tested.generate_batch(requests, max_tokens=N_NEW, logprobs=N_TOP))
    for answer, request in zip(answers, requests, strict=True):
        options: dict[str, Any] = {"schedule": request.schedule, "gain": request.gain}
        alone = pair.tested.generate(request.prompt, max_tokens=N_NEW, logprobs=N_TOP, **options)
        assert answer.result is not None
        assert answer.result.token_ids == alone.token_ids
        assert answer.result.timings.n_refreshed == alone.timings.n_refreshed
        np.testing.assert_allclose(top_logprobs(answer.result), top_logprobs(alone), rtol=0, atol=limit(pair))
        assert answer.result.timings.pass2 == alone.timings.pass2
