"""Whole models, tiny and random: every stage against PyTorch, for dense and hybrid bases and all three encoders.

K/V cache in F32, flash attention off (``EXACT``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tolerances
from metadeploy import MetaLlama
from metadeploy.export import export
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.sidecar.spec import EncoderType, InjectFrom
from support.parity import END_TOKENS, EXACT, greedy, nmse
from support.random_wrapper import random_wrapper, save_checkpoint
from support.tiny_models import TinyModel

N_NEW = 64
KINDS = ["llama", "qwen3", "qwen3_5", "gemma3"]
ENCODERS: list[EncoderType] = ["selective", "multi_token", "transformer"]


def prompt_ids(model: TinyModel, seed: int, length: int = 40) -> list[int]:
    # ids below 20 are control tokens of the tokenizer
    return np.random.default_rng(seed).integers(20, model.vocab_size, size=length).tolist()


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tiny: Callable[[str], TinyModel]) -> TinyModel:
    return tiny(request.param)


@pytest.fixture(scope="module")
def pipeline(model: TinyModel) -> MetaSpiderPipeline:
    config = MetaSpiderConfig(model_name=str(model.path_hf), device="cpu", dtype="float32")
    return MetaSpiderPipeline.from_pretrained(config)


@pytest.fixture(scope="module")
def llm(model: TinyModel) -> MetaLlama:
    return MetaLlama(model.path_gguf, n_ctx=512, **EXACT)


def attach_both(
    folder: Path,
    model: TinyModel,
    pipeline: MetaSpiderPipeline,
    llm: MetaLlama,
    encoder_type: EncoderType,
    *,
    inject_from: InjectFrom = "prompt",
    seed: int = 0,
) -> None:
    """Attach the same random wrapper to both sides; each side loads it from the checkpoint in its own way."""
    n = model.num_layers
    config, tensors = random_wrapper(
        encoder_type,
        hidden_dim=model.hidden_dim,
        target_layers=[n - 1, 0, n // 2],  # includes the last and the first block, out of order
        cross_attn_layers=[1, n // 2, n - 1],
        num_layers=n,
        inject_from=inject_from,
        seed=seed,
    )
    checkpoint = save_checkpoint(folder, config, tensors)
    llm.attach(export(checkpoint, force=True).path)
    pipeline.attach(Doubter.from_checkpoint(checkpoint))


@pytest.mark.parametrize("encoder_type", ENCODERS)
def test_every_stage(
    encoder_type: EncoderType,
    model: TinyModel,
    pipeline: MetaSpiderPipeline,
    llm: MetaLlama,
    tmp_path: Path,
    report: Callable[[str, str], None],
) -> None:
    attach_both(tmp_path, model, pipeline, llm, encoder_type)
    limits = tolerances.TINY[model.kind]
    layers = list(range(model.num_layers))
    worst = dict.fromkeys(("activations", "cognitive tokens", "hidden states", "logits"), 0.0)
    n_same = 0
    for seed in range(3):
        ids = prompt_ids(model, seed)
        stages = {
            "activations": (llm.activations(ids), pipeline.activations(ids)),
            "cognitive tokens": (llm.cognitive_tokens(ids), pipeline.cognitive_tokens(ids)),
            "hidden states": (llm.layer_outputs(ids, layers), pipeline.layer_outputs(ids, layers, inject=True)),
            "logits": (llm.logits(ids), pipeline.logits(ids, inject=True)),
        }
        for stage, (actual, expected) in stages.items():
            assert actual.shape == tuple(expected.shape)
            worst[stage] = max(worst[stage], nmse(actual, expected.numpy()))
        # the injection matters: without it, the logits differ far more than the two sides do
        assert nmse(llm.logits(ids, inject=False), stages["logits"][0]) > 1e-3
        actual_ids = greedy(llm, ids, N_NEW)
        expected_ids = pipeline.generate_ids(ids, N_NEW, stop_ids=END_TOKENS)
        assert actual_ids == expected_ids
        n_same += len(actual_ids)
    for stage, value in worst.items():
        assert value < limits[stage], stage
    figures = ", ".join(f"{stage} {value:.0e}" for stage, value in worst.items())
    report(f"{model.kind}, {encoder_type}", f"NMSE {figures}; {n_same} greedy tokens identical")


@pytest.mark.parametrize("gain", [0.5, -1.0])
def test_gain(gain: float, model: TinyModel, pipeline: MetaSpiderPipeline, llm: MetaLlama, tmp_path: Path) -> None:
    attach_both(tmp_path, model, pipeline, llm, "selective")
    ids = prompt_ids(model, 7)
    expected = pipeline.logits(ids, inject=True, gain=gain).numpy()
    assert nmse(llm.logits(ids, gain=gain), expected) < tolerances.TINY[model.kind]["logits"]


def test_injection_from_the_last_prompt_token_on(
    model: TinyModel, pipeline: MetaSpiderPipeline, llm: MetaLlama, tmp_path: Path
) -> None:
    """The prompt's keys and values (and recurrent states) stay those of the clean pass."""
    attach_both(tmp_path, model, pipeline, llm, "selective", inject_from="last_prompt_token")
    for length in (1, 2, 40):
        ids = prompt_ids(model, length, length)
        assert greedy(llm, ids, 24) == pipeline.generate_ids(ids, 24, stop_ids=END_TOKENS)
    clean = llm.logits(ids, inject=False)
    injected = llm.logits(ids)
    assert np.array_equal(clean[:-1], injected[:-1])
    assert not np.array_equal(clean[-1], injected[-1])


def test_prompt_over_many_batches(model: TinyModel, pipeline: MetaSpiderPipeline, tmp_path: Path) -> None:
    """The prompt is longer than a micro-batch and a batch. Hybrid models pass their state from one to the next."""
    with MetaLlama(model.path_gguf, n_ctx=512, n_batch=48, n_ubatch=16, **EXACT) as llm:
        attach_both(tmp_path, model, pipeline, llm, "selective")
        for length in (16, 17, 48, 49, 150):
            ids = prompt_ids(model, length, length)
            assert greedy(llm, ids, 8) == pipeline.generate_ids(ids, 8, stop_ids=END_TOKENS)
            limit = tolerances.TINY[model.kind]["activations"]
            assert nmse(llm.activations(ids), pipeline.activations(ids).numpy()) < limit
