"""Runs slightly different graphs one after the other: each needs a correct placement in memory.

llama.cpp's own graphs change if they keep hidden states, if they have taps or captures, and if their blocks end without
a row because a micro-batch has no output.
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
    # with held cognitive tokens there is no clean pass, so a half-read prompt keeps no hidden states
    Look("cognitive_tokens", Prompt(0, 17)),
    Ask(Prompt(0, 17), HELD),
    Batch((Ask(Prompt(0, 64), cancel=0),)),
    Ask(Prompt(1, 37)),
    # prompts whose hidden states are kept alternate with others
    Batch((Ask(Prompt(1, 70)), Ask(Prompt(0, 66), ALONE), Ask(Prompt(1, 50), HELD)), max_tokens=2),
    Batch((Ask(Prompt(0, 50), ALONE), Ask(Prompt(1, 49)), Ask(Prompt(1, 100))), max_tokens=2),
    # captures: each set of layers needs another graph
    *(Look("layer_outputs", Prompt(1, 33), layers=(layer,)) for layer in (0, 1, LAST)),
    Look("cognitive_attention", Prompt(1, 33)),
    Look("layer_outputs", Prompt(1, 33), inject=False),
    # taps at other positions of an answer
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
