"""The report of ``metadeploy doctor``: facts, findings and next steps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from metadeploy.doctor.demo_files import DemoFile
from metadeploy.doctor.processor import Processor
from metadeploy.doctor.program import PROGRAM, Program
from metadeploy.doctor.watch import Checked, Death, Tally

__all__ = ["SCHEMA", "Finding", "Report", "find_faults"]

#: Version of the layout of ``Report.as_json``.
SCHEMA: Final = 1

_REBUILD: Final = "in a clone of metadeploy: `pip install --force-reinstall --no-deps .`"
_PORTABLE: Final = 'CMAKE_ARGS="-DMETADEPLOY_PORTABLE=ON" pip install --force-reinstall --no-deps .'
_NO_AMX: Final = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
#: CPU buffer types with special kernels, and the build options that leave these kernels out.
_WITHOUT: Final = {
    "AMX": f"CMAKE_ARGS=\"-DCMAKE_C_FLAGS='{_NO_AMX}' -DCMAKE_CXX_FLAGS='{_NO_AMX}'\"",
    "CPU_REPACK": 'CMAKE_ARGS="-DGGML_CPU_REPACK=OFF"',
}


@dataclass(frozen=True)
class Finding:
    """A fault and the next step.

    Attributes:
        check: which part found it: ``core``, ``processor``, ``products``, ``build`` or ``demo``.
        what: the fault.
        next_step: the action that fixes or avoids it.
    """

    check: str
    what: str
    next_step: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The facts that the checks collected.

    Attributes:
        version: version of the Python package; None if it is not known.
        processor: the processor of this machine.
        checked: the core, its devices and its matrix products.
        programs: copies of ``llama-meta-generate``.
        demo: the demo's files.
    """

    version: str | None
    processor: Processor
    checked: Checked
    programs: Sequence[Program]
    demo: Sequence[DemoFile]

    @property
    def findings(self) -> list[Finding]:
        """The findings, the most basic first; empty if there are none."""
        return find_faults(self)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain data; docs/usage.md lists the keys."""
        tallies = self.checked.tallies
        return {
            "schema": SCHEMA,
            "ok": not self.findings,
            "findings": [asdict(finding) for finding in self.findings],
            "version": self.version,
            "python": ".".join(map(str, sys.version_info[:3])),
            "processor": asdict(self.processor),
            "build": self.checked.build,
            "devices": self.checked.devices,
            "products": {
                "right": sum(tally.right for tally in tallies),
                "wrong": sum(len(tally.wrong) for tally in tallies),
                "left": sum(tally.left for tally in tallies),
                "groups": [
                    {
                        **asdict(tally),
                        "wrong": [
                            {"product": product, "error": None, "fault": reason}
                            if isinstance(reason, str)
                            else {"product": product, "error": reason, "fault": None}
                            for product, reason in tally.wrong
                        ],
                    }
                    for tally in tallies
                ],
                "deaths": [asdict(death) for death in self.checked.deaths],
            },
            "programs": [asdict(program) | {"path": str(program.path)} for program in self.programs],
            "demo": [file.to_json() for file in self.demo],
        }


def find_faults(report: Report) -> list[Finding]:
    """Return the findings of a report."""
    return [
        *_core_faults(report),
        *_product_faults(report.checked),
        *_build_faults(report),
        *_demo_faults(report.demo),
    ]


def _core_faults(report: Report) -> list[Finding]:
    """Return a finding if the core does not load or was built for another processor."""
    build, deaths = report.checked.build, report.checked.deaths
    if build is None:
        what = "the compiled core does not load" + (f": {_death_text(deaths[0])}" if deaths else "")
        if any("SIGILL" in death.how for death in deaths):
            return [Finding("core", what, f"it was built for another processor: build it here, {_REBUILD}")]
        return [Finding("core", what, f"install it again, {_REBUILD}")]
    missing = report.processor.lacks(build["features"].get("CPU", {}))
    if not missing:
        return []
    what = f"the core was built for {', '.join(missing)}, which this processor does not have"
    return [Finding("processor", what, f"build it here, {_REBUILD}; or for any processor of the kind: `{_PORTABLE}`")]


def _product_faults(checked: Checked) -> list[Finding]:
    findings = []
    for death in checked.deaths if checked.build is not None else ():
        at = f" in product of {death.step}" if death.step else " before the first product"
        findings.append(Finding("products", f"{_death_text(death)}{at}", _workaround(death.place)))
    findings += [
        Finding("products", _summary(tally), _workaround(tally.place)) for tally in checked.tallies if tally.wrong
    ]
    return findings


def _death_text(death: Death) -> str:
    return death.how + (f" ({death.said})" if death.said else "")


def _summary(tally: Tally) -> str:
    """Return text such as ``12 of 300 products of Q8_0 in buffer AMX are wrong, first …``."""
    product, reason = tally.wrong[0]
    fault = reason if isinstance(reason, str) else f"NMSE {reason:.1e}, expected at most {tally.limit:.0e}"
    count = f"{len(tally.wrong)} of {len(tally.wrong) + tally.right}"
    return f"{count} products of {tally.type} in buffer {tally.place} are wrong, first {product}: {fault}"


def _workaround(place: str | None) -> str:
    """Return advice on how to avoid the kernels of a place."""
    report_it = "and report it with the output of `metadeploy doctor --json`"
    if place in _WITHOUT:
        return (
            f"run `llama-meta-generate --no-repack`, or build without them, "
            f"`{_WITHOUT[place]} pip install --force-reinstall --no-deps .`, {report_it}"
        )
    if place is None or place.startswith("CPU"):
        return f"build with simpler kernels, `{_PORTABLE}`, or with another compiler (CC, CXX), {report_it}"
    return f"keep the model off the device, `-ngl 0` or `n_gpu_layers=0`, {report_it}"


def _build_faults(report: Report) -> list[Finding]:
    """Return findings if package, extension and program are not from one build."""
    build = report.checked.build
    findings = []
    if not report.programs:
        findings.append(Finding("build", f"{PROGRAM} is not installed beside this Python", f"install it, {_REBUILD}"))
    for program in report.programs:
        if program.fault:
            what = f"program '{program.path}' {program.fault}"
            findings.append(Finding("build", what, f"install it again, {_REBUILD}"))
        elif build is not None and program.build != build["id"]:
            what = f"program '{program.path}' is from build {program.build}, the extension from build {build['id']}"
            findings.append(
                Finding("build", what, f"install both again, {_REBUILD}; or remove the one that you do not need")
            )
    if build is not None and report.version is not None and build["version"] != report.version:
        what = f"the extension is from metadeploy {build['version']}, the Python package from {report.version}"
        findings.append(Finding("build", what, f"install both again, {_REBUILD}"))
    return findings


def _demo_faults(files: Sequence[DemoFile]) -> list[Finding]:
    return [
        Finding(
            "demo", f"the demo's {file.name} '{file.path}' {file.fault}", f"`{file.demo.command} -n 1` creates it again"
        )
        for file in files
        if file.fault
    ]
