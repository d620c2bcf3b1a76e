"""Kills commands with SIGKILL at random moments and checks the files that they leave.

A command runs in a fork of a process that has imported everything, so that no kill costs a start of Python. It is
killed before a random file operation (open, rename, delete, ..., found by Python's audit events), or after a random
share of its running time, during a computation or a write.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from metadeploy.sidecar.gguf_file import read_gguf

ROOT = Path(__file__).resolve().parents[2]

#: File operations that change or open a file, by the names of Python's audit events.
_EVENTS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.truncate"})

_SERVER = """
import json, os, signal, sys
import metadeploy.cli, metadeploy.cli._training
metadeploy.cli._training.prepare_process()
import metadeploy.evaluation.ladder, metadeploy.evaluation.runner, metadeploy.evaluation.engines.torch_engine
import metadeploy.evaluation.engines.runtime_engine, metadeploy.reference.pipeline, metadeploy.runtime
import metadeploy.training.collect, metadeploy.training.train, metadeploy.plots, gguf, safetensors.torch
from support.kill9 import serve
serve()
"""


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: exit code, or minus the signal that ended it.
        seconds: how long it ran.
        events: number of file operations in the watched folder.
        said: its output on stderr.
    """

    code: int
    seconds: float
    events: int
    said: str


def serve() -> None:
    """Fork and run a command for each line of stdin; runs in the process that `forked` starts."""
    for line in sys.stdin:
        order = json.loads(line)
        die_after = order.pop("die_after")
        began = time.monotonic()
        child = os.fork()
        if not child:
            os._exit(_run(**order))
        if die_after is not None:
            time.sleep(die_after)
            os.kill(child, signal.SIGKILL)  # not reaped yet, so its process id exists even if it has ended
        _, status = os.waitpid(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - began]), flush=True)


def _run(argv: list[str], folder: str, log: str, die_at: int | None, patches: dict[str, int]) -> int:
    for descriptor, path in ((0, os.devnull), (1, os.devnull), (2, log)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
    for name, value in patches.items():
        module, _, attribute = name.partition(":")
        setattr(sys.modules[module], attribute, value)
    counter = os.open(f"{log}.events", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    n_events = 0

    def count(event: str, arguments: Sequence[Any]) -> None:
        nonlocal n_events
        if event in _EVENTS and any(
            str(argument).startswith(folder) for argument in arguments if isinstance(argument, str)
        ):
            n_events += 1
            os.pwrite(counter, str(n_events).encode(), 0)
            if n_events == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    sys.argv = argv
    from metadeploy.cli import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    finally:
        sys.stderr.flush()
    return 0


class Forked:
    """Runs `metadeploy` in forked processes."""

    def __init__(self, server: subprocess.Popen[str], scratch: Path) -> None:
        self._server = server
        self._log = scratch / "log"

    def __call__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        patches: Mapping[str, int] | None = None,
        die_at: int | None = None,
        die_after: float | None = None,
    ) -> Ended:
        """Run a command to its end.

        Args:
            arguments: arguments of the command.
            folder: the folder in which file operations are counted.
            patches: integers to set, by ``module:name``.
            die_at: kill it before that file operation, counted from 1.
            die_after: kill it after this number of seconds, unless it has ended.
        """
        assert self._server.stdin is not None and self._server.stdout is not None
        order = {
            "argv": ["metadeploy", *arguments],
            "folder": str(folder),
            "log": str(self._log),
            "die_at": die_at,
            "die_after": die_after,
            "patches": dict(patches or {}),
        }
        print(json.dumps(order), file=self._server.stdin, flush=True)
        code, seconds = json.loads(self._server.stdout.readline())
        events = Path(f"{self._log}.events").read_text(encoding="ascii")
        log = self._log.read_text(encoding="utf-8", errors="replace")
        return Ended(code, seconds, int(events or 0), log)


@contextmanager
def forked(scratch: Path) -> Iterator[Forked]:
    """Start the process from which the commands are forked."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8"
    ) as server:
        try:
            yield Forked(server, scratch)
        finally:
            assert server.stdin is not None
            server.stdin.close()


# --- files -----------------------------------------------------------------------------------------------------------


def is_leftover(path: Path) -> bool:
    """Return whether a path is a temporary file of metadeploy, or lies in one."""
    return any(re.fullmatch(r"\..+\.[0-9a-f]{12}\.tmp", part) for part in path.parts)


def torn(path: Path) -> str | None:
    """Return why a file is incomplete; None if it is complete."""
    try:
        _READERS.get(path.suffix, Path.read_bytes)(path)
    except Exception as error:
        return f"{path.name}: {type(error).__name__}: {error}"
    return None


def _read_lines(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    for line in text.splitlines():
        json.loads(line)


def _read_table(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n") and len({line.count(",") for line in text.splitlines()}) == 1


def _read_tensors(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            file.get_tensor(name)


def _read_zip(path: Path) -> None:
    assert zipfile.ZipFile(path).testzip() is None


def _read_picture(path: Path) -> None:
    assert path.read_bytes().endswith(b"IEND\xaeB`\x82")


_READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".jsonl": _read_lines,
    ".csv": _read_table,
    ".safetensors": _read_tensors,
    ".pt": _read_zip,
    ".png": _read_picture,
    ".gguf": read_gguf,
    ".md": lambda path: path.read_text(encoding="utf-8").index("\n"),
}

#: Keys of times and speeds, which differ between runs.
_TIMES = frozenset({"created", "timings", "speed", "rates", "base_rates"})


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(entry) for key, entry in value.items() if key not in _TIMES}
    return [_without_times(entry) for entry in value] if isinstance(value, list) else value


def content(path: Path) -> Any:
    """Return the content on which two runs must agree: the bytes, without times and speeds."""
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        return [_without_times(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.name == "table.md":
        return path.read_text(encoding="utf-8").partition("**Size and speed**")[0]
    return path.read_bytes()


def contents(folder: Path) -> dict[str, Any]:
    """Return the content of every file in a folder, by its name."""
    return {str(path.relative_to(folder)): content(path) for path in sorted(folder.rglob("*")) if path.is_file()}


# --- killing ---------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """The result of a series of kills.

    Attributes:
        kills: processes that were killed.
        changed: kills that left other files than before the command and after its end.
        leftovers: kills that left a temporary file.
    """

    kills: int = 0
    changed: int = 0
    leftovers: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Victim:
    """A command to be killed.

    Attributes:
        arguments: arguments of `metadeploy`.
        folder: the folder that it reads and writes.
        patches: see `Forked`.
        strict: files that may only have the old or the new content.
    """

    arguments: tuple[str, ...]
    folder: Path
    patches: Mapping[str, int] = field(default_factory=dict)
    strict: tuple[str, ...] = ()


def kill_again_and_again(run: Forked, victim: Victim, count: int, lot: random.Random) -> Tally:
    """Kill a command several times, on the original files or on those that the last kill left, then let it finish.

    Raises:
        AssertionError: a file is torn, the finished run's files differ from those of an uninterrupted run, or a
            temporary file is left.
    """
    backup = victim.folder.with_name("before")
    shutil.copytree(victim.folder, backup)
    before = contents(victim.folder)

    def complete() -> Ended:
        ended = run(victim.arguments, victim.folder, patches=victim.patches)
        assert ended.code == 0, ended.said
        return ended

    whole = complete()
    expected = contents(victim.folder)
    assert expected != before
    tally = Tally()
    while tally.kills < count:
        shutil.rmtree(victim.folder)
        shutil.copytree(backup, victim.folder)
        for _ in range(lot.randint(1, 3)):  # a resumed run can be killed too
            if lot.random() < 0.5:
                ended = run(
                    victim.arguments, victim.folder, patches=victim.patches, die_at=lot.randint(1, whole.events)
                )
            else:
                after = lot.random() * whole.seconds
                ended = run(victim.arguments, victim.folder, patches=victim.patches, die_after=after)
            if ended.code != -signal.SIGKILL:
                assert ended.code == 0, ended.said
                break
            tally.kills += 1
            _look(victim, before, expected, tally)
        complete()
        files = contents(victim.folder)
        differ = sorted(name for name in expected.keys() | files.keys() if expected.get(name) != files.get(name))
        assert not differ, f"after {tally.kills} kills {differ} differ from those of an uninterrupted run"
    shutil.rmtree(backup)
    return tally


def _look(victim: Victim, before: Mapping[str, Any], expected: Mapping[str, Any], tally: Tally) -> None:
    paths = [path for path in victim.folder.rglob("*") if path.is_file()]
    whole = [path for path in paths if not is_leftover(path.relative_to(victim.folder)) and path.suffix != ".partial"]
    faults = [fault for path in whole if (fault := torn(path)) is not None]
    assert not faults, f"torn: {faults}"
    now = {str(path.relative_to(victim.folder)): content(path) for path in whole}
    for name in victim.strict:
        assert now.get(name) in (before.get(name), expected.get(name)), f"{name} is neither the old file nor the new"
    tally.leftovers += len(whole) < len(paths)
    tally.changed += now not in (before, expected)
