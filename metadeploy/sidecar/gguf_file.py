"""A small, bounds-checked reader of GGUF files (versions 2 and 3, little endian).

It is written for hostile input: every count and length is compared with the rest of the file before anything is
allocated or skipped. So a malformed file causes an error that names the place, never a crash, a hang or a huge
allocation. It reads sidecars within the bounds of `metadeploy.sidecar.rules`, and the metadata of base models of any
size.

Files are not memory-mapped: if another process truncates a mapped file, the reading process crashes.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from metadeploy.errors import Error, ModelLoadError, SidecarError, shown
from metadeploy.sidecar.quants import TENSOR_TYPES, dequantize, nbytes_of
from metadeploy.sidecar.rules import (
    MAX_ALIGNMENT,
    MAX_ARRAY,
    MAX_HEAD_BYTES,
    MAX_KEY_BYTES,
    MAX_KEYS,
    MAX_TENSORS,
    MAX_TEXT_BYTES,
)

__all__ = ["GGUFFile", "MetadataValue", "Role", "TensorInfo", "Value", "read_gguf"]

MetadataValue: TypeAlias = "int | float | bool | str | list[int] | list[float] | list[bool] | list[str]"
Role: TypeAlias = Literal["sidecar", "base model"]

_MAX_NAME_BYTES: Final = 64  # ggml's GGML_MAX_NAME counts the final zero: 63 usable bytes
_MAX_DIMS: Final = 4
#: Bytes of a header that are read at once.
_PIECE_BYTES: Final = 1 << 20

_STRING: Final = "str"
_ARRAY: Final = "arr"
#: GGUF value types: number -> (name, struct code of a scalar).
_VALUE_TYPES: Final[dict[int, tuple[str, str]]] = {
    0: ("u8", "B"),
    1: ("i8", "b"),
    2: ("u16", "H"),
    3: ("i16", "h"),
    4: ("u32", "I"),
    5: ("i32", "i"),
    6: ("f32", "f"),
    7: ("bool", "?"),
    8: (_STRING, ""),
    9: (_ARRAY, ""),
    10: ("u64", "Q"),
    11: ("i64", "q"),
    12: ("f64", "d"),
}
# minimum sizes of a key-value pair (key of one byte, u8 value) and of a tensor record (no name, one dimension)
_MIN_KV_BYTES: Final = 8 + 1 + 4 + 1
_MIN_INFO_BYTES: Final = 8 + 4 + 8 + 4 + 8

_ERRORS: Final[dict[Role, type[Error]]] = {"sidecar": SidecarError, "base model": ModelLoadError}

#: First bytes of files that people pass by mistake.
_OTHER_FORMATS: Final = (
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint"),
    (b"\x80\x02", "a pickle, perhaps an old PyTorch checkpoint"),
    (b"lmgg", "a big-endian GGUF file or a pre-GGUF model"),
    (b"FUGG", "a byte-swapped GGUF file"),
)


@dataclass(frozen=True)
class Value:
    """One metadata value.

    Attributes:
        type: GGUF name of the type: ``u32``, ``str``, ``bool`` …; for an array its element type in brackets, ``[i32]``.
        value: the value; arrays are lists.
    """

    type: str
    value: MetadataValue


@dataclass(frozen=True)
class TensorInfo:
    """The record of a tensor.

    Attributes:
        name: the name in the file.
        shape: shape in PyTorch order (row-major, slowest first), i.e. GGUF's ``ne`` reversed.
        type: ``F32``, ``F16``, ``BF16``, ``Q8_0`` …, or ``type <n>`` if it is unknown.
        offset: offset of the data in the file in bytes.
        nbytes: size of the data in bytes; None if the type is unknown.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int | None

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=object))


class OpenFile:
    """A file that stays open, so that it stays the same even if another file replaces it under its name.

    Attributes:
        size: size in bytes at the time of opening.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            OSError: it cannot be opened.
        """
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes from an offset on, or fewer if the file ends before.

        Raises:
            OSError: it cannot be read.
        """
        pieces: list[bytes] = []  # the system reads at most 2 GiB at once
        while count and (piece := os.pread(self._descriptor, count, offset)):
            pieces.append(piece)
            offset, count = offset + len(piece), count - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@dataclass(frozen=True)
class GGUFFile:
    """A parsed GGUF file; the data of tensors is read on demand.

    Attributes:
        path: the file.
        version: GGUF version, 2 or 3.
        size: file size in bytes.
        alignment: alignment of the tensors' data in bytes.
        metadata: values by key, in file order.
        tensors: tensor records by name, in file order.
        file: the open file.
        role: the expected kind of file.
        key_spans: for each key and its value, the offset of the first byte and of the byte after the last.
        records_span: the same two offsets for all tensor records.
        data_offset: offset of the tensors' data.
    """

    path: Path
    version: int
    size: int
    alignment: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    file: OpenFile
    role: Role
    key_spans: Mapping[str, tuple[int, int]]
    records_span: tuple[int, int]
    data_offset: int

    def raw(self, name: str) -> NDArray[np.uint8]:
        """Return the stored data of a tensor.

        Returns:
            u8 ``[nbytes]``, read-only.

        Raises:
            KeyError: there is no such tensor.
            ValueError: its type, and so its size, is unknown.
            SidecarError: the file can no longer be read, or has become shorter; ModelLoadError for a base.
        """
        info = self.tensors[name]
        if info.nbytes is None:
            raise ValueError(f"tensor {name!r} has an unknown type ({info.type})")
        where = f"{self.role} '{self.path}': tensor '{name}'"
        try:
            data = self.file.read(info.offset, info.nbytes)
        except OSError as problem:
            raise _ERRORS[self.role](f"{where} cannot be read: {problem}") from None
        if len(data) < info.nbytes:
            raise _ERRORS[self.role](
                f"{where} ends after {len(data)} of {info.nbytes} bytes (truncated while it was read?)"
            )
        return np.frombuffer(data, np.uint8)

    def f32(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32 in PyTorch order; read-only for F32.

        Raises:
            KeyError: there is no such tensor.
            ValueError: its type is not one of F32, F16, BF16, Q8_0.
            SidecarError: as in :meth:`raw`.
        """
        info = self.tensors[name]
        return dequantize(self.raw(name), info.type, info.shape)


def read_gguf(path: str | Path, *, role: Role = "sidecar", size: int | None = None) -> GGUFFile:
    """Parse a GGUF file's header, metadata and tensor records.

    Args:
        path: the file.
        role: the expected kind of file. It decides the wording and the class of errors, and whether the bounds of
            sidecars apply.
        size: the final size of a file that is being written; None uses the current size.

    Returns:
        The parsed file. It stays open as long as the object lives.

    Raises:
        SidecarError: for role ``sidecar``, if the file cannot be read or is malformed.
        ModelLoadError: the same for role ``base model``.
    """
    path = Path(path)
    error = _ERRORS[role]
    subject = f"{role} '{path}'"
    try:
        if path.is_dir():
            raise error(f"{subject}: is a directory, expected a GGUF file")
        file = OpenFile(path)
        if file.size == 0:
            raise error(f"{subject}: is empty, expected a GGUF file (an interrupted download?)")
        return _parse(path, file, role, size=file.size if size is None else size)
    except FileNotFoundError:
        raise error(f"{subject}: does not exist") from None
    except UnicodeEncodeError as problem:
        hint = "hint: PYTHONUTF8=1, or LC_ALL=C.UTF-8"
        raise error(f"{subject}: this locale cannot encode it as {problem.encoding} ({hint})") from None
    except (OSError, ValueError) as problem:
        raise error(f"{subject}: cannot be read: {problem}") from None
    except _Malformed as fault:
        raise error(f"{subject}: {fault}") from None


class _Malformed(Exception):
    """Internal: the fault, without the subject."""


class _Cursor:
    """Reads little-endian values from a file piece by piece, and never past its end."""

    def __init__(self, file: OpenFile, *, bounded: bool) -> None:
        self._file = file
        self._piece = memoryview(b"")
        self._begin = 0  # offset of the piece in the file
        self.pos = 0
        self.bounded = bounded  # whether the bounds of sidecars apply

    @property
    def left(self) -> int:
        return self._file.size - self.pos

    def take(self, count: int, what: str) -> memoryview:
        if self.bounded and count > MAX_HEAD_BYTES - self.pos:
            raise _Malformed(f"has more than {MAX_HEAD_BYTES} bytes of keys and tensor records, expected fewer")
        if count > self.left:
            raise _Malformed(
                f"ends inside {what}: offset {self.pos}, {count} bytes needed, {self.left} left (truncated?)"
            )
        at = self.pos - self._begin
        if at + count > len(self._piece):
            self._begin, at = self.pos, 0
            self._piece = memoryview(self._file.read(self.pos, min(max(count, _PIECE_BYTES), self.left)))
            if count > len(self._piece):
                raise _Malformed(f"ends inside {what} (truncated while it was read?)")
        self.pos += count
        return self._piece[at : at + count]

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def count(self, what: str, *, min_bytes: int, maximum: int) -> int:
        """Read a u64 count of items of at least ``min_bytes`` bytes each; a sidecar may have at most ``maximum``."""
        count = self.u64(what)
        if self.bounded and count > maximum:
            raise _Malformed(f"claims {count} for {what}, expected at most {maximum}")
        if count * min_bytes > self.left:
            raise _Malformed(f"claims {count} for {what}, but only {self.left} bytes are left (truncated?)")
        return count

    def string(self, what: str) -> bytes:
        return bytes(self.take(self.count(f"the length of {what}", min_bytes=1, maximum=MAX_TEXT_BYTES), what))


def _parse(path: Path, file: OpenFile, role: Role, *, size: int) -> GGUFFile:
    cursor = _Cursor(file, bounded=role == "sidecar")
    _check_magic(file.read(0, 4), file.size)
    cursor.take(4, "the magic")
    version = cursor.u32("the version")
    if version & 0xFFFF == 0 and version:
        raise _Malformed("is a big-endian GGUF file, expected little endian (convert it with gguf's own tool)")
    if version not in (2, 3):
        raise _Malformed(f"has GGUF version {version}, expected 2 or 3")
    n_tensors = cursor.count("the number of tensors", min_bytes=_MIN_INFO_BYTES, maximum=MAX_TENSORS)
    n_kv = cursor.count("the number of metadata keys", min_bytes=_MIN_KV_BYTES, maximum=MAX_KEYS)

    metadata: dict[str, Value] = {}
    spans: dict[str, tuple[int, int]] = {}
    for index in range(n_kv):
        begin = cursor.pos
        key = _name(cursor, f"metadata key {index}", max_bytes=MAX_KEY_BYTES)
        if key in metadata:
            raise _Malformed(f"has the metadata key '{shown(key)}' twice")
        metadata[key] = _value(cursor, key)
        spans[key] = begin, cursor.pos

    records = cursor.pos
    infos = [_tensor_record(cursor, index) for index in range(n_tensors)]
    alignment = _alignment(metadata)
    start = -(-cursor.pos // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for info in infos:
        if info.name in tensors:
            raise _Malformed(f"has the tensor '{info.name}' twice")
        tensors[info.name] = _placed(info, start=start, alignment=alignment, size=size)
    _check_order(tensors, start=start, alignment=alignment)
    records_span = (records, cursor.pos)
    return GGUFFile(path, version, size, alignment, metadata, tensors, file, role, spans, records_span, start)


def _check_magic(magic: bytes, size: int) -> None:
    if magic == b"GGUF":
        return
    for start, what in _OTHER_FORMATS:
        if magic.startswith(start):
            raise _Malformed(f"is not a GGUF file but {what}")
    raise _Malformed(f"is not a GGUF file: starts with {magic!r} ({size} bytes), expected b'GGUF'")


def _name(cursor: _Cursor, what: str, *, max_bytes: int) -> str:
    raw = cursor.string(what)
    if not 0 < len(raw) <= max_bytes:
        raise _Malformed(f"has a name of {len(raw)} bytes for {what}, expected 1 to {max_bytes}")
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise _Malformed(f"has a name that is not UTF-8 for {what}: {raw[:40]!r}") from None
    if "\0" in name:
        raise _Malformed(f"has a name with a zero byte for {what}: {raw[:40]!r}")
    return name


def _value(cursor: _Cursor, key: str) -> Value:
    what = f"the value of '{shown(key)}'"
    kind, code = _value_type(cursor.u32(what), key)
    if kind == _STRING:
        raw = cursor.string(what)
        if cursor.bounded and b"\0" in raw:  # ggml's readers end a text at a zero byte
            raise _Malformed(f"has a zero byte in {what}")
        try:
            return Value(kind, raw.decode())
        except UnicodeDecodeError:
            raise _Malformed(f"has text that is not UTF-8 in {what}") from None
    if kind == _ARRAY:
        return _array(cursor, key)
    raw_scalar = cursor.take(struct.calcsize("<" + code), what)
    if kind == "bool" and raw_scalar[0] > 1:
        raise _Malformed(f"has {raw_scalar[0]} as {what}, expected a bool (0 or 1)")
    return Value(kind, struct.unpack("<" + code, raw_scalar)[0])


def _array(cursor: _Cursor, key: str) -> Value:
    what = f"the value of '{shown(key)}'"
    kind, code = _value_type(cursor.u32(what), key)
    if kind == _ARRAY:
        raise _Malformed(f"has an array of arrays as {what}, which GGUF readers do not support")
    if kind == _STRING:
        count = cursor.count(f"the length of {what}", min_bytes=8, maximum=MAX_ARRAY)
        # tokens of some vocabularies are not valid UTF-8; nothing here depends on them
        return Value(f"[{kind}]", [cursor.string(what).decode(errors="backslashreplace") for _ in range(count)])
    width = struct.calcsize("<" + code)
    count = cursor.count(f"the length of {what}", min_bytes=width, maximum=MAX_ARRAY)
    raw = np.frombuffer(cursor.take(count * width, what), dtype=np.dtype("<" + code))
    if kind == "bool" and raw.view(np.uint8).max(initial=0) > 1:
        raise _Malformed(f"has other bytes than 0 and 1 in {what}, expected bools")
    return Value(f"[{kind}]", raw.tolist())


def _value_type(number: int, key: str) -> tuple[str, str]:
    try:
        return _VALUE_TYPES[number]
    except KeyError:
        raise _Malformed(f"has the unknown value type {number} at '{shown(key)}' (malformed?)") from None


def _tensor_record(cursor: _Cursor, index: int) -> TensorInfo:
    name = _name(cursor, f"tensor {index}", max_bytes=_MAX_NAME_BYTES - 1)
    what = f"the record of tensor '{name}'"
    n_dims = cursor.u32(what)
    if not 1 <= n_dims <= _MAX_DIMS:
        raise _Malformed(f"has {n_dims} dimensions for tensor '{name}', expected 1 to {_MAX_DIMS}")
    shape = tuple(cursor.u64(what) for _ in range(n_dims))[::-1]
    if 0 in shape:
        raise _Malformed(f"has an empty tensor '{name}' of shape {list(shape)}")
    number = cursor.u32(what)
    kind = TENSOR_TYPES.get(number, f"type {number}")
    try:
        nbytes = nbytes_of(kind, shape)
    except ValueError as fault:
        raise _Malformed(f"tensor '{name}': {fault}") from None
    return TensorInfo(name, shape, kind, cursor.u64(what), nbytes)


def _alignment(metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", Value("u32", 32))
    number = value.value
    if value.type != "u32" or not isinstance(number, int):
        raise _Malformed(f"has general.alignment of type {value.type}, expected u32")
    if not 0 < number <= MAX_ALIGNMENT or number & (number - 1):
        raise _Malformed(f"has general.alignment {number}, expected a power of two up to {MAX_ALIGNMENT}")
    return number


def _placed(info: TensorInfo, *, start: int, alignment: int, size: int) -> TensorInfo:
    """Return the record with the absolute offset, after comparing it with the file."""
    if info.offset % alignment:
        raise _Malformed(f"tensor '{info.name}' has offset {info.offset}, expected a multiple of {alignment}")
    offset = start + info.offset
    end = offset + (info.nbytes or 0)
    if end > size:
        raise _Malformed(f"tensor '{info.name}' lies at bytes {offset} to {end}, but the file has {size} (truncated?)")
    return TensorInfo(info.name, info.shape, info.type, offset, info.nbytes)


def _check_order(tensors: Mapping[str, TensorInfo], *, start: int, alignment: int) -> None:
    """Check that data is in the order of the records, with no overlap and no gap except padding, as ggml needs it."""
    expected = start
    for info in tensors.values():
        if info.offset != expected:
            raise _Malformed(
                f"tensor '{info.name}' has offset {info.offset - start}, expected {expected - start}, "
                "the end of the tensor before it (malformed?)"
            )
        if info.nbytes is None:
            return  # the offset of the next one is unknown
        expected = -(-(info.offset + info.nbytes) // alignment) * alignment
