"""The end of a test that lacks something it needs."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def unavailable(reason: str) -> NoReturn:
    """Skip the test; fail it in CI, because nothing may be missing there and no test may be hidden."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
