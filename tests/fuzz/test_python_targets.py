"""Briefly fuzzes everything that Python reads, with mutations that know the formats. `nox -s fuzz` does more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzz.python_targets import Target, targets

NAMES = ("sidecar", "base", "checkpoint", "run_json", "questions", "samples", "records", "rung", "results")
RUNS = {"checkpoint": 150, "results": 150}


@pytest.fixture(scope="module")
def by_name(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return {target.name: target for target in targets(tmp_path_factory.mktemp("fuzz"))}


def test_all_are_here(by_name: dict[str, Target]) -> None:
    assert tuple(by_name) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_read(name: str, by_name: dict[str, Target], capsys: pytest.CaptureFixture[str]) -> None:
    for seed in by_name[name].seeds:
        if name not in ("base",):  # cut off: only the head of a base is read
            assert by_name[name].read(seed) is not None


def test_former_findings_are_refused(by_name: dict[str, Target]) -> None:
    assert by_name["sidecar"].refused
    for target in by_name.values():
        for data in target.refused:
            assert target.read(data) is None


@pytest.mark.parametrize("name", NAMES)
def test_mutated_inputs_are_read_or_refused(name: str, by_name: dict[str, Target]) -> None:
    target, rng = by_name[name], random.Random(f"seed of {name}")
    pool = [*target.seeds, *target.refused]
    read = 0
    for number in range(RUNS.get(name, 600)):
        data = target.mutate(rng.choice(pool), rng)
        try:
            read += target.read(data) is not None
        except BaseException as problem:
            raise AssertionError(f"input {number}: {type(problem).__name__}: {problem}\n{data[:4000]!r}") from problem
        if len(pool) < 50 and rng.random() < 0.1:
            pool.append(data)
    # if all mutations were refused, or none, the test would prove little
    assert read < RUNS.get(name, 600)


def test_mutations_are_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    target = next(targets(tmp_path / "a"))
    first, second = (target.mutate(target.seeds[0], random.Random(5)) for _ in range(2))
    assert first == second
