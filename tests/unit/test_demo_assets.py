"""The files that come with the demo, and the bases that it can fetch."""

from __future__ import annotations

from pathlib import Path

import pytest

from metadeploy.demo import assets
from metadeploy.demo.packaged import PackagedFile


def test_what_is_shipped_is_small() -> None:
    """Every file that the demo brings along, the trained Doubter above all, has at most 8 MiB."""
    shipped = {
        path: path.stat().st_size for path in (Path(assets.__file__).parent / "data").rglob("*") if path.is_file()
    }
    assert {assets.CHECKPOINT, assets.QUESTIONS} <= shipped.keys()
    assert {path.name: size for path, size in shipped.items() if size > 8 << 20} == {}


@pytest.mark.parametrize("base", [assets.SMOLLM2.base, assets.QWEN2_5_CODER_BASE], ids=lambda base: base.name)
def test_a_base_is_pinned_to_the_byte(base: PackagedFile) -> None:
    """Its own hash and those of the wheels, which pip compares, are pinned."""
    digests = [base.sha256, *(part.sha256 for part in base.parts)]
    assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in digests)
    assert len(set(digests)) == len(digests)
    assert base.download_size < base.size, "the wheels are compressed"
