"""The JSON parser for everything that metadeploy reads, with a bound on depth.

``csrc/parse_json.h`` accepts the same texts; a test compares the two. Both also refuse JSON that readers treat
differently or cannot read: deep nesting, an object with a duplicate key, NaN and infinities, whole numbers beyond 64
bits, and half a surrogate pair.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from metadeploy.errors import Error

__all__ = ["MAX_JSON_DEPTH", "JSONFault", "build", "parse", "read", "read_lines", "read_object", "read_text"]

T = TypeVar("T")

#: The most levels of nested arrays and objects; the same bound as in ``csrc/parse_json.h``.
MAX_JSON_DEPTH: Final = 64

_MIN_INT: Final = -(2**63)
_MAX_INT: Final = 2**64 - 1
#: The length of the longest whole number that fits 64 bits, with its sign.
_INT_CHARS: Final = 20
_BOM: Final = "\ufeff"


class JSONFault(ValueError):
    """A text is not JSON that this module accepts. The message says why, without a subject."""


def parse(text: str) -> Any:
    """Parse a JSON text.

    Args:
        text: the text; a byte-order mark before it is skipped.

    Returns:
        Its value: dict, list, str, int, float, bool or None.

    Raises:
        JSONFault: it is not JSON, or JSON that this module refuses.
    """
    try:
        value = json.loads(
            text.removeprefix(_BOM),
            object_pairs_hook=_object,
            parse_int=_int,
            parse_float=_float,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as problem:
        raise JSONFault(f"{problem.msg} at line {problem.lineno}, column {problem.colno}") from None
    except RecursionError:
        raise _too_deep() from None
    _check(value)
    return value


def read_text(path: Path, *, subject: str, error: type[Error], expected: str = "") -> str:
    """Read the text of a file.

    Args:
        path: a UTF-8 file, with or without a byte-order mark.
        subject: the beginning of an error message, such as ``run.json 'x'``.
        error: the class of errors.
        expected: the end of an error message, as in ``expected what metadeploy eval writes (hint: run it again)``.

    Returns:
        Its text without a byte-order mark.

    Raises:
        Error: of the class given: the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        fault = "does not exist"
    except OSError as problem:
        fault = f"cannot be read: {problem.strerror or problem}"
    except UnicodeDecodeError as problem:
        fault = f"is not JSON: byte {problem.start} is not UTF-8"
    raise error(f"{subject}: {fault}{_ending(expected)}")


def read(path: Path, *, subject: str, error: type[Error], expected: str = "") -> Any:
    """Read the value in a JSON file.

    Args:
        path: see `read_text`.
        subject: see `read_text`.
        error: see `read_text`.
        expected: see `read_text`.

    Returns:
        See `parse`.

    Raises:
        Error: of the class given: the file cannot be read, or is not JSON.
    """
    try:
        return parse(read_text(path, subject=subject, error=error, expected=expected))
    except JSONFault as fault:
        raise error(f"{subject}: is not JSON: {fault}{_ending(expected)}") from None


def read_object(path: Path, *, subject: str, error: type[Error]) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        Error: of the class given: see `read`, or the file holds something else.
    """
    value = read(path, subject=subject, error=error)
    if not isinstance(value, dict):
        raise error(f"{subject}: holds a JSON {type(value).__name__}, expected an object")
    return value


def read_lines(path: Path, *, subject: str, error: type[Error], expected: str = "") -> Iterator[tuple[int, Any]]:
    """Read the values in a file of JSON lines, one by one. Empty lines are counted and skipped.

    Args:
        path: see `read_text`.
        subject: see `read_text`.
        error: see `read_text`.
        expected: see `read_text`.

    Yields:
        The number of the line, from 1, and its value.

    Raises:
        Error: of the class given: see `read`; the message has the number of the line.
    """
    # not splitlines(): JSON strings may hold U+2028 and similar characters
    text = read_text(path, subject=subject, error=error, expected=expected)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, parse(line)
        except JSONFault as fault:
            raise error(f"{subject}: line {number} is not JSON: {fault}{_ending(expected)}") from None


def build(kind: type[T], value: Any, *, where: str = "the value") -> T:
    """Build a dataclass from its `dataclasses.asdict` after a round trip through JSON.

    Args:
        kind: the dataclass. The type of a field is a JSON type, a tuple or a dataclass, optionally with None.
        value: an object with the fields and no other keys; fields with a default may be missing.
        where: the name of ``value`` in messages.

    Returns:
        An instance.

    Raises:
        JSONFault: a field is missing, unknown or of another type.
    """
    if not isinstance(value, dict):
        raise JSONFault(f"{where} is {_kind_of(value)}, expected an object")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = [key for key in value if key not in fields]
    if unknown:
        raise JSONFault(f"{where} has the unknown key {json.dumps(unknown[0])[:40]}")
    values = {}
    for name, field in fields.items():
        if name in value:
            values[name] = _typed(hints[name], value[name], f"{where}.{name}" if where != "the value" else name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise JSONFault(f"{where} lacks {name}")
    return kind(**values)


def _typed(hint: Any, value: Any, where: str) -> Any:
    """Convert a value to the type of its field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (item for item in arguments if item is not type(None))
        return _typed(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise JSONFault(f"{where} is {_kind_of(value)}, expected a list")
        return tuple(_typed(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where=where)  # type: ignore[arg-type]
    expected = origin or hint
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise JSONFault(f"{where} is {_kind_of(value)}, expected {_NAMES[expected]}")
    return value


_NAMES: Final[dict[Any, str]] = {
    bool: "a boolean",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _ending(expected: str) -> str:
    return f", {expected}" if expected else ""


def _kind_of(value: Any) -> str:
    return _NAMES[type(value)]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        duplicate = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise JSONFault(f"an object has the key {_shown(json.dumps(duplicate))} twice")
    return members


def _int(text: str) -> int:
    value = int(text) if len(text) <= _INT_CHARS else None
    if value is None or not _MIN_INT <= value <= _MAX_INT:
        raise JSONFault(f"the number {_shown(text)} does not fit 64 bits")
    return value


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JSONFault("a number is too large, expected one that is finite")
    return value


def _constant(name: str) -> Any:
    raise JSONFault(f"{name} is no JSON number")


def _shown(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _too_deep() -> JSONFault:
    return JSONFault(f"nested deeper than {MAX_JSON_DEPTH} arrays and objects")


def _check(value: Any) -> None:
    """Check depth and strings, level by level, because this must not recurse itself."""
    level = [("the text", value)]  # each with the key that it belongs to
    for depth in range(MAX_JSON_DEPTH + 1):
        inner: list[tuple[str, Any]] = []
        for key, item in level:
            if isinstance(item, str):
                _check_text(item, key)
            elif isinstance(item, dict):
                for name, child in item.items():
                    _check_text(name, "a key")
                    inner.append((name, child))
            elif isinstance(item, list):
                inner += [(key, child) for child in item]
        if depth == MAX_JSON_DEPTH and any(isinstance(item, (dict, list)) for _, item in level):
            raise _too_deep()
        level = inner


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        name = where if where in ("a key", "the text") else json.dumps(where, ensure_ascii=False)
        raise JSONFault(f"{name} holds half a surrogate pair (text that was cut inside an emoji?)") from None
