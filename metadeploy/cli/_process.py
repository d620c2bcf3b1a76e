"""Settings of the process that make PyTorch faster on a CPU. They must be made before torch is imported."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

__all__ = ["prepare"]

#: glibc's parameters: number in malloc.h, name in GLIBC_TUNABLES, environment variable, our value.
_MALLOC: Final = (
    (-4, "glibc.malloc.mmap_max", "MALLOC_MMAP_MAX_", 0),
    (-1, "glibc.malloc.trim_threshold", "MALLOC_TRIM_THRESHOLD_", 2**31 - 1),
    (-2, "glibc.malloc.top_pad", "MALLOC_TOP_PAD_", 2**29),
)


def prepare() -> None:
    """Make the allocator reuse memory between steps, and let idle threads sleep.

    A training step allocates and frees the same large tensors again and again. By default glibc gets each of them from
    the kernel and returns it, and the kernel clears every page before its next use. With these settings the heap grows
    in steps of 512 MiB and never shrinks. (This is address space: only pages that are used take memory.) Measured on
    SmolLM2-135M, six steps of 32 examples, medians of three: page faults 589,000 → 20,000, CPU time in the kernel
    0.82 s → 0.05 s, in all 4.5 s → 3.5 s.

    By default, OpenMP threads spin while they wait for work. If another process needs the core, both lose time, so here
    the threads sleep.

    Values that the user has set in the environment (``OMP_WAIT_POLICY``, ``MALLOC_*_``, ``GLIBC_TUNABLES``) stay. With
    another C library, the allocator keeps its settings.
    """
    # torch's OpenMP library reads this once, when it is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    for parameter, tunable, variable, value in _MALLOC:
        if variable not in os.environ and tunable not in tunables:
            mallopt(parameter, value)
