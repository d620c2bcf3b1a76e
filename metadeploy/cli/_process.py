"""Settings of the process that make PyTorch on a CPU as fast as it can be; to be made before torch is imported."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

__all__ = ["prepare"]

#: glibc's parameters: number in malloc.h, name in GLIBC_TUNABLES, variable that sets it, our value.
_MALLOC: Final = (
    (-4, "glibc.malloc.mmap_max", "MALLOC_MMAP_MAX_", 0),
    (-1, "glibc.malloc.trim_threshold", "MALLOC_TRIM_THRESHOLD_", 2**31 - 1),
    (-2, "glibc.malloc.top_pad", "MALLOC_TOP_PAD_", 2**29),
)


def prepare() -> None:
    """Keep memory between steps, and let idle threads sleep.

    A training step allocates and frees the same large tensors over and over. By default glibc asks the kernel for each
    of them and gives it back, and every page is cleared again when it is next touched; here the heap grows in steps of
    512 MiB (of address space: only touched pages take memory) and never shrinks. Measured on SmolLM2-135M, six steps of
    32 examples, medians of three: page faults 589,000 → 20,000, CPU time in the kernel 0.82 s → 0.05 s, in all 4.5 s
    → 3.5 s.

    OpenMP threads that wait for work spin by default. Where another process wants the core that is lost time for both,
    so they sleep instead.

    What the user has set in the environment (``OMP_WAIT_POLICY``, ``MALLOC_*_``, ``GLIBC_TUNABLES``) stays. Nothing is
    done for the allocator where there is no glibc.
    """
    # read once, when torch loads its OpenMP library
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
