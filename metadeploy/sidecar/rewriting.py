"""Writes a sidecar again with other keys or with a verdict head. Everything else is copied byte for byte.

The new file is examined in the same way as by every reader before it replaces the old one atomically.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from metadeploy._files import replacing
from metadeploy.errors import SidecarError, faults_message
from metadeploy.sidecar.examination import Examination, examine, prefix_of
from metadeploy.sidecar.gguf_file import GGUFFile, Value, read_gguf
from metadeploy.sidecar.layout import is_matrix
from metadeploy.sidecar.quants import TENSOR_TYPES, quantize
from metadeploy.sidecar.spec import WrapperConfig
from metadeploy.sidecar.verdict import VERDICT_PREFIX, VerdictHead, verdict_keys, verdict_tensors

__all__ = ["checked", "rewrite", "write_verdict"]

_VALUE_TYPES: Final = {"str": 8, "u32": 4, "f32": 6, "i32": 5}
_ITEM_CODES: Final = {"i32": "i", "f32": "f"}
_ARRAY: Final = 9
_TENSOR_TYPES: Final = {name: number for number, name in TENSOR_TYPES.items()}
_CHUNK: Final = 1 << 24

#: Tensors to add: the type and the stored form of each, by name.
_Added = Mapping[str, "tuple[str, tuple[int, ...], bytes]"]


def write_verdict(sidecar: str | Path, head: VerdictHead, target: str | Path) -> Path:
    """Write a sidecar with a verdict head, which replaces the one that it has, if any.

    The weights of the hidden layer are F16, everything else is F32.

    Args:
        sidecar: a valid sidecar.
        head: the head; the width of its base must be the wrapper's.
        target: the new file, which may be the same. It replaces an existing file.

    Returns:
        The path of the new file.

    Raises:
        SidecarError: the sidecar is not valid, the head does not fit it, or the file cannot be written.
    """
    file, target = read_gguf(Path(sidecar)), Path(target)
    prefix = prefix_of(file)
    if prefix is None:
        checked(examine(sidecar), Path(sidecar))
    assert prefix is not None
    requested: dict[str, Value | None] = {
        key: None for key in file.metadata if key.startswith(f"{prefix}.{VERDICT_PREFIX}")
    }
    requested |= verdict_keys(head.config, prefix)
    added = {name: _stored_tensor(head.tensors[name], name) for name in verdict_tensors(head.config)}
    rewrite(file, target, requested, added, removed_prefix=VERDICT_PREFIX)
    return target


def checked(examination: Examination, target: Path) -> WrapperConfig:
    """Return the config of a valid sidecar.

    Raises:
        SidecarError: it is not valid; the message lists all faults.
    """
    if examination.faults or examination.config is None:
        raise SidecarError(faults_message(f"sidecar '{target}' as edited", examination.faults))
    return examination.config


def rewrite(
    file: GGUFFile,
    target: Path,
    requested: Mapping[str, Value | None],
    added: _Added | None = None,
    *,
    removed_prefix: str | None = None,
) -> None:
    """Write a file again.

    Args:
        file: the old file.
        target: the new file; it may be the old one.
        requested: keys to set; None removes a key.
        added: tensors to add; None keeps those of the old file as they are.
        removed_prefix: beginning of the names of tensors to leave out.

    Raises:
        SidecarError: the new file would not be a valid sidecar, or it cannot be written.
    """
    try:
        with replacing(target) as temporary:
            with temporary.open("wb") as out:
                for part in _parts(file, requested, added, removed_prefix):
                    out.write(part)
            checked(examine(temporary), target)
    except OSError as problem:
        raise SidecarError(f"sidecar '{target}': cannot be written: {problem.strerror or problem}") from problem


def _parts(
    file: GGUFFile, requested: Mapping[str, Value | None], added: _Added | None, removed_prefix: str | None
) -> Iterator[bytes]:
    """Yield the bytes of the new file."""
    records: list[bytes] = []
    for key, span in file.key_spans.items():
        value = requested.get(key)
        if key not in requested:
            records.append(_copied(file, *span))
        elif value is not None:
            records.append(_record(key, value))
    new_keys = {key: value for key, value in requested.items() if key not in file.key_spans}
    records += [_record(key, value) for key, value in new_keys.items() if value is not None]
    if added is None:
        yield from _header(file, records, len(file.tensors), _copied(file, *file.records_span))
        yield from _copied_data(file, file.data_offset, file.size)
        return
    kept = [
        info
        for name, info in file.tensors.items()
        if info.nbytes is not None and not (removed_prefix and name.startswith(removed_prefix))
    ]
    tensor_records, offset = [], 0
    places = [(info.name, info.shape, info.type, info.nbytes or 0) for info in kept]
    places += [(name, shape, kind, len(data)) for name, (kind, shape, data) in added.items()]
    for name, shape, kind, n_bytes in places:
        tensor_records.append(_tensor_record(name, shape, kind, offset))
        offset += -(-n_bytes // file.alignment) * file.alignment
    yield from _header(file, records, len(places), b"".join(tensor_records))
    for info in kept:
        yield from _copied_data(file, info.offset, info.offset + (info.nbytes or 0))
        yield bytes(-(info.nbytes or 0) % file.alignment)
    for _, _, data in added.values():
        yield data
        yield bytes(-len(data) % file.alignment)


def _header(file: GGUFFile, records: list[bytes], n_tensors: int, tensor_records: bytes) -> Iterator[bytes]:
    head = b"GGUF" + struct.pack("<IQQ", file.version, n_tensors, len(records))
    header = b"".join((head, *records, tensor_records))
    yield header
    yield bytes(-len(header) % file.alignment)


def _copied_data(file: GGUFFile, begin: int, end: int) -> Iterator[bytes]:
    for first in range(begin, end, _CHUNK):
        yield _copied(file, first, min(first + _CHUNK, end))


def _copied(file: GGUFFile, begin: int, end: int) -> bytes:
    """Return bytes of the old file."""
    try:
        data = file.file.read(begin, end - begin)
    except OSError as problem:
        raise SidecarError(f"sidecar '{file.path}': cannot be read: {problem.strerror or problem}") from problem
    if len(data) < end - begin:
        raise SidecarError(f"sidecar '{file.path}': has become shorter than {end} bytes (truncated while it was read?)")
    return data


def _record(key: str, value: Value) -> bytes:
    """Return a key and its value as GGUF stores them."""
    return _stored_text(key) + _stored_value(value)


def _tensor_record(name: str, shape: tuple[int, ...], kind: str, offset: int) -> bytes:
    """Return the record of a tensor; GGUF writes the fastest dimension first."""
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return _stored_text(name) + sizes + struct.pack("<IQ", _TENSOR_TYPES[kind], offset)


def _stored_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _stored_value(value: Value) -> bytes:
    if value.type.startswith("["):
        assert isinstance(value.value, list)
        kind = value.type[1:-1]
        items = struct.pack(f"<{len(value.value)}{_ITEM_CODES[kind]}", *value.value)
        return struct.pack("<IIQ", _ARRAY, _VALUE_TYPES[kind], len(value.value)) + items
    number = struct.pack("<I", _VALUE_TYPES[value.type])
    if isinstance(value.value, str):
        return number + _stored_text(value.value)
    return number + struct.pack("<f" if value.type == "f32" else "<I", value.value)


def _stored_tensor(values: NDArray[np.float32], name: str) -> tuple[str, tuple[int, ...], bytes]:
    kind = "F16" if is_matrix(name, values.shape) and values.shape[0] > 1 else "F32"
    try:
        data = quantize(np.ascontiguousarray(values, dtype=np.float32), kind)
    except OverflowError as fault:
        raise SidecarError(f"verdict head: tensor '{name}' {fault} (diverged training?)") from None
    return kind, tuple(values.shape), data.tobytes()
