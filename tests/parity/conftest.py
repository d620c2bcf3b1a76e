"""What the parity tests share: models on both sides, on the very same weights, and a report of what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from metadeploy import MetaLlama
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from support.gguf_tools import dequantise_gguf
from support.parity import EXACT, Question
from support.tiny_models import TinyModel, tiny_model


@pytest.fixture(scope="session")
def trained_run(repo_root: Path) -> Path:
    """The run directory of the trained Doubter that comes with the package."""
    return repo_root / "metadeploy" / "demo" / "data" / "smollm2_doubter"


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, base_gguf: Path) -> Callable[[str], TinyModel]:
    """A tiny random model by kind, made once in a session."""
    cache = tmp_path_factory.mktemp("tiny")
    return lambda kind: tiny_model(kind, cache, tokenizer_gguf=base_gguf)


@pytest.fixture(scope="session")
def smollm2_f32(tmp_path_factory: pytest.TempPathFactory, base_gguf: Path) -> Path:
    """The real base, dequantised to F32: the same weights for both sides."""
    path = tmp_path_factory.mktemp("smollm2") / "smollm2-f32.gguf"
    dequantise_gguf(base_gguf, path)
    return path


@pytest.fixture(scope="session")
def smollm2_torch(smollm2_f32: Path, trained_run: Path) -> MetaSpiderPipeline:
    """The real base in PyTorch F32 with the trained Doubter."""
    config = MetaSpiderConfig(model_name=str(smollm2_f32), device="cpu", dtype="float32")
    pipeline = MetaSpiderPipeline.from_pretrained(config)
    pipeline.attach(Doubter.from_checkpoint(trained_run))
    return pipeline


@pytest.fixture(scope="session")
def smollm2_llm(smollm2_f32: Path, trained_sidecar: Path) -> Iterator[MetaLlama]:
    """The same in the compiled runtime."""
    with MetaLlama(smollm2_f32, trained_sidecar, **EXACT) as llm:
        yield llm


@pytest.fixture(scope="session")
def questions(trained_run: Path) -> list[Question]:
    """All of them."""
    rows = [json.loads(line) for line in (trained_run / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    return [Question(row["question"], tuple(row["answers"]), row["category"]) for row in rows]


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Keep a line for the report at the end of the run."""
    lines: list[tuple[str, str]] = request.config.stash.setdefault(REPORT, [])
    return lambda what, figures: lines.append((what, figures))


REPORT = pytest.StashKey[list[tuple[str, str]]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what the parity tests measured."""
    lines = config.stash.get(REPORT, [])
    if lines:
        terminalreporter.section("parity: compiled runtime against PyTorch")
        for what, figures in lines:
            terminalreporter.line(f"{what:<44} {figures}")
