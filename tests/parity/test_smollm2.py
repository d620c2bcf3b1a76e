"""A real model with the trained Doubter: equal tokens on F32 weights, and the effect of quantization."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tolerances
from metadeploy import MetaLlama, _core
from metadeploy.reference import MetaSpiderPipeline
from support.parity import END_TOKENS, Question, greedy, kl_divergence, nmse

N_PROMPTS = 50
N_NEW = 48

Report = Callable[[str, str], None]


def chat_ids(pipeline: MetaSpiderPipeline, question: str) -> list[int]:
    return pipeline.tokenize(pipeline.apply_chat_template(question))


@pytest.fixture(scope="module")
def prompts(questions: list[Question], smollm2_torch: MetaSpiderPipeline) -> list[list[int]]:
    return [chat_ids(smollm2_torch, q.question) for q in questions[:: len(questions) // N_PROMPTS][:N_PROMPTS]]


@pytest.fixture(scope="module")
def torch_answers(prompts: list[list[int]], smollm2_torch: MetaSpiderPipeline) -> list[list[int]]:
    return [smollm2_torch.generate_ids(ids, N_NEW, stop_ids=END_TOKENS) for ids in prompts]


def test_same_text_and_tokens(
    questions: list[Question], smollm2_llm: MetaLlama, smollm2_torch: MetaSpiderPipeline
) -> None:
    """Both sides see the same prompt: template and tokenizer agree."""
    for question in questions[::10]:
        messages = [{"role": "user", "content": question.question}]
        text = smollm2_llm.apply_chat_template(messages)
        assert text == smollm2_torch.apply_chat_template(question.question)
        assert smollm2_llm.tokenize(text) == smollm2_torch.tokenize(text)


def test_every_stage(
    prompts: list[list[int]], smollm2_llm: MetaLlama, smollm2_torch: MetaSpiderPipeline, report: Report
) -> None:
    layers = [0, 19, 20, 25, 29]
    worst = dict.fromkeys(("activations", "cognitive tokens", "hidden states", "logits"), 0.0)
    max_logit_error = 0.0
    for ids in prompts[::5]:
        stages = {
            "activations": (smollm2_llm.activations(ids), smollm2_torch.activations(ids)),
            "cognitive tokens": (smollm2_llm.cognitive_tokens(ids), smollm2_torch.cognitive_tokens(ids)),
            "hidden states": (smollm2_llm.layer_outputs(ids, layers), smollm2_torch.layer_outputs(ids, layers)),
            "logits": (smollm2_llm.logits(ids), smollm2_torch.logits(ids)),
        }
        for stage, (actual, expected) in stages.items():
            worst[stage] = max(worst[stage], nmse(actual, expected.numpy()))
        actual, expected_logits = stages["logits"][0], stages["logits"][1].numpy()
        max_logit_error = max(max_logit_error, float(np.abs(actual - expected_logits).max()))
        attention = smollm2_torch.attention(ids).numpy().swapaxes(1, 2)
        np.testing.assert_allclose(smollm2_llm.cognitive_attention(ids), attention, rtol=0, atol=tolerances.F32_MAX_ABS)
    for stage, value in worst.items():
        assert value < tolerances.SMOLLM2_F32_NMSE, stage
    assert max_logit_error < tolerances.SMOLLM2_F32_LOGITS_MAX_ABS
    figures = ", ".join(f"{stage} {value:.0e}" for stage, value in worst.items())
    report("SmolLM2-135M F32, trained Doubter", f"NMSE {figures}; max |logit error| {max_logit_error:.1e}")


def test_greedy_answers_are_identical(
    prompts: list[list[int]], torch_answers: list[list[int]], smollm2_llm: MetaLlama, report: Report
) -> None:
    answers = [greedy(smollm2_llm, ids, N_NEW) for ids in prompts]
    assert len(answers) >= 50
    assert answers == torch_answers
    n_tokens = sum(map(len, answers))
    report("SmolLM2-135M F32, greedy", f"{len(answers)} of {len(answers)} answers identical, {n_tokens} tokens")


@pytest.fixture(scope="module", params=["Q4_1 (as shipped)", "Q4_K_M", "Q8_0"])
def quantized(
    request: pytest.FixtureRequest, base_gguf: Path, smollm2_f32: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    if request.param.startswith("Q4_1"):
        return request.param, base_gguf
    path = tmp_path_factory.mktemp("quantized") / f"{request.param}.gguf"
    _core.quantize(str(smollm2_f32), str(path), request.param)
    return request.param, path


def test_quantized_bases(
    quantized: tuple[str, Path],
    prompts: list[list[int]],
    torch_answers: list[list[int]],
    trained_sidecar: Path,
    smollm2_torch: MetaSpiderPipeline,
    report: Report,
) -> None:
    """A quantized base with default settings (F16 cache) against PyTorch on its F32 weights."""
    name, path = quantized
    n_equal = n_tokens = n_agree = 0
    divergences: list[float] = []
    with MetaLlama(path, trained_sidecar, prefix_cache_mib=0) as llm:  # so that the figures do not depend on the order
        refusal = llm.tokenize(llm.refusal_text, add_special=False)
        for ids, expected in zip(prompts, torch_answers, strict=True):
            answer = greedy(llm, ids, N_NEW)
            n_equal += sum(a == b for a, b in zip(answer, expected, strict=False))
            n_tokens += max(len(answer), len(expected))
            n_agree += (answer[:3] == refusal[:3]) == (expected[:3] == refusal[:3])
        for ids in prompts[::5]:
            divergences.append(kl_divergence(smollm2_torch.logits(ids).numpy()[-1], llm.logits(ids)[-1]))
    report(
        f"SmolLM2-135M {name}",
        f"tokens equal {n_equal}/{n_tokens}, answer/refuse agree {n_agree}/{len(prompts)}, "
        f"KL of the first token {np.mean(divergences):.4f} (max {np.max(divergences):.4f})",
    )
    assert n_agree / len(prompts) >= tolerances.QUANTISED_MIN_AGREEMENT[name.split()[0]]
