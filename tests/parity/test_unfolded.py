"""The benchmarks' comparisons: cross-attention without folding, and steps without a sampler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from synthetic_base import synthetic_base

from metadeploy import Error, MetaLlama, _core
from metadeploy.sidecar import write_sidecar
from metadeploy.sidecar.spec import InjectFrom
from support.gguf_tools import write_tiny_gguf
from support.parity import EXACT, nmse
from support.random_wrapper import random_wrapper
from support.tiny_archs import write_tiny_arch
from tolerances import UNFOLDED_NMSE

Base = Callable[[str], Path]
PROMPT = np.random.default_rng(0).integers(20, 250, size=24).tolist()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Return a tiny base by architecture."""
    folder = tmp_path_factory.mktemp("bases")

    def write(kind: str) -> Path:
        if kind == "qwen35":
            return synthetic_base(folder, "tiny")
        path = folder / f"{kind}.gguf"
        if kind == "llama":
            write_tiny_gguf(path)
        else:
            write_tiny_arch(path, kind)
        return path

    return write


def sidecar_for(llm: MetaLlama, folder: Path, *, inject_from: InjectFrom = "prompt") -> Path:
    engine = llm._engine
    config, tensors = random_wrapper(
        "selective",
        hidden_dim=engine.n_embd,
        target_layers=range(engine.n_layer),
        cross_attn_layers=[0, engine.n_layer - 1],
        inject_from=inject_from,
    )
    path = folder / "sidecar.gguf"
    write_sidecar(path, config, {name: tensor.numpy() for name, tensor in tensors.items()})
    return path


@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "mamba", "qwen35"])
def test_unfolded_gives_the_same_logits(kind: str, inject_from: InjectFrom, base: Base, tmp_path: Path) -> None:
    with MetaLlama(base(kind), n_ctx=256, hidden_cache_mib=0, **EXACT) as llm:
        path = sidecar_for(llm, tmp_path, inject_from=inject_from)
        engine = llm._engine
        logits_of = {}
        for folded in (True, False):
            engine.attach(str(path), folded)
            logits_of[folded] = engine.logits(PROMPT, True, 1.0)
            attention = engine.cognitive_attention(PROMPT, 1.0)
            np.testing.assert_allclose(attention.sum(axis=-1), 1.0, atol=1e-5)
        clean = engine.logits(PROMPT, False, 1.0)
        assert nmse(logits_of[False], logits_of[True]) < UNFOLDED_NMSE[kind if kind in UNFOLDED_NMSE else "others"]
        assert nmse(clean[-1:], logits_of[True][-1:]) > 1e-3  # the wrapper changes the logits
        np.testing.assert_array_equal(engine.logits(PROMPT, True, 0.0), clean)


def test_unfolded_is_for_one_sequence(base: Base, tmp_path: Path) -> None:
    with MetaLlama(base("llama"), n_parallel=2, n_ctx=256) as llm:
        path = sidecar_for(llm, tmp_path)
        llm.attach(path)
        with pytest.raises(Error, match="has one sequence, the context 2"):
            llm._engine.attach(str(path), False)
        assert llm._engine.sidecar == str(path)  # unchanged


@pytest.mark.parametrize("inject", [True, False])
@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_steps_match_an_answer(kind: str, inject: bool, base: Base, tmp_path: Path) -> None:
    prompts = [PROMPT, PROMPT[:9]]
    with MetaLlama(base(kind), n_parallel=2, n_ctx=256, **EXACT) as llm:
        llm.attach(sidecar_for(llm, tmp_path))
        engine = llm._engine
        answers = [answer.result for answer in llm.generate_batch(prompts, max_tokens=12, inject=inject)]
        tokens = [_core.prefill(engine, i, prompt, inject)[1] for i, prompt in enumerate(prompts)]
        rows = [tokens]
        for _ in range(11):
            ms, tokens = _core.decode(engine, tokens, inject)
            assert ms > 0
            rows.append(tokens)
    for i, answer in enumerate(answers):
        assert answer is not None
        n = len(answer.token_ids)
        assert n > 3
        assert list(answer.token_ids) == [row[i] for row in rows[:n]]


def test_steps_need_no_vocabulary(base: Base) -> None:
    with MetaLlama(base("qwen35"), n_ctx=256) as llm:
        timings, token = _core.prefill(llm._engine, 0, PROMPT, True)
        assert timings.n_prompt == len(PROMPT)
        assert _core.decode(llm._engine, [token], True)[1] != [-1]
        assert np.isfinite(llm._engine.logits(PROMPT, False, 1.0)).all()


def test_steps_that_cannot_be(base: Base) -> None:
    with MetaLlama(base("llama"), n_ctx=256) as llm:
        engine = llm._engine
        with pytest.raises(Error, match="there is no sequence 1, the context has 1"):
            _core.prefill(engine, 1, PROMPT, False)
        for tokens in ([], [1, 2]):
            with pytest.raises(Error, match="expected one for each of 1 to 1 sequences"):
                _core.decode(engine, tokens, False)
        with pytest.raises(Error, match="failed to evaluate a batch"):
            _core.decode(engine, [engine.n_vocab], False)
