"""The processor of this machine, as the operating system describes it at run time. Standard library only.

ggml's own report lists the features that its code was *compiled* for. This module finds those that the processor has.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Processor", "find_processor", "usable_cpus"]

_CPUINFO: Final = Path("/proc/cpuinfo")
#: Linux's name of a feature -> ggml's name, or Intel's if ggml only checks for part of the feature; in display order.
_LINUX: Final[Mapping[str, str]] = {
    "pni": "SSE3",
    "ssse3": "SSSE3",
    "sse4_1": "SSE4.1",
    "sse4_2": "SSE4.2",
    "avx": "AVX",
    "f16c": "F16C",
    "fma": "FMA",
    "bmi2": "BMI2",
    "avx2": "AVX2",
    "avx_vnni": "AVX_VNNI",
    "avx512f": "AVX512F",
    "avx512cd": "AVX512CD",
    "avx512bw": "AVX512BW",
    "avx512dq": "AVX512DQ",
    "avx512vl": "AVX512VL",
    "avx512vbmi": "AVX512_VBMI",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "avx512_fp16": "AVX512_FP16",
    "amx_tile": "AMX_TILE",
    "amx_int8": "AMX_INT8",
    "amx_bf16": "AMX_BF16",
    "asimd": "NEON",
    "asimdhp": "FP16_VA",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
    "sve2": "SVE2",
    "sme": "SME",
    "sme2": "SME2",
}
#: macOS's name of a feature -> ggml's name, for Apple's processors and for Intel's.
_MACOS: Final[Mapping[str, str]] = {
    "hw.optional.AdvSIMD": "NEON",
    "hw.optional.arm.FEAT_FP16": "FP16_VA",
    "hw.optional.arm.FEAT_DotProd": "DOTPROD",
    "hw.optional.arm.FEAT_I8MM": "MATMUL_INT8",
    "hw.optional.arm.FEAT_SME": "SME",
    "hw.optional.arm.FEAT_SME2": "SME2",
    "hw.optional.sse3": "SSE3",
    "hw.optional.supplementalsse3": "SSSE3",
    "hw.optional.sse4_1": "SSE4.1",
    "hw.optional.sse4_2": "SSE4.2",
    "hw.optional.avx1_0": "AVX",
    "hw.optional.f16c": "F16C",
    "hw.optional.fma": "FMA",
    "hw.optional.bmi2": "BMI2",
    "hw.optional.avx2_0": "AVX2",
    "hw.optional.avx512f": "AVX512F",
    "hw.optional.avx512cd": "AVX512CD",
    "hw.optional.avx512bw": "AVX512BW",
    "hw.optional.avx512dq": "AVX512DQ",
    "hw.optional.avx512vl": "AVX512VL",
    "hw.optional.avx512vbmi": "AVX512_VBMI",
}
#: ggml's features without which its code does not run. AMX is not in the list: ggml requests it from the system, and
#: runs without it.
_NEEDED: Final[Mapping[str, str]] = {
    name: name
    for name in (
        *("SSE3", "SSSE3", "AVX", "F16C", "FMA", "BMI2", "AVX2", "AVX_VNNI", "AVX512_VBMI", "AVX512_VNNI"),
        *("AVX512_BF16", "NEON", "FP16_VA", "DOTPROD", "MATMUL_INT8", "SVE", "SME", "SME2"),
    )
} | {"AVX512": "AVX512F"}


@dataclass(frozen=True, kw_only=True)
class Processor:
    """The processor of a machine.

    Attributes:
        name: the model.
        architecture: as in ``x86_64``.
        features: the features that ggml has kernels for; empty if the system does not list any.
        cores: number of physical cores; None if the system does not say.
        logical: number of CPUs of the system.
        usable: number of CPUs that this process may use.
    """

    name: str
    architecture: str
    features: tuple[str, ...]
    cores: int | None
    logical: int
    usable: int

    def lacks(self, compiled: Mapping[str, str]) -> list[str]:
        """Return the features that the code was compiled for and this processor does not have.

        Args:
            compiled: ggml's report of its CPU backend: feature -> value.

        Returns:
            The names of the features; also empty if the processor's features are not known.
        """
        if not self.features:
            return []
        return [name for name in compiled if name in _NEEDED and _NEEDED[name] not in self.features]


def find_processor() -> Processor:
    """Return the processor as the operating system describes it."""
    name, features, cores = _from_macos() if sys.platform == "darwin" else _from_linux()
    return Processor(
        name=name or platform.processor() or "unknown",
        architecture=platform.machine(),
        features=features,
        cores=cores,
        logical=os.cpu_count() or 1,
        usable=usable_cpus(),
    )


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use, by its affinity if the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _from_linux() -> tuple[str, tuple[str, ...], int | None]:
    """Return model, features and number of physical cores, from /proc/cpuinfo."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", (), None
    cpus = [dict(_fields(block)) for block in text.strip().split("\n\n")]
    # with some Arm processors, an unnumbered block describes the board, and there is no model name
    first: Mapping[str, str] = next((cpu for cpu in cpus if "flags" in cpu or "Features" in cpu), {})
    flags = set((first.get("flags") or first.get("Features") or "").split())
    cores = {(cpu["physical id"], cpu["core id"]) for cpu in cpus if "physical id" in cpu and "core id" in cpu}
    name = first.get("model name") or first.get("Hardware") or ""
    return name, tuple(ours for theirs, ours in _LINUX.items() if theirs in flags), len(cores) or None


def _fields(block: str) -> list[tuple[str, str]]:
    lines = (line.partition(":") for line in block.splitlines())
    return [(key.strip(), value.strip()) for key, _, value in lines]


def _from_macos() -> tuple[str, tuple[str, ...], int | None]:
    """Return model, features and number of physical cores, from sysctl."""
    try:
        process = subprocess.run(
            ["/usr/sbin/sysctl", "machdep.cpu.brand_string", "hw.physicalcpu", "hw.optional"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "", (), None
    values = dict(_fields(process.stdout))
    cores = values.get("hw.physicalcpu", "")
    features = tuple(ours for theirs, ours in _MACOS.items() if values.get(theirs) == "1")
    return values.get("machdep.cpu.brand_string", ""), features, int(cores) if cores.isdigit() else None
