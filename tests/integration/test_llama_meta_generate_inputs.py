"""Inputs that llama-meta-generate could misread: templates, encodings, numbers and variables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metadeploy.sidecar import read_sidecar, write_sidecar
from support.program import Program, Run, TinyCase


def refused(run: Run, *messages: str, status: int = 1) -> None:
    """Assert that the program ends before any answer, with one message."""
    assert (run.returncode, run.stdout) == (status, ""), run.stderr
    for text in messages:
        assert text in run.stderr


def prompt_length(run: Run) -> int:
    assert run.returncode == 0, run.stderr
    return int(json.loads(run.stdout)["timings"]["n_prompt"])


# --- chat templates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chatml", "gemma", "llama3", "phi3", "vicuna", "deepseek"])
def test_templates_of_llama_cpp_by_name(name: str, tiny: Program) -> None:
    run = tiny("-p", "a long question", "-n", "0", "--json", "--chat-template", name)
    assert prompt_length(run) > len("a long question")
    assert prompt_length(tiny("-p", "a long question", "-n", "0", "--json", "--chat-template", name, "--no-jinja")) > 15
    environment = {"LLAMA_ARG_CHAT_TEMPLATE": name}
    assert prompt_length(tiny("-p", "a long question", "-n", "0", "--json", env=environment)) == prompt_length(run)


def test_texts_that_are_not_templates(tiny: Program, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}", encoding="utf-8")
    for text in ("chatlm", "Gemma", "You are a helpful assistant.", "{ messages }"):
        refused(tiny("-p", "x", "--chat-template", text), f"chat template '{text}'", "expected Jinja text or one of: ")
    refused(tiny("-p", "x", "--chat-template", str(file)), "is the path of a file", "--chat-template-file")
    refused(tiny("-p", "x", "--chat-template", "gemma{{ '' }}"), "leaves out message 0 (role user), 'x'")
    refused(tiny("-p", "x", "--chat-template", "{% if %}"), "chat template: not valid Jinja")
    environment = {"LLAMA_ARG_CHAT_TEMPLATE": "chatlm"}
    refused(tiny("-p", "x", env=environment), "chat template 'chatlm'")
    assert tiny("-p", "x", "-n", "1", "--chat-template", "chatml", env=environment).returncode == 0


def test_files_of_templates(tiny: Program, tmp_path: Path) -> None:
    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    file = tmp_path / "template.jinja"
    file.write_text(template, encoding="utf-8-sig")  # with a byte-order mark, as from editors on Windows
    flags = ("-p", "abc", "-n", "0", "--json")
    assert prompt_length(tiny(*flags, "--chat-template-file", file)) == len("[abc]")
    assert prompt_length(tiny(*flags, env={"LLAMA_ARG_CHAT_TEMPLATE_FILE": str(file)})) == len("[abc]")
    assert prompt_length(tiny(*flags, "--chat-template", template)) == len("[abc]")
    refused(
        tiny(*flags, "--chat-template-file", file, "--chat-template", template), "give either the text or", status=2
    )
    file.write_bytes(template.encode("utf-16"))
    refused(tiny(*flags, "--chat-template-file", file), f"chat template file '{file}' is UTF-16")
    file.write_text(" \n", encoding="utf-8")
    refused(tiny(*flags, "--chat-template-file", file), f"chat template file '{file}' is empty")
    refused(tiny(*flags, "--chat-template-file", tmp_path), "is a directory, expected a file")
    refused(tiny(*flags, "--chat-template-file", tmp_path / "absent"), "cannot be opened")


def test_llama_cpp_sets_no_variables_by_itself(tiny: Program) -> None:
    """By default, llama.cpp's parser keeps reasoning in the history and enables thinking."""
    body = "{% for m in messages %}{{ m.content }}{% endfor %}"
    arguments = ("-p", "abc", "-n", "0", "--json", "--chat-template")

    def extra(text: str, *flags: str) -> int:
        return prompt_length(tiny(*arguments, body + text, *flags)) - len("abc")

    for name in ("enable_thinking", "clear_thinking", "preserve_thinking", "preserve_reasoning", "datetime"):
        assert extra("{% if " + name + " is defined %}!{% endif %}") == 0, name
    assert extra("{% if enable_thinking %}!{% endif %}", "--reasoning", "on") == 1
    assert extra("{% if enable_thinking is false %}!{% endif %}", "--reasoning", "off") == 1
    assert extra("{% if preserve_thinking and not clear_thinking %}!{% endif %}", "--reasoning-preserve") == 1
    assert extra("{% if clear_thinking and not preserve_thinking %}!{% endif %}", "--no-reasoning-preserve") == 1
    assert extra("{{ reasoning_effort }}", "--reasoning-effort", "low") == len("low")


# --- encodings -------------------------------------------------------------------------------------------------------


def test_the_mark_of_utf8_is_no_part_of_a_prompt(tiny: Program, tmp_path: Path) -> None:
    expected = json.loads(tiny("-p", "hello", "-n", "3", "--json").stdout)
    file = tmp_path / "prompt.txt"
    file.write_text("hello", encoding="utf-8-sig")
    system = tmp_path / "system.txt"
    system.write_text("sys", encoding="utf-8-sig")
    for run in (
        tiny("-f", file, "-n", "3", "--json"),
        tiny("-n", "3", "--json", stdin="hello".encode("utf-8-sig")),
        tiny("--prompts", file, "-n", "3"),
    ):
        answer = json.loads(run.stdout)
        assert (answer["prompt"], answer["doubt"]) == ("hello", expected["doubt"])
    lengths = [
        prompt_length(tiny("-p", "x", "-n", "0", "--json", *flags)) for flags in (("-sys", "sys"), ("-sysf", system))
    ]
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("What?\n".encode("utf-16"), "is UTF-16 or UTF-32"),
        ("What?\n".encode("utf-16-le"), "has a NUL in every other byte, as UTF-16 has"),
        ("What?\n".encode("utf-16-be"), "has a NUL in every other byte, as UTF-16 has"),
        ("What?\n".encode("utf-32"), "is UTF-16 or UTF-32"),
        ("One?\nGröße?\n".encode("latin-1"), "line 2 has the byte 0xF6"),
        (b"a question without end\0\n", "line 1 holds a NUL byte"),
        (b"\xff\xfe hello", "is UTF-16 or UTF-32"),
    ],
    ids=str,
)
def test_other_encodings_are_refused(content: bytes, fault: str, tiny: Program, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(content)
    refused(tiny("--prompts", file), f"prompts file '{file}'", fault, "expected")
    refused(tiny("-f", file), f"prompt file '{file}'", fault)
    refused(tiny(stdin=content), "the prompt on stdin", fault)


def test_files_of_prompts_in_every_form(tiny: Program, tmp_path: Path) -> None:
    objects: list[dict[str, Any]] = [{"prompt": "one"}, {"question": "two", "answers": ["x"], "category": "y"}]
    forms = {
        "lines": "one\r\ntwo\r\n",
        "json lines": "\n".join(map(json.dumps, objects)),
        "json texts": '"one"\n"two"\n',
        "an array": json.dumps(objects, indent=1),
        "an array of texts": '["one", "two"]',
    }
    for name, text in forms.items():
        file = tmp_path / "prompts"
        file.write_text(text, encoding="utf-8", newline="")
        run = tiny("--prompts", file, "-n", "2")
        assert [json.loads(line)["prompt"] for line in run.stdout.splitlines()] == ["one", "two"], name
        noted = 'note: ignoring the keys "answers", "category" of the prompts'
        assert (noted in run.stderr) == ("answers" in text)


def test_invalid_keys_in_a_file_of_prompts(tiny: Program, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    for line, message in (
        ('{"prompt": "b", "goal": "be brief"}', 'line 2 has the key "goal", which looks like an option'),
        ('{"prompt": "b", "temperature": 1}', 'the key "temperature"'),
        ('{"prompt": "b", "max_tokens": 1}', 'the key "max_tokens"'),
        ('{"prompt": ""}', 'line 2: "prompt" is empty, expected a text'),
        ('{"prompt": "b", "question": "c"}', 'has "prompt" and "question"'),
        ("a text", "line 2 is not a JSON object"),
    ):
        file.write_text(f'{{"prompt": "a"}}\n{line}\n', encoding="utf-8")
        refused(tiny("--prompts", file), f"prompts file '{file}'", message)


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--temp", "nan", "--temp is 'nan', expected a number from 0 to 1000000"),
        ("--temp", "0,7", "--temp is '0,7'"),
        ("--temp", "-1", "--temp is '-1'"),
        ("--temp", "1e400", "--temp is '1e400'"),
        ("--temperature", "inf", "--temperature is 'inf'"),
        ("--top_p", "1.5", "--top-p is '1.5', expected a number from 0 to 1"),
        ("--top-p", "nan", "--top-p is 'nan'"),
        ("--min-p", "2", "--min-p is '2'"),
        ("--typical", "-0.1", "--typical is '-0.1'"),
        ("--repeat-penalty", "inf", "--repeat-penalty is 'inf', expected a number from 0.001 to 1000"),
        ("--repeat-penalty", "1e-45", "--repeat-penalty is '1e-45'"),
        ("--presence-penalty", "1e38", "--presence-penalty is '1e38'"),
        ("-n", "10x", "-n is '10x', expected a whole number from -2"),
        ("-n", "-3", "-n is '-3'"),
        ("-n", "1.5", "-n is '1.5'"),
        ("-n", "99999999999", "-n is '99999999999'"),
        ("-c", "4k", "-c is '4k', expected a whole number"),
        ("-t", "2threads", "-t is '2threads'"),
        ("--top-k", "4294967297", "--top-k is '4294967297'"),
        ("--top-k", "-2", "--top-k is '-2', expected a whole number from -1"),
        ("-s", "-5", "-s is '-5', expected a whole number from -1 to 4294967295"),
        ("-s", "4294967296", "-s is '4294967296'"),
        ("-s", "1.5", "-s is '1.5'"),
        ("-ngl", "1x", "-ngl is '1x'"),
        ("--mirostat", "3", "--mirostat is '3'"),
    ],
)
def test_numbers_of_llama_cpps_flags(flag: str, value: str, message: str, tiny: Program) -> None:
    refused(tiny("-p", "x", flag, value), message, status=2)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LLAMA_ARG_TEMPERATURE", "0,7", "LLAMA_ARG_TEMPERATURE is '0,7', expected a number from 0"),
        ("LLAMA_ARG_TEMPERATURE", "1e-40", "LLAMA_ARG_TEMPERATURE is '1e-40', expected 0 or a number that is not"),
        ("LLAMA_ARG_N_PREDICT", "8k", "LLAMA_ARG_N_PREDICT is '8k', expected a whole number"),
        ("LLAMA_ARG_CTX_SIZE", "4k", "LLAMA_ARG_CTX_SIZE is '4k'"),
        ("META_NGEN", "99999999999", "META_NGEN is '99999999999', expected a whole number from -2"),
        ("META_NGEN", "12 ", "META_NGEN is '12 '"),
        ("META_BASE", "maybe", "META_BASE is 'maybe', expected 1 or 0"),
        ("META_RAW", "2", "META_RAW is '2', expected 1 or 0"),
    ],
)
def test_numbers_of_variables(name: str, value: str, message: str, tiny: Program) -> None:
    refused(tiny("-p", "x", env={name: value}), message, status=2)


def test_invalid_temperatures(tiny: Program) -> None:
    greedy = tiny("-p", "hello", "-n", "20").stdout
    for value in ("0", "1e-40", "1e-46", "1e-7", "1e-400"):
        assert tiny("-p", "hello", "-n", "20", "--temp", value, "-s", "1").stdout == greedy, value
    assert tiny("-p", "hello", "-n", "20", "--temp", "1.5", "-s", "1").stdout != greedy


# --- variables of the framework's program ----------------------------------------------------------------------------


def test_a_goal_and_a_refresh_of_the_environment(tiny: Program) -> None:
    arguments = ("-p", "hello", "-n", "20", "--json")

    def said(*flags: str, env: dict[str, str] | None = None) -> dict[str, Any]:
        run = tiny(*arguments, *flags, env=env)
        assert run.returncode == 0, run.stderr
        return {key: value for key, value in json.loads(run.stdout).items() if key != "timings"}

    plain = said()
    assert said(env={"META_ANCHOR": "be brief"}) == said("--meta-goal", "be brief") != plain
    assert said("--meta-goal", "other", env={"META_ANCHOR": "be brief"}) == said("--meta-goal", "other")
    dynamic = {"META_DYNAMIC": "1", "META_THRESHOLD": "1.5"}
    assert said(env=dynamic) == said("--meta-refresh", "1.5,3,20") != plain
    assert said(env={"META_DYNAMIC": "1"}) == said("--meta-refresh", "0.5,3,20")
    assert said(env=dynamic | {"META_DYNAMIC": "0"}) == plain
    assert said("--meta-refresh", "0.9,2,4", env=dynamic) == said("--meta-refresh", "0.9,2,4")
    assert said("--meta-goal", "be brief", env=dynamic) == said("--meta-goal", "be brief")
    assert said("--no-meta", env=dynamic | {"META_ANCHOR": "x"} | {"META_DYNAMIC": "0"}) == said("--no-meta")
    refused(
        tiny(*arguments, env={"META_DYNAMIC": "1", "META_THRESHOLD": "high"}), "META_THRESHOLD", "'high,3,20'", status=2
    )


def test_layers_of_the_environment(tiny: Program, tiny_case: TinyCase) -> None:
    flags = ("-p", "hello", "-n", "2")
    for layers in ("0-2", "0,1,2", "2, 1, 0", "all", "1,2", "1-2"):  # layers of reads or of injections
        assert tiny(*flags, env={"META_LAYERS": layers}).returncode == 0, layers
    for layers in ("2", "0-5", "late"):
        refused(
            tiny(*flags, env={"META_LAYERS": layers}),
            f"META_LAYERS is '{layers}', but sidecar '{tiny_case.sidecar}' reads layers 0,1,2 and injects after 1,2",
        )
    assert tiny(*flags, "--no-meta", env={"META_LAYERS": "7"}).returncode == 0
    for layers in ("upper", "3-1", "1,,2", "-1", "1.5"):
        refused(tiny(*flags, env={"META_LAYERS": layers}), "META_LAYERS", status=2)


def test_a_prompt_from_the_environment_is_used_unchanged(tiny: Program) -> None:
    for text in ("a\\nb", 'print("a\\t\\n")', "\\x41"):
        answer = json.loads(tiny("-n", "1", "--json", env={"META_PROMPT": text}).stdout)
        assert (answer["prompt"], answer["timings"]["n_prompt"]) == (text, len(text))
    assert json.loads(tiny("-p", "a\\nb", "-n", "1", "--json").stdout)["prompt"] == "a\nb"


def test_a_goal_anchor_needs_a_goal(tiny: Program, tiny_case: TinyCase, tmp_path: Path) -> None:
    source = read_sidecar(tiny_case.sidecar)
    anchor = tmp_path / "anchor.gguf"
    tensors = {name: np.asarray(tensor) for name, tensor in source.tensors.items()}
    write_sidecar(anchor, replace(source.config, kind="goal_anchor"), tensors)
    program = replace(tiny, meta=anchor)
    refused(program("-p", "hello"), f"sidecar '{anchor}' is of kind goal_anchor", "expected --meta-goal TEXT")
    for flags in (("--meta-goal", "be brief"), ("--no-meta",)):
        assert program("-p", "hello", "-n", "2", *flags).returncode == 0
    assert program("-p", "hello", "-n", "2", env={"META_ANCHOR": "be brief"}).returncode == 0


# --- the wrong file ---------------------------------------------------------------------------------------------------


def test_files_in_place_of_others(tiny: Program, tiny_case: TinyCase, tmp_path: Path) -> None:
    swapped = tiny.bare("-m", tiny_case.sidecar, "--meta", tiny_case.base, "-p", "x")
    refused(swapped, "unknown model architecture: 'meta-spider' (a sidecar, expected the base that it runs beside)")
    refused(tiny.bare("-m", tmp_path, "--meta", tiny_case.sidecar, "-p", "x"), "is a directory, expected a GGUF")
    refused(tiny("--prompts", tiny_case.base), "prompts file", "NUL")


def test_flags_with_underscores(tiny: Program) -> None:
    expected = tiny("-p", "hello", "-n", "5", "--meta-gain", "0.5").stdout
    assert tiny("-p", "hello", "-n", "5", "--meta_gain", "0.5").stdout == expected


def test_help_says_all_of_it(tiny: Program) -> None:
    help_text = tiny.bare("--help").stdout
    for part in (
        "META_ANCHOR",
        "META_DYNAMIC",
        "META_THRESHOLD",
        "META_LAYERS",
        "META_PROMPT",
        "JSON array",
        "--no-escape",
    ):
        assert part in help_text
