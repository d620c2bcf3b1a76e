"""Runs the part that may die (``child.py``), and goes on after it where it did."""

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

#: Starts the child with the modules that this process sees, wherever it stands.
CHILD: Final = (
    sys.executable,
    "-c",
    f"import sys; sys.path[:] = {sys.path!r}; from metadeploy.doctor.child import main; main()",
)
#: Seconds without a line after which a child is taken to hang: hundreds of times what the longest step takes.
PATIENCE: Final = 300.0
_ENVIRONMENT: Final = {
    "GGML_NO_BACKTRACE": "1",  # it would start a debugger
    "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads leave a busy machine to those that compute
    "OPENBLAS_NUM_THREADS": "1",  # NumPy's threads would be in the way of those that are checked
    "MKL_NUM_THREADS": "1",
}

Tick = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Death:
    """A child's end before its work was done.

    Attributes:
        how: as in ``killed by SIGSEGV``.
        step: what it was doing; empty where it had not loaded the core yet.
        said: the last line that it printed, empty where there is none.
        type: of the weight that it was working on, None before the first one.
        place: where the weight was, None before it was anywhere.
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
        type: of the weights.
        place: as people read it.
        limit: largest error that passes.
        right: how many passed.
        wrong: what did not pass: the product, and its error or what went wrong.
        left: how many llama.cpp would give to another device.
        worst: the largest error of those that passed.
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
    """What children said.

    Attributes:
        build: of the core, as ``_core.build_info()``; None where no child could load it.
        devices: as ``_core.devices()``.
        tallies: one for each type and place.
        deaths: of children, in order.
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
    threads: Sequence[int], *, tick: Tick, command: Sequence[str] = CHILD, patience: float = PATIENCE
) -> Checked:
    """Have everything checked that the core computes.

    Where a child dies, the next one leaves out the weights that it died of and goes on behind them.

    Args:
        threads: numbers of threads to multiply with.
        tick: called with a name, products done and products in all.
        command: what to start.
        patience: seconds without a line after which a child is killed, and no other one is started.

    Returns:
        What was found, deaths included.
    """
    checked = Checked()
    order: dict[str, Any] = {"first": 0, "without": [], "threads": list(threads)}
    while True:
        death, first = _run_once(command, order, checked, tick, patience)
        if death is None:
            return checked
        checked.deaths.append(death)
        if death.type is None or death.how.startswith("gave no"):
            return checked
        order["first"] = first
        order["without"].append([death.place, death.type])


def _run_once(
    command: Sequence[str], order: Mapping[str, Any], checked: Checked, tick: Tick, patience: float
) -> tuple[Death | None, int]:
    """One child's life.

    Returns:
        Its death, None where it did all its work, and the number of the product that it had come to.
    """
    total, step, done = 0, {}, False
    with tempfile.TemporaryFile() as errors, _started(command, order, errors) as process:
        how = None
        try:
            for line in _lines(process, patience):
                if "core" in line:
                    checked.build, checked.devices = line["core"]["build"], line["core"]["devices"]
                elif "total" in line:
                    total = line["total"]
                elif "step" in line:
                    step = line
                    tick("checking matrix products", line["number"], total)
                elif "done" in line:
                    done = True
                    tick("checking matrix products", total, total)
                else:
                    checked.take(line)
        except TimeoutError:
            process.kill()
            how = f"gave no sign of life for {patience:g} seconds"
        code = process.wait()
        if done and code == 0:
            return None, 0
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    death = Death(
        how=how or _ending(code),
        step=step.get("step", ""),
        said=said[-1] if said else "",
        type=step.get("type"),
        place=step.get("place"),
    )
    return death, step.get("number", 0)


@contextlib.contextmanager
def _started(command: Sequence[str], order: Mapping[str, Any], errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A child that has its order; whatever happens, it does not outlive the block."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=os.environ | _ENVIRONMENT
    ) as process:
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it died; how, it says itself
                process.stdin.write(json.dumps(order).encode())
                process.stdin.close()
            yield process
        finally:
            process.kill()


def _lines(process: subprocess.Popen[bytes], patience: float) -> Iterator[dict[str, Any]]:
    """The child's lines as they come, up to its end or to one that makes no sense.

    Raises:
        TimeoutError: none came for too long.
    """
    assert process.stdout is not None
    source = process.stdout.fileno()
    rest = b""
    while True:
        if not select.select([source], [], [], patience)[0]:
            raise TimeoutError
        chunk = os.read(source, 1 << 16)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:  # a kernel that writes where it should not has spoiled the child's memory
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
