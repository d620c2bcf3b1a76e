"""Modes over time in the compiled runtime, token for token as in PyTorch, for dense, windowed and hybrid bases.

K/V cache in F32, flash attention off (``EXACT``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import tolerances
from metadeploy import Decay, GenerationResult, InjectionSchedule, MetaLlama, Refresh, Request
from metadeploy.export import export
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.sidecar.spec import InjectFrom
from support.parity import END_TOKENS, EXACT, nmse
from support.random_wrapper import random_wrapper, save_checkpoint
from support.tiny_models import TinyModel

N_NEW = 24
KINDS = ["llama", "qwen3", "qwen3_5", "gemma3"]
INJECT_FROM: list[InjectFrom] = ["prompt", "last_prompt_token"]

SCHEDULES = {
    "decay": InjectionSchedule(decay=Decay(floor=0.1, tau=5.0)),
    "window": InjectionSchedule(window=7),
    "prompt alone": InjectionSchedule(window=0),
    "refresh": InjectionSchedule(refresh=Refresh()),
    "refresh when overdue": InjectionSchedule(refresh=Refresh(threshold=-1.1, min_interval=1, max_interval=4)),
    "refresh at every token": InjectionSchedule(refresh=Refresh(threshold=1.1, min_interval=1)),
    "refresh now and then": InjectionSchedule(refresh=Refresh(threshold=0.0, min_interval=2, max_interval=9)),
    "all": InjectionSchedule(decay=Decay(), window=15, refresh=Refresh(threshold=0.9, min_interval=2, max_interval=9)),
}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tiny: Callable[[str], TinyModel]) -> TinyModel:
    return tiny(request.param)


@pytest.fixture(scope="module")
def pipeline(model: TinyModel) -> MetaSpiderPipeline:
    config = MetaSpiderConfig(model_name=str(model.path_hf), device="cpu", dtype="float32")
    return MetaSpiderPipeline.from_pretrained(config)


@pytest.fixture(scope="module")
def llm(model: TinyModel) -> Iterator[MetaLlama]:
    with MetaLlama(model.path_gguf, n_ctx=512, n_ubatch=32, n_parallel=4, **EXACT) as llm:
        yield llm


@pytest.fixture(params=INJECT_FROM)
def attached(
    request: pytest.FixtureRequest, model: TinyModel, pipeline: MetaSpiderPipeline, llm: MetaLlama, tmp_path: Path
) -> None:
    """Attach the same random wrapper to both sides. It reads the last block, which has rows only for outputs."""
    n = model.num_layers
    config, tensors = random_wrapper(
        "selective",
        hidden_dim=model.hidden_dim,
        target_layers=[n - 1, 0, n // 2],
        cross_attn_layers=[1, n // 2, n - 1],
        num_layers=n,
        inject_from=request.param,
    )
    checkpoint = save_checkpoint(tmp_path, config, tensors)
    llm.attach(export(checkpoint, force=True).path)
    pipeline.attach(Doubter.from_checkpoint(checkpoint))


def prompt_ids(model: TinyModel, length: int, seed: int = 0) -> list[int]:
    # ids below 20 are control tokens of the tokenizer
    return np.random.default_rng((seed, length)).integers(20, model.vocab_size, size=length).tolist()


def check_same(model: TinyModel, actual: GenerationResult | None, expected: list[int]) -> None:
    """Assert equal tokens, up to the first pair of tokens that are almost equally likely."""
    assert actual is not None
    assert actual.logprobs is not None
    differing = [i for i, (one, other) in enumerate(zip(actual.token_ids, expected, strict=False)) if one != other]
    if not differing:
        assert len(actual.token_ids) == len(expected)
        return
    item = actual.logprobs[differing[0]]
    others = {token: logprob for token, _, logprob in item.top}
    assert item.logprob - others[expected[differing[0]]] < tolerances.TIED.get(model.kind, 0.0), differing


@pytest.mark.usefixtures("attached")
def test_each_schedule(model: TinyModel, pipeline: MetaSpiderPipeline, llm: MetaLlama) -> None:
    doubter = pipeline.doubter
    assert doubter is not None
    stateful, from_last = model.kind == "qwen3_5", doubter.config.inject_from == "last_prompt_token"
    for length in (1, 40, 70):  # the last one is longer than two micro-batches
        ids = prompt_ids(model, length)
        static = llm.generate(ids, max_tokens=N_NEW)
        # a recurrent state cannot rewind by one token
        assert static.timings.pass2 == ("full" if stateful and from_last else "tail")
        differing = 0
        for name, schedule in SCHEDULES.items():
            result = llm.generate(ids, max_tokens=N_NEW, schedule=schedule, logprobs=2)
            expected = pipeline.generate_ids(ids, N_NEW, stop_ids=END_TOKENS, schedule=schedule)
            check_same(model, result, expected)
            assert (result.doubt, result.token_ids[:1]) == (static.doubt, static.token_ids[:1])
            # the same prompt again: which sequence holds its state is not known
            assert result.timings.pass2 == ("full" if stateful else "tail")
            differing += result.token_ids != static.token_ids
            if len(result.token_ids) == N_NEW:  # activations of its last token are never read
                times = {"refresh when overdue": 5, "refresh at every token": 23}
                assert result.timings.n_refreshed == times.get(name, result.timings.n_refreshed)
                assert (result.timings.n_refreshed > 0) is (schedule.refresh is not None)
        assert differing >= len(SCHEDULES) - 1


@pytest.mark.usefixtures("attached")
def test_many_at_once_with_schedules_of_their_own(
    model: TinyModel, pipeline: MetaSpiderPipeline, llm: MetaLlama
) -> None:
    """There are more answers than sequences. Some take two sequences, not always adjacent ones."""
    goal = llm.encode(prompt_ids(model, 9))
    tokens = pipeline.encode(prompt_ids(model, 9))
    requests = [Request(prompt=prompt_ids(model, 20), cognitive_tokens=goal, gain=0.7)]
    held = {"cognitive_tokens": tokens, "gain": 0.7}
    expected = [pipeline.generate_ids(prompt_ids(model, 20), N_NEW, stop_ids=END_TOKENS, **held)]
    for i, schedule in enumerate([*SCHEDULES.values(), InjectionSchedule()]):
        ids = prompt_ids(model, 3 + 17 * (i % 4), seed=i)
        gain = (1.0, 0.5, -1.0)[i % 3]
        requests.append(Request(prompt=ids, schedule=schedule, gain=gain))
        expected.append(pipeline.generate_ids(ids, N_NEW, stop_ids=END_TOKENS, schedule=schedule, gain=gain))
    for answer in llm.generate_batch(requests, max_tokens=N_NEW, logprobs=2):
        check_same(model, answer.result, expected[answer.index])


@pytest.mark.usefixtures("attached")
def test_given_tokens(model: TinyModel, pipeline: MetaSpiderPipeline, llm: MetaLlama) -> None:
    """A goal is encoded once for all turns of a chat. Its prompts need no clean pass."""
    goal, tokens = llm.encode(prompt_ids(model, 9)), pipeline.encode(prompt_ids(model, 9))
    assert nmse(goal, tokens.numpy()) < tolerances.TINY[model.kind]["cognitive tokens"]
    ids = prompt_ids(model, 33)
    own = llm.generate(ids, max_tokens=12)
    fading = InjectionSchedule(decay=Decay(tau=4.0), window=20)
    for turn, schedule in enumerate((InjectionSchedule(), fading, InjectionSchedule())):
        result = llm.generate(ids, max_tokens=12, cognitive_tokens=goal, schedule=schedule, logprobs=2)
        options = {"cognitive_tokens": tokens, "schedule": schedule}
        check_same(model, result, pipeline.generate_ids(ids, 12, stop_ids=END_TOKENS, **options))
        assert result.timings.pass2 == "full"
        assert turn > 0 or result.token_ids != own.token_ids
        ids = [*ids, *result.token_ids, *prompt_ids(model, 3, seed=turn)]
    # held tokens have no effect on other answers
    ids = prompt_ids(model, 33)
    assert llm.generate(ids, max_tokens=12).token_ids == own.token_ids
    same = llm.generate(ids, max_tokens=12, cognitive_tokens=llm.encode(ids))
    assert same.token_ids == own.token_ids
    assert same.doubt == pytest.approx(own.doubt, abs=tolerances.TINY_DOUBT_MAX_ABS)


@pytest.mark.usefixtures("attached")
def test_clean_tokens_before_given_ones_are_reused(
    model: TinyModel, pipeline: MetaSpiderPipeline, llm: MetaLlama
) -> None:
    """This holds if only the last token of a prompt is injected into. Otherwise nothing is clean."""
    goal = torch.from_numpy(llm.encode(prompt_ids(model, 5)))
    doubter = pipeline.doubter
    assert doubter is not None
    from_last = doubter.config.inject_from == "last_prompt_token"
    ids = prompt_ids(model, 12, seed=3)
    for turn in range(3):
        result = llm.generate(ids, max_tokens=8, cognitive_tokens=goal.numpy(), logprobs=2)
        check_same(model, result, pipeline.generate_ids(ids, 8, stop_ids=END_TOKENS, cognitive_tokens=goal))
        assert (result.timings.n_reused > 0) is (from_last and turn > 0)
        ids = [*ids, *prompt_ids(model, 1, seed=turn)]
