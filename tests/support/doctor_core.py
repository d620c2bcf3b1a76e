"""Replaces the compiled core in tests of ``metadeploy doctor``: products in NumPy, with deliberate faults."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metadeploy.doctor import child, products
from metadeploy.errors import Error
from metadeploy.sidecar.quants import dequantize, nbytes_of, quantize

Floats = NDArray[np.float32]

#: enough of ``products.WIDTHS`` to show the faults
FEW_WIDTHS: Final = (32, 96, 576)
BUILD: Final[dict[str, Any]] = {
    "id": "0123456789ab",
    "version": "0.1.0",
    "compiler": "GNU 12.2.0",
    "build_type": "Release",
    "system": "Linux x86_64",
    "flags": "",
    "llama_cpp": "llama_cpp_python-0.3.36",
    "ggml": "0.25.3",
    "patches": ["0001-block-hook@01234567"],
    "options": {"GGML_CUDA": False, "GGML_NATIVE": True},
    "features": {"CPU": {"AVX2": "1"}},
}
DEVICE: Final[dict[str, Any]] = {
    "name": "CPU",
    "description": "a processor",
    "type": "CPU",
    "backend": "CPU",
    "memory_free": 1 << 30,
    "memory_total": 2 << 30,
    "buffer_types": ["CPU", "AMX"],
}


@dataclass(frozen=True)
class Call:
    """A product of a weight [outputs, width] and activations [sequences, rows, width], by weight and buffer type."""

    buffer_type: str
    type: str
    width: int
    outputs: int
    sequences: int
    rows: int
    threads: int


#: Changes a product F32 [sequences, rows, outputs], or ends or blocks the process.
Fault = Callable[[Call, Floats], Floats]


class FakeProbe:
    """Replaces ``_core.MatmulProbe``."""

    def __init__(self, buffer_type: str, fault: Fault) -> None:
        self._buffer_type, self._fault = buffer_type, fault

    def takes(self, type: str, n_in: int, n_out: int) -> bool:
        """Like AMX on Intel: no floats, only multiples of 32."""
        return self._buffer_type == "CPU" or (type == "Q8_0" and n_out % 32 == 0)

    def load(self, type: str, n_in: int, rows: bytes) -> None:
        self._type = type
        n_out = len(rows) // (nbytes_of(type, (n_in,)) or 1)
        self._weight = dequantize(np.frombuffer(rows, np.uint8), type, (n_out, n_in))

    def multiply(self, activations: Floats, n_threads: int) -> Floats | None:
        product = activations @ self._weight.T
        n_out, n_in = self._weight.shape
        call = Call(self._buffer_type, self._type, n_in, n_out, *activations.shape[:2], n_threads)
        return self._fault(call, product)


class FakeCore:
    """Replaces ``metadeploy._core``, for Q8_0 in two buffer types and F32 in one."""

    def __init__(self, fault: Fault = lambda _, product: product) -> None:
        self._fault = fault

    def build_info(self) -> dict[str, Any]:
        return BUILD

    def devices(self) -> list[dict[str, Any]]:
        return [DEVICE]

    def weight_types(self) -> list[dict[str, Any]]:
        return [{"name": "F32", "block": 1, "factor": "F32"}, {"name": "Q8_0", "block": 32, "factor": "Q8_0"}]

    def weight_places(self) -> list[dict[str, Any]]:
        return [{"device": "CPU", "buffer_type": buffer_type} for buffer_type in ("CPU", "AMX")]

    def quantize_rows(self, type: str, values: Floats) -> bytes:
        return quantize(values, type).tobytes()

    def dequantize_rows(self, type: str, rows: bytes, n_in: int) -> Floats:
        raise AssertionError("the package gguf knows these types")

    def MatmulProbe(self, place: int) -> FakeProbe:
        return FakeProbe(self.weight_places()[place]["buffer_type"], self._fault)


# --- children that do not reach their end ---


def _at(width: int, act: Callable[[], None]) -> FakeCore:
    """Apply a fault in the first Q8_0 product in AMX with 32 rows and this width."""

    def fault(call: Call, product: Floats) -> Floats:
        if (call.buffer_type, call.width, call.rows) == ("AMX", width, 32):
            act()
        return product

    return FakeCore(fault)


def _kill(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(60)  # the signal may take a moment


def _assertion() -> None:
    print("GGML_ASSERT(x) failed", file=sys.stderr, flush=True)
    _kill("SIGABRT")


def _garbage() -> None:
    for descriptor in range(3, 20):  # one of them receives its output lines
        with contextlib.suppress(OSError):
            os.write(descriptor, b"\xff\xfe{\n")
    _kill("SIGSEGV")


class _NoDevices(FakeCore):
    def devices(self) -> list[dict[str, Any]]:
        _kill("SIGBUS")
        raise AssertionError


def child_main(what: str) -> None:
    """The main function of a child with a fault; ``command`` starts it."""
    if what == "import":
        _kill("SIGILL")
    if what == "missing":
        raise ImportError("cannot import name '_core' from 'metadeploy'")
    cores: dict[str, Callable[[], FakeCore]] = {
        "right": FakeCore,
        "devices": _NoDevices,
        "SIGSEGV": lambda: _at(576, lambda: _kill("SIGSEGV")),
        "SIGILL": lambda: _at(32, lambda: _kill("SIGILL")),
        "assertion": lambda: _at(576, _assertion),
        "exit": lambda: _at(576, lambda: os._exit(7)),
        "garbage": lambda: _at(576, _garbage),
        "hang": lambda: _at(576, lambda: time.sleep(600)),
        "refusal": lambda: _at(576, _refuse),
    }
    products.WIDTHS = FEW_WIDTHS  # type: ignore[misc]
    child.main(cores[what]())


def _refuse() -> None:
    raise Error("writes outside its result")


def command(what: str) -> tuple[str, ...]:
    """Return the command that starts ``child_main``."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from support.doctor_core import child_main; child_main({what!r})"
    return (sys.executable, "-c", code)
