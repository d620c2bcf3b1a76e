"""Runs ``child.py``, the part that may crash, and continues after a crash with another child."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final

__all__ = ["CHILD", "Checked", "Death", "Tally", "run_child"]

#: Starts the child with the module search path of this process, in any working directory.
CHILD: Final = (
    sys.executable,
    "-c",
    f"import sys; sys.path[:] = {sys.path!r}; from metadeploy.doctor.child import main; main()",
)
#: After this many seconds without a line, a child counts as hung. The longest step takes a small part of this time.
TIMEOUT: Final = 300.0
_ENVIRONMENT: Final = {
    "GGML_NO_BACKTRACE": "1",  # it would start a debugger
    "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads sleep, so that others can compute
    "OPENBLAS_NUM_THREADS": "1",  # NumPy's threads would slow down the threads that are checked
    "MKL_NUM_THREADS": "1",
}

Tick = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Death:
    """The end of a child that did not finish its work.

    Attributes:
        how: how it ended, such as ``killed by SIGSEGV``.
        step: its current step; empty if it had not loaded the core.
        said: the last line that it printed; empty if it printed nothing.
        type: type of the current weight; None before the first weight.
        place: place of the current weight; None before the weight was stored.
    """

    how: str
    step: str = ""
    said: str = ""
    type: str | None = None
    place: str | None = None


@dataclass
class Tally:
    """The products of one type in one place.

    Attributes:
        type: the type of the weights.
        place: the place, as text for people.
        limit: the largest allowed error.
        right: number of products that passed.
        wrong: the products that did not pass, each with its error or fault.
        left: number of products that llama.cpp would give to another device.
        worst: the largest error of the products that passed.
    """

    type: str
    place: str
    limit: float
    right: int = 0
    wrong: list[tuple[str, float | str]] = field(default_factory=list)
    left: int = 0
    worst: float = 0.0


@dataclass
class Checked:
    """The results that the children reported.

    Attributes:
        build: the result of ``_core.build_info()``; None if no child could load the core.
        devices: the result of ``_core.devices()``.
        tallies: one for each type and place.
        deaths: the deaths of children, in order.
    """

    build: dict[str, Any] | None = None
    devices: list[dict[str, Any]] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)

    def take(self, line: Mapping[str, Any]) -> None:
        """Count the result of a product."""
        tally = next((t for t in self.tallies if (t.type, t.place) == (line["type"], line["place"])), None)
        if tally is None:
            tally = Tally(line["type"], line["place"], line["limit"])
            self.tallies.append(tally)
        error, fault = line["error"], line["fault"]
        if fault is not None:
            tally.wrong.append((line["what"], fault))
        elif error is None:
            tally.left += 1
        elif error > tally.limit:
            tally.wrong.append((line["what"], error))
        else:
            tally.right += 1
            tally.worst = max(tally.worst, error)


def run_child(
    threads: Sequence[int], *, tick: Tick, command: Sequence[str] = CHILD, timeout: float = TIMEOUT
) -> Checked:
    """Run child processes until all products of the core are checked.

    If a child crashes, the next one continues after the weights that caused the crash.

    Args:
        threads: numbers of threads to multiply with.
        tick: called with a name, the number of finished products and of all products.
        command: the command that starts a child.
        timeout: seconds without a line after which the child is killed. Then no other child is started.

    Returns:
        The results, including the deaths of children.
    """
    checked = Checked()
    order: dict[str, Any] = {"first": 0, "without": [], "threads": list(threads)}
    while True:
        death, first = _run_once(command, order, checked, tick, timeout)
        if death is None:
            return checked
        checked.deaths.append(death)
        if death.type is None or death.how.startswith("gave no"):
            return checked
        order["first"] = first
        order["without"].append([death.place, death.type])


def _run_once(
    command: Sequence[str], order: Mapping[str, Any], checked: Checked, tick: Tick, timeout: float
) -> tuple[Death | None, int]:
    """Run one child to its end.

    Returns:
        Its death, or None if it finished its work; and the number of the last product that it reached.
    """
    total, step, is_done = 0, {}, False
    with tempfile.TemporaryFile() as errors, _started(command, order, errors) as process:
        how = None
        try:
            for line in _lines(process, timeout):
                if "core" in line:
                    checked.build, checked.devices = line["core"]["build"], line["core"]["devices"]
                elif "total" in line:
                    total = line["total"]
                elif "step" in line:
                    step = line
                    tick("checking matrix products", line["number"], total)
                elif "done" in line:
                    is_done = True
                    tick("checking matrix products", total, total)
                else:
                    checked.take(line)
        except TimeoutError:
            process.kill()
            how = f"gave no sign of life for {timeout:g} seconds"
        code = process.wait()
        if is_done and code == 0:
            return None, 0
        errors.seek(0)
        error_lines = errors.read().decode(errors="replace").strip().splitlines()
    death = Death(
        how=how or _ending(code),
        step=step.get("step", ""),
        said=error_lines[-1] if error_lines else "",
        type=step.get("type"),
        place=step.get("place"),
    )
    return death, step.get("number", 0)


@contextlib.contextmanager
def _started(command: Sequence[str], order: Mapping[str, Any], errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child and send its order. The child never outlives the block."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=os.environ | _ENVIRONMENT
    ) as process:
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it died; its exit code says how
                process.stdin.write(json.dumps(order).encode())
                process.stdin.close()
            yield process
        finally:
            process.kill()


def _lines(process: subprocess.Popen[bytes], timeout: float) -> Iterator[dict[str, Any]]:
    """Yield the child's lines when they arrive, until its end or the first malformed line.

    Raises:
        TimeoutError: no line arrived in time.
    """
    assert process.stdout is not None
    source = process.stdout.fileno()
    buffer = b""
    while True:
        if not select.select([source], [], [], timeout)[0]:
            raise TimeoutError
        chunk = os.read(source, 1 << 16)
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:  # a kernel that writes to a wrong address has corrupted the child's memory
                return
        if not chunk:
            return


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
