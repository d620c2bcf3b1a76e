"""Files of the kept parts, so that an interrupted training does not compute them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from metadeploy._json import JSONFault, parse
from metadeploy._tensor_files import save_tensors
from metadeploy.training.examples import Kept

__all__ = ["load_kept", "save_kept"]


def save_kept(path: Path, kept: Sequence[Kept], fingerprint: str) -> None:
    """Write kept parts, end to end, with a table of where each begins."""
    tensors = {"hidden": torch.cat([part.hidden for part in kept])}
    keys_values = [part.keys_values for part in kept if part.keys_values is not None]
    if keys_values:
        tensors["keys_values"] = torch.cat(keys_values, dim=3)
    table = [
        [len(part.hidden), part.start, part.n_clean, -1 if part.keys_values is None else part.keys_values.shape[3]]
        for part in kept
    ]
    save_tensors(path, tensors, {"fingerprint": fingerprint, "table": json.dumps(table)})


def load_kept(path: Path, fingerprint: str) -> list[Kept] | None:
    """Read kept parts back; None where there is no such file, or it belongs to another training."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            if metadata.get("fingerprint") != fingerprint:
                return None
            table = parse(metadata["table"])
            hidden = file.get_tensor("hidden")
            keys_values = file.get_tensor("keys_values") if "keys_values" in file.keys() else None  # noqa: SIM118
    except (SafetensorError, JSONFault, KeyError):
        return None
    kept, at, past_at = [], 0, 0
    for length, start, n_clean, n_past in table:
        past = None
        if n_past >= 0:
            assert keys_values is not None
            past = keys_values[:, :, :, past_at : past_at + n_past]
            past_at += n_past
        kept.append(Kept(hidden[at : at + length], start, n_clean, past))
        at += length
    return kept
