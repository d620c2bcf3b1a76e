"""The checks of ``metadeploy doctor``: processor, build, devices, matrix products, program, the demo's files.

Nothing here loads the compiled core into this process, because the core might crash it. ``child.py`` loads it in
another process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from metadeploy._version import own_version
from metadeploy.doctor.demo_files import find_demo_files
from metadeploy.doctor.processor import Processor, find_processor
from metadeploy.doctor.program import find_programs
from metadeploy.doctor.report import Finding, Report
from metadeploy.doctor.watch import CHILD, run_child

__all__ = ["Finding", "Report", "examine"]

#: With more threads than this, no kernel takes another code path.
_MAX_THREADS = 4


def examine(
    *, tick: Callable[[str, int, int], None] = lambda name, n_done, total: None, command: Sequence[str] = CHILD
) -> Report:
    """Run all checks.

    Args:
        tick: called with the name of the current check, the number of finished steps and of all steps.
        command: starts the process that calls the compiled core.

    Returns:
        The report. It takes about ten seconds on two cores.
    """
    processor = find_processor()
    return Report(
        version=own_version(),
        processor=processor,
        checked=run_child((1, several_threads(processor)), tick=tick, command=command),
        programs=find_programs(),
        demo=find_demo_files(),
    )


def several_threads(processor: Processor) -> int:
    """Return the number of threads for the products that are not computed by one thread; at least two."""
    return max(2, min(processor.usable, _MAX_THREADS))
