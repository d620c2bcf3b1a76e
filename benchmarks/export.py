"""Measure time and peak memory of exporting a checkpoint of the published Doubter's size. Linux only.

    python benchmarks/export.py [--folder FOLDER] [--runs 7]

Each run is a separate process that imports everything first. Its peak is the growth of its memory from then on,
including mapped pages of the checkpoint. On paper that is the checkpoint and 1.2 times its largest tensor as F32.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import reporting
from synthetic_doubter import SHAPES, write_checkpoint

from metadeploy.bench import Figure, Report, Spread
from metadeploy.bench.measurements import machine
from metadeploy.bench.timing import Tick
from metadeploy.demo.assets import cache_dir
from metadeploy.sidecar.layout import dims_of, expected_tensors

MIB = 1 << 20


def child(checkpoint: Path, output: Path) -> None:
    """Export once in this process, and print time and memory as JSON."""
    import gguf  # noqa: F401 - imported before the clock starts
    import torch  # noqa: F401

    from metadeploy.export import export

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    began = time.perf_counter()
    size = export(checkpoint, output=output, force=True).size
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "grown": status("VmHWM") - before, "size": size}))


def status(key: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024


def measure(folder: Path, shape: str, runs: int, tick: Tick) -> Report:
    run = folder / f"synthetic-doubter-{shape}-prompt"
    checkpoint = run / "doubter_checkpoint.pt"
    if not checkpoint.exists():
        write_checkpoint(run, SHAPES[shape])
    output = run / "exported.gguf"
    command = [sys.executable, __file__, "--child", str(checkpoint), "--output", str(output)]
    machine_before = machine()
    measured = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(runs)
    ]
    output.unlink()
    largest = 4 * max(math.prod(dims) for dims in expected_tensors(dims_of(SHAPES[shape])).values())
    size = checkpoint.stat().st_size
    paper = (size + 1.2 * largest) / MIB
    seconds, grown = (
        Spread.of(np.array([run_figures[key] for run_figures in measured])) for key in ("seconds", "grown")
    )
    memory = Spread(grown.median / MIB, grown.low / MIB, grown.high / MIB, grown.n)
    figures = (
        Figure(part="time", label="export, after imports", unit="s", value=seconds),
        Figure(part="memory", label="peak memory beyond imports", unit="MiB", value=memory, limit=(paper, paper)),
    )
    notes = (
        f"checkpoint of {size / MIB:.1f} MiB, sidecar of {measured[0]['size'] / MIB:.1f} MiB, "
        f"largest tensor {largest / MIB:.1f} MiB as F32",
    )
    conditions = {"machine": machine_before, "load_average_after": machine()["load_average"], "checkpoint": size}
    return Report(title="Export of a checkpoint", conditions=conditions, figures=figures, notes=notes)


def main() -> None:
    parser = reporting.parser(__doc__)
    parser.add_argument("--folder", type=Path, default=cache_dir(), help="folder for the files (default: %(default)s)")
    parser.add_argument("--shape", choices=SHAPES, default="qwen3.5-4b")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.output)
    else:
        reporting.run(lambda tick: measure(arguments.folder, arguments.shape, arguments.runs, tick), arguments)


if __name__ == "__main__":
    main()
