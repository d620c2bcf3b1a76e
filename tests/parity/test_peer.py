"""The base alone against llama-cpp-python, which compiles the same llama.cpp by itself: token for token."""

from __future__ import annotations

from pathlib import Path

import pytest

from metadeploy import MetaLlama
from support.parity import END_TOKENS, Question, greedy

pytestmark = pytest.mark.peer

N_NEW = 48


def peer_tokens(peer: object, ids: list[int]) -> list[int]:
    """Return the greedy tokens of a ``llama_cpp.Llama``."""
    tokens: list[int] = []
    for token in peer.generate(ids, temp=0.0, repeat_penalty=1.0, top_k=40):  # type: ignore[attr-defined]
        if token in END_TOKENS or len(tokens) == N_NEW:
            break
        tokens.append(token)
    return tokens


def test_base_mode_equals_llama_cpp_python(base_gguf: Path, trained_sidecar: Path, questions: list[Question]) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="pip install llama-cpp-python, or: nox -s peer")
    settings = {"n_ctx": 512, "n_threads": 2, "n_batch": 512}
    peer = llama_cpp.Llama(str(base_gguf), **settings, n_threads_batch=2, flash_attn=False, verbose=False)
    try:
        with MetaLlama(base_gguf, trained_sidecar, **settings, flash_attn=False) as llm:
            for question in questions[::10]:
                text = llm.apply_chat_template([{"role": "user", "content": question.question}])
                ids = llm.tokenize(text)
                assert ids == peer.tokenize(text.encode(), add_bos=False, special=True)
                greedy(llm, ids, 2)  # an injected answer in between must leave no trace
                base = list(llm.generate(ids, max_tokens=N_NEW, inject=False).token_ids)
                peer.reset()
                assert base == peer_tokens(peer, ids)
    finally:
        peer.close()
