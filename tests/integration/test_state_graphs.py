"""Graphs that differ only a little, one after the other: each must be placed in memory as it needs.

Early parts of a graph that keeps hidden states, taps, captures, and blocks that end with no row at all, because a
micro-batch has no output, change what llama.cpp's own graphs are.
"""

from __future__ import annotations

import pytest

from metadeploy import InjectionSchedule, Refresh
from support.state_fuzz import (
    KINDS,
    LAST,
    Ask,
    Attach,
    Batch,
    Case,
    Files,
    Look,
    Operation,
    Options,
    Prompt,
    Run,
    Wrapper,
    tied_of,
)

HELD = Options(max_tokens=2, held=Prompt(0, 17))
ALONE = Options(max_tokens=2, inject=False)
REFRESHED = Options(max_tokens=3, schedule=InjectionSchedule(refresh=Refresh(threshold=1.1, min_interval=1)))

#: a micro-batch has 16 tokens
OPERATIONS: list[Operation] = [
    # cognitive tokens that are held have no clean pass: no hidden states are kept of a prompt that is only half done
    Look("cognitive_tokens", Prompt(0, 17)),
    Ask(Prompt(0, 17), HELD),
    Batch((Ask(Prompt(0, 64), cancel=0),)),
    Ask(Prompt(1, 37)),
    # prompts of which hidden states are kept take turns with others
    Batch((Ask(Prompt(1, 70)), Ask(Prompt(0, 66), ALONE), Ask(Prompt(1, 50), HELD)), max_tokens=2),
    Batch((Ask(Prompt(0, 50), ALONE), Ask(Prompt(1, 49)), Ask(Prompt(1, 100))), max_tokens=2),
    # captures, which are another graph for each set of layers
    *(Look("layer_outputs", Prompt(1, 33), layers=(layer,)) for layer in (0, 1, LAST)),
    Look("cognitive_attention", Prompt(1, 33)),
    Look("layer_outputs", Prompt(1, 33), inject=False),
    # taps at other places of an answer
    Ask(Prompt(0, 35), REFRESHED),
    Look("activations", Prompt(1, 16)),
    Look("logits", Prompt(1, 80)),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("graphs"))


@pytest.mark.parametrize(
    "wrapper",
    [
        Wrapper((LAST,), "last_prompt_token"),
        Wrapper((LAST,)),
        Wrapper((3, 4), "last_prompt_token", "multi_token"),
        Wrapper((0, 3, LAST)),
    ],
    ids=lambda wrapper: f"{wrapper.layers[0]}-{wrapper.inject_from}",
)
@pytest.mark.parametrize(("kind", "tied"), [(kind, tied) for kind in KINDS for tied in tied_of(kind)])
def test_one_graph_after_another(kind: str, tied: bool, wrapper: Wrapper, files: Files) -> None:
    with Run(files, Case(kind, tied, n_parallel=2, n_ubatch=16, prefix_cache_mib=0)) as run:
        for operation in (Attach(wrapper), *OPERATIONS):
            run.do(operation)
