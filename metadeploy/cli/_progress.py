"""Progress of work that takes minutes, on stderr: a bar on a terminal, otherwise a line every 15 seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

__all__ = ["StageProgress", "duration"]

#: Seconds between two lines if stderr is not a terminal.
_INTERVAL: Final = 15.0
#: Seconds after which the pace of a stage is known well enough to estimate the remaining time.
_MIN_ELAPSED: Final = 1.0


def duration(seconds: float) -> str:
    """Format a duration for people: ``0:05``, ``12:30``, ``1:02:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class StageProgress:
    """Shows one stage after another, each with its remaining time, estimated from its own pace.

    Items that an earlier, interrupted run has finished do not count for the pace.

    Attributes:
        name: name of the current stage.
    """

    def __init__(
        self,
        *,
        total_time: Callable[[StageProgress], str | None] = lambda _: None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare. Nothing is shown before the first stage.

        Args:
            total_time: returns a text about the time of all stages; called at each update.
            console: where to show progress; None for stderr.
            clock: returns a time in seconds.
        """
        self._total_time, self._clock = total_time, clock
        self._console = Console(stderr=True, highlight=False) if console is None else console
        self._bar: Progress | None = None
        self.name = ""
        self._start_time, self._n_at_start = 0.0, 0
        self._n_done, self._total = 0, 0
        self._last_line_time = -_INTERVAL

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
        return self._clock() - self._start_time

    @property
    def left(self) -> float | None:
        """Seconds until the stage ends; None while no estimate is possible."""
        n_timed, elapsed = self._n_done - self._n_at_start, self.elapsed
        if self._n_done == self._total:
            return 0.0
        return elapsed / n_timed * (self._total - self._n_done) if n_timed and elapsed >= _MIN_ELAPSED else None

    def stage(self, name: str, n_done: int, total: int) -> None:
        """Update the progress of a stage. A new name starts a new stage."""
        if name != self.name:
            self.name, self._start_time, self._n_at_start = name, self._clock(), n_done
        self._n_done, self._total = n_done, total
        if self._console.is_terminal:
            self._show_bar()
        elif self._clock() - self._last_line_time >= _INTERVAL:
            self._last_line_time = self._clock()
            counts = f": {self._n_done:,} of {self._total:,}" if self._total > 1 else ""
            self._console.print(f"{self.name}{counts}{self._times()}", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line that stays on the terminal."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _times(self) -> str:
        left, total_time = self.left, self._total_time(self)
        texts = [f"{duration(left)} left" if left else None, total_time]
        return "".join(f", {text}" for text in texts if text)

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
            completed=self._n_done,
            total=self._total if self._total > 1 or self._n_done else None,
            times=escape(self._times().removeprefix(", ")),
        )
