"""run.json, the manifest of a run: every command reads it here.

Unknown keys are ignored, because the framework adds keys from time to time. A key that is one letter away from a known
key is refused, and the values of known keys must have the right type.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from metadeploy._json import read_object
from metadeploy.checkpoint.layers import LayerSpec
from metadeploy.errors import RunJSONError, faults_message, shown
from metadeploy.sidecar.spec import JSONValue

__all__ = ["RunJson", "find_run_json", "read_run_json"]

_NAME: Final = "run.json"
#: An unknown key that is this similar to a known key counts as a typo: one or two letters differ.
_MIN_SIMILARITY: Final = 0.9


@dataclass(frozen=True, kw_only=True)
class RunJson:
    """The keys of a run.json that describe a wrapper; a missing key is None.

    The framework defines the keys up to ``chat_template_kwargs``. The others are metadeploy's.

    Attributes:
        path: the file.
        manifest: the whole object, including unknown keys.
        model_name: base model, a hub id or a path.
        target_layers: list of layers, or a preset (``late``, ``all``) that is not yet resolved.
        cross_attn_layers: the same.
        hidden_dim: width of the base.
        num_layers: number of decoder blocks of the base.
        encoder_type: name of the encoder.
        prompt_format: ``auto`` means the base's chat template.
        answer_suffix: text that the training prompts appended to the question.
        chat_template_kwargs: variables for the chat template.
        inject_from: the position at which the injection starts.
        refusal_text: the trained refusal.
        refusal_token_ids: its tokens.
        refusal_bias: calibrated bias of its first token.
        license: SPDX identifier of the wrapper.
    """

    path: Path
    manifest: Mapping[str, Any]
    model_name: str | None = None
    target_layers: LayerSpec | None = None
    cross_attn_layers: LayerSpec | None = None
    hidden_dim: int | None = None
    num_layers: int | None = None
    encoder_type: str | None = None
    prompt_format: str | None = None
    answer_suffix: str | None = None
    chat_template_kwargs: Mapping[str, JSONValue] = field(default_factory=dict)
    inject_from: str | None = None
    refusal_text: str | None = None
    refusal_token_ids: list[int] | None = None
    refusal_bias: float | None = None
    license: str | None = None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_ints(value: object) -> bool:
    return isinstance(value, list) and all(_is_int(item) for item in value)


def _is_layers(value: object) -> bool:
    return isinstance(value, str) or _is_ints(value)


_TEXT: Final[tuple[str, Callable[[object], bool]]] = ("text", lambda value: isinstance(value, str))
_OBJECT: Final[tuple[str, Callable[[object], bool]]] = ("an object", lambda value: isinstance(value, dict))
_SIZE: Final[tuple[str, Callable[[object], bool]]] = (
    "a positive whole number",
    lambda value: isinstance(value, int) and _is_int(value) and value > 0,
)
_LAYERS: Final[tuple[str, Callable[[object], bool]]] = ("a list of whole numbers or a preset", _is_layers)
#: Types of the keys of `RunJson`, each with its name and a check.
_KEYS: Final[dict[str, tuple[str, Callable[[object], bool]]]] = {
    "model_name": _TEXT,
    "target_layers": _LAYERS,
    "cross_attn_layers": _LAYERS,
    "hidden_dim": _SIZE,
    "num_layers": _SIZE,
    "encoder_type": _TEXT,
    "prompt_format": _TEXT,
    "answer_suffix": _TEXT,
    "chat_template_kwargs": _OBJECT,
    "inject_from": _TEXT,
    "refusal_text": _TEXT,
    "refusal_token_ids": ("a list of whole numbers", _is_ints),
    "refusal_bias": ("a number", lambda value: isinstance(value, float) or _is_int(value)),
    "license": _TEXT,
}
#: Other keys that our commands read.
_OTHER_KEYS: Final = {"dtype": _TEXT, "quantization": _TEXT, "dataset": _TEXT, "collect": _OBJECT, "train": _OBJECT}


def find_run_json(checkpoint: Path, choice: str | Path | None) -> Path | None:
    """Return the path of the run.json to use.

    Args:
        checkpoint: the checkpoint file.
        choice: the caller's choice: a file, or a directory that has one.

    Returns:
        The caller's choice, otherwise the run.json beside the checkpoint, otherwise None.
    """
    if choice is not None:
        path = Path(choice)
        return path / _NAME if path.is_dir() else path
    beside = checkpoint.parent / _NAME
    return beside if beside.is_file() else None


def read_run_json(path: Path) -> RunJson:
    """Read and check a manifest.

    Args:
        path: the file.

    Returns:
        Its content. A null value counts as missing.

    Raises:
        RunJSONError: it cannot be read, is not a JSON object, or has known keys of the wrong type (the message lists
            all of them).
    """
    subject = f"run.json '{path}'"
    manifest = read_object(path, subject=subject, error=RunJSONError)
    known = _KEYS | _OTHER_KEYS
    values = {key: manifest[key] for key in known if manifest.get(key) is not None}
    similar = {
        key: difflib.get_close_matches(key, known, n=1, cutoff=_MIN_SIMILARITY) for key in manifest if key not in known
    }
    faults = [f"key '{key}' is not known, expected '{matches[0]}'" for key, matches in similar.items() if matches]
    faults += [
        f"key '{key}' is {shown(json.dumps(value))}, expected {known[key][0]}"
        for key, value in values.items()
        if not known[key][1](value)
    ]
    if faults:
        raise RunJSONError(faults_message(subject, faults))
    fields: dict[str, Any] = {key: value for key, value in values.items() if key in _KEYS}
    return RunJson(path=path, manifest=manifest, **fields)
