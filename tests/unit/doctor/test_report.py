"""The doctor's findings, its text and its JSON, for made-up machines, programs and files."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from metadeploy import doctor
from metadeploy.cli import app
from metadeploy.demo import assets
from metadeploy.doctor import Report, demo_files, program
from metadeploy.doctor.demo_files import DemoFile, find_demo_files, tensors_sha256
from metadeploy.doctor.processor import Processor
from metadeploy.doctor.program import Program, find_programs
from metadeploy.doctor.watch import Checked, Death, Tally
from metadeploy.sidecar import read_sidecar
from support.doctor_core import BUILD, DEVICE, command

ROOT = Path(__file__).resolve().parents[3]
PROCESSOR = Processor(
    name="AMD EPYC", architecture="x86_64", features=("SSE3", "AVX", "AVX2"), cores=2, logical=4, usable=3
)
PROGRAM = Program(Path("/bin/llama-meta-generate"), BUILD["id"])
FILES = (
    DemoFile(assets.SMOLLM2, "base", Path("/cache/base.gguf"), "whole"),
    DemoFile(assets.SMOLLM2, "sidecar", Path("/cache/sidecar.gguf"), "absent"),
)


def report(**changes: Any) -> Report:
    """The report for a machine without faults, except for the given changes."""
    checked = Checked(build=BUILD, devices=[DEVICE], tallies=[Tally("Q4_1", "AMX", 1e-3, right=300, worst=2e-5)])
    whole = Report(version="0.1.0", processor=PROCESSOR, checked=checked, programs=(PROGRAM,), demo=FILES)
    return replace(whole, **changes)


def checked(**changes: Any) -> Checked:
    return replace(report().checked, **changes)


def built(**changes: Any) -> Checked:
    return checked(build=copy.deepcopy(BUILD) | changes)


WRONG = Tally(
    "Q8_0", "AMX", 1e-3, right=290, wrong=[("Q8_0, width 32, 48 outputs", 1e30), ("other", "odd")], worst=2e-5
)
DIED = Death("killed by SIGSEGV", "Q4_1, width 576, 64 outputs, 32 rows, 1 thread, buffer AMX", "", "Q4_1", "AMX")
NOT_LOADED = Checked(deaths=[Death("killed by SIGILL")])
NOT_COMPILED = Checked(deaths=[Death("ended with exit code 1", said="ImportError: cannot import name '_core'")])


def test_all_is_right() -> None:
    assert report().findings == []
    assert report().as_json()["ok"] is True


@pytest.mark.parametrize(
    ("changes", "check", "what", "step"),
    [
        (
            {"checked": checked(deaths=[DIED])},
            "products",
            "killed by SIGSEGV in product of Q4_1, width 576, 64 outputs, 32 rows, 1 thread, buffer AMX",
            "-mno-amx-int8",
        ),
        (
            {"checked": checked(deaths=[replace(DIED, how="killed by SIGABRT", said="GGML_ASSERT(x) failed")])},
            "products",
            "killed by SIGABRT (GGML_ASSERT(x) failed) in product of Q4_1",
            "--no-repack",
        ),
        (
            {"checked": checked(deaths=[Death("killed by SIGBUS")])},
            "products",
            "killed by SIGBUS before the first product",
            "METADEPLOY_PORTABLE",
        ),
        (
            {"checked": checked(tallies=[WRONG])},
            "products",
            "2 of 292 products of Q8_0 in buffer AMX are wrong, first Q8_0, width 32, 48 outputs: NMSE 1.0e+30, "
            "expected at most 1e-03",
            "--no-repack",
        ),
        (
            {"checked": checked(tallies=[replace(WRONG, place="CPU_REPACK")])},
            "products",
            "CPU_REPACK",
            "GGML_CPU_REPACK=OFF",
        ),
        (
            {"checked": checked(tallies=[replace(WRONG, place="CPU")])},
            "products",
            "buffer CPU",
            "METADEPLOY_PORTABLE=ON",
        ),
        ({"checked": checked(tallies=[replace(WRONG, place="CUDA0")])}, "products", "CUDA0", "n_gpu_layers=0"),
        ({"checked": NOT_LOADED}, "core", "the compiled core does not load: killed by SIGILL", "another processor"),
        ({"checked": NOT_COMPILED}, "core", "ImportError: cannot import name '_core'", "pip install"),
        (
            {"checked": built(features={"CPU": {"AVX2": "1", "AVX512": "1", "AMX_INT8": "1", "REPACK": "1"}})},
            "processor",
            "built for AVX512, which this processor does not have",
            "METADEPLOY_PORTABLE=ON",
        ),
        (
            {"programs": (replace(PROGRAM, build="ffff"),)},
            "build",
            "program '/bin/llama-meta-generate' is from build ffff, the extension from build 0123456789ab",
            "pip install",
        ),
        ({"programs": ()}, "build", "llama-meta-generate is not installed beside this Python", "pip install"),
        (
            {"programs": (Program(Path("/x"), None, "was killed by SIGILL"),)},
            "build",
            "program '/x' was killed by SIGILL",
            "pip install",
        ),
        (
            {"version": "0.2.0"},
            "build",
            "the extension is from metadeploy 0.1.0, the Python package from 0.2.0",
            "pip install",
        ),
        (
            {"demo": (DemoFile(assets.SMOLLM2, "base", Path("/b"), "damaged", "has 3 bytes, expected 5"), FILES[1])},
            "demo",
            "the demo's base '/b' has 3 bytes, expected 5",
            "metadeploy demo -n 1",
        ),
    ],
)
def test_each_fault_has_a_next_step(changes: dict[str, Any], check: str, what: str, step: str) -> None:
    (finding,) = report(**changes).findings
    assert finding.check == check
    assert what in finding.what
    assert step in finding.next_step
    assert "`" in finding.next_step, "the step contains a command"


def test_a_processor_with_unknown_features() -> None:
    """The doctor cannot judge it and reports nothing."""
    unknown = replace(PROCESSOR, features=())
    assert report(processor=unknown, checked=built(features={"CPU": {"AVX512": "1"}})).findings == []


def test_the_json_has_stable_keys() -> None:
    document = json.loads(
        json.dumps(report(checked=checked(tallies=[WRONG], deaths=[DIED])).as_json(), allow_nan=False)
    )
    assert (document["schema"], document["ok"]) == (1, False)
    assert document["products"] == {
        "right": 290,
        "wrong": 2,
        "left": 0,
        "groups": [
            {
                "type": "Q8_0",
                "place": "AMX",
                "limit": 1e-3,
                "right": 290,
                "left": 0,
                "worst": 2e-5,
                "wrong": [
                    {"product": "Q8_0, width 32, 48 outputs", "error": 1e30, "fault": None},
                    {"product": "other", "error": None, "fault": "odd"},
                ],
            }
        ],
        "deaths": [{"how": "killed by SIGSEGV", "step": DIED.step, "said": "", "type": "Q4_1", "place": "AMX"}],
    }
    assert document["processor"]["usable"] == 3
    assert document["programs"] == [{"path": "/bin/llama-meta-generate", "build": BUILD["id"], "fault": ""}]
    sidecar = {"name": "sidecar", "path": "/cache/sidecar.gguf", "state": "absent", "fault": ""}
    assert document["demo"][1] == {"demo": "smollm2-135m", **sidecar}
    assert set(document["findings"][0]) == {"check", "what", "next_step"}
    usage = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    section = usage[usage.index("## When something looks wrong") :].partition("\n## ")[0]
    assert [key for key in document if f"`{key}`" not in section] == []


# --- the command ---


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def invoke(diagnosis: Report, *arguments: str) -> Any:
        monkeypatch.setattr(doctor, "examine", lambda tick: diagnosis)
        return CliRunner().invoke(app, ["doctor", *arguments])

    return invoke


def test_text_output(run: Callable[..., Any]) -> None:
    result = run(report())
    assert result.exit_code == 0
    for text in (
        "AMD EPYC (x86_64): 2 cores, 4 CPUs, 3 usable here",
        "SSE3 AVX AVX2",
        "metadeploy 0.1.0, 0123456789ab: GNU 12.2.0, Release, for Linux x86_64",
        "llama_cpp_python-0.3.36 (ggml 0.25.3)",
        "0001-block-hook@01234567",
        "CPU, a processor, 2.15 GB; buffers CPU, AMX",
        "AMX: 300 right, 0 wrong, 1 types, largest NMSE that passed 2e-05",
        "/bin/llama-meta-generate, build 0123456789ab",
        "absent (`metadeploy demo -n 1` makes it): /cache/sidecar.gguf",
        "everything is right",
    ):
        assert text in result.stdout, text
    assert "NATIVE" in result.stdout
    assert "CUDA" not in result.stdout


def test_text_output_of_a_fault(run: Callable[..., Any]) -> None:
    result = run(report(checked=checked(deaths=[DIED])))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("FAULT      killed by SIGSEGV in product of Q4_1"))
    assert lines[at + 1].startswith("next step  run `llama-meta-generate --no-repack`")
    assert "everything is right" not in result.stdout


def test_json_and_nothing_else(run: Callable[..., Any]) -> None:
    for outcome, code in ((report(), 0), (report(programs=()), 1), (report(checked=NOT_LOADED), 1)):
        result = run(outcome, "--json")
        assert result.exit_code == code
        assert json.loads(result.stdout)["ok"] is (code == 0)


def test_a_core_that_does_not_load_can_be_shown(run: Callable[..., Any]) -> None:
    result = run(report(checked=NOT_LOADED))
    assert result.exit_code == 1
    assert "FAULT      the compiled core does not load: killed by SIGILL" in result.stdout


def test_the_help_explains_the_checks() -> None:
    result = CliRunner().invoke(app, ["doctor", "--help"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    for text in ("--json", "Exit code 0", "next step", "jq .findings"):
        assert text in re.sub(r"\s+", " ", result.stdout)


def test_the_core_is_not_loaded_into_the_doctor_itself(tmp_path: Path) -> None:
    """A crash of the core would end the doctor too. The report does not need torch either."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"from metadeploy.doctor import examine\n"
        f"report = examine(command={command('import')!r})\n"
        "assert report.findings[0].check == 'core', report.findings\n"
        "print([name for name in ('metadeploy._core', 'torch') if name in sys.modules])\n"
    )
    environment = {**os.environ, assets.CACHE_VARIABLE: str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


# --- programs ---


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty scripts folder next to a Python, and an empty PATH."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    monkeypatch.setattr(program.sysconfig, "get_path", lambda _: str(folder))
    monkeypatch.setenv("PATH", "")
    return folder


def write_program(folder: Path, body: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / program.PROGRAM
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.skipif(os.name != "posix", reason="the replacement programs are shell scripts")
def test_programs_report_their_build(scripts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_programs() == []
    ours = write_program(scripts, '[ "$1" = --version ] && echo "metadeploy 0.1.0 (build 00ff)" && echo more')
    assert find_programs() == [Program(ours, "00ff")]
    monkeypatch.setenv("PATH", str(scripts))
    assert find_programs() == [Program(ours, "00ff")], "the same file is listed once"
    other = write_program(tmp_path / "other", 'echo "metadeploy 0.0.9 (build aa)"')
    monkeypatch.setenv("PATH", str(other.parent))
    assert find_programs() == [Program(ours, "00ff"), Program(other, "aa")]


@pytest.mark.skipif(os.name != "posix", reason="the replacement programs are shell scripts")
@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('echo "version: 0.5.0-dev (build 0, commit metadeploy-0.1.0)"', "does not print its build id"),
        ('echo "metadeploy 0.1.0 (build 00ff)"; exit 3', "does not print its build id"),
        ("kill -s ILL $$", "was killed by SIGILL"),
    ],
)
def test_programs_without_build_information(body: str, fault: str, scripts: Path) -> None:
    write_program(scripts, body)
    (listed,) = find_programs()
    assert listed.build is None
    assert fault in listed.fault


def test_a_program_that_cannot_be_started(scripts: Path) -> None:
    (scripts / program.PROGRAM).write_bytes(b"\0")
    (listed,) = find_programs()
    assert listed.fault.startswith("cannot be started: ")


# --- the demo's files ---


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path))
    digest = hashlib.sha256(b"abcd").hexdigest()
    demos = {demo.key: replace(demo, base=replace(demo.base, size=4, sha256=digest)) for demo in assets.DEMOS.values()}
    monkeypatch.setattr(assets, "DEMOS", demos)
    return tmp_path


def states() -> list[tuple[str, str, str]]:
    return [(file.name, file.state, file.fault) for file in find_demo_files()]


def test_absent_files_are_no_fault(cache: Path) -> None:
    assert states() == [("base", "absent", ""), ("sidecar", "absent", "")]
    assert report(demo=tuple(find_demo_files())).findings == []


@pytest.mark.parametrize(
    ("content", "state", "fault"),
    [
        (b"abcd", "whole", ""),
        (b"abc", "damaged", "has 3 bytes, expected 4"),
        (b"abce", "damaged", "has sha256 "),
    ],
)
def test_the_whole_base_is_checked(content: bytes, state: str, fault: str, cache: Path) -> None:
    assets.SMOLLM2.base_file.write_bytes(content)
    (name, reported_state, message), _ = states()
    assert (name, reported_state) == ("base", state)
    assert message.startswith(fault)


def test_other_demos_are_looked_at_if_they_are_there(cache: Path) -> None:
    assets.QWEN2_5_CODER.base_file.write_bytes(b"abc")
    assert states()[2:] == [("base", "damaged", "has 3 bytes, expected 4")]
    (fault,) = report(demo=tuple(find_demo_files())).findings
    assert fault.next_step == "`metadeploy demo --base qwen2.5-coder-0.5b -n 1` creates it again"


def test_the_sidecar_matches_the_shipped_checkpoint(cache: Path, trained_sidecar: Path) -> None:
    whole = trained_sidecar.read_bytes()
    path = assets.SMOLLM2.sidecar_file
    path.write_bytes(whole)
    assert states()[1] == ("sidecar", "whole", "")
    assert tensors_sha256(read_sidecar(path).tensors) == assets.SMOLLM2.sidecar_tensors_sha256
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert states()[1] == ("sidecar", "damaged", "has other weights than its checkpoint")
    path.write_bytes(whole[: len(whole) // 2])
    assert states()[1][:2] == ("sidecar", "damaged")
    path.write_bytes(b"GGUF")
    assert states()[1][:2] == ("sidecar", "damaged")


def test_a_sidecar_of_another_checkpoint(cache: Path, trained_sidecar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets.SMOLLM2.sidecar_file.write_bytes(trained_sidecar.read_bytes())
    monkeypatch.setattr(demo_files, "sha256", lambda _: "0" * 64)
    assert states()[1][1:] == ("damaged", "was exported from another checkpoint than the one in this package")
