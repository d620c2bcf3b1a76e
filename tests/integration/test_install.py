"""The files and entry points of the installed distribution, editable or not."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXECUTABLE_MAGIC = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"MZ")  # Linux, macOS, Windows


@pytest.fixture(scope="module")
def distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("metadeploy")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("metadeploy is not installed")


@pytest.fixture(scope="module")
def program(distribution: importlib.metadata.Distribution) -> Path:
    return Path(sysconfig.get_path("scripts"), "llama-meta-generate" + (".exe" if os.name == "nt" else ""))


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run outside the checkout, whose folder ``metadeploy/`` would hide the installed package."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def python(code: str, *, cwd: Path) -> str:
    result = run(sys.executable, "-c", code, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_program_is_a_native_binary_that_runs(program: Path, tmp_path: Path) -> None:
    with program.open("rb") as file:
        assert file.read(4).startswith(EXECUTABLE_MAGIC)
    result = run(program, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--meta" in result.stdout


def test_program_has_an_exit_code_for_usage_errors(program: Path, tmp_path: Path) -> None:
    assert run(program, "--no-such-flag", cwd=tmp_path).returncode == 2


def test_command_prints_the_installed_version(
    distribution: importlib.metadata.Distribution, program: Path, tmp_path: Path
) -> None:
    result = run(program.with_stem("metadeploy"), "--version", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert distribution.version in result.stdout


def test_runtime_needs_no_torch(distribution: importlib.metadata.Distribution, tmp_path: Path) -> None:
    code = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = sys.modules["safetensors"] = None  # as if not installed
import metadeploy, metadeploy._core
from metadeploy import MetaLlama
print(MetaLlama.__name__)
"""
    assert python(code, cwd=tmp_path) == "MetaLlama"


def test_missing_torch_is_answered_with_the_command_to_type(
    distribution: importlib.metadata.Distribution, tmp_path: Path
) -> None:
    code = """
import sys
sys.modules["torch"] = None
from metadeploy.cli import main
from metadeploy.demo import assets
sys.argv = ["metadeploy", "export", str(assets.CHECKPOINT), "-o", "doubter_sidecar.gguf"]
main()
"""
    result = run(sys.executable, "-c", code, cwd=tmp_path)
    assert result.returncode == 1
    assert "pip install 'metadeploy[export]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_types_and_data_are_installed(distribution: importlib.metadata.Distribution, tmp_path: Path) -> None:
    code = """
from importlib.resources import files
package = files("metadeploy")
names = ("py.typed", "_core.pyi", "card/card.md.jinja", "demo/data/smollm2_doubter/doubter_checkpoint.pt")
print([name for name in names if not package.joinpath(name).is_file()])
"""
    assert python(code, cwd=tmp_path) == "[]"


def test_nothing_else_is_installed(distribution: importlib.metadata.Distribution) -> None:
    files = [file.as_posix() for file in distribution.files or ()]
    ours = re.compile(
        r"metadeploy/|metadeploy-[^/]+\.dist-info/|(\.\./)*(bin|Scripts)/(metadeploy|llama-meta-generate)(\.exe)?$"
        r"|(__pycache__/)?_editable_\w*metadeploy\.|_metadeploy_editable\."
    )
    assert [file for file in files if not ours.match(file)] == []
    assert any(re.search(r"metadeploy/_core\.[^/]*(so|pyd)$", file) for file in files)


def test_licenses_of_linked_libraries_are_installed(distribution: importlib.metadata.Distribution) -> None:
    licences = {file.name: file for file in distribution.files or () if "licenses/llama.cpp" in file.as_posix()}
    assert set(licences) == {"LICENSE", "LICENSE-cpp-httplib", "LICENSE-jsonhpp", "LICENSE-xxhash"}
    assert "ggml authors" in licences["LICENSE"].read_text()


def test_every_dependency_is_pinned(distribution: importlib.metadata.Distribution) -> None:
    constraints = ROOT / "constraints.txt"
    if not constraints.is_file():
        pytest.skip("no checkout around this test")
    pinned = {line.split("==")[0] for line in constraints.read_text().splitlines() if "==" in line}
    needed = {re.split(r"[^\w.-]", requirement)[0] for requirement in distribution.requires or ()}
    assert needed - pinned == set()
