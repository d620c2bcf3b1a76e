"""``metadeploy doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metadeploy.doctor import Report

__all__ = ["register"]

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy doctor                             [dim]# run this first when something looks wrong[/dim]

  metadeploy doctor --json > doctor.json        [dim]# to attach to a report[/dim]

  metadeploy doctor --json | jq .findings       [dim]# in a script; exit code 1 if there are findings[/dim]
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="doctor", epilog=_EPILOG, short_help="Check that this machine computes correctly.")(_doctor)


def _doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, and nothing else.")] = False,
) -> None:
    """Show the processor, the build and the devices, and check that they compute correctly.

    Multiplies weights of every type that llama.cpp can quantize to, in every way that llama.cpp would on this machine,
    and compares the products with NumPy. Checks that the Python extension and llama-meta-generate are from one build,
    and that the demo's files are intact. Takes less than half a minute on two cores and changes nothing.

    Exit code 0 if there are no findings, 1 otherwise. Each finding names the next step.
    """
    from metadeploy.cli._console import print_json
    from metadeploy.cli._progress import StageProgress
    from metadeploy.doctor import examine

    with StageProgress() as progress:
        report = examine(tick=progress.stage)
    if as_json:
        print_json(report.as_json())
    else:
        _show(report)
    if report.findings:
        raise typer.Exit(1)


def _show(report: Report) -> None:
    from metadeploy.cli._console import facts_table, output

    console = output()
    console.print(facts_table(dict(_facts(report))))
    for finding in report.findings:
        console.print(f"\nFAULT      {finding.what}", markup=False, soft_wrap=True)
        console.print(f"next step  {finding.next_step}", markup=False, soft_wrap=True)
    if not report.findings:
        console.print("\neverything is right", markup=False)


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    from metadeploy.cli._console import byte_size

    processor, build = report.processor, report.checked.build
    cores = f"{processor.cores or 'unknown number of'} cores, {processor.logical} CPUs, {processor.usable} usable here"
    yield "processor", f"{processor.name} ({processor.architecture}): {cores}"
    yield "features", " ".join(processor.features) or "unknown"
    if build is not None:
        yield "build", f"metadeploy {build['version']}, {build['id']}: {_compiler(build)}"
        yield "options", " ".join(name.removeprefix("GGML_") for name, on in build["options"].items() if on)
        for backend, features in build["features"].items():
            yield f"{backend} code for", _features(features)
        yield "llama.cpp", f"{build['llama_cpp']} (ggml {build['ggml']})"
        yield "patches", ", ".join(build["patches"]) or "unknown"
    for device in report.checked.devices:
        memory = f", {byte_size(device['memory_total'])}" if device["memory_total"] else ""
        buffers = ", ".join(device["buffer_types"])
        yield f"device {device['name']}", f"{device['type']}, {device['description']}{memory}; buffers {buffers}"
    yield "products", _products(report)
    for program in report.programs:
        yield "program", f"{program.path}, build {program.build or 'unknown'}"
    for file in report.demo:
        fetch = f" (`{file.demo.command} -n 1` makes it)" if file.state == "absent" else ""
        yield f"demo's {file.name}", f"{file.state}{fetch}: {file.path}"


def _compiler(build: dict[str, Any]) -> str:
    flags = f", flags {build['flags']}" if build["flags"] else ""
    return f"{build['compiler']}, {build['build_type']}, for {build['system']}{flags}"


def _features(features: dict[str, str]) -> str:
    return " ".join(name if value == "1" else f"{name}={value}" for name, value in features.items()) or "-"


def _products(report: Report) -> str:
    """Return the counts of right and wrong products and the largest error that passed, for each buffer type."""
    tallies = report.checked.tallies
    parts = []
    for place in dict.fromkeys(tally.place for tally in tallies):
        local = [tally for tally in tallies if tally.place == place]
        right, wrong = sum(tally.right for tally in local), sum(len(tally.wrong) for tally in local)
        worst = max((tally.worst for tally in local), default=0.0)
        types = sum(1 for tally in local if tally.right or tally.wrong)
        parts.append(f"{place}: {right:,} right, {wrong:,} wrong, {types} types, largest NMSE that passed {worst:.0e}")
    return "\n".join(parts) or "none"
