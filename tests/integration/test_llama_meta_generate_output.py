"""Outputs of llama-meta-generate: a failed write is an error, and results of different settings do not mix."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from metadeploy.sidecar import write_sidecar
from support.gguf_tools import write_tiny_gguf
from support.program import Program, Run, TinyCase
from support.random_wrapper import random_wrapper

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX descriptors and devices")

FULL = "error: standard output cannot be written: No space left on device\n"
CLOSED = "error: standard output is closed, expected somewhere to print to (hint: > /dev/null)\n"
SHORT = ("-n", "4")


def redirected(program: Program, flags: Sequence[str | Path], redirection: str) -> Run:
    """Run the program with a shell redirection."""
    shell = Program(Path("/bin/bash"), program.model, program.meta)
    command = [program.path, "-m", program.model, "--meta", program.meta, "-t", "1", *flags]
    return shell.bare("-c", f'"$@" {redirection}', "bash", *command)


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\n", encoding="utf-8")
    return path


# --- stdout and stderr ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [("-p", "hi", *SHORT), ("-p", "hi", *SHORT, "--json"), ("-p", "hi", "--compare")])
def test_an_answer_that_cannot_be_printed_is_an_error(flags: tuple[str, ...], tiny: Program) -> None:
    run = redirected(tiny, flags, ">/dev/full")
    assert (run.returncode, run.stderr) == (1, FULL)
    run = redirected(tiny, flags, ">&-")
    assert (run.returncode, run.stderr) == (1, CLOSED)


def test_results_that_cannot_be_printed_are_an_error(prompts: Path, tiny: Program, tmp_path: Path) -> None:
    run = redirected(tiny, ("--prompts", prompts, *SHORT), ">/dev/full")
    assert (run.returncode, run.stderr.rpartition("\n")[0].rpartition("\n")[2]) == (1, FULL.strip())
    assert redirected(tiny, ("--prompts", prompts, *SHORT), ">&-").stderr == CLOSED
    for full in (("-o", "/dev/full"), ("-o", tmp_path / "full")):
        (tmp_path / "full").unlink(missing_ok=True)
        (tmp_path / "full").symlink_to("/dev/full")
        run = tiny("--prompts", prompts, *SHORT, *full)
        assert run.returncode == 1
        assert f"error: output file '{full[1]}' cannot be written: No space left on device" in run.stderr
    # with an output file, nothing is printed that could fail
    for redirection in (">&-", ">/dev/full"):
        output = tmp_path / "results.jsonl"
        output.unlink(missing_ok=True)
        run = redirected(tiny, ("--prompts", prompts, "-o", output, *SHORT), redirection)
        assert (run.returncode, len(results(output))) == (0, 2), run.stderr


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_that_cannot_be_printed_is_an_error(flag: str, tiny: Program) -> None:
    run = redirected(tiny, (flag,), ">/dev/full")
    message = run.stderr.splitlines()[-1]
    assert (run.returncode, message.startswith("error: standard output cannot be written: ")) == (1, True), run
    run = redirected(tiny, (flag,), ">&-")
    assert (run.returncode, run.stderr.splitlines()[-1]) == (
        1,
        "error: standard output cannot be written: it is closed",
    )


@pytest.mark.parametrize("flags", [("--help",), ("-p", "hi"), ("-p", "hi", "--json"), ("--prompts", "PROMPTS")])
def test_a_reader_that_has_gone_is_no_error(flags: tuple[str, ...], tiny: Program, prompts: Path) -> None:
    resolved = [str(prompts) if argument == "PROMPTS" else argument for argument in flags]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        run = subprocess.run(
            [tiny.path, "-m", tiny.model, "--meta", tiny.meta, "-t", "1", *resolved],
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    finally:
        os.close(writing)
    assert (run.returncode, run.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2>&- <&-", "2> >(true)"])
def test_a_stderr_that_cannot_be_written_changes_nothing(
    redirection: str, prompts: Path, tiny: Program, tmp_path: Path
) -> None:
    output = tmp_path / "results.jsonl"
    run = redirected(tiny, ("--prompts", prompts, "-o", output, "-v", *SHORT), redirection)
    assert (run.returncode, run.stdout, len(results(output))) == (0, "", 2)
    assert redirected(tiny, ("-p", "hi", "-v", *SHORT), redirection).stdout == tiny("-p", "hi", *SHORT).stdout


# --- outputs and inputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prompts.txt", "link", "hard", "folder/../prompts.txt"])
@pytest.mark.parametrize("flag", ["-o", "--log-file"])
def test_a_file_of_prompts_is_not_written_over(flag: str, name: str, tiny: Program, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo", encoding="utf-8")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder").mkdir()
    os.link(path, tmp_path / "hard")
    run = tiny("--prompts", path, flag, tmp_path / name)
    assert (run.returncode, run.stdout) == (1, "")
    assert f"is the same file as the input '{path}' (an output never replaces its own input" in run.stderr
    assert path.read_text(encoding="utf-8") == "one\ntwo"


def test_neither_is_a_model_or_a_sidecar(tiny: Program, tiny_case: TinyCase, prompts: Path, tmp_path: Path) -> None:
    for name in ("base", "sidecar"):
        path = Path(shutil.copy(getattr(tiny_case, name), tmp_path / name))
        before = path.read_bytes()
        flags = {"base": tiny_case.base, "sidecar": tiny_case.sidecar, name: path}
        model = ("-m", flags["base"], "--meta", flags["sidecar"])
        for output in (("-o", path), ("--log-file", path)):
            run = tiny.bare(*model, "--prompts", prompts, *output)
            assert (run.returncode, "is the same file as the input" in run.stderr) == (1, True), run.stderr
        variables = {"META_OUT": str(path), "META_PROMPTS": str(prompts)}
        assert "is the same file as the input" in tiny.bare(*model, env=variables).stderr
        assert path.read_bytes() == before


def test_notes_are_not_cut_off(tiny: Program, prompts: Path, tmp_path: Path) -> None:
    """A file whose only line has no line feed is not taken as an incomplete result."""
    notes = tmp_path / "notes"
    notes.write_text("mine", encoding="utf-8")
    run = tiny("--prompts", prompts, "-o", notes, *SHORT)
    assert (run.returncode, notes.read_text(encoding="utf-8")) == (1, "mine")
    assert f"output file '{notes}', line 1 is incomplete, and not the beginning of a result" in run.stderr


# --- results of two systems -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def others(tiny_case: TinyCase, tmp_path_factory: pytest.TempPathFactory) -> TinyCase:
    """Another base and another sidecar with the same shapes, and the first base under another name."""
    folder = tmp_path_factory.mktemp("others")
    case = TinyCase(folder / "base.gguf", folder / "sidecar.gguf", folder / "renamed.gguf")
    write_tiny_gguf(case.base, seed=4)
    config, tensors = random_wrapper(
        "selective", hidden_dim=32, target_layers=(0, 1, 2), cross_attn_layers=(1, 2), seed=1
    )
    write_sidecar(case.sidecar, config, {name: tensor.numpy() for name, tensor in tensors.items()})
    shutil.copy(tiny_case.base, case.for_another_base)
    assert case.base.stat().st_size == tiny_case.base.stat().st_size
    return case


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (("--meta-gain", "0.5"), "--meta-gain was 1.0, is 0.5"),
        (("--meta-gain", "1.0000001"), "--meta-gain was 1.0, is 1.0000001"),
        (("--doubt-threshold", "0.4"), "--doubt-threshold was 0.5, is 0.4"),
        (("--meta-decay", "0.3,16"), '--meta-decay was not given, is {"floor":0.3,"tau":16.0}'),
        (("--meta-window", "2"), "--meta-window was not given, is 2"),
        (("--meta-refresh", "0.5,3,20"), "--meta-refresh was not given, is "),
        (("--meta-goal", "honesty"), '--meta-goal was "", is "honesty"'),
        (("--no-meta",), '--meta was "sidecar.gguf", is not given'),
        (("--compare",), "--compare was false, is true"),
        (("-n", "5"), "-n was 4, is 5"),
        (("--temp", "0.7"), "--temp was 0.0, is 0.7"),
        (("--top-k", "5"), "--top-k was 40, is 5"),
        (("-s", "5"), "--seed was 4294967295, is 5"),
        (("--repeat-penalty", "1.2"), "--repeat-penalty was 1.0, is 1.2"),
        (("--logit-bias", "5+1"), "--logit-bias was [], is "),
        (("--grammar", 'root ::= "x"'), '--grammar was "", is "root ::= '),
        (("--ignore-eos",), "--ignore-eos was false, is true"),
        (("-r", "stop"), '-r was [], is ["stop"]'),
        (("-sys", "be brief"), '-sys was "", is "be brief"'),
        (("--raw",), "--raw was false, is true"),
        (("--chat-template", "chatml"), '--chat-template was "", is "'),
        (("--reasoning", "off"), "--reasoning was -1, is 0"),
        (("-c", "128"), "-c was 0, is 128"),
        (("-ctk", "f32"), '-ctk was "f16", is "f32"'),
        (("-fa", "on"), '-fa was "auto", is "enabled"'),
        (("--override-kv", "general.name=str:x"), "--override-kv was [], is "),
    ],
)
def test_results_of_other_settings_are_not_resumed(
    flags: tuple[str, ...], fault: str, prompts: Path, tiny: Program, tmp_path: Path
) -> None:
    output = tmp_path / "results.jsonl"
    assert tiny("--prompts", prompts, "-o", output, *SHORT).returncode == 0
    first_line = output.read_bytes().splitlines(keepends=True)[0]
    output.write_bytes(first_line)
    run = tiny("--prompts", prompts, "-o", output, *(() if "-n" in flags else SHORT), *flags)
    assert (run.returncode, run.stdout, output.read_bytes()) == (1, "", first_line)
    assert f"error: output file '{output}' holds results of other settings" in run.stderr
    assert fault in run.stderr.replace("\n  - ", ": ")
    assert "move the file away or give another --output, or give the same settings" in run.stderr


def test_results_of_another_model_are_not_resumed(
    prompts: Path, tiny: Program, tiny_case: TinyCase, others: TinyCase, tmp_path: Path
) -> None:
    """Files are identified by their content: their names and sizes do not matter."""
    output = tmp_path / "results.jsonl"
    flags = ("--prompts", prompts, "-o", output, "-t", "1", *SHORT)
    assert tiny.bare("-m", tiny_case.base, "--meta", tiny_case.sidecar, *flags).returncode == 0
    before = output.read_bytes()
    for model, meta, fault in (
        (others.base, tiny_case.sidecar, '-m was another file with the name "base.gguf"'),
        (tiny_case.base, others.sidecar, '--meta was another file with the name "sidecar.gguf"'),
    ):
        run = tiny.bare("-m", model, "--meta", meta, *flags)
        assert (run.returncode, output.read_bytes()) == (1, before)
        assert fault in run.stderr
    assert tiny.bare("-m", others.for_another_base, "--meta", tiny_case.sidecar, *flags).returncode == 0
    assert output.read_bytes() == before


def test_options_that_do_not_change_answers_may_change(prompts: Path, tiny: Program, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    assert tiny("--prompts", prompts, "-o", output, *SHORT).returncode == 0
    first_line = output.read_bytes().splitlines(keepends=True)[0]
    for flags in (("-np", "2"), ("-t", "2"), ("--prefix-cache", "0"), ("-ub", "64"), ("-v",), ("--json",)):
        output.write_bytes(first_line)
        run = tiny("--prompts", prompts, "-o", output, *SHORT, *flags)
        assert (run.returncode, len(results(output))) == (0, 2), run.stderr
    # a longer list of prompts continues the file too
    prompts.write_text("one\ntwo\nthree\n", encoding="utf-8")
    assert tiny("--prompts", prompts, "-o", output, *SHORT).returncode == 0
    assert [result["prompt"] for result in results(output)] == ["one", "two", "three"]


@pytest.mark.parametrize("change", [{"gain": 0.5}, {"messages": [{"role": "user", "content": "two"}]}, {"id": 7}])
def test_changed_prompts_are_not_resumed(change: dict[str, Any], tiny: Program, tmp_path: Path) -> None:
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "results.jsonl"
    prompts.write_text('{"prompt": "one"}\n{"prompt": "two"}\n', encoding="utf-8")
    assert tiny("--prompts", prompts, "-o", output, *SHORT).returncode == 0
    before = output.read_bytes()
    changed = change if "messages" in change else {"prompt": "two"} | change
    prompts.write_text('{"prompt": "one"}\n' + json.dumps(changed) + "\n", encoding="utf-8")
    run = tiny("--prompts", prompts, "-o", output, *SHORT)
    assert (run.returncode, output.read_bytes()) == (1, before)
    assert f"output file '{output}', line 2 " in run.stderr


def test_results_of_an_older_version_are_not_resumed(prompts: Path, tiny: Program, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    output.write_text('{"index": 0, "prompt": "one", "text": "t", "gain": 1.0}\n', encoding="utf-8")
    before = output.read_bytes()
    run = tiny("--prompts", prompts, "-o", output, *SHORT)
    assert (run.returncode, output.read_bytes()) == (1, before)
    assert "line 1 does not say what it was made with (results of an older version? move the file away" in run.stderr


def test_two_at_once_do_not_mix(tiny: Program, tmp_path: Path) -> None:
    prompts, output = tmp_path / "prompts.txt", tmp_path / "results.jsonl"
    prompts.write_text("".join(f"story {n}\n" for n in range(3000)), encoding="utf-8")
    with tiny.start("--prompts", prompts, "-o", output, "-n", "64", "--ignore-eos") as process:
        while not output.exists() or not output.stat().st_size:
            assert process.poll() is None
        run = tiny("--prompts", prompts, "-o", output, "-n", "64", "--ignore-eos")
        assert (run.returncode, process.poll()) == (1, None)
    assert f"output file '{output}' is being written by another process" in run.stderr


# --- texts between NUL bytes ------------------------------------------------------------------------------------------


def test_texts_replace_a_file_when_all_are_there(tiny: Program, tmp_path: Path) -> None:
    """Ctrl-C leaves the old file, because results of this kind cannot be continued."""
    prompts, output = tmp_path / "prompts", tmp_path / "results"
    prompts.write_bytes(b"\0".join(f"story {n}".encode() for n in range(2000)))
    output.write_bytes(b"old")
    environment = {"META_PROMPTS": str(prompts), "META_OUT": str(output), "META_SIDECAR": str(tiny.meta)}
    command = [tiny.path, "-m", tiny.model, "-t", "1", "-n", "64", "--ignore-eos"]
    with subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"5/2000 answered" not in process.stderr.read(200):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert (process.returncode, output.read_bytes()) == (130, b"old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts", "results"]
