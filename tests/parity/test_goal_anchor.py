"""A goal anchor in the compiled runtime: a goal that is encoded once for several turns, as in PyTorch.

The checkpoint is one of the framework's, with the transformer encoder. K/V cache in F32, flash attention off
(``EXACT``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tolerances
from metadeploy import MetaLlama
from metadeploy.export import export
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.sidecar import read_sidecar
from support.goal_anchor import save_goal_anchor
from support.handmade_gguf import sidecar
from support.parity import END_TOKENS, EXACT, nmse
from support.program import Program
from support.tiny_models import TinyModel

N_NEW = 24
GOAL = "Never say the word 'the'."
TURNS: list[list[dict[str, str]]] = [[{"role": "user", "content": "What is xenon?"}]]
TURNS.append([*TURNS[0], {"role": "assistant", "content": "A gas."}, {"role": "user", "content": "Who found it?"}])


@pytest.fixture(scope="module", params=["llama", "qwen3_5"])
def model(request: pytest.FixtureRequest, tiny: Callable[[str], TinyModel]) -> TinyModel:
    return tiny(request.param)


@pytest.fixture(scope="module")
def checkpoint(model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    n = model.num_layers
    folder = tmp_path_factory.mktemp("goal")
    return save_goal_anchor(folder, target_layers=[n - 1, 0, n // 2], cross_attn_layers=[1, n // 2, n - 1])


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    return export(checkpoint).path


@pytest.fixture(scope="module")
def llm(model: TinyModel, exported: Path) -> Iterator[MetaLlama]:
    with MetaLlama(model.path_gguf, exported, n_ctx=512, n_parallel=2, **EXACT) as llm:
        yield llm


@pytest.fixture(scope="module")
def pipeline(model: TinyModel, checkpoint: Path) -> MetaSpiderPipeline:
    config = MetaSpiderConfig(model_name=str(model.path_hf), device="cpu", dtype="float32")
    pipe = MetaSpiderPipeline.from_pretrained(config)
    pipe.attach(Doubter.from_checkpoint(checkpoint))
    return pipe


def answers(llm: MetaLlama, **options: Any) -> list[list[int]]:
    return [list(llm.generate(turn, max_tokens=N_NEW, **options).token_ids) for turn in TURNS]


def test_a_goal_is_held_over_turns(model: TinyModel, pipeline: MetaSpiderPipeline, llm: MetaLlama) -> None:
    goal, expected_goal = llm.encode(GOAL, raw=True), pipeline.encode(GOAL, raw=True)
    assert nmse(goal, expected_goal.numpy()) < tolerances.TINY[model.kind]["cognitive tokens"]
    prompts = [pipeline.tokenize(pipeline.apply_chat_template(turn)) for turn in TURNS]
    assert [llm.tokenize(llm.apply_chat_template(turn), add_special=False) for turn in TURNS] == prompts
    held, own = (
        [pipeline.generate_ids(ids, N_NEW, stop_ids=END_TOKENS, cognitive_tokens=tokens) for ids in prompts]
        for tokens in (expected_goal, None)
    )
    assert answers(llm, cognitive_tokens=goal) == held
    assert answers(llm) == own
    assert answers(llm, inject=False) not in (held, own)
    assert all(one != other for one, other in zip(held, own, strict=True))
    together = list(llm.generate_batch(TURNS, max_tokens=N_NEW, cognitive_tokens=goal))
    for answer, expected in zip(together, held, strict=True):
        assert answer.result is not None
        assert list(answer.result.token_ids) == expected
        assert (answer.result.doubt, answer.result.abstained) == (None, False)


def test_goals_of_the_program(
    model: TinyModel, exported: Path, llm: MetaLlama, llama_meta_generate: Path, tmp_path: Path
) -> None:
    goal = llm.encode(GOAL, raw=True)
    expected = [llm.generate(turn, max_tokens=N_NEW, cognitive_tokens=goal).text for turn in TURNS]
    prompts = tmp_path / "turns.jsonl"
    prompts.write_text("".join(json.dumps({"messages": turn}) + "\n" for turn in TURNS), encoding="utf-8")
    program = Program(llama_meta_generate, model.path_gguf, exported)
    exact = ("-c", "512", "-fa", "off", "-ctk", "f32", "-ctv", "f32", "-n", str(N_NEW))
    run = program("--prompts", prompts, "--meta-goal", GOAL, *exact)
    assert run.returncode == 0, run.stderr
    results = [json.loads(line) for line in run.stdout.splitlines()]
    assert [result["text"] for result in results] == expected
    assert [(result["goal"], result["doubt"], result["abstained"]) for result in results] == [(GOAL, None, False)] * 2


def test_a_file_that_says_its_trigger(exported: Path, llm: MetaLlama, tmp_path: Path) -> None:
    """The framework writes this key, with its newer prefix."""
    source = read_sidecar(exported)
    tensors = {name: np.asarray(tensor) for name, tensor in source.tensors.items()}
    file = sidecar(source.config, tensors, prefix="daimon").with_key("daimon.kind", "str", "goal_anchor")
    path = tmp_path / "said.gguf"
    path.write_bytes(file.with_key("daimon.trigger", "str", "always").build())
    loaded = read_sidecar(path)
    assert loaded.metadata["daimon.trigger"] == "always"
    assert (loaded.config.kind, loaded.config.encoder_type) == ("goal_anchor", "transformer")
    goal = llm.encode(GOAL, raw=True)
    expected = answers(llm, cognitive_tokens=goal)
    llm.attach(path)
    try:
        np.testing.assert_array_equal(llm.encode(GOAL, raw=True), goal)
        assert answers(llm, cognitive_tokens=goal) == expected
    finally:
        llm.attach(exported)
