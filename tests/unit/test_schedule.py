"""Settings of the injection over time, with values by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from metadeploy import Decay, InjectionSchedule, Refresh
from metadeploy.schedule import STATIC


def test_decay() -> None:
    decay = Decay()
    assert decay.alpha(0) == 1.0
    assert decay.alpha(16) == pytest.approx(0.3 + 0.7 / math.e, abs=1e-15)
    assert decay.alpha(10_000) == pytest.approx(0.3, abs=1e-15)
    assert Decay(floor=1.0).alpha(7) == 1.0
    assert Decay(floor=0.0, tau=1.0).alpha(2) == pytest.approx(math.exp(-2), abs=1e-15)


def test_strength() -> None:
    assert [STATIC.strength(t) for t in (0, 1, 1000)] == [1.0, 1.0, 1.0]
    assert [InjectionSchedule(window=0).strength(t) for t in range(3)] == [1.0, 0.0, 0.0]
    both = InjectionSchedule(window=2, decay=Decay(floor=0.5, tau=4))
    assert [both.strength(t) for t in range(5)] == [1.0, 0.5 + 0.5 * math.exp(-1 / 4), 0.5 + 0.5 * math.exp(-0.5), 0, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Decay(floor=1.5), "Decay: floor is 1.5, expected 0 to 1"),
        (lambda: Decay(floor=math.nan), "floor is nan"),
        (lambda: Decay(tau=0.0), "Decay: tau is 0.0, expected a number above 0"),
        (lambda: Decay(tau=math.inf), "tau is inf"),
        (lambda: Decay(floor=-1, tau=-1), "Decay: 2 faults"),
        (lambda: Refresh(threshold=math.nan), "Refresh: threshold is nan"),
        (lambda: Refresh(min_interval=0), "min_interval is 0, expected 1 or more"),
        (lambda: Refresh(min_interval=5, max_interval=4), "max_interval is 4, expected at least min_interval 5"),
        (lambda: InjectionSchedule(window=-1), "InjectionSchedule: window is -1, expected 0 or more"),
    ],
)
def test_values_out_of_range_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_settings_need_nothing_else() -> None:
    code = (
        "import sys; from metadeploy import InjectionSchedule, Refresh; InjectionSchedule(refresh=Refresh()); "
        "assert not {'torch', 'numpy', 'metadeploy._core'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
