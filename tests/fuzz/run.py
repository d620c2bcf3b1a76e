"""Runs the fuzzers: ``run.py [runs=N | seconds=N] [NAME...]``, by default each for some seconds.

Builds the harnesses (CMake preset ``fuzz``, clang) and runs them, then runs Python's targets with atheris, each with a
tenth of the executions. Every harness begins with the seeds of tests/fuzz/corpus, of which ``refused`` has former
findings for all that read sidecars. New seeds go to build/fuzz/corpus, and inputs that cause findings to
build/fuzz/findings. The exit code is 1 if there is a finding.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "fuzz"

#: Harnesses. The first three are built without most of llama.cpp.
QUICK = ("sidecar", "prompts", "template")
HARNESSES = (*QUICK, "attach")
READS_SIDECARS = ("sidecar", "attach")
PYTHON = ("sidecar", "base", "checkpoint", "run_json", "questions", "samples", "records", "rung", "results")
NAMES = (*HARNESSES, *(f"python-{name}" for name in PYTHON))

#: Largest inputs in bytes: mutated sidecars are a little larger than the seeds.
LONGEST = {"sidecar": 16384, "attach": 32768, "prompts": 4096, "template": 2048}
#: A second under sanitizers on a busy machine is not much.
TIMEOUT = 60


def main() -> int:
    settings = dict(part.split("=", 1) for part in sys.argv[1:] if "=" in part)
    names = [part for part in sys.argv[1:] if "=" not in part] or list(NAMES)
    unknown = [name for name in names if name not in NAMES] + [
        key for key in settings if key not in ("runs", "seconds")
    ]
    if unknown:
        print(
            f"unknown: {', '.join(unknown)}; expected runs=N, seconds=N, or some of {', '.join(NAMES)}", file=sys.stderr
        )
        return 2
    runs, seconds = int(settings.get("runs", 0)), int(settings.get("seconds", 0))
    if not runs and not seconds:
        seconds = 5
    chosen = [name for name in names if name in HARNESSES]
    if chosen:
        build([f"fuzz-{name}" for name in chosen])
    failed = [name for name in chosen if not run_harness(name, runs, seconds)]
    failed += [name for name in names if name.startswith("python-") and not run_python(name, -(-runs // 10), seconds)]
    for name in failed:
        print(f"FINDING: {name}, see {BUILD / 'findings' / name}")
    return 1 if failed else 0


def build(targets: list[str]) -> None:
    subprocess.run(["cmake", "--preset", "fuzz"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    command = ["cmake", "--build", "--preset", "fuzz", "--target", *targets]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode:
        sys.exit(result.stdout[-8000:])


def folders(name: str) -> tuple[Path, Path]:
    corpus, findings = BUILD / "corpus" / name, BUILD / "findings" / name
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    return corpus, findings


def options(runs: int, seconds: int, findings: Path) -> list[str]:
    flags = [f"-artifact_prefix={findings}/", f"-timeout={TIMEOUT}", "-rss_limit_mb=4096", "-print_final_stats=1"]
    return flags + ([f"-runs={runs}"] if runs else []) + ([f"-max_total_time={seconds}"] if seconds else [])


def run_harness(name: str, runs: int, seconds: int) -> bool:
    corpus, findings = folders(name)
    dictionary = HERE / "dictionaries" / f"{name}.dict"
    command = [str(BUILD / "csrc" / "fuzz" / f"fuzz-{name}"), *options(runs, seconds, findings)]
    command += [f"-max_len={LONGEST[name]}", *([f"-dict={dictionary}"] if dictionary.exists() else [])]
    seeds = [name, "refused"] if name in READS_SIDECARS else [name]
    return execute(name, [*command, str(corpus), *(str(HERE / "corpus" / folder) for folder in seeds)])


def run_python(name: str, runs: int, seconds: int) -> bool:
    corpus, findings = folders(name)
    command = [sys.executable, str(HERE / "fuzz_python.py"), name.removeprefix("python-")]
    return execute(name, [*command, *options(runs, seconds, findings), str(corpus)])


def execute(name: str, command: list[str]) -> bool:
    """Run one fuzzer, print its result, and return whether it passed. After a failure, print all of its output."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", check=False,
    )  # fmt: skip
    stats = dict(re.findall(r"stat::(\w+): +(\d+)", result.stdout))
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", result.stdout) or [("?", "?", "?")]
    print(
        f"{name}: {stats.get('number_of_executed_units', '?')} executions, {stats.get('average_exec_per_sec', '?')} a "
        f"second, {covered[-1][0]} places covered, {covered[-1][2]} inputs kept",
        flush=True,
    )
    if result.returncode:
        print(result.stdout[-8000:])
    return result.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
