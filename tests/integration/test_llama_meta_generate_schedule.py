"""Modes over time in llama-meta-generate."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from metadeploy import Decay, InjectionSchedule, Refresh
from support.gguf_tools import write_tiny_gguf
from support.program import Program, TinyCase

FADING = InjectionSchedule(decay=Decay(floor=0.0, tau=2.5))
EVERY_OTHER = InjectionSchedule(refresh=Refresh(threshold=1.1, min_interval=2))
OVERDUE = Refresh(threshold=-1.1, min_interval=1, max_interval=3)


def test_schedules(tiny: Program, tiny_case: TinyCase) -> None:
    """The answers are Python's, and the JSON shows the requested schedule."""
    schedules = {
        ("--meta-decay", "0.0,2.5"): InjectionSchedule(decay=Decay(floor=0.0, tau=2.5)),
        ("--meta-window", "3"): InjectionSchedule(window=3),
        ("--meta-refresh", "1.1,2,20"): InjectionSchedule(refresh=Refresh(threshold=1.1, min_interval=2)),
        ("--meta-decay", "0.3,16", "--meta-window", "9", "--meta-refresh", "0.9,1,3"): InjectionSchedule(
            decay=Decay(), window=9, refresh=Refresh(threshold=0.9, min_interval=1, max_interval=3)
        ),
    }
    with tiny_case.load(n_parallel=2) as llm:
        static = llm.generate("hello", max_tokens=20).text
        for flags, schedule in schedules.items():
            answer = json.loads(tiny("-p", "hello", "-n", "20", "-fa", "off", "--json", *flags).stdout)
            expected = llm.generate("hello", max_tokens=20, schedule=schedule)
            assert answer["text"] == expected.text != static
            assert answer["schedule"] == {key: value for key, value in asdict(schedule).items() if value is not None}
            assert answer["timings"]["n_refreshed"] == expected.timings.n_refreshed
    names = [flags[0] for flags in schedules][:3]
    for name, (_, value) in zip(names, list(schedules)[:3], strict=True):
        variable = "LLAMA_ARG_" + name.removeprefix("--").replace("-", "_").upper()
        run = tiny("-p", "hello", "-n", "5", "--json", env={variable: value})
        assert "schedule" in json.loads(run.stdout)


def test_the_context_of_an_answer_is_as_long_beside_a_clean_one(tiny: Program, tmp_path: Path) -> None:
    long = tmp_path / "long.gguf"
    write_tiny_gguf(long, n_ctx=1024)
    refresh = ("--meta-refresh", "0.5,3,20")
    wanted = {"LLAMA_ARG_META_REFRESH": refresh[1]}

    def n_ctx(*flags: str, env: dict[str, str] | None = None) -> int:
        run = replace(tiny, model=long)("-p", "x" * 2000, *flags, env=env)
        match = re.search(r"the prompt has 2000 tokens, the context (\d+)", run.stderr)
        assert match
        return int(match[1])

    assert n_ctx() == n_ctx(*refresh) == n_ctx(env=wanted) == 1024
    assert n_ctx("-c", "512", *refresh) == 512
    # without fitting to memory, the sequences share the base's training context; the base alone has one sequence
    assert n_ctx("-fit", "off", *refresh) == 512
    assert n_ctx("-fit", "off", "--no-meta", env=wanted) == 1024


def test_goal(tiny: Program, tiny_case: TinyCase) -> None:
    with tiny_case.load() as llm:
        goal = llm.encode("be short", raw=True)
        expected = llm.generate("hello", max_tokens=20, cognitive_tokens=goal).text
        assert expected != llm.generate("hello", max_tokens=20).text
    flags = ("-p", "hello", "-n", "20", "-fa", "off", "--json")
    for process in (tiny(*flags, "--meta-goal", "be short"), tiny(*flags, env={"LLAMA_ARG_META_GOAL": "be short"})):
        result = json.loads(process.stdout)
        assert (result["text"], result["goal"], result["timings"]["pass2"]) == (expected, "be short", "full")
    assert "goal" not in json.loads(tiny(*flags).stdout)


@pytest.mark.parametrize(
    ("flags", "schedule"),
    [
        (["--meta-refresh", "1.1,2,20"], EVERY_OTHER),
        (["--meta-refresh", "-1.1,1,3"], InjectionSchedule(refresh=OVERDUE)),
        (["--meta-decay", "0.0,2.5"], FADING),
        (
            ["--meta-decay", "0.0,2.5", "--meta-window", "9", "--meta-refresh", "1.1,2,20"],
            replace(EVERY_OTHER, decay=FADING.decay, window=9),
        ),
        (["--meta-goal", "be short"], InjectionSchedule()),
        (["--meta-goal", "be short", "--meta-decay", "0.0,2.5"], FADING),
    ],
)
def test_many_at_once(
    flags: list[str], schedule: InjectionSchedule, tiny: Program, tiny_case: TinyCase, tmp_path: Path
) -> None:
    """Each answer is the same as alone, with two answers at a time or three."""
    prompts = ["hello", "a longer prompt " * 4 + "and on", "What is xenon?", "x", "The fifth, and the last"]
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
    with tiny_case.load(n_parallel=2) as llm:
        goal = llm.encode("be short", raw=True) if "--meta-goal" in flags else None
        expected = [llm.generate(text, max_tokens=20, cognitive_tokens=goal, schedule=schedule) for text in prompts]
        static = [llm.generate(text, max_tokens=20) for text in prompts]
    assert all(one.text != other.text for one, other in zip(expected, static, strict=True))
    for n in ("2", "3"):
        run = tiny("--prompts", path, "-np", n, "-n", "20", "-fa", "off", *flags)
        assert run.returncode == 0, run.stderr
        answers = [json.loads(line) for line in run.stdout.splitlines()]
        assert [(result["index"], result["prompt"]) for result in answers] == list(enumerate(prompts))
        assert [result["text"] for result in answers] == [result.text for result in expected]
        n_refreshed = [result["timings"]["n_refreshed"] for result in answers]
        assert n_refreshed == [result.timings.n_refreshed for result in expected]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--meta-decay", "0.3"], "--meta-decay is '0.3', expected 2 numbers such as 0.3,16"),
        (["--meta-decay", "0.3,16,"], "--meta-decay is '0.3,16,', expected 2 numbers"),
        (["--meta-decay", ""], "--meta-decay is '', expected 2 numbers"),
        (["--meta-decay", "2,16"], "decay's floor is 2.000000, expected 0 to 1"),
        (["--meta-window", "x"], "--meta-window is 'x', expected 1 number such as 8"),
        (["--meta-window", "-1"], "the window is -1, expected 0 or more"),
        (["--meta-window", "1.5"], "--meta-window has 1.500000, expected a number of tokens"),
        (["--meta-refresh", "0.5,3"], "--meta-refresh is '0.5,3', expected 3 numbers such as 0.5,3,20"),
        (["--meta-refresh", "0.5,30,20"], "refresh's max_interval is 20, expected at least its min_interval"),
        (["--meta-goal", "x", "--meta-refresh", "0.5,3,20"], "--meta-goal keeps its cognitive tokens"),
        (["--no-meta", "--meta-window", "3"], "--meta-window needs the wrapper, --no-meta leaves it out"),
        (["--no-meta", "--meta-goal", "x"], "--meta-goal needs the wrapper"),
    ],
)
def test_schedules_that_cannot_be(flags: list[str], expected: str, tiny: Program) -> None:
    run = tiny("-p", "hello", *flags)
    assert (run.returncode, run.stdout) == (2, "")
    assert expected in run.stderr
