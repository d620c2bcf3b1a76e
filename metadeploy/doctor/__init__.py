"""What ``metadeploy doctor`` looks at: processor, build, devices, matrix products, program, the demo's files.

Nothing here loads the compiled core into this process, which might not survive it; ``child.py`` does, in another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from metadeploy.doctor.demo_files import find_demo_files
from metadeploy.doctor.processor import Processor, find_processor
from metadeploy.doctor.program import find_programs
from metadeploy.doctor.report import Finding, Report
from metadeploy.doctor.watch import CHILD, run_child
from metadeploy.version import own_version

__all__ = ["Finding", "Report", "examine"]

#: More threads than this take other ways through no kernel.
_MOST_THREADS = 4


def examine(
    *, tick: Callable[[str, int, int], None] = lambda name, done, total: None, command: Sequence[str] = CHILD
) -> Report:
    """Look at everything.

    Args:
        tick: called with the name of what is looked at, steps done and steps in all.
        command: starts the process that calls the compiled core.

    Returns:
        What was found; it takes some ten seconds on two cores.
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
    """How many threads products are shared among, beside one alone: two at least."""
    return max(2, min(processor.usable, _MOST_THREADS))
