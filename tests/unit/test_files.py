"""Files are written as a whole, and what is no file is not replaced by one."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from metadeploy.files import sha256, write_atomically


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.json"
    write_atomically(path, "ä")
    assert path.read_bytes() == "ä".encode()
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("disk full"))
    with pytest.raises(pytest.fail.Exception):
        write_atomically(path, b"other")
    assert path.read_bytes() == "ä".encode()


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there, and there are no named pipes")
def test_links_and_pipes_stay(tmp_path: Path) -> None:
    target, link, pipe = (tmp_path / name for name in ("target", "link", "pipe"))
    target.write_text("old")
    link.symlink_to(target)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, "said")
        assert os.read(reading, 10) == b"said"
    finally:
        os.close(reading)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_digest_is_that_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than is read at once
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
