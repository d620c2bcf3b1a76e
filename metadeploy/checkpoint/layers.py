"""Parses layer lists: ``21-31``, ``1,5,7-9``, ``1 5 9``, ``late``, ``late:32``, or a plain list."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from metadeploy.sidecar.rules import MAX_LAYERS

__all__ = ["LayerSpec", "is_bare_preset", "parse_layers", "preset_block_count"]

#: A list of layer numbers, or text as above.
LayerSpec: TypeAlias = "str | Sequence[int]"

_PRESET: Final = re.compile(r"(late|all)(?::([0-9]{1,9}))?")
_RANGE: Final = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_SEPARATOR: Final = re.compile(r"\s*,\s*|\s+")


def preset_block_count(spec: LayerSpec) -> int | None:
    """Return the number of decoder blocks that a preset names, 32 for ``late:32``; None for everything else."""
    match = _PRESET.fullmatch(spec.strip()) if isinstance(spec, str) else None
    return int(match[2]) if match and match[2] else None


def is_bare_preset(spec: object) -> bool:
    """Return whether a value is ``late`` or ``all`` without a number of layers."""
    match = _PRESET.fullmatch(spec.strip()) if isinstance(spec, str) else None
    return match is not None and match[2] is None


def parse_layers(spec: LayerSpec, *, num_layers: int | None = None) -> tuple[int, ...]:
    """Return the layer numbers of a specification.

    Args:
        spec: see `LayerSpec`. ``late`` is the last third, layers from ``2 * n // 3`` on; ``all`` is every layer.
        num_layers: number of decoder blocks of the base, if known; required for a preset without a number.

    Returns:
        The layers, in the order of the specification.

    Raises:
        ValueError: the text is not a layer list, or a preset has no number of layers or a wrong one. The message is a
            phrase without a subject.
    """
    layers = _parse_text(spec.strip(), num_layers) if isinstance(spec, str) else tuple(spec)
    if not layers:
        raise ValueError("is empty, expected at least one layer")
    if any(isinstance(layer, bool) or not isinstance(layer, int) for layer in layers):
        raise ValueError(f"is {list(layers)!r}, expected whole numbers")
    if len(set(layers)) != len(layers):
        raise ValueError(f"names a layer twice: {list(layers)}")
    outside = [layer for layer in layers if layer < 0 or (num_layers is not None and layer >= num_layers)]
    if outside:
        upper = f" to {num_layers - 1} (the base has {num_layers} layers)" if num_layers is not None else ""
        raise ValueError(f"has {outside}, expected layers from 0{upper}")
    return layers


def _parse_text(text: str, num_layers: int | None) -> tuple[int, ...]:
    if match := _PRESET.fullmatch(text):
        named = int(match[2]) if match[2] else None
        if named is not None and num_layers is not None and named != num_layers:
            raise ValueError(f"is '{text}', but the base has {num_layers} layers")
        count = num_layers if named is None else named
        if count is None:
            raise ValueError(
                f"is '{text}', but the base's number of layers is unknown (hint: '{text}:32', or --num-layers 32)"
            )
        if not 0 < count <= MAX_LAYERS:
            raise ValueError(f"is for {count} layers, expected 1 to {MAX_LAYERS}")
        return tuple(range(2 * count // 3 if match[1] == "late" else 0, count))
    layers: list[int] = []
    for part in _SEPARATOR.split(text):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"is '{text}', expected for instance '21-31', '1,5,7-9' or 'late:32'")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first or last - first >= MAX_LAYERS:
            raise ValueError(f"has the range '{part}', expected an ascending one of at most {MAX_LAYERS} layers")
        layers.extend(range(first, last + 1))
    return tuple(layers)
