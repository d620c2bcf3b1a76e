"""Development sessions: ``nox -l`` lists them, ``nox -s NAME`` runs one in an environment of its own."""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = True

CONSTRAINTS = Path("constraints.txt").resolve()
PYPROJECT = nox.project.load_toml("pyproject.toml")


def _group(*names: str) -> tuple[str, ...]:
    """Return the requirements of dependency groups."""
    return nox.project.dependency_groups(PYPROJECT, *names)


def _install(session: nox.Session, *what: str) -> None:
    """Install with the pinned versions."""
    session.install("-c", str(CONSTRAINTS), *what)


@nox.session
def lint(session: nox.Session) -> None:
    """Run every pre-commit hook on every file: ruff, clang-format, import-linter, codespell, mypy."""
    project = PYPROJECT["project"]
    # the packages that mypy reads types of, without metadeploy itself: nothing is compiled for this
    _install(session, *project["dependencies"], *project["optional-dependencies"]["test"], *_group("lint", "build"))
    session.run("pre-commit", "run", "--all-files", "--show-diff-on-failure", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the default tests; arguments after ``--`` go to pytest."""
    _install(session, "-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def parity(session: nox.Session) -> None:
    """Run the slow parity tests as well: whole answers of real models, against PyTorch."""
    _install(session, "-e", ".[test]")
    session.run("pytest", "-m", "not peer", *(session.posargs or ("tests/parity", "tests/integration")))


@nox.session
def fuzz_state(session: nox.Session) -> None:
    """Compare random sequences of operations with fresh instances; ``-- --examples 5000 --seed 7``."""
    parser = argparse.ArgumentParser(prog="nox -s fuzz_state --")
    parser.add_argument("--examples", type=int, default=1000, help="sequences for each architecture (default: 1000)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="where they begin (default: random)")
    args = parser.parse_args(session.posargs)
    _install(session, "-e", ".[test]")
    journal = Path(session.create_tmp()) / "running.txt"
    session.log(f"seed {args.seed}; what runs at the time of a crash is in {journal}")
    session.run(
        "pytest",
        "-v",
        "tests/integration/test_state_fuzz.py",
        f"--hypothesis-seed={args.seed}",
        env={"METADEPLOY_FUZZ_EXAMPLES": str(args.examples), "METADEPLOY_FUZZ_JOURNAL": str(journal.resolve())},
    )


@nox.session
def bases(session: nox.Session) -> None:
    """Fetch two real bases in Q4_K_M (716 MB, once) and run all of their parity tests, including the slow ones."""
    _install(session, "-e", ".[test]")
    session.run("python", "tests/support/real_bases.py")
    session.run("pytest", "-m", "not peer", *(session.posargs or ("tests/parity/test_real_bases.py",)))


@nox.session
def peer(session: nox.Session) -> None:
    """Compare with llama-cpp-python, token for token; compiles a second llama.cpp."""
    _install(session, "-e", ".[test]")
    session.install("llama-cpp-python==0.3.36")
    session.run("pytest", "-m", "peer", *session.posargs)


@nox.session
def stubtest(session: nox.Session) -> None:
    """Compare metadeploy/_core.pyi with the compiled extension."""
    _install(session, "-e", ".[test]", "mypy")
    allowlist = "tests/stubtest-allowlist.txt"
    session.run("python", "-m", "mypy.stubtest", "metadeploy._core", "--allowlist", allowlist, *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build sdist and wheel, install the wheel alone, and check the contents of the environment."""
    _install(session, "build")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", *session.posargs)  # the wheel is made from the sdist: both are complete
    (built,) = Path("dist").glob("*.whl")
    session.log(f"{built.name}: {built.stat().st_size / 2**20:.1f} MiB")
    _install(session, str(built), "pytest")
    # away from the checkout, whose metadeploy/ and conftest.py are not those of a user
    scratch = Path(session.create_tmp())
    shutil.copy("tests/integration/test_install.py", scratch)
    with session.chdir(scratch):
        session.run("pytest", "-c", "/dev/null", "--rootdir", ".", "test_install.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site into build/site; warnings, such as broken links, are errors."""
    _install(session, *_group("docs"))
    session.run("mkdocs", "build", "--quiet", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def doubter(session: nox.Session) -> None:
    """Train, measure and document the shipped Doubter in build/doubter; arguments after ``--`` are seeds."""
    _install(session, ".[train,eval]")
    session.run("metadeploy", "demo", "-n", "1")  # fetches the base
    script = Path("examples/train_smollm2.sh").resolve()
    folder = Path("build/doubter")
    folder.mkdir(parents=True, exist_ok=True)
    with session.chdir(folder):
        session.run("sh", str(script), *session.posargs, external=True)


@nox.session
def kill9(session: nox.Session) -> None:
    """Kill every command with SIGKILL at random moments, 203 times in all or as often as the argument says for each."""
    _install(session, "-e", ".[test]")
    kills = session.posargs[0] if session.posargs else "29"
    session.run("pytest", "-s", "tests/integration/test_kill9.py", env={"METADEPLOY_KILLS": kills})


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz everything that is read from outside; after ``--``: runs=N, seconds=N, and names of targets."""
    _install(session, "cmake", "ninja", "-e", ".[test]")
    session.install("atheris")  # none for every Python: in no extra
    session.run("python", "tests/fuzz/run.py", *session.posargs)


@nox.session
def asan(session: nox.Session) -> None:
    """Run the C++ tests under the address and undefined-behavior sanitizers."""
    _install(session, "cmake", "ninja")
    session.run("cmake", "--workflow", "--preset", "asan")


@nox.session
def tsan(session: nox.Session) -> None:
    """Run the C++ tests of threads under ThreadSanitizer; compiles llama.cpp once more, so it is not part of CI."""
    _install(session, "cmake", "ninja")
    session.run("cmake", "--workflow", "--preset", "tsan")


@nox.session
def soak(session: nox.Session) -> None:
    """Ask one tiny model 10,000 times; memory, files and answers must stay. Arguments after ``--`` go to the script."""
    _install(session, "-e", ".[test]")
    folder = session.create_tmp()
    write = (
        "import sys; from pathlib import Path; from support.program import write_tiny_case as w; w(Path(sys.argv[1]))"
    )
    session.run("python", "-c", write, folder, env={"PYTHONPATH": "tests"})
    files = ("--base", f"{folder}/base.gguf", "--sidecar", f"{folder}/sidecar.gguf")
    session.run("python", "benchmarks/soak.py", *files, *session.posargs)
