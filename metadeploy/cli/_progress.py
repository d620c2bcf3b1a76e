"""Progress of work that takes minutes: a bar on a terminal, else a line now and then; always on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

__all__ = ["StageProgress", "duration"]

#: Seconds between two lines where there is no terminal.
_INTERVAL: Final = 15.0
#: A pace that was measured for less long than this says nothing.
_LEAST: Final = 1.0


def duration(seconds: float) -> str:
    """A time as people read it: ``0:05``, ``12:30``, ``1:02:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class StageProgress:
    """Shows one stage after the other, each with the time that is left by its own pace.

    What was done before a stage was first told of (by a run that was cut off) does not count for the pace.

    Attributes:
        name: of the stage.
    """

    def __init__(
        self,
        *,
        whole: Callable[[StageProgress], str | None] = lambda _: None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is shown before the first stage.

        Args:
            whole: what to say of the time that all stages take; asked at each update.
            console: where to show it; stderr where None.
            clock: in seconds.
        """
        self._whole, self._clock = whole, clock
        self._console = Console(stderr=True, highlight=False) if console is None else console
        self._bar: Progress | None = None
        self.name = ""
        self._began, self._before = 0.0, 0
        self._done, self._total = 0, 0
        self._last_line = -_INTERVAL

    def __enter__(self) -> StageProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @property
    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return self._clock() - self._began

    @property
    def left(self) -> float | None:
        """Seconds that the stage will take still; None while that cannot be known."""
        done, elapsed = self._done - self._before, self.elapsed
        if self._done == self._total:
            return 0.0
        return elapsed / done * (self._total - self._done) if done and elapsed >= _LEAST else None

    def stage(self, name: str, done: int, total: int) -> None:
        """Say how far a stage is; another name begins another one."""
        if name != self.name:
            self.name, self._began, self._before = name, self._clock(), done
        self._done, self._total = done, total
        if self._console.is_terminal:
            self._show_bar()
        elif self._clock() - self._last_line >= _INTERVAL:
            self._last_line = self._clock()
            counted = f": {self._done:,} of {self._total:,}" if self._total > 1 else ""
            self._console.print(f"{self.name}{counted}{self._times()}", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _times(self) -> str:
        left, whole = self.left, self._whole(self)
        said = [f"{duration(left)} left"] if left else []
        return "".join(f", {each}" for each in (*said, *([whole] if whole else [])))

    def _show_bar(self) -> None:
        if self._bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[times]}"),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task("", times="")
            self._bar.start()
        (task,) = self._bar.task_ids
        self._bar.update(
            task,
            description=escape(self.name),
            completed=self._done,
            total=self._total if self._total > 1 or self._done else None,
            times=escape(self._times().removeprefix(", ")),
        )
