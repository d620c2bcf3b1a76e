"""The whole cycle in miniature: the example runs in an empty folder with a tiny random base."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from metadeploy.data.question import read_jsonl
from metadeploy.data.splits import load_set
from metadeploy.evaluation.samples import Samples
from support.tiny_questions import write_base_and_questions

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "train_smollm2.sh"
QWEN_SCRIPT = ROOT / "examples" / "train_qwen.sh"
COLLECT = "--layers all --dtype float32 --max-new-tokens 12 --questions"
TRAIN = "--target-layers all --cross-attn-layers 1-2 --bottleneck-dim 16 --epochs 2 --pretrain-epochs 1 --batch-size 8"
EVAL = "--gains 0,1 --sweep-limit 4 --bootstrap 20 --threads 1"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the example is a POSIX shell script")


def write_command(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def commands_folder(folder: Path) -> Path:
    """A folder for PATH with `metadeploy` (installed, or from this checkout) and the `python` that runs these tests."""
    folder.mkdir()
    write_python(folder)
    installed = Path(sysconfig.get_path("scripts"), "metadeploy")
    command = str(installed) if installed.exists() else f"{sys.executable} -m metadeploy"
    write_command(folder / "metadeploy", f'#!/bin/sh\nexec {command} "$@"\n')
    return folder


def write_python(folder: Path) -> None:
    """Write a script, not a link: through a link, Python would not find the packages of a virtual environment."""
    write_command(folder / "python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')


def run(
    folder: Path, commands: Path, *seeds: str, code: int = 0, script: Path = SCRIPT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run an example from a folder."""
    values = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    result = subprocess.run(
        ["sh", str(script), *seeds],
        cwd=folder,
        env=values,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=1800,
        check=False,
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_from_an_empty_folder_to_a_card(tmp_path: Path) -> None:
    base, questions = write_base_and_questions(tmp_path / "tiny")
    cache = tmp_path / "cache"
    cache.mkdir()
    shutil.copy(base, cache / "SmolLM2-135M-Instruct.Q4_1.gguf")
    folder = tmp_path / "empty"
    folder.mkdir()
    run(
        folder,
        commands_folder(tmp_path / "bin"),
        "7",
        METADEPLOY_CACHE=str(cache),
        COLLECT=f"{COLLECT} {questions}",
        TRAIN=TRAIN,
        EVAL=EVAL,
        EVAL_RUNTIME=EVAL,
    )
    run_folder = folder / "runs" / "seed-7"
    manifest = read(run_folder / "run.json")
    assert manifest["train"]["fit"]["seed"] == 7
    ours, theirs = (
        Samples.read(run_folder / "eval" / f"samples_{tag}_test.jsonl")
        for tag in ("torch_float32", "runtime_SmolLM2-135M-Instruct.Q4_1")
    )
    assert len(ours) == len(theirs) == manifest["test_size"]
    assert [sample.doubt for sample in ours] == pytest.approx([sample.doubt for sample in theirs], abs=0.02)
    results = read(run_folder / "eval" / "results_torch_float32_test.json")
    card = ModelCard.load(run_folder / "README.md")
    values = {(entry.dataset_config, entry.metric_type): entry.metric_value for entry in card.data.eval_results}
    assert values["PyTorch, float32", "coverage"] == round(results["metrics"]["coverage"]["value"], 4)
    assert ("llama.cpp, SmolLM2-135M-Instruct.Q4_1.gguf", "coverage") in values
    assert str(tmp_path) not in card.content

    output = subprocess.run(
        [sys.executable, ROOT / "examples" / "unseen_kinds.py", run_folder, "--folds", "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert output.returncode == 0, output.stderr
    unseen = read(folder / "runs" / "seed-7-unseen" / "results.json")
    assert unseen["n"] == manifest["test_size"]
    assert unseen["categories"].keys() == results["categories"].keys()
    assert unseen["baselines"]["mean log-probability"].keys() == {"auroc", "macro_auroc"}
    for number in range(2):
        left_out = read(folder / "runs" / "seed-7-unseen" / f"fold-{number}" / "run.json")["train"]["leave_out"]
        assert left_out == sorted(results["categories"])[number::2]
    assert f"all {unseen['n']}: " in output.stdout


def test_without_the_base_it_says_how_to_get_it(tmp_path: Path) -> None:
    result = run(tmp_path, commands_folder(tmp_path / "bin"), code=1, METADEPLOY_CACHE=str(tmp_path / "none"))
    assert "does not exist, expected the demo's base model (hint: run metadeploy demo once)" in result.stderr
    assert not (tmp_path / "runs").exists()


def checking_commands(folder: Path) -> Path:
    """Like `commands_folder`, but the command only checks and prints its arguments."""
    folder.mkdir()
    write_python(folder)
    checker = (
        f"#!{sys.executable}\n"
        "import sys\n"
        "from pathlib import Path\n"
        "from typer.main import get_command\n"
        "from metadeploy.cli import app\n"
        "name, *arguments = sys.argv[1:]\n"
        "said = ('run_dir', 'runs', 'checkpoint', 'output', 'seed', 'collected', 'keep_cache', 'base', 'questions')\n"
        "context = get_command(app).commands[name].make_context(name, arguments)\n"
        "values = {key: context.params.get(key) for key in said}\n"
        "values['runs'] = ','.join(map(str, values['runs'] or []))\n"
        "print(name, *(f'{key}={value}' for key, value in values.items() if value))\n"
    )
    write_command(folder / "metadeploy", checker)
    return folder


def test_the_recipe_is_made_of_options_that_exist(tmp_path: Path) -> None:
    """The example runs with its own settings."""
    commands = checking_commands(tmp_path / "bin")
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
    result = run(tmp_path, commands, "3", "4", METADEPLOY_CACHE=str(tmp_path))
    base = f"base={tmp_path}/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert result.stdout.splitlines() == [
        f"collect run_dir=runs/seed-3 {base} questions=facts",
        "train run_dir=runs/seed-3 seed=3 keep_cache=True",
        "train run_dir=runs/seed-4 seed=4 collected=runs/seed-3",
        f"export checkpoint=runs/seed-3 {base}",
        f"export checkpoint=runs/seed-4 {base}",
        "eval runs=runs/seed-3,runs/seed-4 output=runs/seed-3/eval/results_seeds.json",
        f"eval runs=runs/seed-3 {base}",
        "card run_dir=runs/seed-3",
        "card run_dir=runs/seed-4",
    ]
    result = run(tmp_path, commands, METADEPLOY_CACHE=str(tmp_path))
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        *("collect", "train", "export", "eval", "eval", "card")
    ]
    assert "output" not in result.stdout


def test_the_recipe_for_qwen_is_the_same_with_another_base(tmp_path: Path) -> None:
    commands = checking_commands(tmp_path / "bin")
    base = tmp_path / "qwen.gguf"
    base.touch()
    (tmp_path / "questions").mkdir()  # the questions exist already
    given = {"BASE": str(base), "METADEPLOY_CACHE": str(tmp_path / "none")}
    lines = run(tmp_path, commands, "5", script=QWEN_SCRIPT, **given).stdout.splitlines()
    assert lines[0] == f"collect run_dir=runs/seed-5 base={base} questions=questions"
    assert lines[1] == "train run_dir=runs/seed-5 seed=5"
    assert [line.split()[0] for line in lines[2:]] == ["export", "eval", "eval", "card"]
    assert f"base={base}" in lines[4]


@pytest.mark.slow
def test_the_questions_for_qwen_are_drawn_from_facts(tmp_path: Path) -> None:
    commands = checking_commands(tmp_path / "bin")
    base = tmp_path / "qwen.gguf"
    base.touch()
    run(tmp_path, commands, script=QWEN_SCRIPT, BASE=str(base))
    questions_of = {path.stem: read_jsonl(path) for path in (tmp_path / "questions").iterdir()}
    assert {part: len(questions) for part, questions in questions_of.items()} == {
        "train": 2048,
        "val": 512,
        "test": 1024,
    }
    facts = load_set("facts")
    assert all(set(questions) <= set(facts[part]) for part, questions in questions_of.items())
