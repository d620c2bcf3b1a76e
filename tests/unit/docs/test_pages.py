"""Commands, files and links in README and docs exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import metadeploy
from metadeploy import errors

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "vendor" / "README.md"])
COMMANDS = (
    "python -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt '.[demo]' && metadeploy demo",
    "python -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt -e '.[test]' "
    "&& pytest -n 2 --dist loadfile",
)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^    .*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)  # without indented code
    targets = re.findall(r"\]\(([^)]+)\)", prose)
    for target in targets:
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_the_readme_has_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line.strip() for line in lines if line.startswith("    python -m venv")] == list(COMMANDS)


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/mechanisms.md", "CONTRIBUTING.md"])
def test_pages_about_the_code_name_files_that_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:csrc|metadeploy|vendor|tests|benchmarks|examples|cmake|docs)/[\w./]*)`", text))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    sources = {path.name for folder in ("csrc", "metadeploy", "tests") for path in (ROOT / folder).rglob("*.*")}
    alone = set(re.findall(r"`(\w+\.(?:cpp|h|py))`", text))
    assert alone <= sources, alone - sources


def test_flags_and_variables_of_the_usage_page_exist() -> None:
    """Only metadeploy's flags are checked, not those of llama.cpp."""
    usage = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    code = (ROOT / "csrc" / "cli" / "args.cpp").read_text(encoding="utf-8")
    section = usage[usage.index("| flag |") : usage.index("Flags win")]
    documented = set(re.findall(r"`(--[\w-]+|META_[A-Z]+|LLAMA_ARG_(?:META|DOUBT|REFUSAL|HIDDEN|PREFIX)\w*)", section))
    known = set(re.findall(r'"(--[\w-]+|META_[A-Z]+|LLAMA_ARG_(?:META|DOUBT|REFUSAL|HIDDEN|PREFIX)\w*)"', code))
    assert documented <= known
    assert {name for name in known if not name.startswith("--")} <= documented


def test_every_error_is_public_and_documented() -> None:
    kinds = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.Error)
    }
    assert kinds == set(errors.__all__)
    assert kinds <= set(metadeploy.__all__)
    assert all(getattr(metadeploy, name) is getattr(errors, name) for name in kinds)
    usage = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"Errors are subclasses of `metadeploy\.Error`: (.*?)\.\n", usage, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", listed)) == kinds - {"Error"}


def test_every_benchmark_is_in_the_docs_and_exists() -> None:
    documented = {
        name for page in PAGES for name in re.findall(r"benchmarks/(\w+\.py)", page.read_text(encoding="utf-8"))
    }
    scripts = {
        path.name for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
    }
    assert documented == scripts


def test_the_api_page_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^::: metadeploy\.(\w+)$", page, re.MULTILINE))
    assert "errors" in listed, "the errors are listed by their module"
    assert listed - {"errors"} | set(errors.__all__) == set(metadeploy.__all__) - {"__version__"}
