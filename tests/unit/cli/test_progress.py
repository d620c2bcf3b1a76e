"""Progress of collect and train: correct times, and plain lines without a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from metadeploy.cli._progress import StageProgress, duration
from metadeploy.cli.train import _Pace
from metadeploy.training.settings import FitSettings
from metadeploy.training.trainer import Epoch


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def plain() -> Console:
    return Console(file=io.StringIO(), width=200, highlight=False)


def row(epoch: int, auroc: float) -> Epoch:
    values = dict.fromkeys(("loss", "decision", "wording", "keeping", "val_decision", "lr"), 0.0)
    return Epoch(epoch=epoch, val_auroc=auroc, val_auroc_within=auroc, **values)


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0, 5.4, 59.6, 750, 3723)] == ["0:00", "0:05", "1:00", "12:30", "1:02:03"]


def test_time_left_is_by_the_pace_of_this_run(clock: Clock) -> None:
    progress = StageProgress(console=plain(), clock=clock)
    progress.stage("questions", 600, 1000)  # from an earlier run
    assert progress.left is None
    clock.now += 0.5
    progress.stage("questions", 650, 1000)
    assert progress.left is None, "too early for an estimate"
    clock.now += 9.5
    progress.stage("questions", 700, 1000)
    assert progress.left == pytest.approx(30)
    progress.stage("questions", 1000, 1000)
    assert progress.left == 0
    progress.stage("others", 0, 10)
    assert (progress.left, progress.elapsed) == (None, 0)


def test_lines_now_and_then(clock: Clock) -> None:
    console = plain()
    with StageProgress(console=console, clock=clock, total_time=lambda _: "at most 9:00 in all") as progress:
        for done in range(40):
            progress.stage("work [x]", done, 40)
            clock.now += 1
        progress.say("one [bold]line[/bold]")
        progress.stage("rest", 0, 1)
    assert lines(console) == [
        "work [x]: 0 of 40, at most 9:00 in all",
        "work [x]: 15 of 40, 0:25 left, at most 9:00 in all",
        "work [x]: 30 of 40, 0:10 left, at most 9:00 in all",
        "one [bold]line[/bold]",
    ]


def test_a_bar_on_a_terminal(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with StageProgress(console=console, clock=clock) as progress:
        progress.stage("questions", 0, 300)
        clock.now += 10
        progress.stage("questions", 100, 300)
        progress.say("said above the bar")
    text = "\n".join(lines(console))
    assert "said above the bar" in text
    assert "100/300" in text
    assert "0:20 left" in text


def test_all_epochs_take_at_most(clock: Clock) -> None:
    pace = _Pace(FitSettings(epochs=5))
    progress = StageProgress(console=plain(), clock=clock, total_time=pace.total_time)
    progress.stage("lower blocks, train", 0, 10)
    clock.now += 10
    progress.stage("lower blocks, train", 5, 10)
    assert pace.total_time(progress) is None, "how long an epoch takes is not known yet"

    for row_ in (row(1, 0.5), row(2, 0.6)):
        pace.add(row_)  # from an earlier run, whose duration is not known either
    progress.stage("epoch 3", 0, 40)
    clock.now += 10
    progress.stage("epoch 3", 10, 40)
    # 30 s left of this epoch, and two more of 40 s
    assert pace.total_time(progress) == "at most 1:50 in all"
    clock.now += 40
    pace.add(row(3, 0.7), seconds=progress.elapsed)
    progress.stage("epoch 4", 0, 40)
    clock.now += 2
    progress.stage("epoch 4", 2, 40)
    # 38 s left of this epoch, and one more of 50 s with its validation
    assert pace.total_time(progress) == "at most 1:28 in all"


def test_which_epoch_is_the_best_so_far() -> None:
    pace = _Pace(FitSettings(epochs=4))
    epochs = [(1, 0.6), (2, 0.8), (3, 0.8), (4, 0.7)]
    assert [pace.add(row(*epoch)) for epoch in epochs] == [True, True, False, False]
