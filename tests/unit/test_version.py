"""The version in results and reports, with and without an installation."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

import metadeploy
from metadeploy import _version as module
from metadeploy._version import own_version
from metadeploy.bench.measurements import machine
from metadeploy.evaluation import loading


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a source tree without an installation."""

    def version(name: str) -> str:
        if name == "metadeploy":
            raise metadata.PackageNotFoundError(name)
        return metadata.version(name)

    monkeypatch.setattr(module, "version", version)
    monkeypatch.setattr(loading, "version", version)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Simulate a package without pyproject.toml beside it; return the path of that file."""
    path = tmp_path / "pyproject.toml"
    monkeypatch.setattr(module, "_PYPROJECT", path)
    return path


def test_a_source_tree_says_its_version(repo_root: Path, uninstalled: None) -> None:
    text = (repo_root / "pyproject.toml").read_text(encoding="utf-8")
    (expected,) = re.findall(r'^version = "(.*)"$', text, re.MULTILINE)  # as CMakeLists.txt looks for it
    assert own_version() == metadeploy.__version__ == expected
    assert machine()["metadeploy"] == expected


def test_citation_and_changelog_have_the_version(repo_root: Path, uninstalled: None) -> None:
    citation = (repo_root / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (repo_root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [own_version()]
    releases = re.findall(r"^## \[(\d.*?)\]", changelog, re.MULTILINE)  # newest first, below a section "Unreleased"
    assert releases[0] == own_version()
    assert len(releases) == len(set(releases))


def test_an_installed_package_says_its_version(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "version", lambda name: f"7.8 of {name}")
    assert own_version() == "7.8 of metadeploy"
    elsewhere.write_text('[project]\nname = "other"\nversion = "3.0"\n', encoding="utf-8")
    assert own_version() == "7.8 of metadeploy"  # the pyproject.toml beside it belongs to another project


def test_a_copy_of_the_package_does_not_know(elsewhere: Path, uninstalled: None) -> None:
    assert own_version() is None
    assert metadeploy.__version__ == "unknown"


def test_results_name_the_version_and_answers_stay_valid(uninstalled: None) -> None:
    """A source tree's version does not identify its code, so it does not invalidate answers."""
    environment = loading.environment("torch")
    assert environment["metadeploy"] == own_version()
    assert environment["metadeploy"] is not None
    assert environment["torch"] == metadata.version("torch")
    assert loading.answer_environment(environment) == {"metadeploy": None, "torch": environment["torch"]}


def test_another_installed_version_invalidates_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "version", lambda name: f"7.8 of {name}")
    assert loading.answer_environment(loading.environment("torch"))["metadeploy"] == "7.8 of metadeploy"
