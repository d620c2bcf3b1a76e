"""The layers of the package: the import rules in pyproject.toml, and the modules that run without torch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from support.missing import unavailable

HEAVY = ("torch", "transformers", "scipy", "sklearn", "matplotlib", "metadeploy._core")

HELP = """
import sys
from click.testing import CliRunner
from typer.main import get_command
from metadeploy.cli import app

command = get_command(app)
for arguments in ([], *([name] for name in command.commands)):
    result = CliRunner().invoke(command, [*arguments, "--help"])
    assert result.exit_code == 0, (arguments, result.output)
    assert "Usage" in result.output
print(len(command.commands))
"""


def loaded(code: str, *names: str) -> list[str]:
    """Run code in a process of its own and return which of some modules it has loaded."""
    check = f"{code}\nimport sys\nprint([name for name in {names!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    modules: list[str] = eval(result.stdout.splitlines()[-1])
    return modules


def test_every_help_loads_nothing_heavy() -> None:
    assert loaded(HELP, *HEAVY) == []


@pytest.mark.parametrize(
    "module",
    [
        "metadeploy.bench.runner",
        "metadeploy.checkpoint.run_dir",
        "metadeploy.evaluation.engines.runtime_engine",
        "metadeploy.evaluation.ladder.runtime",
        "metadeploy.evaluation.loading",
        "metadeploy.evaluation.runner",
        "metadeploy.evaluation.settings",
        "metadeploy.metrics",
        "metadeploy.training.records",
        "metadeploy.training.settings",
    ],
)
def test_modules_beside_the_runtime_need_no_torch(module: str) -> None:
    assert loaded(f"import {module}", "torch", "transformers") == []


def test_the_layers_hold(repo_root: Path) -> None:
    if importlib.util.find_spec("importlinter") is None:
        unavailable("import-linter is not installed: it comes with the extra dev")
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        cwd=repo_root,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("package", ["checkpoint", "data", "metrics", "plots", "reference", "runtime", "sidecar"])
def test_public_names_are_there(package: str) -> None:
    module = importlib.import_module(f"metadeploy.{package}")
    assert module.__all__
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert set(module.__all__) <= set(dir(module))
