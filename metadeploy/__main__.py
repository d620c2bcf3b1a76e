"""``python -m metadeploy``: the same as the ``metadeploy`` command."""

from __future__ import annotations

from metadeploy.cli import main

if __name__ == "__main__":
    main()
