"""Questions to train and test a Doubter on: files, data sets, splits, and when an answer counts as right."""

from __future__ import annotations

from metadeploy.data.checker import is_correct
from metadeploy.data.question import Question, read_jsonl, write_jsonl

__all__ = ["Question", "is_correct", "read_jsonl", "write_jsonl"]
