"""Parity on two real bases in Q4_K_M, qwen2 and gemma3: on their weights dequantized to F32, and on the files.

On F32, both sides load the same file, with the settings in ``EXACT`` (K/V cache in F32, no flash attention), and must
agree token for token. The Q4_K_M files run with default settings.

The short tests run if the bases are in the cache. The nox session `bases` runs the slow tests too.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tolerances
from metadeploy import MetaLlama
from metadeploy.demo.packaged import cached
from metadeploy.export import export
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.sidecar.spec import EncoderType, InjectFrom
from support.gguf_tools import dequantize_gguf
from support.missing import unavailable
from support.parity import EXACT, FloatArray, Question, greedy, kl_divergence, nmse
from support.quick_training import train_quickly
from support.random_wrapper import random_wrapper, save_checkpoint
from support.real_bases import FETCH, REAL_BASES, RealBase

#: Each encoder with a start of its injection; both starts occur.
ENCODERS: list[tuple[EncoderType, InjectFrom]] = [
    ("selective", "prompt"),
    ("multi_token", "last_prompt_token"),
    ("transformer", "prompt"),
]
#: Size of the random injection, relative to the root mean square of the hidden state that it is added to.
STRENGTH = 0.1
N_PROMPTS, N_NEW = 50, 48

Report = Callable[[str, str], None]


@dataclass(frozen=True)
class Sides:
    """A base in PyTorch and in the runtime, on the same F32 weights.

    Attributes:
        base: the base.
        file: its GGUF in Q4_K_M.
        exact: the same weights in F32, with a chat template.
        llm: `exact` in the runtime.
        pipeline: `exact` in PyTorch.
        prompts: token ids of `N_PROMPTS` questions.
        rms: [num_layers] root mean square of the clean hidden states of the first prompt's last token.
    """

    base: RealBase
    file: Path
    exact: Path
    llm: MetaLlama
    pipeline: MetaSpiderPipeline
    prompts: Sequence[list[int]]
    rms: Sequence[float]

    def attach_checkpoint(self, checkpoint: Path) -> Path:
        """Attach a checkpoint to both sides, exported for the runtime. Return the sidecar."""
        sidecar = export(checkpoint, force=True).path
        self.llm.attach(sidecar)
        self.pipeline.attach(Doubter.from_checkpoint(checkpoint))
        return sidecar

    def declined(self, answer: Sequence[int]) -> bool:
        """Return whether an answer begins with the first three tokens of the wrapper's refusal."""
        assert self.pipeline.doubter is not None
        refusal = self.pipeline.doubter.config.refusal_token_ids
        assert refusal is not None
        return list(answer[:3]) == list(refusal[:3])

    def attach(self, folder: Path, encoder_type: EncoderType, inject_from: InjectFrom, *, seed: int = 0) -> Path:
        """Attach the same random wrapper to both sides. Return its sidecar."""
        n = self.base.num_layers
        injected = [1, n // 2, n - 1]
        config, tensors = random_wrapper(
            encoder_type,
            hidden_dim=self.base.hidden_dim,
            target_layers=[n - 1, 0, n // 2],  # includes the first and the last block, out of order
            cross_attn_layers=injected,
            num_layers=n,
            inject_from=inject_from,
            seed=seed,
        )
        for layer in injected:  # hidden states of real models grow by orders of magnitude from the first block on
            tensors[f"ca.{layer}.up_proj.weight"] *= STRENGTH * self.rms[layer]
        return self.attach_checkpoint(save_checkpoint(folder, config, tensors))


@pytest.fixture(scope="module", params=REAL_BASES)
def sides(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, questions: list[Question]
) -> Iterator[Sides]:
    """Load one base after the other: memory and disk never hold two."""
    base = REAL_BASES[request.param]
    file = cached(base.file)
    if file is None:
        unavailable(f"{base.file.name} is not in the cache: run `{FETCH}` once")
    exact = tmp_path_factory.mktemp(base.key) / f"{base.key}-f32.gguf"
    dequantize_gguf(file, exact, chat_template=base.chat_template)
    pipeline = MetaSpiderPipeline.from_pretrained(
        MetaSpiderConfig(model_name=str(exact), device="cpu", dtype="float32")
    )
    with MetaLlama(exact, n_ctx=1024, n_parallel=10, **EXACT) as llm:
        texts = [q.question for q in questions[:: len(questions) // N_PROMPTS][:N_PROMPTS]]
        prompts = [pipeline.tokenize(pipeline.apply_chat_template(question)) for question in texts]
        layers = list(range(base.num_layers))
        last = llm.layer_outputs(prompts[0], layers, inject=False)[:, -1]
        yield Sides(base, file, exact, llm, pipeline, prompts, np.sqrt((last**2).mean(axis=1)).tolist())
    exact.unlink()
    del pipeline
    gc.collect()  # the model is part of reference cycles


def stages(sides: Sides, ids: list[int]) -> dict[str, tuple[Any, Any]]:
    """Compute each stage in the runtime and in PyTorch."""
    layers = list(range(sides.base.num_layers))
    llm, pipeline = sides.llm, sides.pipeline
    both = {
        "activations": (llm.activations(ids), pipeline.activations(ids)),
        "cognitive tokens": (llm.cognitive_tokens(ids), pipeline.cognitive_tokens(ids)),
        "hidden states": (llm.layer_outputs(ids, layers), pipeline.layer_outputs(ids, layers)),
        "logits": (llm.logits(ids), pipeline.logits(ids)),
    }
    return {stage: (ours, theirs.numpy()) for stage, (ours, theirs) in both.items()}


def check_stages(sides: Sides, prompts: Sequence[list[int]], wrapper: str, report: Report) -> None:
    worst: dict[str, float] = {}
    for ids in prompts:
        for stage, (ours, theirs) in stages(sides, ids).items():
            worst[stage] = max(worst.get(stage, 0.0), worst_row(ours, theirs))
    figures = ", ".join(f"{stage} {value:.0e}" for stage, value in worst.items())
    report(f"{sides.base.key} F32, {wrapper}", f"NMSE, worst row of {len(prompts)} prompts: {figures}")
    limits = tolerances.REAL_F32_NMSE[sides.base.key]
    assert {stage: value for stage, value in worst.items() if value >= limits[stage]} == {}


def worst_row(ours: FloatArray, theirs: FloatArray) -> float:
    """Return the largest NMSE of a single row: the first token's states can be hundreds of times larger than others."""
    rows = zip(ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, theirs.shape[-1]), strict=True)
    return max(nmse(one, other) for one, other in rows)


def reading_of(sides: Sides, ids: list[int], answer: list[int]) -> list[int]:
    """Return PyTorch's greedy choice for each token of an answer, and for the token after it, in one forward pass."""
    logits = sides.pipeline.logits(ids + answer, n_prompt=len(ids))[len(ids) - 1 :]
    choices: list[int] = logits.argmax(dim=-1).tolist()
    return choices


# -- short tests


def test_template_and_tokenizer_agree(sides: Sides, questions: list[Question]) -> None:
    texts = [question.question for question in questions[::15]]
    for text in (*texts, "  Zürich?\n\n\tC'est ça — 12345 × 6,7 ≠ 8·9", "def f(x):\n    return x  # 日本語 🙂"):
        assert sides.llm.tokenize(text) == sides.pipeline.tokenize(text, add_special=True)
        prompt = sides.llm.apply_chat_template([{"role": "user", "content": text}])
        theirs = sides.pipeline.apply_chat_template(text)
        assert prompt == theirs.removeprefix("<bos>")
        assert sides.llm.tokenize(prompt) == sides.pipeline.tokenize(theirs)


@pytest.mark.parametrize(("encoder_type", "inject_from"), ENCODERS)
def test_every_stage(
    encoder_type: EncoderType, inject_from: InjectFrom, sides: Sides, tmp_path: Path, report: Report
) -> None:
    sides.attach(tmp_path, encoder_type, inject_from)
    ids = sides.prompts[0]
    clean, injected = sides.llm.logits(ids, inject=False)[-1], sides.llm.logits(ids)[-1]
    assert nmse(clean, injected) > 1e-3, "the injection changes the logits"
    check_stages(sides, sides.prompts[:2], f"random {encoder_type}", report)
    for ids in sides.prompts[:2]:
        assert greedy(sides.llm, ids, 12) == sides.pipeline.generate_ids(ids, 12, stop_ids=sides.base.end_tokens)


def test_a_prompt_longer_than_the_window(sides: Sides, tmp_path: Path, report: Report) -> None:
    """Gemma 3 attends to the last 512 tokens in five of six blocks."""
    sides.attach(tmp_path, "selective", "prompt")
    ids = [token for prompt in sides.prompts for token in prompt][:640]
    n = sides.base.num_layers
    layers = [0, n // 2, n - 1]
    ours, theirs = sides.llm.layer_outputs(ids, layers), sides.pipeline.layer_outputs(ids, layers).numpy()
    error = worst_row(ours[:, 512:], theirs[:, 512:])
    report(f"{sides.base.key} F32, {len(ids)} tokens", f"NMSE, worst row past 512: hidden states {error:.0e}")
    assert error < tolerances.REAL_F32_NMSE[sides.base.key]["hidden states"]
    assert greedy(sides.llm, ids, 4) == sides.pipeline.generate_ids(ids, 4, stop_ids=sides.base.end_tokens)


def test_the_file_itself(sides: Sides, tmp_path: Path, report: Report) -> None:
    """The Q4_K_M file, with default settings, predicts about the same first token as PyTorch on its F32 weights."""
    sidecar = sides.attach(tmp_path, "selective", "prompt")
    with MetaLlama(sides.file, sidecar, n_ctx=512, prefix_cache_mib=0) as llm:  # figures independent of the order
        divergences = [
            kl_divergence(sides.pipeline.logits(ids).numpy()[-1], llm.logits(ids)[-1]) for ids in sides.prompts[:5]
        ]
    report(
        f"{sides.base.key} Q4_K_M, random selective",
        f"KL of the first token {np.mean(divergences):.4f} (max {np.max(divergences):.4f}), 5 prompts",
    )
    assert np.mean(divergences) < tolerances.REAL_Q4_K_M_MEAN_KL[sides.base.key]


# -- slow tests: fifty prompts with random wrappers


@pytest.mark.slow
@pytest.mark.parametrize(("encoder_type", "inject_from"), ENCODERS)
def test_fifty_answers(
    encoder_type: EncoderType, inject_from: InjectFrom, sides: Sides, tmp_path: Path, report: Report
) -> None:
    """PyTorch makes the same greedy choice after every prefix of the runtime's answers, so its answers are the same."""
    sides.attach(tmp_path, encoder_type, inject_from, seed=1)
    check_stages(sides, sides.prompts[::10], f"random {encoder_type}", report)
    answers = [
        list(item.result.token_ids)
        for item in sides.llm.generate_batch(sides.prompts, max_tokens=N_NEW)
        if item.result is not None
    ]
    assert len(answers) == N_PROMPTS
    n_same = 0
    for ids, answer in zip(sides.prompts, answers, strict=True):
        choices = reading_of(sides, ids, answer)
        assert choices[: len(answer)] == answer
        if len(answer) < N_NEW:
            assert choices[len(answer)] in sides.base.end_tokens
        n_same += len(answer)
    report(
        f"{sides.base.key} F32, random {encoder_type}, greedy",
        f"{N_PROMPTS} of {N_PROMPTS} answers identical, {n_same} tokens",
    )


# -- slow tests: a trained wrapper


@pytest.fixture(scope="module")
def trained_checkpoint(sides: Sides, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_quickly(tmp_path_factory.mktemp("trained") / "run", sides.exact).checkpoint


@pytest.fixture(scope="module")
def their_answers(sides: Sides, trained_checkpoint: Path) -> list[list[int]]:
    """PyTorch's answers with the trained wrapper."""
    sides.attach_checkpoint(trained_checkpoint)
    return [sides.pipeline.generate_ids(ids, N_NEW, stop_ids=sides.base.end_tokens) for ids in sides.prompts]


@pytest.mark.slow
def test_fifty_answers_of_a_trained_wrapper(
    sides: Sides, trained_checkpoint: Path, their_answers: list[list[int]], report: Report
) -> None:
    sides.attach_checkpoint(trained_checkpoint)
    check_stages(sides, sides.prompts[::10], "trained selective", report)
    assert [greedy(sides.llm, ids, N_NEW) for ids in sides.prompts] == their_answers
    n_declined = sum(map(sides.declined, their_answers))
    assert 0 < n_declined < N_PROMPTS
    report(
        f"{sides.base.key} F32, trained selective, greedy",
        f"{N_PROMPTS} of {N_PROMPTS} answers identical, {sum(map(len, their_answers))} tokens, {n_declined} declined",
    )


@pytest.mark.slow
def test_the_file_itself_with_a_trained_wrapper(
    sides: Sides, trained_checkpoint: Path, their_answers: list[list[int]], report: Report
) -> None:
    """The Q4_K_M file, with default settings (F16 cache), decides and answers about as PyTorch on its F32 weights."""
    sidecar = sides.attach_checkpoint(trained_checkpoint)
    n_equal = n_tokens = n_agree = 0
    with MetaLlama(sides.file, sidecar, n_ctx=512, prefix_cache_mib=0) as llm:
        divergences = [
            kl_divergence(sides.pipeline.logits(ids).numpy()[-1], llm.logits(ids)[-1]) for ids in sides.prompts[::5]
        ]
        for ids, expected in zip(sides.prompts, their_answers, strict=True):
            answer = greedy(llm, ids, N_NEW)
            n_equal += sum(one == other for one, other in zip(answer, expected, strict=False))
            n_tokens += max(len(answer), len(expected))
            n_agree += sides.declined(answer) == sides.declined(expected)
    report(
        f"{sides.base.key} Q4_K_M, trained selective",
        f"tokens equal {n_equal}/{n_tokens}, answer/refuse agree {n_agree}/{N_PROMPTS}, "
        f"KL of the first token {np.mean(divergences):.4f} (max {np.max(divergences):.4f})",
    )
    assert n_agree / N_PROMPTS >= tolerances.REAL_Q4_K_M_MIN_AGREEMENT
