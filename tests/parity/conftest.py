"""Fixtures of the parity tests: models on both sides with the same weights, and a report of the measurements."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from metadeploy import MetaLlama
from metadeploy.doctor.processor import usable_cpus
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from support.gguf_tools import dequantize_gguf
from support.parity import EXACT, Question
from support.tiny_models import TinyModel, tiny_model


@pytest.fixture(scope="session")
def trained_run(repo_root: Path) -> Path:
    """The run directory of the trained Doubter that comes with the package."""
    return repo_root / "metadeploy" / "demo" / "data" / "smollm2_doubter"


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """The tiny models are slower with more than two threads."""
    torch.set_num_threads(min(2, usable_cpus()))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, base_gguf: Path) -> Callable[[str], TinyModel]:
    """Return a tiny random model by kind; each is made once in a session."""
    cache = tmp_path_factory.mktemp("tiny")
    return lambda kind: tiny_model(kind, cache, tokenizer_gguf=base_gguf)


@pytest.fixture(scope="session")
def smollm2_f32(tmp_path_factory: pytest.TempPathFactory, base_gguf: Path) -> Path:
    """The real base, dequantized to F32: the same weights for both sides."""
    path = tmp_path_factory.mktemp("smollm2") / "smollm2-f32.gguf"
    dequantize_gguf(base_gguf, path)
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


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Add a line to the report at the end of the run."""
    return lambda what, figures: record_property(REPORTED, f"{what:<44} {figures}")


REPORTED = "parity"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the measurements. Each test's report carries its lines, also from a worker of pytest-xdist."""
    lines = [
        line
        for reports in terminalreporter.stats.values()
        for test_report in reports
        for name, line in getattr(test_report, "user_properties", ())
        if name == REPORTED and test_report.when == "call"
    ]
    if lines:
        terminalreporter.section("parity: compiled runtime against PyTorch")
        for line in lines:
            terminalreporter.line(line)
