"""llama-meta-generate with files of prompts: the model is loaded once, results are in order, and runs can resume."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from support.program import REFUSAL, Program, TinyCase


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo words\n\nthree, the last\n", encoding="utf-8")
    return path


def test_plain_lines(plain: Path, tiny: Program) -> None:
    run = tiny("--prompts", plain, "-n", "9")
    assert run.returncode == 0
    results = lines_of(run.stdout)
    assert [(result["index"], result["prompt"]) for result in results] == [
        (0, "one"),
        (1, "two words"),
        (2, "three, the last"),
    ]
    for result in results:
        # exactly the answer to the prompt alone: the one before leaves no trace
        alone = json.loads(tiny("-p", result["prompt"], "-n", "9", "--json").stdout)
        assert result["text"] == alone["text"]
        keys = ["index", "prompt", "text", "abstained", "doubt", "finish_reason", "timings", "gain", "run"]
        assert list(result) == (keys if result["index"] else [*keys, "settings"])
    assert "3/3 answered, 0 abstained" in run.stderr


def test_json_that_is_nested_too_deeply(tiny: Program, tmp_path: Path) -> None:
    """The limit holds for prompts in both forms, for results that are continued, and for variables."""
    deep = "[" * 200_000 + "]" * 200_000
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "results.jsonl"
    nested = "nested deeper than 64 arrays and objects"
    for text, where in (
        (f'{{"prompt": "a"}}\n{{"id": {deep}, "prompt": "b"}}\n', "line 2 is not a JSON object"),
        (f'["a", {{"id": {deep}, "prompt": "b"}}]', "begins as a JSON array"),
    ):
        prompts.write_text(text, encoding="utf-8")
        run = tiny("--prompts", prompts, "-n", "2")
        assert run.returncode == 1
        assert where in run.stderr
        assert nested in run.stderr
    prompts.write_text('{"prompt": "a"}\n', encoding="utf-8")
    output.write_text(f'{{"index": 0, "prompt": "a", "id": {deep}}}\n', encoding="utf-8")
    run = tiny("--prompts", prompts, "-o", output, "-n", "2")
    assert run.returncode == 1
    assert "line 1 is not the result of prompt 1" in run.stderr
    variables = '{"a": ' + "[" * 60_000 + "]" * 60_000 + "}"
    run = tiny("-p", "a", "-n", "2", "--chat-template-kwargs", variables)
    assert run.returncode == 2
    assert f"--chat-template-kwargs is not JSON: {nested}" in run.stderr
    within = "[" * 60 + "]" * 60
    prompts.write_text(f'{{"id": {within}, "prompt": "a"}}\n', encoding="utf-8")
    assert json.loads(tiny("--prompts", prompts, "-n", "2").stdout)["id"] == json.loads(within)


def test_verbose_prints_statistics_of_each_prompt(plain: Path, tiny: Program) -> None:
    run = tiny("--prompts", plain, "-n", "9", "-v")
    quiet = tiny("--prompts", plain, "-n", "9")
    assert without_times(run.stdout) == without_times(quiet.stdout)
    for n in (1, 2, 3):
        assert re.search(rf"^prompt {n}:\nprompt \d+ tokens .* pass 1 .*\nanswer 9 tokens: ", run.stderr, re.MULTILINE)
    assert "pass 1" not in quiet.stderr


def test_json_lines(tiny: Program, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    items: list[dict[str, Any]] = [
        {"id": "a", "prompt": "one"},
        {"id": 7, "question": "two\nlines", "answers": ["x"]},
        {"messages": [{"role": "system", "content": "be brief "}, {"role": "user", "content": "three"}]},
    ]
    prompts.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    results = lines_of(tiny("--prompts", prompts, "-n", "9").stdout)
    assert [result.get("id") for result in results] == ["a", 7, None]
    assert [result["prompt"] for result in results] == ["one", "two\nlines", "three"]
    # this template joins the contents
    assert results[2]["text"] == json.loads(tiny("-p", "be brief three", "-n", "9", "--json").stdout)["text"]
    # the command line's system prompt applies to conversations without one
    with_system = lines_of(tiny("--prompts", prompts, "-n", "9", "-sys", "be brief ").stdout)
    assert with_system[2] | {"timings": 0, "run": 0} == results[2] | {"timings": 0, "run": 0}


@pytest.mark.parametrize("n_parallel", ["1", "3"])
def test_a_samplers_exception_fails_only_its_prompt(n_parallel: str, tiny: Program, tmp_path: Path) -> None:
    """llama.cpp's grammars throw errors of their own. Here no token may follow if the first letter is a to m."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo words\nthree\nfour\nfive\nsix\n", encoding="utf-8")
    grammar = ("--grammar", "root ::= [a-m] <[100000]> | [^a-m] .*")
    run = tiny("--prompts", prompts, "-n", "5", "-np", n_parallel, *grammar)
    results = lines_of(run.stdout)
    assert [result["prompt"] for result in results] == prompts.read_text(encoding="utf-8").splitlines()
    failed = [result for result in results if "error" in result]
    assert 0 < len(failed) < len(results)
    for result in results:
        alone = tiny("-p", result["prompt"], "-n", "5", "--json", *grammar)
        if result in failed:
            assert "llama.cpp cannot serve this request: Unexpected empty grammar stack" in result["error"]
            assert (alone.returncode, result["error"] in alone.stderr) == (1, True)
        else:
            assert result["text"] == json.loads(alone.stdout)["text"]
    assert run.returncode == 1


def test_abstentions_are_counted(doubter: Program, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is the atomic number of xenon?\n", encoding="utf-8")
    run = doubter("--prompts", prompts)
    assert lines_of(run.stdout)[0]["text"] == REFUSAL
    assert lines_of(run.stdout)[0]["abstained"] is True
    assert "1/1 answered, 1 abstained" in run.stderr


def test_compare_and_no_meta(plain: Path, tiny: Program) -> None:
    both = lines_of(tiny("--prompts", plain, "-n", "9", "--compare").stdout)
    base = lines_of(tiny("--prompts", plain, "-n", "9", "--no-meta").stdout)
    assert [result["base"]["text"] for result in both] == [result["text"] for result in base]
    assert all(result["gain"] == 0 for result in base)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nope", "line 2 is not a JSON object (the first line of the file is, so each has to be)"),
        ('{"text": "b"}', 'line 2 has none of "prompt", "question" and "messages"'),
        ('{"messages": []}', 'line 2: "messages" is empty'),
        ('{"messages": [{"role": "user"}]}', 'line 2: a message needs the strings "role" and "content"'),
    ],
)
def test_a_bad_line_is_named_before_anything_is_computed(
    line: str, expected: str, tiny: Program, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(f'{{"prompt": "a"}}\n{line}\n', encoding="utf-8")
    run = tiny("--prompts", prompts)
    assert (run.returncode, run.stdout) == (1, "")
    assert f"prompts file '{prompts}', {expected}" in run.stderr


def test_no_prompts(tiny: Program, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n", encoding="utf-8")
    for path, expected in ((empty, "holds no prompt"), (tmp_path / "absent.txt", "cannot be opened")):
        run = tiny("--prompts", path)
        assert (run.returncode, run.stdout) == (1, "")
        assert f"prompts file '{path}' {expected}" in run.stderr


def test_one_prompt_that_fails_does_not_take_the_others_with_it(tiny: Program, tmp_path: Path) -> None:
    prompts, output = tmp_path / "prompts.txt", tmp_path / "results.jsonl"
    prompts.write_text("one\n" + "x" * 300 + "\nthree\n", encoding="utf-8")
    run = tiny("--prompts", prompts, "-o", output, "-n", "5")
    assert run.returncode == 1
    results = lines_of(output.read_text(encoding="utf-8"))
    assert [("error" in result, "text" in result) for result in results] == [
        (False, True),
        (True, False),
        (False, True),
    ]
    assert "the prompt has 300 tokens, the context 256" in results[1]["error"]
    assert "prompt 2: the prompt has 300 tokens" in run.stderr
    assert results[2]["text"] == json.loads(tiny("-p", "three", "-n", "5", "--json").stdout)["text"]


def test_raw_takes_texts_only(tiny: Program, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"messages": [{"role": "user", "content": "b"}]}\n', encoding="utf-8")
    run = tiny("--prompts", prompts, "--raw", "-n", "2")
    assert run.returncode == 1
    first, second = lines_of(run.stdout)
    assert "text" in first
    assert "--raw needs a text, got messages" in second["error"]


def test_gains_of_single_prompts(tiny: Program, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    items = [{"prompt": "hello"}, {"prompt": "hello", "gain": 0}, {"prompt": "hello", "gain": -1.5}]
    prompts.write_text("".join(f"{json.dumps(item)}\n" for item in items), encoding="utf-8")
    results = lines_of(tiny("--prompts", prompts, "-n", "9", "-np", "3", "--meta-gain", "0.5").stdout)
    assert [result["gain"] for result in results] == [0.5, 0.0, -1.5]
    alone = [tiny("-p", "hello", "-n", "9", "--json", "--meta-gain", gain) for gain in ("0.5", "0", "-1.5")]
    assert [result["text"] for result in results] == [json.loads(run.stdout)["text"] for run in alone]
    assert len({result["text"] for result in results}) == 3
    prompts.write_text('{"prompt": "hello", "gain": "high"}', encoding="utf-8")
    run = tiny("--prompts", prompts)
    assert run.returncode == 1
    assert 'line 1: "gain" is "high", expected a number' in run.stderr


# --- several at once -------------------------------------------------------------------------------------------------


def test_several_at_once_give_the_same_answers(tiny: Program, tmp_path: Path) -> None:
    """There are short and long prompts, one that fails, and more prompts than sequences. Results stay in order."""
    prompts, output = tmp_path / "prompts.txt", tmp_path / "results.jsonl"
    lines = ["one", "a longer prompt, " * 8, "x" * 300, "four", "What is the capital of France?", "six", "x" * 256]
    prompts.write_text("\n".join(lines), encoding="utf-8")
    flags = ("--prompts", prompts, "-n", "9", "-fa", "off")
    for more in ((), ("--compare",), ("--no-meta",)):
        output.unlink(missing_ok=True)
        alone, together = tiny(*flags, *more), tiny(*flags, *more, "-np", "3", "-o", output)
        assert (alone.returncode, together.returncode) == (1, 1)
        actual, expected = lines_of(output.read_text(encoding="utf-8")), lines_of(alone.stdout)
        assert [result["index"] for result in actual] == list(range(len(lines)))
        for one, other in zip(actual, expected, strict=True):
            assert list(one) == list(other)
            assert one.get("error") == other.get("error")
            assert one.get("text") == other.get("text")
            assert one.get("base", {}).get("text") == other.get("base", {}).get("text")
        assert "prompt 3: the prompt has 300 tokens, the context 256" in together.stderr
        assert "7/7 answered" in together.stderr


def test_several_at_once_resume(plain: Path, tiny: Program, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    assert tiny("--prompts", plain, "-o", output, "-n", "9").returncode == 0
    whole = output.read_text(encoding="utf-8")
    output.write_text(whole.splitlines(keepends=True)[0], encoding="utf-8")
    run = tiny("--prompts", plain, "-o", output, "-n", "9", env={"LLAMA_ARG_N_PARALLEL": "2"})
    assert run.returncode == 0
    assert "1 of 3 results are there already" in run.stderr
    actual, expected = lines_of(output.read_text(encoding="utf-8")), lines_of(whole)
    assert [result["text"] for result in actual] == [result["text"] for result in expected]


# --- resuming --------------------------------------------------------------------------------------------------------


def without_times(text: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "timings"} for line in lines_of(text)]


def test_resuming(plain: Path, tiny: Program, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    run = tiny("--prompts", plain, "-o", output, "-n", "9")
    assert (run.returncode, run.stdout) == (0, "")
    whole = output.read_text(encoding="utf-8")
    first, second, third = whole.splitlines(keepends=True)
    for existing in (first, first + second[:40], first + "{", ""):
        output.write_text(existing, encoding="utf-8")
        run = tiny("--prompts", plain, "-o", output, "-n", "9")
        assert run.returncode == 0
        written = output.read_text(encoding="utf-8")
        assert without_times(written) == without_times(whole)
        # the earlier results are still there, byte for byte
        assert written.startswith(first if existing else "")
        assert ("1 of 3 results are there already" in run.stderr) == bool(existing)
    # nothing to do
    run = tiny("--prompts", plain, "-o", output, "-n", "9")
    assert run.returncode == 0
    assert "3 of 3 results are there already" in run.stderr
    assert without_times(output.read_text(encoding="utf-8")) == without_times(whole)
    assert second + third in whole


def test_a_failed_result_that_is_there_already_is_still_a_failure(tiny: Program, tmp_path: Path) -> None:
    prompts, output = tmp_path / "prompts.txt", tmp_path / "results.jsonl"
    prompts.write_text("one\n" + "x" * 300 + "\nthree\n", encoding="utf-8")
    flags = ("--prompts", prompts, "-o", output, "-n", "5")
    assert tiny(*flags).returncode == 1
    whole = output.read_text(encoding="utf-8")
    first, second, _ = whole.splitlines(keepends=True)
    for existing, n_failed in ((whole, 1), (first + second, 1), (first, 0)):
        output.write_text(existing, encoding="utf-8")
        run = tiny(*flags)
        assert run.returncode == 1  # the second prompt's error, whenever it was asked
        assert (f"{n_failed} of them failed; to ask again, delete the file" in run.stderr) == bool(n_failed)
        assert without_times(output.read_text(encoding="utf-8")) == without_times(whole)


def test_results_of_other_prompts_are_left_alone(plain: Path, tiny: Program, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    first = tiny("--prompts", plain, "-n", "3").stdout.splitlines(keepends=True)[0]
    for foreign in ('{"prompt": "another"}\n', "some notes\n", first * 2):
        output.write_text(foreign, encoding="utf-8")
        run = tiny("--prompts", plain, "-o", output, "-n", "3")
        assert (run.returncode, run.stdout) == (1, "")
        assert f"output file '{output}', line {foreign.count(chr(10))} is not the result of prompt" in run.stderr
        assert "move the file away or give another --output" in run.stderr
        assert output.read_text(encoding="utf-8") == foreign


def test_output_that_cannot_be_written(plain: Path, tiny: Program, tmp_path: Path) -> None:
    run = tiny("--prompts", plain, "-o", tmp_path / "absent" / "results.jsonl")
    assert (run.returncode, run.stdout) == (1, "")
    assert "cannot be opened for writing" in run.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_interrupted_and_resumed(doubter: Program, tmp_path: Path) -> None:
    prompts, output = tmp_path / "prompts.txt", tmp_path / "results.jsonl"
    prompts.write_text("".join(f"Tell me a story about {n}\n" for n in range(40)), encoding="utf-8")
    flags = ("--prompts", prompts, "-o", output, "--no-meta", "-n", "16")
    with doubter.start(*flags) as process:
        deadline = time.monotonic() + 60
        while (not output.exists() or not output.read_bytes().endswith(b"\n")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130
    assert stderr.endswith(b"interrupted\n")
    # the finished answers are there and complete
    partial = output.read_text(encoding="utf-8")
    assert 0 < len(lines_of(partial)) < 40
    prompts.write_text(
        "".join(f"Tell me a story about {n}\n" for n in range(len(lines_of(partial)) + 1)), encoding="utf-8"
    )
    assert doubter(*flags).returncode == 0
    assert output.read_text(encoding="utf-8").startswith(partial)


# --- the framework's scripts -----------------------------------------------------------------------------------------


def test_nul_separated_prompts_and_results(tiny: Program, tiny_case: TinyCase, tmp_path: Path) -> None:
    prompts, output = tmp_path / "prompts", tmp_path / "results"
    prompts.write_bytes(b"one\0two\nlines\0three\0")
    environment = {
        "META_SIDECAR": str(tiny_case.sidecar),
        "META_PROMPTS": str(prompts),
        "META_OUT": str(output),
        "META_NGEN": "5",
    }
    for _ in range(2):  # the second run replaces the file
        run = tiny.without_meta(env=environment)
        assert (run.returncode, run.stdout) == (0, "")
        answers = output.read_bytes().split(b"\0")
        assert answers[3] == b""
        for prompt, answer in zip(("one", "two\nlines", "three"), answers[:3], strict=True):
            expected = tiny("-p", prompt, "-n", "5").stdout.encode(errors="surrogateescape")
            assert answer + b"\n" == expected
    # without META_OUT, the same output goes to stdout
    del environment["META_OUT"]
    assert tiny.without_meta(env=environment).stdout.encode(errors="surrogateescape") == b"\0".join(answers)


def test_flags_win(plain: Path, tiny: Program, tmp_path: Path) -> None:
    for environment in ({"META_PROMPTS": "/no/such/file"}, {"META_PROMPT": "hello"}):
        run = tiny("--prompts", plain, "-n", "3", env=environment)
        assert run.returncode == 0
        assert len(lines_of(run.stdout)) == 3
    output = tmp_path / "results.jsonl"
    run = tiny("--prompts", plain, "-n", "3", "-o", output, env={"META_OUT": "/no/such/folder/x"})
    assert run.returncode == 0
    assert len(lines_of(output.read_text(encoding="utf-8"))) == 3
