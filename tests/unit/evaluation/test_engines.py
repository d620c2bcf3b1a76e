"""The two engines: batches in PyTorch give the reference's answers, and the runtime gives the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tolerances
from metadeploy import MetaLlama
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.data.checker import first_sentence
from metadeploy.data.question import Question
from metadeploy.evaluation.engines import Answered, AnswerLimits, Engine
from metadeploy.evaluation.engines.runtime_engine import RuntimeEngine
from metadeploy.evaluation.engines.torch_engine import TorchEngine
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.sidecar.spec import InjectFrom
from support.parity import EXACT
from support.random_wrapper import random_wrapper
from support.tiny_models import byte_tokenizer, tiny_causal_lm
from support.tiny_run import MAX_NEW_TOKENS, write_tiny_run

QUESTIONS = tuple(
    Question(text, ("x",), "any")
    for text in ("Who?", "What is the capital of France?", "1 + 1 =", "Name a colour, any colour at all.", "Größe?")
)
GAINS = (1.0, 0.0, 0.5)


def tiny_pipeline(kind: str, inject_from: InjectFrom) -> MetaSpiderPipeline:
    """A tiny base with a random wrapper that declines about half of the questions."""
    pipeline = MetaSpiderPipeline.from_pretrained(
        MetaSpiderConfig(model_name="tiny", device="cpu"), model=tiny_causal_lm(kind), tokenizer=byte_tokenizer()
    )
    n = pipeline.num_layers
    config, tensors = random_wrapper(
        "selective",
        hidden_dim=pipeline.hidden_dim,
        target_layers=(0, n - 1),
        cross_attn_layers=(1, n - 1),
        inject_from=inject_from,
    )
    pipeline.attach(Doubter.from_tensors(config, tensors))
    margins = [torch.tensor(pipeline.doubt(ids)).logit() for ids in map(pipeline.tokenize, prompts(pipeline))]
    # Halfway between two questions: no doubt is exactly 0.5, because rounding would then decide.
    below, above = torch.stack(margins).sort().values[1:3]
    config = dataclasses.replace(config, refusal_bias=-float((below + above) / 2))
    pipeline.attach(Doubter.from_tensors(config, tensors))
    return pipeline


def prompts(pipeline: MetaSpiderPipeline) -> list[str]:
    return [pipeline.apply_chat_template(question.question) for question in QUESTIONS]


def in_order(engine: Engine, questions: Sequence[Question], gains: Sequence[float]) -> list[Answered]:
    answers = sorted(engine.ask(questions, gains=gains), key=lambda answered: answered.index)
    assert [answered.index for answered in answers] == list(range(len(questions)))
    return answers


@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
@pytest.mark.parametrize("kind", ["llama", "qwen3_5", "gemma3"])  # K/V cache, recurrent memory, sliding window
def test_batches_match_the_reference(kind: str, inject_from: InjectFrom) -> None:
    pipeline = tiny_pipeline(kind, inject_from)
    limits = AnswerLimits(max_new_tokens=12, whole_answer=True)
    engine = TorchEngine(pipeline, limits=limits, batch_size=3)
    n_declined = 0
    for text, answered in zip(prompts(pipeline), in_order(engine, QUESTIONS, GAINS), strict=True):
        ids = pipeline.tokenize(text)

        def said(*, length: int = 12, ids: list[int] = ids, **options: Any) -> str:
            answer: str = pipeline.tokenizer.decode(
                pipeline.generate_ids(ids, length, **options), skip_special_tokens=True
            )
            return answer.strip()

        assert answered.base.text == said(inject=False)
        for gain, reply in zip(GAINS, answered.replies, strict=True):
            assert reply.gain == gain
            assert reply.doubt == pytest.approx(pipeline.doubt(ids, gain=gain), abs=tolerances.TINY_DOUBT_MAX_ABS)
            assert reply.text == said(gain=gain, doubt_threshold=1.0)
            assert (reply.refusal is not None) == (gain == 1 and reply.doubt >= 0.5)
            if reply.refusal is not None:
                n_declined += 1
                whole = said(gain=gain, length=len(pipeline.tokenize(engine.refusal_text)) + 8)
                assert reply.refusal == whole
    assert 0 < n_declined < len(QUESTIONS)


def test_gain_0_is_the_base() -> None:
    engine = TorchEngine(tiny_pipeline("llama", "prompt"), limits=AnswerLimits(max_new_tokens=12))
    for answered in engine.ask(QUESTIONS, gains=(0.0,)):
        assert answered.replies[0].text == answered.base.text


def test_answers_end_with_their_first_sentence(run: RunDir) -> None:
    """The text and the mean log-probability equal those from collecting."""
    from metadeploy.training.records import Collected

    records = Collected.read(run.collect, "test").records
    engine = TorchEngine(loaded_torch(run), limits=AnswerLimits(max_new_tokens=MAX_NEW_TOKENS))
    for record, answered in zip(records, in_order(engine, [record.question for record in records], ()), strict=True):
        base = answered.base
        assert (base.text, base.complete) == (record.answer, record.complete)
        assert base.text == first_sentence(base.text)
        assert base.logprobs == pytest.approx(record.logprobs, abs=1e-4)
    assert any(record.complete for record in records)


def test_the_engines_agree(run: RunDir, llm: MetaLlama) -> None:
    from metadeploy.training.records import Collected

    questions = [record.question for record in Collected.read(run.collect, "val").records]
    limits = AnswerLimits(max_new_tokens=MAX_NEW_TOKENS)
    torch_engine, runtime_engine = TorchEngine(loaded_torch(run), limits=limits), RuntimeEngine(llm, limits=limits)
    assert torch_engine.refusal_text == runtime_engine.refusal_text
    pairs = zip(in_order(torch_engine, questions, GAINS), in_order(runtime_engine, questions, GAINS), strict=True)
    n_declined = 0
    for ours, theirs in pairs:
        assert (ours.base.text, ours.base.complete) == (theirs.base.text, theirs.base.complete)
        assert ours.base.logprobs == pytest.approx(theirs.base.logprobs, abs=tolerances.F32_LOGITS_MAX_ABS)
        for one, other in zip(ours.replies, theirs.replies, strict=True):
            assert (one.gain, one.text, one.refusal) == (other.gain, other.text, other.refusal)
            assert one.doubt == pytest.approx(other.doubt, abs=tolerances.TINY_DOUBT_MAX_ABS)
            n_declined += one.refusal is not None
    assert 0 < n_declined < len(questions)


def test_choices_are_read_to_their_end(run: RunDir, llm: MetaLlama) -> None:
    """Other answers in the same batch are read to the end of their first sentence."""
    from metadeploy.training.records import Collected

    plain = [record.question for record in Collected.read(run.collect, "val").records[:12]]
    mixed = [
        dataclasses.replace(question, choices=("x", "y")) if n % 2 else question for n, question in enumerate(plain)
    ]
    limits = AnswerLimits(max_new_tokens=3 * MAX_NEW_TOKENS)
    whole = dataclasses.replace(limits, whole_answer=True)
    pipeline = loaded_torch(run)
    for engine in (
        lambda limits: TorchEngine(pipeline, limits=limits),
        lambda limits: RuntimeEngine(llm, limits=limits),
    ):
        answers = in_order(engine(limits), mixed, GAINS)
        of_all, of_none = in_order(engine(whole), plain, GAINS), in_order(engine(limits), plain, GAINS)
        for n, answered in enumerate(answers):
            expected = (of_all if n % 2 else of_none)[n]
            assert answered.base.text == expected.base.text
            assert answered.base.complete == expected.base.complete
            assert len(answered.base.logprobs) == len(expected.base.logprobs)
            assert [reply.text for reply in answered.replies] == [reply.text for reply in expected.replies]
        assert [row.base.text for row in of_all[1::2]] != [row.base.text for row in of_none[1::2]]


@pytest.fixture(scope="module", params=["prompt", "last_prompt_token"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return write_tiny_run(tmp_path_factory.mktemp("run") / "tiny", inject_from=request.param)


@pytest.fixture(scope="module")
def llm(run: RunDir) -> Iterator[MetaLlama]:
    with MetaLlama(run.path / "base.gguf", run.path / "doubter_sidecar.gguf", **EXACT) as llm:
        yield llm


def loaded_torch(run: RunDir) -> MetaSpiderPipeline:
    config = MetaSpiderConfig(model_name=str(Path(run.manifest["model_name"])), device="cpu", dtype="float32")
    pipeline = MetaSpiderPipeline.from_pretrained(config)
    pipeline.attach(Doubter.from_checkpoint(run.checkpoint))
    return pipeline
