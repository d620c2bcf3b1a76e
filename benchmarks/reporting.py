"""Shared parts of the scripts in this folder: options, printing a report, errors without a traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from metadeploy import Error
from metadeploy.bench import Report
from metadeploy.bench.timing import Tick
from metadeploy.cli import bench as command
from metadeploy.cli._progress import StageProgress
from metadeploy.demo import assets


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all scripts have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw it: .png or .svg")
    return parser


def add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", type=Path, help="GGUF (default: the demo's)")
    parser.add_argument("--sidecar", type=Path, help="sidecar of the base (default: the demo's)")
    parser.add_argument("-t", "--threads", type=int)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def base_and_sidecar(arguments: argparse.Namespace) -> tuple[Path, Path]:
    if arguments.base is not None and arguments.sidecar is not None:
        return arguments.base, arguments.sidecar
    if arguments.base is not None or arguments.sidecar is not None:
        raise Error("give both --base and --sidecar, or none for the demo's")
    base = assets.base_model_path()
    return base, assets.sidecar_path(base)


def run(measure: Callable[[Tick], Report], arguments: argparse.Namespace) -> None:
    """Measure, and print the report."""
    try:
        command.check_files(arguments.output, arguments.plot)
        with StageProgress() as progress:
            report = measure(progress.stage)
        command.show(
            report, output=arguments.output, plot=arguments.plot, as_markdown=arguments.markdown, as_json=False
        )
    except Error as error:
        sys.exit(f"error: {error}")
