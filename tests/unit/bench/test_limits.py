"""Theoretical limits, by hand and from the files of a base."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from synthetic_base import SHAPES, synthetic_base, tensors
from synthetic_doubter import SHAPES as DOUBTERS

from metadeploy.bench.limits import Limits, limits

LIMITS = Limits(
    blocks=(10.0, 10.0, 20.0, 20.0), head=30.0, weight_bytes=100.0, entry=1, injection=2.0, table_bytes=25.0
)


def test_limits_by_hand() -> None:
    assert LIMITS.prompt(10, "prompt") == pytest.approx(1 + ((40 + 2) * 10 + 30) / (600 + 30))
    assert LIMITS.prompt(10, "last_prompt_token") == pytest.approx(1 + (40 + 2 + 30) / 630)
    assert LIMITS.prompt(10, "prompt", n_reused=10) == pytest.approx((30 + (40 + 2) * 10 + 30) / (600 + 30))
    assert LIMITS.decode(1) == pytest.approx((100 / 125, 90 / 92))
    assert LIMITS.decode(4) == pytest.approx((100 / 200, 90 / 92))


def test_limits_of_a_base(tmp_path: Path) -> None:
    bounds = limits(synthetic_base(tmp_path, "tiny"), DOUBTERS["tiny"])
    assert bounds is not None
    shapes = {name: dims for name, dims, _ in tensors(SHAPES["tiny"]) if len(dims) > 1}
    assert sum(bounds.blocks) + bounds.head == sum(math.prod(dims) for dims in shapes.values())
    assert bounds.head == 512 * 256
    assert bounds.entry == 5
    assert bounds.injection == 3 * 2 * 256 * 4 * 3
    assert bounds.table_bytes == 4 * bounds.injection
    assert len(bounds.blocks) == 8
    assert 0.5 < bounds.weight_bytes / (sum(bounds.blocks) + bounds.head) < 0.8  # bytes for each weight in 4 to 6 bits
