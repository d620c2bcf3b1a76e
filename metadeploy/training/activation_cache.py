"""Files of cached states, so that an interrupted training does not compute them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from metadeploy._json import JSONFault, parse
from metadeploy._tensor_files import save_tensors
from metadeploy.training.examples import CachedStates

__all__ = ["load_states", "save_states"]


def save_states(path: Path, states: Sequence[CachedStates], fingerprint: str) -> None:
    """Write cached states as concatenated tensors, with a table of each example's length."""
    tensors = {"hidden": torch.cat([state.hidden for state in states])}
    keys_values = [state.keys_values for state in states if state.keys_values is not None]
    if keys_values:
        tensors["keys_values"] = torch.cat(keys_values, dim=3)
    table = [
        [len(state.hidden), state.start, state.n_clean, -1 if state.keys_values is None else state.keys_values.shape[3]]
        for state in states
    ]
    save_tensors(path, tensors, {"fingerprint": fingerprint, "table": json.dumps(table)})


def load_states(path: Path, fingerprint: str) -> list[CachedStates] | None:
    """Read cached states; return None if there is no such file or it belongs to another training."""
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
    states, offset, past_offset = [], 0, 0
    for length, start, n_clean, n_past in table:
        past = None
        if n_past >= 0:
            assert keys_values is not None
            past = keys_values[:, :, :, past_offset : past_offset + n_past]
            past_offset += n_past
        states.append(CachedStates(hidden[offset : offset + length], start, n_clean, past))
        offset += length
    return states
