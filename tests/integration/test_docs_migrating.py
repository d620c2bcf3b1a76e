"""docs/migrating.md: each command, flag, variable and Python name that the page mentions exists."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import metadeploy
from metadeploy.cli import app
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
COMMANDS = [command.name for command in app.registered_commands if command.name is not None]
FLAG = re.compile(r"(?<![\w-])-{1,2}[A-Za-z][\w-]*")
#: Commands of the framework. Its script has the same name, as the page explains.
NOT_OURS = {"validate"}


@functools.cache
def help_of(command: str) -> str:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "400", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return result.output


def section(title: str) -> str:
    start = PAGE.index(f"\n## {title}\n")
    return PAGE[start : PAGE.find("\n## ", start + 1)]


def rows(title: str) -> list[tuple[str, ...]]:
    """Return the cells of a section's table without the header."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]) for line in lines[2:]]


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def ours() -> Iterator[str]:
    """Return the page's text about this project, without the parts about the framework."""
    theirs = {cell for title in ("Commands", "Python", "Figures") for cell, *_ in rows(title)}
    for line in PAGE.splitlines():
        if line.startswith("    metadeploy "):
            yield line.strip()
        cells = [cell.strip() for cell in line.split("|")] if line.startswith("|") else [line]
        for cell in cells:
            if cell not in theirs:
                yield from spans(cell)
    for left, right in rows("Commands"):
        if right.startswith("the same"):
            yield from spans(left)


def known_flags(text: str, command: str) -> list[str]:
    """Return the flags in a command line that the command's help does not list."""
    words = re.sub(r"\"[^\"]*\"|'[^']*'", "", text)
    return [flag for flag in FLAG.findall(words) if not re.search(rf"(?<![\w-]){flag}(?![\w-])", help_of(command))]


def test_commands_and_their_flags() -> None:
    seen = set()
    for text in ours():
        if not (match := re.match(r"metadeploy (\w+)", text)):
            continue
        command = match[1]
        if command in NOT_OURS:
            continue
        assert command in COMMANDS, text
        assert known_flags(text, command) == [], text
        seen.add(command)
    assert seen >= {"export", "edit", "inspect", "collect", "train", "eval", "ladder"}


def test_flags_by_themselves() -> None:
    """The commands in the right column of the table, and in the left column if this project has the same one."""
    seen = 0
    for text in (text for _, right in rows("Commands") for text in spans(right)):
        if text.startswith("-"):
            assert any(not known_flags(text, command) for command in ("collect", "train", "eval", "export")), text
            seen += 1
    for left, right in rows("Commands"):
        if right.startswith("the same"):
            for text in spans(left):
                if text.startswith("-"):
                    assert any(not known_flags(text, command) for command in ("export", "collect", "train")), text
                    seen += 1
    assert seen > 15


def test_statements_about_flags_of_commands() -> None:
    for flag in ("--encoder-type", "--cross-attn-layers"):
        assert not known_flags(flag, "train")
        assert known_flags(flag, "collect") == [flag]
    for flag in ("--questions", "--layers", "--batch-size", "--answer-suffix", "--chat-template-kwargs", "--limit"):
        assert not known_flags(flag, "collect")
    for flag in ("--lr", "--patience", "--epochs", "--batch-size", "--enc-num-heads", "--inject-from"):
        assert not known_flags(flag, "train")
    for command in ("export", "eval", "ladder"):
        assert not known_flags("--refusal-text", command)
    assert "mmlu" in help_of("collect")
    assert "triviaqa" in help_of("collect")
    assert "gsm8k" in help_of("collect")


def test_flags_and_variables_of_the_program(llama_meta_generate: Path) -> None:
    output = subprocess.run([llama_meta_generate, "--help"], capture_output=True, encoding="utf-8", timeout=60).stdout
    code = (ROOT / "csrc" / "cli" / "args.cpp").read_text(encoding="utf-8")
    table = rows("The program's variables")
    assert len(table) > 8
    for variables, flags, _ in table:
        for name in re.findall(r"META_\w+", variables):
            assert re.search(rf'"{name}"', code), name
        for flag in FLAG.findall(flags):
            assert re.search(rf"(?<![\w-]){flag}(?![\w-])", output), flag
    (_, without_flag) = next((flags, note) for variables, flags, note in table if "META_LAYERS" in variables)
    assert "contradicts" in without_flag
    for name in re.findall(r"`(META_(?!DYNAMIC)\w+)`", section("The program's variables").rpartition("|\n")[2]):
        assert f'"{name}"' not in code, f"{name} has an effect"
    assert "--refusal-text" in output


def _callable(node: ast.expr) -> Any:
    """Return the object that a name in the right column of the Python table refers to."""
    text = ast.unparse(node)
    names = {
        "MetaLlama": metadeploy.MetaLlama,
        "generate": metadeploy.MetaLlama.generate,
        "llm.encode": metadeploy.MetaLlama.encode,
        "Doubter.from_checkpoint": Doubter.from_checkpoint,
        **{name: getattr(metadeploy, name) for name in ("InjectionSchedule", "Refresh", "Decay")},
    }
    return names[text]


def test_python_names_and_arguments() -> None:
    calls = names = 0
    for text in ours():
        if re.fullmatch(r"metadeploy(\.\w+)+", text) and not text.endswith(".md"):
            parent, _, name = text.rpartition(".")
            try:
                assert hasattr(importlib.import_module(parent), name) or importlib.import_module(text)
            except ModuleNotFoundError:
                owner, _, attribute = parent.rpartition(".")
                assert hasattr(getattr(importlib.import_module(owner), attribute), name), text
            names += 1
        elif match := re.fullmatch(r"MetaLlama\.(\w+)", text):
            assert hasattr(metadeploy.MetaLlama, match[1]), text
            names += 1
    for text in ours():
        if not ("(" in text and "=" in text) or text.startswith(("metadeploy", "llama")):
            continue
        source = re.sub(r"=(?=[,)])", "=0", text).replace("(...,", "(")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call):
                parameters = inspect.signature(_callable(node.func)).parameters
                for keyword in node.keywords:
                    assert keyword.arg in parameters, (text, keyword.arg)
                calls += 1
    assert (names > 5, calls > 5) == (True, True), (names, calls)


def test_the_rest_of_the_table_of_python() -> None:
    fields = inspect.signature(MetaSpiderConfig).parameters
    (listed,) = re.findall(r"`MetaSpiderConfig` has the fields ([^.]+)\.", section("Python"))
    mentioned = spans(listed)
    assert len(mentioned) == 6
    assert set(mentioned) <= set(fields)
    assert not {"hidden_dim", "num_layers"} & set(fields)
    for method in ("from_pretrained", "attach", "detach", "set_gain", "generate"):
        assert hasattr(MetaSpiderPipeline, method)
    assert not hasattr(MetaSpiderPipeline, "detach_all")
    generate = inspect.signature(MetaSpiderPipeline.generate).parameters
    assert generate["max_new_tokens"].default == 256
    assert "raw" in generate
    assert "schedule" in generate
    assert {"n_refreshed"} <= set(inspect.signature(metadeploy.Timings).parameters)
    for method in ("encode", "create_chat_completion"):
        assert hasattr(metadeploy.MetaLlama, method)
    assert "cognitive_tokens" in inspect.signature(metadeploy.MetaLlama.generate).parameters


@pytest.mark.parametrize("name", ["selective_accuracy", "refusal_precision", "smart_refusal_rate", "over_refusal_rate"])
def test_figures(name: str) -> None:
    assert name in [span for left, _ in rows("Figures") for span in spans(left)]
    assert hasattr(importlib.import_module("metadeploy.metrics"), name)


def test_files_that_it_names() -> None:
    from metadeploy import export

    assert "doubter_sidecar.gguf" in PAGE
    assert export._DEFAULT_NAME.format(kind="doubter") == "doubter_sidecar.gguf"
    assert export._DEFAULT_NAME.format(kind="goal_anchor") == "goal_anchor_sidecar.gguf"
