"""`metadeploy collect` and `metadeploy train` on the command line: the whole cycle on a tiny base."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metadeploy.data.question import Question, write_jsonl
from metadeploy.sidecar import read_sidecar
from metadeploy.training.settings import CollectSettings, FitSettings, TrainSettings
from support.tiny_questions import write_base_and_questions

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
COLLECT = ("--layers", "all", "--dtype", "float32", "--max-new-tokens", "12", "--device", "cpu")
TRAIN = ("--target-layers", "all", "--cross-attn-layers", "1-2", "--bottleneck-dim", "16", "--device", "cpu")
SHORT = (*TRAIN, "--epochs", "2", "--pretrain-epochs", "1", "--batch-size", "8")


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "metadeploy", *map(str, arguments)]
    result = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_base_and_questions(tmp_path_factory.mktemp("tiny"))


def test_the_cycle(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    base, questions = tiny
    folder = tmp_path / "run"
    result = run("collect", folder, "--base", base, "--questions", questions, *COLLECT)
    for part in ("train", "base is right", "colour", f"next: metadeploy train {folder}"):
        assert part in result.stdout
    assert "Converting" not in result.stderr, "no progress bars of other packages without a terminal"

    summary = json.loads(run("collect", folder, "--base", base, "--questions", questions, *COLLECT, "--json").stdout)
    assert [row["split"] for row in summary["splits"]] == ["train", "val", "test"]
    assert sum(row["n"] for row in summary["splits"]) == 60
    assert {row["category"] for row in summary["categories"]} == {"colour", "weight", "place"}
    assert summary["layers"] == [0, 1, 2]

    result = run("train", folder, *SHORT)
    epochs = [line for line in result.stderr.splitlines() if line.startswith("epoch ") and "loss" in line]
    assert len(epochs) == 2
    assert epochs[0].startswith("epoch 1 of at most 2: loss ")
    assert epochs[0].endswith("(best so far)")
    for part in ("best epoch", "operating point", str(folder / "doubter_checkpoint.pt"), "next: metadeploy eval"):
        assert part in result.stdout

    exported = run("export", folder, "--base", base, "--json")
    sidecar = read_sidecar(Path(json.loads(exported.stdout)["path"]))
    assert (sidecar.config.inject_from, sidecar.config.cross_attn_layers) == ("last_prompt_token", (1, 2))
    assert json.loads(run("inspect", folder / "doubter_sidecar.gguf", "--json").stdout)["valid"]

    # again with another operating point: no training step is run
    result = run("train", folder, *SHORT, "--target-coverage", "0.5", "--json")
    assert "only the operating point is calibrated" in result.stderr
    moved = json.loads(result.stdout)
    assert moved["val"]["coverage"] == pytest.approx(0.5, abs=0.1)  # as close as the few questions allow
    assert len(moved["history"]) == 2
    refused = run("train", folder, *SHORT, "--lr", "0.1", code=1)
    assert "holds a trained Doubter that had other settings, or other questions (hint:" in refused.stderr
    assert refused.stdout == ""
    again = json.loads(
        run("train", folder, *SHORT, "--lr", "0.01", "--inject-from", "prompt", "--restart", "--json").stdout
    )
    assert again["refusal_bias"] != moved["refusal_bias"]
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["inject_from"] == "prompt"


def test_a_local_copy_of_a_public_set(tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(ENVIRONMENT, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [
        {"question": f"What is {n} + 1?", "subject": f"sums {n % 2}", "choices": [str(n), str(n + 1)], "answer": 1}
        for n in range(30)
    ]
    source, other = tmp_path / "rows.jsonl", tmp_path / "others.jsonl"
    for path, rows_of_file in ((source, rows), (other, rows[:24])):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows_of_file), encoding="utf-8")
    folder = tmp_path / "run"
    arguments = ("collect", folder, "--base", tiny[0], "--questions", "mmlu", *COLLECT, "--json")
    result = run(*arguments, "--source", source)
    assert result.stderr.count("warning: the questions have choices") == 1
    summary = json.loads(result.stdout)
    assert (summary["questions"], sum(row["n"] for row in summary["splits"])) == ("mmlu", 30)
    assert {row["category"] for row in summary["categories"]} == {"sums 0", "sums 1"}
    lines = [line for path in (folder / "collect").glob("*.jsonl") for line in path.read_text("utf-8").splitlines()]
    questions = {json.loads(line)["question"]["question"] for line in lines}
    assert questions == {f"What is {n} + 1?\nA. {n}\nB. {n + 1}" for n in range(30)}
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["collect"]["source"] == str(source)

    assert json.loads(run(*arguments, "--source", source).stdout) == summary, "the same source fits"
    refused = run(*arguments, "--source", other, code=1).stderr
    assert f'was collected with source "{source}", asked for "{other}"' in " ".join(refused.split())
    source.write_bytes(other.read_bytes())
    refused = run(*arguments, "--source", source, code=1).stderr
    assert "was collected with other questions than 'mmlu' has now" in " ".join(refused.split())


def started(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "metadeploy", *map(str, arguments)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.05)


@pytest.mark.skipif(os.name == "nt", reason="SIGINT and SIGTERM are POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_keeps_the_best_epoch_and_resumes(
    tiny: tuple[Path, Path], tmp_path: Path, number: signal.Signals
) -> None:
    base, questions = tiny
    folder = tmp_path / "run"
    run("collect", folder, "--base", base, "--questions", questions, *COLLECT)
    many = (*TRAIN, "--epochs", "100000", "--patience", "100000", "--pretrain-epochs", "0")
    process = started("train", folder, *many, "--json")
    wait_for(folder / "train" / "state.pt", process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    summary = json.loads(stdout)
    assert summary["interrupted"]
    assert f"the same command continues after epoch {len(summary['history'])}" in stderr.splitlines()[-1]
    assert (folder / "doubter_checkpoint.pt").exists()

    process = started("train", folder, *many)
    time.sleep(0.1)
    state = (folder / "train" / "state.pt").stat().st_mtime_ns
    while process.poll() is None and (folder / "train" / "state.pt").stat().st_mtime_ns == state:
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"continuing after epoch {len(summary['history'])}" in stderr


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is a POSIX signal")
def test_an_interrupted_collection(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = tiny
    folder = tmp_path / "run"
    questions = tmp_path / "questions.jsonl"  # enough questions that the run cannot end before the signal arrives
    write_jsonl(questions, [Question(f"{n} + 1?", (str(n + 1),), "sum", f"number:{n}") for n in range(2000)])
    arguments = ("collect", folder, "--base", base, "--questions", questions, *COLLECT)
    process = started(*arguments, "--batch-size", "1")
    wait_for(folder / "run.json", process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    last = stderr.splitlines()[-1]
    assert last.startswith("interrupted: ")
    assert "the same command continues" in last
    run(*arguments)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("collect", "RUN", "--base", "absent.gguf", "--questions", "QUESTIONS"), 1, "absent.gguf"),
        (("collect", "RUN", "--base", "b", "--questions", "absent.jsonl"), 1, "absent.jsonl"),
        (("collect", "RUN", "--base", "b", "--chat-template-kwargs", "[1]"), 2, "is not a JSON object"),
        (("collect", "RUN", "--base", "b", "--chat-template-kwargs", "{x"), 2, "is not JSON"),
        (("collect", "RUN", "--base", "b", "--questions", "facts", "--source", "s"), 1, "expected only with mmlu"),
        (("collect", "RUN", "--base", "b", "--questions", "QUESTIONS", "--source", "s"), 1, "expected only with mmlu"),
        (("collect", "RUN", "--base", "b", "--questions", "mmlu", "--source", "s"), 1, "mmlu 's': no such file"),
        (("collect", "RUN"), 2, "--base"),
        (("train", "RUN"), 1, "start with metadeploy collect"),
        (("train", "RUN", "--lr", "0"), 2, "is not above 0"),
        (("train", "RUN", "--target-coverage", "0.2", "--max-over-refusal", "0.2"), 2, "not both"),
        (("train", "RUN", "--epochs", "0"), 2, "--epochs"),
    ],
)
def test_errors_are_clean(
    tiny: tuple[Path, Path], tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    paths = {"RUN": str(tmp_path / "run"), "QUESTIONS": str(tiny[1])}
    resolved = [paths.get(argument, argument) for argument in arguments]
    result = run(*resolved, code=code)
    assert result.stdout == ""
    assert message in result.stderr
    assert not (tmp_path / "run" / "run.json").exists()


def test_every_setting_is_an_option() -> None:
    from dataclasses import fields

    from typer.main import get_command

    from metadeploy.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    for command, settings in (("collect", (CollectSettings,)), ("train", (TrainSettings, FitSettings))):
        options = {parameter.name for parameter in commands[command].params}
        named = {field.name for cls in settings for field in fields(cls)}
        assert named - options <= {"point", "fit"}
    defaults = {parameter.name: parameter.default for parameter in commands["train"].params}
    assert defaults["inject_from"] == "last-token"
    assert TrainSettings().inject_from == "last_prompt_token"


def test_help_is_instant_and_teaches() -> None:
    for command in ("collect", "train"):
        output = run(command, "--help").stdout
        assert "Examples" in output
        assert f"metadeploy {command} runs/a" in output
    code = "import sys, metadeploy.cli; print('torch' in sys.modules or 'transformers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
