"""The program with a tiny model that answers in milliseconds, and with the demo's trained Doubter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from metadeploy import MetaLlama
from support.program import Program, TinyCase, write_tiny_case


@pytest.fixture(scope="session")
def tiny_case(tmp_path_factory: pytest.TempPathFactory) -> TinyCase:
    return write_tiny_case(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def shared_llm(tiny_case: TinyCase) -> Iterator[MetaLlama]:
    with tiny_case.load() as llm:
        yield llm


@pytest.fixture
def llm(shared_llm: MetaLlama, tiny_case: TinyCase) -> Iterator[MetaLlama]:
    """The tiny base with its sidecar in this process. Changes that a test makes to the sidecar are undone."""
    yield shared_llm
    shared_llm.attach(tiny_case.sidecar)


@pytest.fixture(scope="session")
def tiny(llama_meta_generate: Path, tiny_case: TinyCase) -> Program:
    return Program(llama_meta_generate, tiny_case.base, tiny_case.sidecar)


@pytest.fixture(scope="session")
def doubter(llama_meta_generate: Path, base_gguf: Path, trained_sidecar: Path) -> Program:
    return Program(llama_meta_generate, base_gguf, trained_sidecar)
