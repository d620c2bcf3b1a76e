"""Checks a wrapper before it is written, so that no file is created that a reader would refuse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metadeploy.errors import SidecarError, faults_message, shown
from metadeploy.sidecar.examination import examine_head
from metadeploy.sidecar.layout import infer, shape_faults
from metadeploy.sidecar.rules import (
    MAX_INT,
    cognitive_token_faults,
    heads_faults,
    layer_order_faults,
    refusal_faults,
    size_faults,
)
from metadeploy.sidecar.spec import WrapperConfig

__all__ = ["Metadata", "check_head", "check_wrapper", "padded", "template_kwargs"]

#: GGUF's default, which the writer uses.
_ALIGNMENT: Final = 32
# fields of WrapperConfig and of Metadata, by the type of their keys
_TEXTS: Final = (
    "encoder_type", "kind", "inject_from", "refusal_text", "prompt_format", "answer_suffix", "base_model",
    "checkpoint_sha256",
)  # fmt: skip
_GENERAL_TEXTS: Final = ("name", "version", "license", "description")
_NUMBERS: Final = (
    "hidden_dim", "bottleneck_dim", "num_cognitive_tokens", "ca_num_heads", "enc_num_heads", "base_block_count"
)  # fmt: skip
_LISTS: Final = ("target_layers", "cross_attn_layers", "refusal_token_ids")
#: Fields that may be None if the value is not known.
_OPTIONAL: Final = frozenset(
    {
        "prompt_format", "answer_suffix", "base_model", "checkpoint_sha256", "base_block_count", "refusal_token_ids",
        "name", "license", "description",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The descriptive ``general.*`` keys.

    Attributes:
        name: name for people; None derives one from the base's name.
        version: version of the wrapper.
        license: SPDX identifier; None writes ``unknown``.
        description: one sentence; None writes a default.
    """

    name: str | None = None
    version: str = "1.0"
    license: str | None = None
    description: str | None = None


def check_wrapper(
    subject: str, config: WrapperConfig, metadata: Metadata, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse contradictions, and values that a GGUF cannot hold. `check_head` checks the rest.

    Args:
        subject: the beginning of an error message.
        config: the wrapper's configuration.
        metadata: descriptive keys.
        shapes: shapes of its tensors in PyTorch order, by sidecar name.

    Raises:
        SidecarError: there are faults; the message lists all of them.
    """
    dims = infer(shapes, encoder_type=config.encoder_type)
    if faults := [*_type_faults(config, metadata), *size_faults(dims.sizes)]:
        raise SidecarError(faults_message(subject, faults))
    faults, extras = shape_faults(dims, shapes)
    faults += [f"tensor '{name}' is not part of a {dims.encoder_type} wrapper" for name in extras]
    sources: dict[str, tuple[object, object]] = {
        "encoder_type": (config.encoder_type, dims.encoder_type),
        "hidden_dim": (config.hidden_dim, dims.sizes.get("D")),
        "encoder_dim": (config.encoder_dim, dims.sizes.get("E")),
        "bottleneck_dim": (config.bottleneck_dim, dims.sizes.get("B")),
        "num_cognitive_tokens": (config.num_cognitive_tokens, dims.sizes.get("C")),
        "the number of target_layers": (len(config.target_layers), dims.n_target),
        "cross_attn_layers": (config.cross_attn_layers, dims.cross_attn_layers),
    }
    faults += [
        f"{name} is {configured} in the config, but {from_tensors} in the tensors"
        for name, (configured, from_tensors) in sources.items()
        if configured != from_tensors
    ]
    faults += layer_order_faults(config.target_layers, config.cross_attn_layers, config.base_block_count)
    faults += cognitive_token_faults(config.encoder_type, dims.sizes.get("C"), dims.n_target)
    faults += heads_faults(
        config.encoder_type, config.encoder_dim, config.bottleneck_dim, config.enc_num_heads, config.ca_num_heads
    )
    faults += refusal_faults(config.refusal_token_ids, config.refusal_bias)
    if faults:
        raise SidecarError(faults_message(subject, faults))


def _type_faults(config: WrapperConfig, metadata: Metadata) -> list[str]:
    """Return faults for fields that have the wrong type for their key, or cannot be written."""
    faults = []
    for owner, names in ((config, _TEXTS), (metadata, _GENERAL_TEXTS)):
        for name in names:
            value = getattr(owner, name)
            if value is None and name in _OPTIONAL:
                continue
            if not isinstance(value, str):
                faults.append(f"{name} is {shown(repr(value))}, expected text")
            elif not _is_encodable(value):
                faults.append(f"{name} holds half a surrogate pair (text that was cut inside an emoji?)")
    for name in _NUMBERS:
        value = getattr(config, name)
        if not (value is None and name in _OPTIONAL) and not (_is_int(value) and 0 <= value <= MAX_INT):
            faults.append(f"{name} is {shown(repr(value))}, expected a whole number from 0 to {MAX_INT}")
    for name in _LISTS:
        values = getattr(config, name)
        if values is None and name in _OPTIONAL:
            continue
        if not isinstance(values, (tuple, list)) or not all(map(_is_int, values)):  # the rules check the range
            listed = list(values) if isinstance(values, tuple) else values
            faults.append(f"{name} is {shown(repr(listed))}, expected whole numbers")
    if isinstance(config.refusal_bias, bool) or not isinstance(config.refusal_bias, (int, float)):
        faults.append(f"refusal_bias is {shown(repr(config.refusal_bias))}, expected a number")
    try:
        template_kwargs(config)
    except (TypeError, ValueError, RecursionError) as problem:
        faults.append(f"chat_template_kwargs cannot be written as JSON: {shown(problem)}")
    return faults


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def template_kwargs(config: WrapperConfig) -> str | None:
    """Return the template's variables as JSON text; None if there are none.

    Raises:
        TypeError, ValueError, RecursionError: JSON cannot hold them.
    """
    variables = dict(config.chat_template_kwargs)
    return json.dumps(variables, allow_nan=False) if variables else None


def check_head(temporary: Path, subject: str, data_size: int) -> None:
    """Let the reader examine the head of a new file, before its data is written.

    Args:
        temporary: the unfinished file.
        subject: the beginning of an error message.
        data_size: bytes that will follow the head.

    Raises:
        SidecarError: the reader found faults; the message lists all of them.
    """
    try:
        examination = examine_head(temporary, size=padded(temporary.stat().st_size) + data_size)
    except SidecarError as problem:
        fault = str(problem).removeprefix(f"sidecar '{temporary}': ")
        raise SidecarError(f"{subject}: {fault}") from None
    if examination.faults:
        raise SidecarError(faults_message(subject, examination.faults))


def padded(size: int) -> int:
    """Return the size of a tensor with the padding up to the next tensor."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT
