"""Doubt in PyTorch and in the compiled runtime: the same number, and the same decisions at every threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tolerances
from metadeploy import MetaLlama
from metadeploy.export import export
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.sidecar.spec import InjectFrom
from support.parity import EXACT, Question
from support.random_wrapper import random_wrapper, save_checkpoint
from support.tiny_models import TinyModel

THRESHOLDS = (0.0, 0.002, 0.01, 0.05, 0.2, 0.5, 0.8, 1.0)


def first(tokens: list[int] | tuple[int, ...]) -> int | None:
    return tokens[0] if tokens else None


@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
@pytest.mark.parametrize("kind", ["llama", "qwen3_5"])
def test_tiny_models(
    kind: str,
    inject_from: InjectFrom,
    tiny: Callable[[str], TinyModel],
    tmp_path: Path,
    report: Callable[[str, str], None],
) -> None:
    """A random model almost never refuses, so the refusal is a token that it often chooses, and there is a bias."""
    model = tiny(kind)
    n = model.num_layers
    config, tensors = random_wrapper(
        "selective",
        hidden_dim=model.hidden_dim,
        target_layers=[0, n // 2, n - 1],
        cross_attn_layers=[1, n - 1],
        num_layers=n,
        inject_from=inject_from,
    )
    pipeline = MetaSpiderPipeline.from_pretrained(
        MetaSpiderConfig(model_name=str(model.path_hf), device="cpu", dtype="float32")
    )
    rng = np.random.default_rng(5)
    prompts = [rng.integers(20, model.vocab_size, size=size).tolist() for size in (1, 7, 24, 40)]
    pipeline.attach(Doubter.from_tensors(config, tensors))
    token = int(pipeline.logits(prompts[2])[-1].topk(3).indices[2])
    config = replace(config, refusal_token_ids=(token,), refusal_bias=-0.625)
    checkpoint = save_checkpoint(tmp_path, config, tensors)
    pipeline.attach(Doubter.from_checkpoint(checkpoint))
    worst, n_declined = 0.0, 0
    with MetaLlama(model.path_gguf, export(checkpoint).path, n_ctx=256, **EXACT) as llm:
        for ids in prompts:
            for gain in (1.0, 0.5, 0.0):
                worst = max(worst, abs(llm.doubt(ids, gain=gain) - pipeline.doubt(ids, gain=gain)))
            for threshold in THRESHOLDS:
                expected = pipeline.generate_ids(ids, 1, stop_ids=(), doubt_threshold=threshold)
                assert llm.generate(ids, max_tokens=1, doubt_threshold=threshold).token_ids == tuple(expected)
                n_declined += expected == [token]
    assert len(prompts) < n_declined < len(prompts) * (len(THRESHOLDS) - 1)  # not only always and never
    assert worst < tolerances.TINY_DOUBT_MAX_ABS
    report(f"doubt: {kind}, from {inject_from}", f"max |difference| {worst:.0e}; same decisions at every threshold")


def test_smollm2(
    questions: list[Question],
    smollm2_llm: MetaLlama,
    smollm2_torch: MetaSpiderPipeline,
    report: Callable[[str, str], None],
) -> None:
    """The trained Doubter states its refusal as text. Both sides find the same first token for it."""
    doubts = []
    for question in questions[::15]:
        text = smollm2_torch.apply_chat_template(question.question)
        ids = smollm2_torch.tokenize(text)
        expected, actual = smollm2_torch.doubt(ids), smollm2_llm.doubt(question.question)
        doubts.append((expected, actual))
        for threshold in (0.2, 0.5, 0.8):
            token = first(smollm2_torch.generate_ids(ids, 1, doubt_threshold=threshold))
            assert first(smollm2_llm.generate(ids, max_tokens=1, doubt_threshold=threshold).token_ids) == token
            assert (token == smollm2_torch.tokenize(smollm2_llm.refusal_text)[0]) == (expected >= threshold)
    worst = max(abs(one - two) for one, two in doubts)
    assert worst < tolerances.SMOLLM2_DOUBT_MAX_ABS
    values = [one for one, _ in doubts]
    assert min(values) < 0.5 < max(values)  # it answers some and declines some
    report("doubt: SmolLM2-135M F32, trained Doubter", f"max |difference| {worst:.0e} on {len(doubts)} questions")
