"""Questions for training and testing a Doubter: files, data sets, splits, and the rules that score an answer."""

from __future__ import annotations

from metadeploy.data.checker import is_correct
from metadeploy.data.question import Question, read_jsonl, write_jsonl
from metadeploy.data.splits import check_leakage, load_set, split

__all__ = ["Question", "check_leakage", "is_correct", "load_set", "read_jsonl", "split", "write_jsonl"]
