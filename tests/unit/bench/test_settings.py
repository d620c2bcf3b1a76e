"""Settings of the benchmark."""

from __future__ import annotations

from pathlib import Path

from metadeploy.bench import BenchSettings


def test_the_short_form_is_shorter_in_everything() -> None:
    whole = BenchSettings(base=Path("b"), sidecar=Path("s"))
    short = whole.quick()
    assert whole.pairs >= 7
    assert short.pairs < whole.pairs
    assert short.steps < whole.steps
    assert max(short.prompts) < min(whole.prompts)
    assert len(short.sequences) < len(whole.sequences)
