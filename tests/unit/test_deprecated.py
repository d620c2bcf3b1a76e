"""Documented modules that have moved: the old path still works and warns."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from metadeploy import metrics
from metadeploy.reference import Doubter
from metadeploy.training.checkpoint import save_checkpoint
from support.random_wrapper import random_wrapper

MOVED = [
    ("metadeploy.evaluation.metrics", "metadeploy.metrics", "auroc"),
    ("metadeploy.evaluation.plots", "metadeploy.plots", "risk_coverage"),
]


@pytest.mark.parametrize(("old", "new", "name"), MOVED)
def test_the_old_path_gives_the_same_object_and_warns(old: str, new: str, name: str) -> None:
    with pytest.warns(DeprecationWarning, match=re.escape(f"{old} is deprecated, use {new}")) as caught:
        value = getattr(importlib.import_module(old), name)
    assert value is getattr(importlib.import_module(new), name)
    assert caught[0].filename == __file__
    with pytest.raises(AttributeError):
        _ = importlib.import_module(old).nothing


def test_the_british_spelling_of_summarize() -> None:
    message = r"metadeploy\.metrics\.summarise is deprecated, use summarize"
    with pytest.warns(DeprecationWarning, match=message) as caught:
        found = metrics.summarise
    assert found is metrics.summarize
    assert caught[0].filename == __file__
    with pytest.raises(AttributeError):
        _ = metrics.nothing


def test_the_old_function_that_writes_checkpoints(tmp_path: Path) -> None:
    layers: dict[str, Any] = {"target_layers": (1, 2), "cross_attn_layers": (2,)}
    doubter = Doubter.from_tensors(*random_wrapper("transformer", hidden_dim=32, **layers, num_layers=4))
    with pytest.warns(DeprecationWarning, match=r"use Doubter\.save_checkpoint") as caught:
        save_checkpoint(tmp_path / "old.pt", doubter)
    assert caught[0].filename == __file__
    doubter.save_checkpoint(tmp_path / "new.pt")
    assert (tmp_path / "old.pt").read_bytes() == (tmp_path / "new.pt").read_bytes()
