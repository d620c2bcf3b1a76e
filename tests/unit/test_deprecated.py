"""Documented modules that have moved: the old path still works, and says so."""

from __future__ import annotations

import importlib
import re

import pytest

MOVED = [
    ("metadeploy.evaluation.metrics", "metadeploy.metrics", "auroc"),
    ("metadeploy.evaluation.plots", "metadeploy.plots", "risk_coverage"),
]


@pytest.mark.parametrize(("old", "new", "name"), MOVED)
def test_the_old_path_gives_the_same_object_and_warns(old: str, new: str, name: str) -> None:
    with pytest.warns(DeprecationWarning, match=re.escape(f"{old} is deprecated, use {new}")) as caught:
        found = getattr(importlib.import_module(old), name)
    assert found is getattr(importlib.import_module(new), name)
    assert caught[0].filename == __file__
    with pytest.raises(AttributeError):
        _ = importlib.import_module(old).nothing
