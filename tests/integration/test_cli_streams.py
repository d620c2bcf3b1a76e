"""The output streams of `metadeploy` commands: a failure to print is an error, and no character is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from metadeploy.cli import app, main
from metadeploy.sidecar import write_sidecar
from support.random_wrapper import random_wrapper
from support.tiny_run import write_tiny_run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX descriptors and devices")

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [command.name for command in app.registered_commands if command.name is not None]
FULL = "error: standard output: cannot be written: No space left on device\n"
CLOSED = "error: standard output is closed, expected somewhere to print to (hint: >/dev/null)\n"


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sidecar") / "doubter.gguf"
    config, tensors = random_wrapper("selective", hidden_dim=16, target_layers=(1, 2), cross_attn_layers=(2,))
    write_sidecar(path, config, {name: tensor.numpy() for name, tensor in tensors.items()})
    return path


def shell(
    arguments: Sequence[str | Path], redirection: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command with a shell redirection."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", sys.executable, "-m", "metadeploy", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=120,
        check=False,
    )


# --- a full or closed stdout ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_that_cannot_be_printed_is_an_error(arguments: list[str]) -> None:
    run = shell(arguments, ">/dev/full")
    assert (run.returncode, run.stderr.decode()) == (1, FULL)
    run = shell(arguments, ">&-")
    assert (run.returncode, run.stderr.decode()) == (1, CLOSED)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_results_that_cannot_be_printed_are_an_error(more: list[str], sidecar: Path) -> None:
    for redirection, message in ((">/dev/full", FULL), (">&-", CLOSED)):
        run = shell(["inspect", sidecar, *more], redirection)
        assert (run.returncode, run.stderr.decode()) == (1, message)
    run = shell(["inspect", sidecar, *more], ">/dev/full", PYTHONUNBUFFERED="1")
    assert (run.returncode, run.stderr.decode()) == (1, FULL)


def test_no_work_is_done_without_a_writable_output(tmp_path: Path) -> None:
    for name in COMMANDS:
        run = shell([name, tmp_path / "run", "--no-such-flag"], ">&-")
        assert (run.returncode, run.stderr.decode()) == (1, CLOSED), name
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def full_stdout(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Run the command in this process, with stdout on a full disk."""

    def call(*arguments: str | Path) -> None:
        with open("/dev/full", "w", encoding="utf-8") as full:
            monkeypatch.setattr(sys, "stdout", full)
            monkeypatch.setattr(sys, "argv", ["metadeploy", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        stderr_lines = capfd.readouterr().err.splitlines()
        assert (ended.value.code, stderr_lines[-1:]) == (1, [FULL.strip()]), stderr_lines
        assert sum(line.startswith("error: ") for line in stderr_lines) == 1

    return call


def test_every_command_fails_if_it_cannot_print_its_results(full_stdout: Callable[..., None], tmp_path: Path) -> None:
    """The command still writes its files: a line that cannot be printed does not cost hours of work."""
    run = write_tiny_run(tmp_path / "made").path
    base, folder = run / "base.gguf", tmp_path / "run"
    collected = ("--questions", run / "questions", "--layers", "all", "--dtype", "float32", "--device", "cpu")
    trained = ("--target-layers", "all", "--cross-attn-layers", "1-2", "--bottleneck-dim", "16", "--device", "cpu")
    for more in ((), ("--json",)):
        full_stdout("collect", folder, "--base", base, "--max-new-tokens", "12", *collected, *more)
        full_stdout("train", folder, *trained, "--epochs", "1", "--pretrain-epochs", "1", *more)
        full_stdout("export", folder, "--base", base, "--force", *more)
        full_stdout("inspect", folder / "doubter_sidecar.gguf", *more)
        full_stdout("eval", folder, "--gains", "none", "--bootstrap", "10", "--limit", "6", *more)
        full_stdout("ladder", folder, "--base", base, "--types", "F32", "--limit", "4", "-t", "1", *more)
        files = ("--base", base, "--sidecar", folder / "doubter_sidecar.gguf")
        full_stdout("bench", "--quick", "-t", "1", "--parts", "load", *files, "-o", tmp_path / "bench.json", *more)
    full_stdout("card", folder)
    expected = ["README.md", "doubter_checkpoint.pt", "doubter_sidecar.gguf", "ladder/results.json", "run.json"]
    assert [name for name in expected if not (folder / name).exists()] == []
    assert len(list((folder / "eval").glob("results_*.json"))) == 1
    assert json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["figures"]


def test_the_demo_fails_if_it_cannot_print(full_stdout: Callable[..., None], base_gguf: Path) -> None:
    full_stdout("demo", "-n", "1")
    full_stdout("demo", "-n", "1", "--json")


# --- pipes and stderr -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "SIDECAR"], ["inspect", "SIDECAR", "--json"]])
def test_a_reader_that_has_gone_is_no_error(arguments: list[str], sidecar: Path) -> None:
    resolved = [str(sidecar) if argument == "SIDECAR" else argument for argument in arguments]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        run = subprocess.run(
            [sys.executable, "-m", "metadeploy", *resolved],
            stdout=writing,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=120,
            check=False,
        )
    finally:
        os.close(writing)
    assert (run.returncode, run.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2>&- <&-"])
def test_a_stderr_that_cannot_be_written_changes_nothing(redirection: str, sidecar: Path, tmp_path: Path) -> None:
    expected = shell(["inspect", sidecar])
    run = shell(["inspect", sidecar], redirection)
    assert (run.returncode, run.stdout) == (0, expected.stdout)
    assert shell(["inspect", tmp_path / "absent"], redirection).returncode == 1
    assert shell(["--no-such-flag"], redirection).returncode == 2


# --- encodings --------------------------------------------------------------------------------------------------------

ENCODINGS = (
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "latin-1:strict"},
    {"PYTHONIOENCODING": "utf-16"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONUTF8": "1"},
)


@pytest.mark.parametrize("environment", ENCODINGS, ids=lambda values: ",".join(f"{k}={v}" for k, v in values.items()))
def test_json_is_utf8_in_every_locale(environment: dict[str, str], sidecar: Path, tmp_path: Path) -> None:
    """File names in UTF-8 are printed unchanged, others in a form from which Python can find the file."""
    for name in ("üñ語😀.gguf", os.fsdecode(b"\xff\xfc.gguf")):
        path = tmp_path / name
        path.write_bytes(sidecar.read_bytes())
        run = shell(["inspect", path, "--json"], **environment)
        assert run.returncode == 0, run.stderr
        assert Path(json.loads(run.stdout.decode("utf-8"))["path"]) == path


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", rb"\xfc\xf1\u8a9e"),
        ("cp1252", b"\xfc\xf1" + rb"\u8a9e"),
        ("utf-8", "üñ語".encode()),
    ],
)
def test_text_loses_no_character(encoding: str, shown: bytes, sidecar: Path, tmp_path: Path) -> None:
    path = tmp_path / "üñ語.gguf"
    path.write_bytes(sidecar.read_bytes())
    run = shell(["inspect", path], PYTHONIOENCODING=encoding)
    assert run.returncode == 0, run.stderr
    assert b"/" + shown + b".gguf" in run.stdout
    # metadeploy's own symbols have ASCII replacements
    bar = "█" if encoding == "utf-8" else "#"
    assert re.search(rb" ca\.2\.gate +\+0\.\d{4}  " + bar.encode() * 10, run.stdout)
    broken = tmp_path / os.fsdecode(b"\xff.gguf")
    broken.write_bytes(sidecar.read_bytes())
    assert b"/\xff.gguf" in shell(["inspect", broken], PYTHONIOENCODING=encoding).stdout
    assert b"/\xff.gguf' does not" not in shell(["inspect", broken], PYTHONIOENCODING=encoding).stderr
    absent = shell(["inspect", tmp_path / "ñ.gguf"], PYTHONIOENCODING=encoding)
    assert absent.returncode == 1
    assert absent.stderr.startswith(b"error: sidecar '") and b"does not exist" in absent.stderr


def test_a_file_name_outside_the_locale_is_an_error(tmp_path: Path) -> None:
    """run.json names the base in UTF-8. A process with ASCII file names cannot open it and reports this."""
    run = write_tiny_run(tmp_path / "made").path
    base = tmp_path / "bäse.gguf"
    base.write_bytes((run / "base.gguf").read_bytes())
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps(manifest | {"model_name": str(base)}), encoding="utf-8")
    ended = shell(["eval", run], LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert ended.returncode == 1
    assert b"this locale cannot encode it" in ended.stderr
    assert b"Traceback" not in ended.stderr
