"""Pass 2 as a tail: bit-identical to a whole second pass, for every kind of memory; and cases without a tail.

Both run in the same micro-batches, so only the repeated computations differ. K/V cache in F32, flash attention off
(``EXACT``), except for the real model, which runs with default settings.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tolerances
from metadeploy import Cancelled, MetaLlama
from metadeploy.sidecar import read_sidecar, write_sidecar
from metadeploy.sidecar.spec import InjectFrom
from support.k_quants import write_k_quants
from support.other_batches import N_TOP, check_answer
from support.parity import nmse
from support.runtime_pair import PAIR_KINDS, RuntimePair, pass2_kind, runtime_pair
from support.tiny_models import TinyModel

#: the last is longer than the cells of a sliding window
LENGTHS = (1, 16, 40, 400)
SMALL_BATCHES = {"n_batch": 48, "n_ubatch": 16}
#: no prefix cache: every prompt has a whole pass 1
NO_REUSE = {"prefix_cache_mib": 0}


@pytest.fixture(scope="module", params=PAIR_KINDS)
def pair(
    request: pytest.FixtureRequest, tiny: Callable[[str], TinyModel], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RuntimePair]:
    folder = tmp_path_factory.mktemp("archs")
    without = {"hidden_cache_mib": 0}
    with runtime_pair(request.param, folder, tiny, tested={}, plain=without, **SMALL_BATCHES, **NO_REUSE) as two:
        yield two


@pytest.mark.parametrize("lowest", ["first", "second", "middle", "last"])
def test_logits_match_a_whole_pass(lowest: str, pair: RuntimePair, tmp_path: Path) -> None:
    n = pair.num_layers
    layer = {"first": 0, "second": 1, "middle": n // 2, "last": n - 1}[lowest]
    pair.attach(tmp_path, [layer, n - 1])
    for length in LENGTHS:
        ids = pair.prompt(length)
        np.testing.assert_array_equal(pair.tested.logits(ids), pair.plain.logits(ids))
        result = pair.tested.generate(ids, max_tokens=12, logprobs=2)
        expected = pair.plain.generate(ids, max_tokens=12, logprobs=2)
        assert (result.token_ids, result.logprobs, result.doubt) == (
            expected.token_ids,
            expected.logprobs,
            expected.doubt,
        )
        assert (result.timings.pass2, expected.timings.pass2) == (pass2_kind(pair, length), "full")
        assert expected.timings.hidden_bytes == 0
        if result.timings.pass2 == "tail":
            assert result.timings.hidden_bytes == 4 * length * pair.hidden_dim


@pytest.mark.parametrize("kind", ["llama", "qwen3_5"])
def test_threads_beyond_the_cpus_compute_the_same(kind: str, tiny: Callable[[str], TinyModel], tmp_path: Path) -> None:
    """Two threads per CPU, and one thread. They wait without polling: spinning would take minutes here."""
    n_threads = 2 * len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4
    with runtime_pair(kind, tmp_path, tiny, tested={"n_threads": n_threads}, plain={}, **NO_REUSE) as pair:
        pair.attach(tmp_path, [1, pair.num_layers - 1])
        ids = pair.prompt(40)
        assert nmse(pair.tested.logits(ids), pair.plain.logits(ids)) <= tolerances.TINY[kind]["logits"]
        result, expected = (llm.generate(ids, max_tokens=12) for llm in (pair.tested, pair.plain))
        assert result.token_ids == expected.token_ids


def test_from_the_last_token_on(pair: RuntimePair, tmp_path: Path) -> None:
    """The tail is one token. A memory with a state has no such tail: its state has seen that token."""
    n = pair.num_layers
    pair.attach(tmp_path, [n // 2, n - 1], inject_from="last_prompt_token")
    for length in LENGTHS:
        ids = pair.prompt(length)
        np.testing.assert_array_equal(pair.tested.logits(ids), pair.plain.logits(ids))
        result = pair.tested.generate(ids, max_tokens=12)
        expected = pair.plain.generate(ids, max_tokens=12)
        assert result.token_ids == expected.token_ids
        assert result.doubt == pytest.approx(expected.doubt, abs=tolerances.TINY_DOUBT_MAX_ABS)
        assert result.timings.pass2 == pass2_kind(pair, length, inject_from="last_prompt_token")


def test_inspection_does_not_change_answers(pair: RuntimePair, tmp_path: Path) -> None:
    """Activations, attention and layer outputs are computed in whole passes."""
    n = pair.num_layers
    pair.attach(tmp_path, [n // 2, n - 1])
    ids = pair.prompt(40)
    expected = pair.plain.generate(ids, max_tokens=4, logprobs=0)
    for look in (
        lambda llm: llm.layer_outputs(ids, list(range(n))),
        lambda llm: llm.cognitive_attention(ids),
        lambda llm: llm.activations(ids[:9]),
    ):
        np.testing.assert_array_equal(look(pair.tested), look(pair.plain))
        assert pair.tested.generate(ids, max_tokens=4, logprobs=0).logprobs == expected.logprobs


def test_cache_size_is_bounded(tiny: Callable[[str], TinyModel], tmp_path: Path) -> None:
    """1 MiB holds 4096 rows of this width."""
    options = {"tested": {"hidden_cache_mib": 1}, "plain": {"hidden_cache_mib": 0}}
    with runtime_pair("gemma2", tmp_path, tiny, **options, **NO_REUSE, n_ctx=4608) as pair:
        pair.attach(tmp_path, [3])
        for length, kind, n_bytes in ((4096, "tail", 1 << 20), (4097, "full", 0)):
            ids = pair.prompt(length)
            actual, expected = (llm.generate(ids, max_tokens=2, logprobs=1) for llm in (pair.tested, pair.plain))
            assert (actual.token_ids, actual.logprobs) == (expected.token_ids, expected.logprobs)
            assert (actual.timings.pass2, actual.timings.hidden_bytes) == (kind, n_bytes)


def test_a_canceled_pass_leaves_no_trace(pair: RuntimePair, tmp_path: Path) -> None:
    n = pair.num_layers
    pair.attach(tmp_path, [n // 2])
    ids = pair.prompt(400)
    expected = pair.plain.generate(ids, max_tokens=4, logprobs=0)
    n_cancelled = 0
    for patience in range(6):
        calls: list[None] = []

        def enough(patience: int = patience, asked: list[None] = calls) -> bool:
            asked.append(None)
            return len(asked) > patience

        try:
            pair.tested.generate(ids, cancel=enough, max_tokens=0)
        except Cancelled:
            n_cancelled += 1
        result = pair.tested.generate(ids, max_tokens=4, logprobs=0)
        assert result.logprobs == expected.logprobs
        assert result.timings.pass2 == pass2_kind(pair, len(ids))
    assert n_cancelled > 0


def test_another_sidecar_enters_elsewhere(pair: RuntimePair, tmp_path: Path) -> None:
    n = pair.num_layers
    ids = pair.prompt(40)
    for layer, seed in ((n // 2, 0), (0, 1), (n - 1, 2)):
        pair.attach(tmp_path, [layer, n - 1], seed=seed)
        for gain in (1.0, 0.5, -1.0, 0.0):
            actual, expected = (
                llm.generate(ids, max_tokens=4, logprobs=0, gain=gain) for llm in (pair.tested, pair.plain)
            )
            assert actual.logprobs == expected.logprobs
            assert (actual.timings.pass2 == "none") is (gain == 0.0)


@pytest.mark.parametrize(
    ("inject_from", "flash_attn"), [("prompt", True), ("prompt", False), ("last_prompt_token", False)]
)
def test_smollm2(
    inject_from: InjectFrom, flash_attn: bool, base_gguf: Path, trained_sidecar: Path, tmp_path: Path
) -> None:
    """The real base in its shipped type (Q4_1), with an F16 cache, the trained Doubter and long prompts.

    A whole pass 2 over only the last token computes in one row the blocks that pass 1 computed in many rows. It
    uses another kernel of flash attention, and on some processors other instructions for quantized weights.
    """
    options = {"n_ctx": 1024, "n_ubatch": 128, "n_threads": 2, "flash_attn": flash_attn, **NO_REUSE}
    source, sidecar = read_sidecar(trained_sidecar), tmp_path / "sidecar.gguf"
    write_sidecar(sidecar, replace(source.config, inject_from=inject_from), source.tensors)
    with (
        MetaLlama(base_gguf, sidecar, **options) as tail,
        MetaLlama(base_gguf, sidecar, hidden_cache_mib=0, **options) as full,
    ):
        for question in ("What is the plural of wolf?", "Summarise: " + "the wolf and the seven young goats, " * 40):
            ids = tail.tokenize(tail.apply_chat_template([{"role": "user", "content": question}]))
            np.testing.assert_array_equal(tail.logits(ids), full.logits(ids))
            actual, expected = (llm.generate(question, max_tokens=16, logprobs=N_TOP) for llm in (tail, full))
            if inject_from == "prompt":
                assert (actual.logprobs, actual.doubt) == (expected.logprobs, expected.doubt)
            else:
                check_answer(actual, expected)
            assert (actual.timings.pass2, expected.timings.pass2) == ("tail", "full")
            assert actual.timings.hidden_bytes == 4 * 576 * actual.timings.n_prompt


@pytest.mark.parametrize("flash_attn", [True, False])
def test_k_quants(flash_attn: bool, tmp_path: Path) -> None:
    """Q4_K's kernels round a single row in another way than one of several. Both passes are cut alike."""
    base, sidecar = write_k_quants(tmp_path)
    options = {"n_ctx": 512, "n_threads": 2, "flash_attn": flash_attn, **SMALL_BATCHES, **NO_REUSE}
    rng = np.random.default_rng(0)
    with (
        MetaLlama(base, sidecar, **options) as tail,
        MetaLlama(base, sidecar, hidden_cache_mib=0, **options) as full,
    ):
        for length in (1, 5, 40, 101):
            ids = rng.integers(20, 250, size=length).tolist()
            np.testing.assert_array_equal(tail.logits(ids), full.logits(ids))
            actual, expected = (llm.generate(ids, max_tokens=8, logprobs=2) for llm in (tail, full))
            assert (actual.logprobs, actual.doubt) == (expected.logprobs, expected.doubt)
            assert (actual.timings.pass2, expected.timings.pass2) == ("tail", "full")
