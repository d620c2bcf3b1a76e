"""The processor's features, as operating systems report them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from metadeploy.doctor import processor, several_threads
from metadeploy.doctor.processor import Processor, find_processor, usable_cpus

INTEL = """\
processor	: {n}
vendor_id	: GenuineIntel
model name	: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
physical id	: 0
core id		: {core}
flags		: fpu sse sse2 pni ssse3 fma sse4_1 sse4_2 f16c avx bmi2 avx2 avx_vnni avx512f avx512dq avx512cd avx512bw \
avx512vl avx512vbmi avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8
bugs		: spectre_v1

"""
ARM = """\
processor	: 0
BogoMIPS	: 48.00
Features	: fp asimd evtstrm aes asimdhp asimddp sve i8mm
CPU implementer	: 0x41

processor	: 1
Features	: fp asimd evtstrm aes asimdhp asimddp sve i8mm

Hardware	: A board
"""
APPLE = """\
machdep.cpu.brand_string: Apple M4
hw.physicalcpu: 10
hw.optional.AdvSIMD: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_SME: 0
hw.optional.arm.FEAT_FP16: 1
"""


@pytest.fixture
def cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "_CPUINFO", path)
    monkeypatch.setattr(processor, "sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr(processor.platform, "processor", lambda: "what uname says")
    return path


def test_intel_on_linux(cpuinfo: Path) -> None:
    """Four threads on two cores."""
    cpuinfo.write_text("".join(INTEL.format(n=n, core=n // 2) for n in range(4)))
    machine = find_processor()
    assert machine.name == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert machine.cores == 2
    assert machine.features == (
        *("SSE3", "SSSE3", "SSE4.1", "SSE4.2", "AVX", "F16C", "FMA", "BMI2", "AVX2", "AVX_VNNI", "AVX512F", "AVX512CD"),
        *("AVX512BW", "AVX512DQ", "AVX512VL", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16", "AVX512_FP16"),
        *("AMX_TILE", "AMX_INT8", "AMX_BF16"),
    )


def test_arm_on_linux(cpuinfo: Path) -> None:
    cpuinfo.write_text(ARM)
    machine = find_processor()
    assert (machine.name, machine.cores) == ("what uname says", None)
    assert machine.features == ("NEON", "FP16_VA", "DOTPROD", "MATMUL_INT8", "SVE")


@pytest.mark.parametrize("content", [None, "", "\n\n", "flags\n", "processor: 0\n\nodd line\n"])
def test_a_system_without_information(content: str | None, cpuinfo: Path) -> None:
    if content is not None:
        cpuinfo.write_text(content)
    machine = find_processor()
    assert (machine.name, machine.features, machine.cores) == ("what uname says", (), None)
    assert machine.logical >= machine.usable >= 1


def test_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(
        processor.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, APPLE, "")
    )
    machine = find_processor()
    assert (machine.name, machine.cores) == ("Apple M4", 10)
    assert machine.features == ("NEON", "FP16_VA", "DOTPROD", "MATMUL_INT8")


def test_macos_without_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(processor, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(processor.subprocess, "run", fails)
    assert find_processor().features == ()


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="Linux")
def test_this_machine() -> None:
    machine = find_processor()
    assert machine.name != "unknown"
    assert machine.features


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux")
def test_usable_cpus_follow_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cpus() == len(before)


def test_instructions_that_a_processor_lacks() -> None:
    machine = Processor(
        name="", architecture="x86_64", features=("AVX", "AVX2", "AVX512F"), cores=1, logical=1, usable=1
    )
    compiled = {"AVX": "1", "AVX512": "1", "AVX512_VNNI": "1", "AMX_INT8": "1", "LLAMAFILE": "1", "OPENMP": "1"}
    assert machine.lacks(compiled) == ["AVX512_VNNI"]  # ggml works without AMX if the system lacks it


@pytest.mark.parametrize(("usable", "expected"), [(1, 2), (2, 2), (3, 3), (64, 4)])
def test_several_threads(usable: int, expected: int) -> None:
    machine = Processor(name="", architecture="", features=(), cores=None, logical=64, usable=usable)
    assert several_threads(machine) == expected
