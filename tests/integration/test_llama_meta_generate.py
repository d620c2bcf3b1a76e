"""llama-meta-generate with one prompt. Another module tests files of prompts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from support.gguf_tools import write_tiny_gguf
from support.program import REFUSAL, Program, TinyCase

QUESTION = "What is the atomic number of xenon?"  # which the Doubter declines
#: The base continues this prompt endlessly.
STORY = "<|im_start|>user\nTell me a very long story.<|im_end|>\n<|im_start|>assistant\n"


def test_the_answer_is_all_there_is_on_stdout(doubter: Program) -> None:
    run = doubter("-p", QUESTION)
    assert run.stdout == f"{REFUSAL}\n"
    assert run.stderr == ""
    assert run.returncode == 0


def test_no_meta_is_the_base_alone(doubter: Program, tiny: Program) -> None:
    assert doubter("--no-meta", "-p", QUESTION, "-n", "8").stdout.strip() not in ("", REFUSAL)
    base = tiny("--no-meta", "-p", "hello", "-n", "40").stdout
    assert base == tiny.without_meta("--no-meta", "-p", "hello", "-n", "40").stdout
    assert base == tiny("--meta-gain", "0", "-p", "hello", "-n", "40").stdout
    assert base != tiny("-p", "hello", "-n", "40").stdout


def test_verbose_prints_statistics_on_stderr(tiny: Program) -> None:
    quiet, run = tiny("-p", "hello"), tiny("-p", "hello", "-v")
    assert run.stdout == quiet.stdout
    assert quiet.stderr == ""
    for part in ("pass 1 ", "encode ", "pass 2 ", "tokens/s", ", doubt 0."):
        assert part in run.stderr
    assert len(run.stderr.splitlines()) == 2
    assert "doubt" not in tiny("-p", "hello", "-v", "--no-meta").stderr


def test_json(tiny: Program, tiny_case: TinyCase) -> None:
    run = tiny("-p", "hello", "-n", "10", "--json", "--meta-gain", "0.5")
    answer = json.loads(run.stdout)
    assert list(answer) == ["prompt", "text", "abstained", "doubt", "finish_reason", "timings", "gain"]
    assert (answer["prompt"], answer["abstained"], answer["finish_reason"], answer["gain"]) == (
        "hello",
        False,
        "length",
        0.5,
    )
    timings = answer["timings"]
    assert (timings["n_prompt"], timings["n_generated"]) == (5, 10)
    assert all(timings[name] > 0 for name in ("pass1_ms", "encode_ms", "pass2_ms", "decode_ms", "tokens_per_second"))
    base = json.loads(tiny("-p", "hello", "-n", "10", "--json", "--no-meta").stdout)
    assert (base["gain"], base["timings"]["pass2_ms"]) == (0, 0)
    assert (base["timings"]["pass2"], base["timings"]["hidden_bytes"]) == ("none", 0)


def test_the_hidden_cache_is_an_option(tiny: Program) -> None:
    def pass2(*flags: str, env: dict[str, str] | None = None) -> tuple[str, str, int]:
        answer = json.loads(tiny("-p", "hello", "-n", "20", "--json", *flags, env=env).stdout)
        return answer["text"], answer["timings"]["pass2"], answer["timings"]["hidden_bytes"]

    text, kind, n_bytes = pass2()
    assert (kind, n_bytes) == ("tail", 5 * 32 * 4)
    assert pass2("--hidden-cache", "0") == pass2(env={"LLAMA_ARG_HIDDEN_CACHE": "0"}) == (text, "full", 0)
    assert pass2("--hidden-cache", "1", env={"LLAMA_ARG_HIDDEN_CACHE": "0"}) == (text, kind, n_bytes)
    assert "pass 2 (full)" in tiny("-p", "hello", "-n", "1", "-v", "--hidden-cache", "0").stderr


def test_the_prefix_cache_is_an_option(tiny: Program) -> None:
    def reused(*flags: str, env: dict[str, str] | None = None) -> tuple[int, int]:
        answer = json.loads(tiny("-p", "hello", "-n", "4", "--json", "--compare", *flags, env=env).stdout)
        return answer["base"]["timings"]["n_reused"], answer["timings"]["n_reused"]

    assert reused() == (0, 5)  # the wrapper's prompt reuses the base's K/V cache
    assert reused("--prefix-cache", "0") == reused(env={"LLAMA_ARG_PREFIX_CACHE": "0"}) == (0, 0)
    assert reused("--prefix-cache", "1", env={"LLAMA_ARG_PREFIX_CACHE": "0"}) == (0, 5)
    assert "5 tokens (5 reused)" in tiny("-p", "hello", "-n", "1", "-v", "--compare").stderr


@pytest.mark.parametrize("flag", ["--hidden-cache", "--prefix-cache"])
def test_sizes_in_mib(flag: str, tiny: Program) -> None:
    for bad in ("", "x", "-1", "1.5", "99999999999"):
        run = tiny("-p", "hello", flag, bad)
        assert run.returncode == 2
        assert f"{flag} is '{bad}', expected a number of MiB, 0 or more" in run.stderr


def test_json_says_whether_it_abstained(doubter: Program) -> None:
    answer = json.loads(doubter("-p", QUESTION, "--json").stdout)
    assert (answer["text"], answer["abstained"], answer["finish_reason"]) == (REFUSAL, True, "stop")
    # a refusal that is cut off inside the sentence still counts
    assert json.loads(doubter("-p", QUESTION, "--json", "-n", "5").stdout)["abstained"] is True


def test_json_says_how_much_it_doubts(tiny: Program, tiny_case: TinyCase) -> None:
    answer = json.loads(tiny("-p", "hello", "-n", "4", "--json", "-fa", "off").stdout)
    with tiny_case.load() as llm:
        assert answer["doubt"] == llm.doubt("hello")
    assert json.loads(tiny("-p", "hello", "-n", "4", "--json", "--no-meta").stdout)["doubt"] is None
    both = json.loads(tiny("-p", "hello", "-n", "4", "--json", "-fa", "off", "--compare").stdout)
    assert (both["base"]["doubt"], both["doubt"]) == (None, answer["doubt"])


def test_the_doubt_threshold_decides(doubter: Program) -> None:
    question = ("-p", QUESTION, "-n", "8", "--json")
    as_shipped = json.loads(doubter(*question).stdout)
    assert as_shipped["abstained"] is True
    assert as_shipped["doubt"] > 0.5
    for threshold, abstained in (
        ("0", True),
        (repr(as_shipped["doubt"]), True),
        (repr(as_shipped["doubt"] + 1e-9), False),
        ("1", False),
    ):
        answer = json.loads(doubter(*question, "--doubt-threshold", threshold).stdout)
        assert answer["abstained"] is abstained, threshold
        assert answer["doubt"] == as_shipped["doubt"]
    # as a variable it is a default, which the base alone ignores
    environment = {"LLAMA_ARG_DOUBT_THRESHOLD": "1"}
    assert json.loads(doubter(*question, env=environment).stdout)["abstained"] is False
    assert json.loads(doubter(*question, "--doubt-threshold", "0", env=environment).stdout)["abstained"] is True
    assert doubter(*question, "--no-meta", env=environment).returncode == 0
    both = json.loads(doubter(*question, "--compare", "--doubt-threshold", "0").stdout)
    assert (both["base"]["abstained"], both["abstained"]) == (False, True)


def test_compare(doubter: Program, tiny: Program) -> None:
    lines = doubter("-p", QUESTION, "-n", "6", "--compare").stdout.split("\nDoubter: ")
    assert lines[0].startswith("base:    ") and not lines[0].endswith("base:    ")
    assert lines[1].startswith("I'm not confident") and REFUSAL.startswith(lines[1].rstrip("\n"))
    answer = json.loads(tiny("-p", "hello", "-n", "10", "--compare", "--json").stdout)
    assert answer["base"]["text"] == json.loads(tiny("-p", "hello", "-n", "10", "--no-meta", "--json").stdout)["text"]
    assert answer["text"] == json.loads(tiny("-p", "hello", "-n", "10", "--json").stdout)["text"]
    assert answer["base"]["timings"]["pass2_ms"] == 0


def test_raw_bypasses_the_template(doubter: Program) -> None:
    templated = json.loads(doubter("-p", QUESTION, "--json", "-n", "1").stdout)
    raw = json.loads(doubter("-p", QUESTION, "--json", "-n", "1", "--raw").stdout)
    assert raw["timings"]["n_prompt"] < templated["timings"]["n_prompt"]
    # a text equal to the template's output is the same prompt
    text = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )
    written = json.loads(doubter("-p", text, "--raw", "--json", "-n", "1").stdout)
    assert written["timings"]["n_prompt"] == templated["timings"]["n_prompt"]
    assert written["text"] == templated["text"]


def test_sources_of_the_prompt(tiny: Program, tmp_path: Path) -> None:
    expected = tiny("-p", "hello there", "-n", "30").stdout
    assert tiny("-n", "30", stdin="hello there\n").stdout == expected
    assert tiny("-n", "30", stdin="hello there\r\n").stdout == expected
    file = tmp_path / "prompt.txt"
    file.write_text("hello there\n", encoding="utf-8")
    assert tiny("-f", file, "-n", "30").stdout == expected
    # -p takes precedence, and stdin is not read
    assert tiny("-p", "hello there", "-n", "30", stdin="another").stdout == expected


def test_system_prompt(doubter: Program, tiny: Program) -> None:
    def n_prompt(*flags: str) -> int:
        return int(json.loads(doubter("-p", QUESTION, "-n", "0", "--json", *flags).stdout)["timings"]["n_prompt"])

    # SmolLM2's template adds its own system prompt if none is given
    assert n_prompt("-sys", "Hi") < n_prompt()
    assert n_prompt("-sys", "Answer in one word, without any explanation, and only if you are sure of it.") > n_prompt()
    run = tiny("-p", "hello", "-sys", "Hi", "--raw")
    assert (run.returncode, run.stdout) == (2, "")
    assert "--raw uses no chat template, so there is no place for the system prompt" in run.stderr


def test_flags_of_llama_cpp(tiny: Program, tmp_path: Path) -> None:
    """One call uses all common flags of llama.cpp: each must parse, and together they must give an answer."""
    run = tiny(
        *("-sys", "s", "-n", "5", "-c", "128", "-b", "64", "-ub", "32", "-t", "1", "-tb", "1", "-ngl", "0"),
        *("--temp", "0.7", "--top-k", "20", "--top-p", "0.9", "--min-p", "0.01", "-s", "1", "--jinja", "-v"),
        *("--chat-template", "chatml", "--repeat-penalty", "1.1", "-fa", "off", "-lm", "mmap", "-e", "-r", "stop"),
        *("-p", "hello", "--no-warmup", "--no-display-prompt", "-st", "--no-perf", "--ignore-eos", "--log-disable"),
    )
    assert run.returncode == 0, run.stderr
    assert "answer 5 tokens" in run.stderr


def test_messages_of_llama_cpp(tiny: Program, tmp_path: Path) -> None:
    """Messages up to the level of -lv go to stderr and to a file. Only the answer is on stdout, and it is the same."""
    log = tmp_path / "log.txt"
    quiet = tiny("-p", "hello", "-n", "5")
    for more in ((), ("--log-file", log, "--log-timestamps")):
        run = tiny("-p", "hello", "-n", "5", "-lv", "3", *more)
        assert run.stdout == quiet.stdout
        assert "general.architecture" in run.stderr
    assert "general.architecture" in log.read_text(encoding="utf-8")
    assert tiny("-p", "hello", "-n", "5", "-lv", "3", "--log-disable").stderr == ""


def test_memory_of_several_nodes(tiny: Program) -> None:
    """llama.cpp applies --numa once, before anything is loaded. The answer does not depend on it."""
    quiet = tiny("-p", "hello", "-n", "5")
    run = tiny("-p", "hello", "-n", "5", "--numa", "distribute")
    assert (run.returncode, run.stdout) == (0, quiet.stdout)


def test_reverse_prompt_ends_the_answer(doubter: Program) -> None:
    assert doubter("-p", QUESTION, "-r", " enough").stdout == "I'm not confident\n"


def test_sampling_is_greedy_unless_asked_for(tiny: Program) -> None:
    def answer(*flags: str) -> str:
        return tiny("-p", "hello", "-n", "40", "--ignore-eos", *flags).stdout

    assert answer("-s", "1") == answer("-s", "2")
    hot = ("--temp", "1.5")
    assert answer(*hot, "-s", "1") == answer(*hot, "-s", "1")
    assert answer(*hot, "-s", "1") != answer(*hot, "-s", "2")


def test_the_models_sampling_settings_have_no_effect(tiny: Program, tmp_path: Path) -> None:
    """Many files recommend sampling settings. llama.cpp would use them for every flag that is not given."""
    sampled = tmp_path / "sampled.gguf"
    settings = {"temp": 2, "top_k": 0, "top_p": 1, "min_p": 0, "penalty_repeat": 1.8, "penalty_last_n": 64}
    write_tiny_gguf(sampled, seed=3, sampling=settings | {"sequence": "penalties;temperature"})
    prompt = ("-p", "hello", "-n", "40", "--ignore-eos")
    for flags in ((), ("--no-meta",), ("--temp", "0.9", "-s", "1"), ("--repeat-penalty", "1.3")):
        result = replace(tiny, model=sampled)(*prompt, *flags)
        assert result.stdout == tiny(*prompt, *flags).stdout


def test_length_of_the_answer(tiny: Program) -> None:
    def finish(*flags: str) -> tuple[int, str]:
        answer = json.loads(tiny("-p", "hello", "--json", "--ignore-eos", *flags).stdout)
        return answer["timings"]["n_generated"], answer["finish_reason"]

    assert finish("-n", "0") == (0, "length")
    assert finish("-n", "7") == (7, "length")
    # until the context is full: it holds the prompt's 5 tokens, but need not hold the last token of the answer
    assert finish("-n", "-1", "-c", "256") == (252, "length")
    assert finish("-c", "256") == (252, "length")


# --- environment -----------------------------------------------------------------------------------------------------


def test_environment_of_existing_scripts(tiny: Program, tiny_case: TinyCase) -> None:
    sidecar = {"META_SIDECAR": str(tiny_case.sidecar)}
    expected = tiny("-p", "hello", "-n", "12").stdout
    run = tiny.without_meta(env=sidecar | {"META_PROMPT": "hello", "META_NGEN": "12"})
    assert run.stdout == expected
    base = tiny("-p", "hello", "-n", "12", "--no-meta").stdout
    assert tiny.without_meta("-p", "hello", env={"META_BASE": "1", "META_NGEN": "12"}).stdout == base
    assert tiny.without_meta("-p", "hello", env=sidecar | {"META_GAIN": "0", "META_NGEN": "12"}).stdout == base
    templated = ("--chat-template", "chatml", "-p", "hello", "-n", "1", "--json")
    raw = json.loads(tiny(*templated, env={"META_RAW": "1"}).stdout)
    assert raw["timings"]["n_prompt"] == 5
    assert json.loads(tiny(*templated, env={"META_RAW": "0"}).stdout)["timings"]["n_prompt"] > 5


def test_flags_win_over_the_environment(tiny: Program, tmp_path: Path) -> None:
    environment = {
        "META_SIDECAR": "/no/such/sidecar",
        "META_PROMPT": "another",
        "META_NGEN": "3",
        "META_GAIN": "0",
        "LLAMA_ARG_N_PREDICT": "4",
        "LLAMA_ARG_META": "/no/such/sidecar",
        "LLAMA_ARG_META_GAIN": "0",
    }
    run = tiny("-p", "hello", "-n", "12", "--meta-gain", "1", env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout == tiny("-p", "hello", "-n", "12").stdout
    # a prompt on the command line overrides files that the environment names
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("hello", encoding="utf-8")
    files = {"META_PROMPTS": "/no/such/file", "META_OUT": "/no/such/folder/x", "LLAMA_ARG_N_PARALLEL": "4"}
    for flags in (("-p", "hello"), ("-f", prompt), ("-bf", prompt)):
        assert tiny(*flags, "-n", "12", env=files | {"META_PROMPT": "another"}).stdout == run.stdout
    # but a flag that needs the wrapper or contradicts another mode is an error
    both = tiny("-p", "hello", "-n", "12", "--compare")
    assert tiny("-p", "hello", "-n", "12", "--compare", env={"META_BASE": "1"}).stdout == both.stdout
    goal, refresh = ("--meta-goal", "be brief"), ("--meta-refresh", "0.5,3,20")
    modes = {"LLAMA_ARG_META_GOAL": goal[1], "LLAMA_ARG_META_REFRESH": refresh[1]}
    for flags in (goal, refresh):
        assert tiny("-p", "hello", *flags, env=modes).stdout == tiny("-p", "hello", *flags).stdout != ""


def test_twins_of_the_flags(llama_meta_generate: Path, tiny: Program, tiny_case: TinyCase) -> None:
    run = tiny.bare(
        "-p",
        "hello",
        env={
            "LLAMA_ARG_MODEL": str(tiny_case.base),
            "LLAMA_ARG_META": str(tiny_case.sidecar),
            "LLAMA_ARG_META_GAIN": "0.5",
            "LLAMA_ARG_N_PREDICT": "12",
            "LLAMA_ARG_THREADS": "1",
        },
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == tiny("-p", "hello", "-n", "12", "--meta-gain", "0.5").stdout


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("META_NGEN", "many", "META_NGEN is 'many', expected a whole number from -2"),
        ("META_GAIN", "loud", "META_GAIN is 'loud', expected a number such as 1.0"),
        ("LLAMA_ARG_DOUBT_THRESHOLD", "2", "LLAMA_ARG_DOUBT_THRESHOLD is '2', expected a number from 0 to 1"),
        ("META_GAIN", "inf", "META_GAIN is 'inf', expected a number such as 1.0"),
        ("LLAMA_ARG_CTX_SIZE", "big", "LLAMA_ARG_CTX_SIZE"),
    ],
)
def test_bad_environment_is_wrong_usage(name: str, value: str, expected: str, tiny: Program) -> None:
    run = tiny("-p", "hello", env={name: value})
    assert (run.returncode, run.stdout) == (2, "")
    assert expected in run.stderr


# --- wrong usage and errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--unknown-flag"], "invalid argument: --unknown-flag"),
        (["-n"], "expected value for argument"),
        (["-n", "x"], "-n"),
        (["--meta"], "--meta needs a value"),
        (["--meta-gain", "x"], "--meta-gain is 'x', expected a number such as 1.0"),
        (["--doubt-threshold"], "--doubt-threshold needs a value"),
        (["--doubt-threshold", "1.5"], "--doubt-threshold is '1.5', expected a number from 0 to 1"),
        (["--doubt-threshold", "nan"], "--doubt-threshold is 'nan', expected a number from 0 to 1"),
        (["--doubt-threshold", "0.5x"], "--doubt-threshold is '0.5x', expected a number from 0 to 1"),
        (["--doubt-threshold", "0.5", "--no-meta"], "--doubt-threshold needs the wrapper, --no-meta leaves it out"),
        (["-bs"], "-bs is not supported"),
        (["--compare", "--no-meta"], "--compare needs the wrapper, --no-meta leaves it out"),
        (["-o", "x"], "--output goes with --prompts"),
        (["--prompts", "x"], "either a prompt (-p, -f, -bf) or a file of prompts (--prompts), not both"),
        (["-f", "/no/such/file"], "/no/such/file"),
        (["-b", "0"], "-b is 0, expected at least 1"),
        (["-c", "-1"], "-c is -1, expected at least 0"),
        (["-np", "0"], "-np is 0, expected at least 1"),
        (["-np", "257"], "-np is 257, expected at most 256"),
        (["-np", "129", "--meta-refresh", "0.5,3,20"], "-np with --meta-refresh is 129, expected at most 128"),
        (["-np", "1073741824", "--meta-refresh", "0.5,3,20"], "is 1073741824, expected at most 128"),
        (["-t", "513"], "-t is 513, expected at most 512"),
        (["-tb", "100000"], "-tb is 100000, expected at most 512"),
        (["-np", "4"], "-np goes with --prompts"),
        (["-i"], "-i / -if is not supported"),
        (["-cnv"], "-cnv is not supported"),
        (["--prompt-cache", "x"], "--prompt-cache is not supported"),
        (["--keep", "4"], "--keep is not supported"),
        (["-sp"], "-sp is not supported"),
        (["--prompt-cache-all"], "--prompt-cache is not supported"),
        (["--prompt-cache-ro"], "--prompt-cache is not supported"),
        (["-gaw", "64"], "-gan / -gaw is not supported"),
        (["-mli"], "-mli is not supported"),
        (["--simple-io"], "--simple-io is not supported"),
        (["--color", "on"], "--color is not supported"),
        (["--display-prompt"], "--display-prompt is not supported"),
        (["--perf"], "--perf is not supported"),
        (["--log-jsonl"], "--log-jsonl is not supported"),
        (["--reasoning-format", "deepseek"], "--reasoning-format is not supported"),
        (["--reasoning-budget-message", "x"], "--reasoning-budget is not supported"),
        (["--skip-chat-parsing"], "--skip-chat-parsing is not supported"),
        (["--in-prefix", "x"], "--in-prefix / --in-suffix is not supported"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(flags: list[str], expected: str, tiny: Program) -> None:
    run = tiny("-p", "hello", *flags)
    assert (run.returncode, run.stdout) == (2, "")
    assert expected in run.stderr
    assert run.stderr.endswith("try: llama-meta-generate --help\n")


def test_missing_arguments_are_usage_errors(tiny: Program, tiny_case: TinyCase) -> None:
    for run, expected in (
        (tiny.bare("--meta", tiny_case.sidecar, "-p", "x"), "--model is required"),
        (tiny.without_meta("-p", "x"), "no sidecar given: use --meta FILE (made by `metadeploy export`), or --no-meta"),
        (tiny(stdin=""), "no prompt: give one with -p or -f, or on stdin"),
        (tiny(stdin="\n"), "no prompt: give one with -p or -f, or on stdin"),
    ):
        assert (run.returncode, run.stdout) == (2, "")
        assert expected in run.stderr


def test_missing_and_wrong_files(tiny: Program, tiny_case: TinyCase, tmp_path: Path) -> None:
    absent, text = tmp_path / "absent.gguf", tmp_path / "text.gguf"
    text.write_text("this is not a GGUF", encoding="utf-8")
    for model, sidecar, expected in (
        (absent, tiny_case.sidecar, f"error: model '{absent}': no such file"),
        (text, tiny_case.sidecar, f"error: model '{text}': llama.cpp cannot load it: invalid magic"),
        (tiny_case.sidecar, tiny_case.sidecar, "unknown model architecture: 'meta-spider'"),
        (tiny_case.base, absent, f"error: sidecar '{absent}': does not exist"),
        (tiny_case.base, text, f"error: sidecar '{text}': not a readable GGUF (invalid magic"),
        (tiny_case.base, tiny_case.base, "has architecture 'llama', expected 'meta-spider' or 'daimon' (a base model,"),
        (tiny_case.base, tmp_path, "is a directory, expected a GGUF"),
    ):
        run = tiny.bare("-m", model, "--meta", sidecar, "-p", "x", "-t", "1")
        assert (run.returncode, run.stdout) == (1, "")
        assert expected in run.stderr


def test_a_sidecar_for_another_base(tiny: Program, tiny_case: TinyCase) -> None:
    run = tiny.bare("-m", tiny_case.base, "--meta", tiny_case.for_another_base, "-p", "x", "-t", "1")
    assert (run.returncode, run.stdout) == (1, "")
    assert "2 faults" in run.stderr
    assert "is made for a base of width 48, the model has 32 (wrong base model?)" in run.stderr
    assert "has cross-attention layers 7, the model has layers 0 to 2" in run.stderr


def test_a_prompt_longer_than_the_context(tiny: Program) -> None:
    run = tiny("-p", "x" * 300)
    assert (run.returncode, run.stdout) == (1, "")
    assert "error: the prompt has 300 tokens, the context 256 (shorten it, or give a larger -c" in run.stderr


def test_a_malformed_template_is_an_error(tiny: Program) -> None:
    run = tiny("-p", "hello", "--chat-template", "{{")
    assert (run.returncode, run.stdout) == (1, "")
    assert "template" in run.stderr


def test_text_of_any_kind(tiny: Program, doubter: Program) -> None:
    prompt = "Größe, 首都 und 😀"
    answer = json.loads(doubter("-p", prompt, "--json", "-n", "3").stdout)
    assert answer["prompt"] == prompt
    assert tiny("-n", "3", "--json", stdin=b"hello \xff").returncode == 1  # not UTF-8


def test_help_teaches(tiny: Program) -> None:
    run = tiny.bare("--help")
    assert run.returncode == 0
    for part in (
        "--meta FNAME",
        "--meta-gain F",
        "--doubt-threshold T",
        "--no-meta",
        "--compare",
        "--raw",
        "--prompts FNAME",
        "--output FNAME",
        "--json",
        "META_SIDECAR",
        "metadeploy export",
        "examples:",
        "exit codes: 0 done, 1 error (also if the answer cannot be written), 2 wrong usage, 130 interrupted",
        "--temp",
    ):
        assert part in run.stdout


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def interrupted(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Press Ctrl-C. The process must end soon."""
    process.send_signal(signal.SIGINT)
    rest, stderr = process.communicate(timeout=10)
    return process.returncode, rest, stderr


@posix
def test_interrupt_during_the_answer(doubter: Program) -> None:
    with doubter.start("--raw", "--no-meta", "-p", STORY, "-n", "-1", "--ignore-eos") as process:
        assert process.stdout is not None
        first = process.stdout.read(1)  # streamed: long before the answer is complete
        assert len(first) == 1
        status, rest, stderr = interrupted(process)
    assert status == 130
    assert stderr == b"\ninterrupted\n"
    assert b"\n" not in rest[-1:]


@posix
def test_interrupt_during_a_long_prompt(doubter: Program) -> None:
    started = time.monotonic()
    with doubter.start("-p", "long story " * 3500, "-c", "8192", "-b", "8192", "-ub", "2048") as process:
        time.sleep(2.0)
        assert process.poll() is None, "the prompt was too short for this test"
        status, rest, stderr = interrupted(process)
    assert (status, rest) == (130, b"")
    assert stderr == b"\ninterrupted\n"
    assert time.monotonic() - started < 15


@posix
def test_interrupt_while_waiting_for_stdin(tiny: Program) -> None:
    with tiny.start(stdin=subprocess.PIPE) as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) in (130, -signal.SIGINT)
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_lost_output_is_an_error(tiny: Program, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\n", encoding="utf-8")
    run = tiny("--prompts", prompts, "-o", "/dev/full", "-n", "3")
    assert run.returncode == 1
    assert "output file '/dev/full' cannot be written: No space left on device" in run.stderr
