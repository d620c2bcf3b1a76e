"""Process settings that commands make before they load PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def in_process(code: str, **environment: str) -> str:
    names = ("OMP_WAIT_POLICY", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
    plain = {name: value for name, value in os.environ.items() if name not in names}
    result = subprocess.run(
        [sys.executable, "-c", f"from metadeploy.cli._process import prepare\n{code}"],
        env={**plain, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return result.stdout.strip()


def test_idle_threads_sleep_unless_the_user_says_otherwise() -> None:
    code = "prepare(); import os; print(os.environ['OMP_WAIT_POLICY'])"
    assert in_process(code) == "PASSIVE"
    assert in_process(code, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


def test_nothing_heavy_is_imported() -> None:
    assert in_process("prepare(); import sys; print('torch' in sys.modules)") == "False"


#: Prints the page faults of allocating and freeing 64 MiB ten times.
FAULTS = """
{before}
import resource
def take():
    block = bytearray(2**26)
    del block
take()
start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""


@pytest.mark.skipif(sys.platform != "linux" or "musl" in os.confstr_names, reason="the allocator is glibc's")
def test_large_blocks_are_reused() -> None:
    pages = 2**26 // os.sysconf("SC_PAGE_SIZE")
    prepared = int(in_process(FAULTS.format(before="prepare()")))
    assert prepared < pages / 10
    for own in ({"MALLOC_MMAP_MAX_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}):
        # the user's own setting stays: each block comes fresh from the kernel
        assert int(in_process(FAULTS.format(before="prepare()"), **own)) > 10 * max(prepared, 1)


def test_other_allocators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from metadeploy.cli import _process

    monkeypatch.setattr(_process.ctypes, "CDLL", lambda _: object())
    _process.prepare()
    monkeypatch.setattr(_process.sys, "platform", "darwin")
    _process.prepare()
