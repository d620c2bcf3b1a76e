"""`metadeploy export` and `metadeploy inspect` on the command line, each in its own process."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metadeploy.cli._console import bar, byte_size, parameter_count, ranges
from metadeploy.sidecar import DEFAULT_REFUSAL_TEXT, read_sidecar
from support.handmade_gguf import Gguf
from support.random_wrapper import random_wrapper, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]
CA_SIDECAR = ROOT.parent / "shared" / "reference" / "ca_testcase" / "ca_sidecar.gguf"
SHIPPED = ROOT / "metadeploy" / "demo" / "data" / "smollm2_doubter"
REFERENCE = ROOT.parent / "shared" / "reference" / "smollm2_doubter"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "metadeploy", *map(str, arguments)]
    result = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config, tensors = random_wrapper(
        "multi_token", hidden_dim=64, target_layers=(2, 3, 5), cross_attn_layers=(3, 4), num_layers=6
    )
    config = replace(config, refusal_token_ids=(7, 8), refusal_bias=-0.5)
    return save_checkpoint(tmp_path / "run", config, tensors)


def base(folder: Path, width: int = 64) -> Path:
    keys = [
        ("general.architecture", "str", "llama"),
        ("llama.embedding_length", "u32", width),
        ("llama.block_count", "u32", 6),
    ]
    path = folder / "base.gguf"
    path.write_bytes(Gguf(keys).build())
    return path


def test_export_and_inspect(checkpoint: Path, tmp_path: Path) -> None:
    result = run("export", checkpoint, "--outtype", "f16", "--base", base(tmp_path))
    target = checkpoint.parent / "doubter_sidecar.gguf"
    sidecar = read_sidecar(target)
    assert sidecar.config.checkpoint_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert result.stderr == "", "no progress bar without a terminal"
    for part in (
        str(target),
        "multi_token, width 32, 4 heads; 5 cognitive tokens from layers 2-3,5",
        "after layers 3-4, bottleneck 16, 4 heads, at every position",
        hashlib.sha256(target.read_bytes()).hexdigest(),
        f"fits {tmp_path / 'base.gguf'}",
        f"next: llama-meta-generate -m {tmp_path / 'base.gguf'} --meta {target} -p",
    ):
        assert part in result.stdout
    output = run("inspect", target).stdout
    for part in ("valid", "meta_spider.encoder_type", "ca.3.gate", "█", "enc.queries", "[5, 32]", "F16", "total"):
        assert part in output
    assert f"{DEFAULT_REFUSAL_TEXT}  (calibrated bias -0.5)" in output


def test_export_json_is_all_there_is(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "named.gguf"
    arguments = ("--name", "N", "--license", "mit", "--description", "D [bold]x[/bold]")
    result = run("export", checkpoint.parent, "-o", target, "--json", *arguments)
    report = json.loads(result.stdout)
    assert result.stderr == ""
    assert report["path"] == str(target)
    assert report["size"] == target.stat().st_size
    assert report["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert report["config"]["target_layers"] == [2, 3, 5]
    assert set(report["gates"]) == {"3", "4"}
    metadata = json.loads(run("inspect", target, "--json").stdout)["metadata"]
    assert [metadata[f"general.{key}"] for key in ("name", "license", "description")] == [
        "N",
        "mit",
        "D [bold]x[/bold]",
    ]


def test_inspect_json(checkpoint: Path) -> None:
    run("export", checkpoint)
    inspected = json.loads(run("inspect", checkpoint.parent / "doubter_sidecar.gguf", "--json").stdout)
    assert (inspected["kind"], inspected["valid"], inspected["faults"], inspected["oddities"]) == (
        "sidecar",
        True,
        [],
        [],
    )
    assert inspected["config"]["encoder_type"] == "multi_token"
    assert (inspected["config"]["refusal_token_ids"], inspected["config"]["refusal_bias"]) == ([7, 8], -0.5)
    assert {"ca.3.gate", "ca.4.gate"} == set(inspected["gates"])
    contents = torch.load(checkpoint, weights_only=True)["ca_state"]["3"]["gate"]
    assert inspected["gates"]["ca.3.gate"] == pytest.approx(float(torch.tanh(contents)), abs=1e-6)
    queries = next(tensor for tensor in inspected["tensors"] if tensor["name"] == "enc.queries")
    assert queries == {"name": "enc.queries", "shape": [5, 32], "type": "F32", "nbytes": 640}
    assert inspected["n_parameters"] * 4 == sum(tensor["nbytes"] for tensor in inspected["tensors"])


def error_of(result: subprocess.CompletedProcess[str]) -> str:
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    return result.stderr


def test_errors_are_clean_and_leave_nothing(checkpoint: Path, tmp_path: Path) -> None:
    folder = checkpoint.parent
    before = sorted(folder.iterdir())
    wrong = run("export", checkpoint, "--hidden-dim", "80", "--target-layers", "late:9", "--json", code=1)
    assert "hidden_dim is 80 in --hidden-dim, but 64 in the tensors" in error_of(wrong)
    assert "num_layers is 9 in 'late:9' in --target-layers, but 6 in run.json" in wrong.stderr
    mismatch = run("export", checkpoint, "--base", base(tmp_path, width=80), code=1)
    assert "has width 80, the wrapper needs 64 (wrong base model?)" in error_of(mismatch)
    nowhere = run("export", checkpoint, "-o", tmp_path / "no" / "where.gguf", code=1)
    assert "its directory does not exist" in error_of(nowhere)
    assert "does not exist" in error_of(run("inspect", tmp_path / "absent.gguf", code=1))
    assert sorted(folder.iterdir()) == before


def test_force(checkpoint: Path) -> None:
    target = checkpoint.parent / "doubter_sidecar.gguf"
    target.write_bytes(b"precious")
    assert "exists already (hint: --force" in error_of(run("export", checkpoint, code=1))
    assert target.read_bytes() == b"precious"
    run("export", checkpoint, "--force")
    assert read_sidecar(target).config.hidden_dim == 64


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_no_input_is_written_over(checkpoint: Path, tmp_path: Path) -> None:
    """The output never replaces the checkpoint, its run.json or the base, by any name."""
    model, link, hard_link = base(tmp_path), tmp_path / "link.gguf", tmp_path / "hard.gguf"
    link.symlink_to(model)
    os.link(model, hard_link)
    inputs = (checkpoint, checkpoint.parent / "run.json", model)
    before = [path.read_bytes() for path in inputs]
    for output in (*inputs, link, hard_link, checkpoint.parent / ".." / checkpoint.parent.name / "run.json"):
        refused = run("export", checkpoint, "--base", model, "-o", output, "--force", code=1)
        assert f"sidecar '{output}': is the same file as the input '" in error_of(refused)
    assert [path.read_bytes() for path in inputs] == before
    assert link.is_symlink()


@pytest.mark.parametrize(
    "arguments",
    [("bogus",), ("export",), ("export", "x.pt", "--outtype", "q4_k"), ("export", "x.pt", "--hidden-dim", "0")],
)
def test_usage_errors(arguments: tuple[str, ...]) -> None:
    assert "Usage:" in run(*arguments, code=2).stderr


def test_help_teaches_and_is_fast() -> None:
    for command in ("export", "inspect"):
        text = run(command, "--help").stdout
        assert "Examples" in text
        assert f"metadeploy {command} " in text
    text = run("--help").stdout
    assert "export" in text
    assert "inspect" in text
    assert run("--version").stdout.startswith("metadeploy ")
    loaded = "import sys, metadeploy.cli; print(*sorted({'torch', 'numpy', 'gguf', 'transformers'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", loaded], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "", "help must not wait for heavy imports"


def test_inspect_of_a_base(tmp_path: Path) -> None:
    output = run("inspect", base(tmp_path)).stdout
    assert "a base model, not a sidecar" in output
    assert "llama: a sidecar can run beside it" in output
    inspected = json.loads(run("inspect", base(tmp_path), "--json").stdout)
    expected: dict[str, Any] = {"kind": "base model", "hidden_dim": 64, "block_count": 6, "takes_sidecar": True}
    assert expected.items() <= inspected.items()


def test_inspect_of_an_incomplete_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(Gguf([("general.architecture", "str", "daimon"), ("daimon.x", "f32", float("nan"))]).build())
    result = run("inspect", path, code=1)
    assert re.fullmatch(rf"error: sidecar '{path}': cannot be used, \d+ faults? listed above\n", result.stderr)
    text = result.stdout
    assert "NOT usable" in text
    assert "has no encoder tensors (enc.*)" in text
    assert "key 'general.name' is absent" in text
    output = run("inspect", path, "--json", code=1)
    assert json.loads(output.stdout)["metadata"]["daimon.x"] == "nan"
    assert output.stderr == result.stderr


def test_inspect_of_a_base_that_takes_no_sidecar(tmp_path: Path) -> None:
    keys = [
        ("general.architecture", "str", "gptj"),
        ("gptj.embedding_length", "u32", 64),
        ("gptj.block_count", "u32", 6),
    ]
    path = tmp_path / "base.gguf"
    path.write_bytes(Gguf(keys).build())
    for more in ((), ("--json",)):
        result = run("inspect", path, *more, code=1)
        assert result.stderr == f"error: base model '{path}': no sidecar can run beside its architecture 'gptj'\n"
    assert json.loads(result.stdout)["takes_sidecar"] is False


@pytest.mark.skipif(not CA_SIDECAR.exists(), reason="the reference data are not beside this checkout")
def test_inspect_of_the_frameworks_own_file() -> None:
    inspected = json.loads(run("inspect", CA_SIDECAR, "--json", code=1).stdout)
    assert not inspected["valid"]
    assert "has no encoder tensors (enc.*)" in inspected["faults"]
    assert inspected["gates"]["ca.0.gate"] == pytest.approx(0.4621, abs=1e-4)
    assert "NOT usable" in run("inspect", CA_SIDECAR, code=1).stdout


def test_the_shipped_one(tmp_path: Path) -> None:
    for outtype, size in (("f32", 9.2e6), ("q8_0", 2.6e6)):
        target = tmp_path / f"{outtype}.gguf"
        result = run("export", SHIPPED, "-o", target, "--outtype", outtype)
        assert re.search(r"selective, width 64; 10 cognitive tokens\s+from layers 20-29", result.stdout)
        assert "note:" not in result.stdout
        assert target.stat().st_size < size
        assert read_sidecar(target).oddities == ()


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference data are not beside this checkout")
def test_one_that_the_framework_wrote(tmp_path: Path) -> None:
    result = run("export", REFERENCE, "-o", tmp_path / "sidecar.gguf")
    assert "note: num_cognitive_tokens 32 in the checkpoint has no effect" in result.stdout
    assert read_sidecar(tmp_path / "sidecar.gguf").oddities == ()


def test_text_output() -> None:
    layers = [(), (4,), (1, 2), (21, 22, 23, 30), (3, 1, 2)]
    assert [ranges(layer) for layer in layers] == ["none", "4", "1-2", "21-23,30", "3,1-2"]
    assert [byte_size(size) for size in (0, 999, 1000, 9_126_976, 2_740_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "9.1 MB",
        "2.74 GB",
    ]
    assert [parameter_count(count) for count in (4486, 2_284_000)] == ["4,486", "2.28 M"]
    for strength, blocks in ((1.0, "█" * 24), (-0.5, "░" * 12 + "·" * 12), (0.0, "·" * 24), (7.0, "█" * 24)):
        assert bar(strength) == blocks


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is a POSIX signal")
def test_control_c_ends_with_130(tmp_path: Path) -> None:
    # a named pipe as run.json keeps the program waiting at a known place
    config, tensors = random_wrapper("selective", hidden_dim=16, target_layers=(1,), cross_attn_layers=(1,))
    checkpoint = save_checkpoint(tmp_path, config, tensors)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "metadeploy", "export", str(checkpoint), "--run-json", str(pipe)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    writer = os.open(pipe, os.O_WRONLY)  # returns once the program has opened the other end
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    os.close(writer)
    assert process.returncode == 130
    assert (stdout, b"Traceback" in stderr) == (b"", False)
    assert not (tmp_path / "doubter_sidecar.gguf").exists()
