"""Random sequences of operations against fresh instances without caches (``support.state_fuzz``).

The default run is short. ``nox -s fuzz_state`` runs any number of examples from any seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from metadeploy import Decay, InjectionSchedule, Refresh, _core
from metadeploy.schedule import STATIC
from support.state_fuzz import (
    KINDS,
    LAST,
    N_CTX,
    WRAPPERS,
    Ask,
    Attach,
    AttachDamaged,
    Batch,
    Case,
    Files,
    Look,
    Operation,
    Options,
    Prompt,
    Run,
    tied_of,
)

#: examples for each architecture; setting this draws other examples in each run
EXAMPLES: Final = os.environ.get("METADEPLOY_FUZZ_EXAMPLES")
#: a file with the current example, which remains after a crash
JOURNAL: Final = os.environ.get("METADEPLOY_FUZZ_JOURNAL")

SETTINGS = settings(
    max_examples=int(EXAMPLES or 4),
    derandomize=EXAMPLES is None,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)

#: every run ends with these operations, which show the effects of earlier ones
LAST_WORDS: Final = (
    Ask(Prompt(0, 40)),
    Look("logits", Prompt(1, 70), inject=False),
    Ask(Prompt(1, 20), Options(inject=False)),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(scope="module", autouse=True)
def asked_at_every_node() -> Iterator[None]:
    """A computation checks for cancellation between any two nodes of its graph, not every 50 ms."""
    before = _core.set_cancel_interval(0.0)
    yield
    _core.set_cancel_interval(before)


@st.composite
def prompts(draw: DrawFn) -> Prompt:
    lengths = st.one_of(st.integers(1, 40), st.integers(1, 150), st.sampled_from([0, 16, 32, 64, N_CTX, N_CTX + 1]))
    tail = draw(st.lists(st.integers(20, 250), max_size=3))
    if draw(st.integers(0, 19)) == 0:
        tail.append(draw(st.sampled_from([-1, 100_000])))  # in no vocabulary
    return Prompt(draw(st.integers(0, 1)), draw(lengths), tuple(tail))


def schedules() -> SearchStrategy[InjectionSchedule | None]:
    decays = st.sampled_from([None, None, Decay(floor=0.0, tau=2.0), Decay()])
    windows = st.sampled_from([None, None, 0, 2])
    refreshes = st.sampled_from(
        [None, Refresh(threshold=1.1, min_interval=1), Refresh(threshold=0.5), Refresh(threshold=-1.1, max_interval=4)]
    )
    drawn = st.builds(InjectionSchedule, decay=decays, window=windows, refresh=refreshes)
    return st.one_of(st.none(), st.none(), st.just(STATIC), drawn)


def rarely(strategy: SearchStrategy[int]) -> SearchStrategy[int | None]:
    return st.one_of(st.none(), st.none(), st.none(), strategy)


def options() -> SearchStrategy[Options]:
    return st.builds(
        Options,
        max_tokens=st.integers(0, 10),
        gain=st.sampled_from([None, None, 1.0, 0.0, 0.5, -1.0, 2.0, float("nan")]),
        inject=st.sampled_from([None, None, None, True, False]),
        schedule=schedules(),
        held=st.one_of(st.none(), st.none(), prompts()),
        doubt_threshold=st.sampled_from([None, None, None, 0.0, 0.3, 1.0]),
    )


def asks(max_questions: int) -> SearchStrategy[Ask]:
    """max_questions: the most calls of a ``cancel`` before it returns true."""
    return st.builds(
        Ask,
        prompt=prompts(),
        options=options(),
        chunks=rarely(st.integers(0, 4)),
        cancel=rarely(st.integers(0, max_questions)),
    )


def batches() -> SearchStrategy[Batch]:
    return st.builds(
        Batch,
        asks=st.lists(asks(12), min_size=1, max_size=5).map(tuple),
        max_tokens=st.integers(0, 8),
        cancel=rarely(st.integers(0, 3000)),
    )


def looks() -> SearchStrategy[Look]:
    names = ["activations", "cognitive_tokens", "logits", "layer_outputs", "doubt", "cognitive_attention"]
    layers = st.lists(st.integers(0, LAST + 1), min_size=1, max_size=3, unique=True)
    gains = st.sampled_from([1.0, 1.0, 0.0, -0.5])
    return st.builds(Look, st.sampled_from(names), prompts(), gains, st.booleans(), layers.map(tuple))


def attachments() -> SearchStrategy[Attach]:
    return st.builds(Attach, st.sampled_from([*WRAPPERS, *WRAPPERS, None]))


def changes() -> SearchStrategy[Attach | AttachDamaged]:
    return st.one_of(attachments(), attachments(), st.builds(AttachDamaged))


@st.composite
def runs(draw: DrawFn, kind: str) -> tuple[Case, list[Operation]]:
    n_parallel = draw(st.integers(1, 3))
    case = Case(
        kind,
        tied=draw(st.sampled_from(tied_of(kind))),
        n_parallel=n_parallel,
        n_ubatch=draw(st.sampled_from([16, 32, 256])),
        hidden_cache_mib=draw(st.sampled_from([64, 64, 64, 0])),
        prefix_cache_mib=draw(st.sampled_from([64, 64, 1, 0])),
    )
    operations = st.one_of(asks(1500), asks(1500), batches(), looks(), changes())
    return case, [draw(attachments()), *draw(st.lists(operations, min_size=1, max_size=8))]


def check(files: Files, case: Case, operations: list[Operation]) -> None:
    if JOURNAL:
        Path(JOURNAL).write_text(f"check(files, {case}, {operations})\n", encoding="utf-8")
    with Run(files, case) as run:
        for operation in (*operations, *LAST_WORDS):
            run.do(operation)


@pytest.mark.parametrize("kind", KINDS)
@SETTINGS
@given(data=st.data())
def test_no_operation_affects_the_next_one(kind: str, files: Files, data: st.DataObject) -> None:
    case, operations = data.draw(runs(kind))
    check(files, case, operations)
