"""The ``metadeploy`` command as a process, and a checkpoint for it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from support.random_wrapper import random_wrapper, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
#: A refusal that differs from the default one.
OTHER_REFUSAL = "I don't have enough information to answer that reliably."


def run_metadeploy(
    *arguments: str | Path, code: int = 0, cwd: Path | None = None, environment: dict[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end. Check its exit code, and that it prints no traceback."""
    result = subprocess.run(
        [sys.executable, "-m", "metadeploy", *map(str, arguments)],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result


def write_checkpoint_with_refusal(folder: Path) -> Path:
    """Write the checkpoint of a random wrapper for a base of 3 layers and width 32, with refusal tokens and a bias."""
    config, tensors = random_wrapper(
        "selective", hidden_dim=32, target_layers=(0, 1, 2), cross_attn_layers=(1, 2), num_layers=3
    )
    config = replace(config, refusal_token_ids=(7, 8), refusal_bias=-0.5)
    return save_checkpoint(folder, config, tensors)
