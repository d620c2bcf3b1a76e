"""Malformed sidecars: deterministic mutations of a valid file, for the readers of both languages.

`mutations` has its own parser of GGUF, so that it knows the position of each length, count, type, dimension and
offset. It yields copies with one fault each: fields set to hostile values, files cut at every boundary,
bits flipped in the header and the data, records swapped. The same seed gives the same files.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
HOSTILE = (
    0,
    1,
    2,
    7,
    8,
    9,
    31,
    63,
    64,
    255,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)


@dataclass(frozen=True)
class Mutation:
    """One malformed file.

    Attributes:
        name: a description of the mutation, unique within a run.
        data: the file.
    """

    name: str
    data: bytes


@dataclass(frozen=True)
class Field:
    """An integer in the file: its offset, width and meaning."""

    name: str
    offset: int
    width: int


class _Walker:
    """Find the integer fields of a valid file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 4
        self.fields: list[Field] = []
        self.texts: list[tuple[int, int]] = []

    def number(self, name: str, width: int) -> int:
        if self.pos + width > len(self.data):
            raise ValueError(f"the file ends before {name}: it is not a valid one")
        self.fields.append(Field(name, self.pos, width))
        self.pos += width
        return int.from_bytes(self.data[self.pos - width : self.pos], "little")

    def text(self, name: str) -> None:
        length = self.number(f"{name}.length", 8)
        self.texts.append((self.pos, length))
        self.pos += length

    def walk(self) -> int:
        """Walk to the end of the records and return its offset."""
        self.number("version", 4)
        n_tensors, n_kv = self.number("n_tensors", 8), self.number("n_kv", 8)
        for index in range(n_kv):
            self.text(f"key{index}")
            self.value(f"value{index}", self.number(f"value{index}.type", 4))
        for index in range(n_tensors):
            self.text(f"tensor{index}.name")
            for dim in range(self.number(f"tensor{index}.n_dims", 4)):
                self.number(f"tensor{index}.ne{dim}", 8)
            self.number(f"tensor{index}.type", 4)
            self.number(f"tensor{index}.offset", 8)
        return self.pos

    def value(self, name: str, kind: int) -> None:
        if kind == STRING:
            self.text(name)
        elif kind == ARRAY:
            inner = self.number(f"{name}.inner", 4)
            for index in range(self.number(f"{name}.count", 8)):
                self.value(f"{name}.{index}", inner)
        else:
            self.number(name, WIDTHS[kind])


def mutations(data: bytes, *, seed: int = 0, count: int = 1000) -> Iterator[Mutation]:
    """Yield malformed versions of a file.

    Args:
        data: a valid GGUF file.
        seed: seed of the random choices.
        count: how many to yield.

    Yields:
        ``count`` files, most of them broken, some still valid (a flipped bit of a weight).
    """
    rng = random.Random(seed)
    walker = _Walker(data)
    end = walker.walk()
    kinds = [_hostile_field, _nearby_field, _cut, _flip_head, _flip_data, _swap, _rename, _special_float, _grow]
    for index in range(count):
        # round robin, so that every kind occurs equally often, whatever the count
        kind = kinds[index % len(kinds)]
        what, mutated = kind(data, walker, end, rng)
        yield Mutation(f"{index}: {what}", mutated)


def _put(data: bytes, offset: int, piece: bytes) -> bytes:
    return data[:offset] + piece + data[offset + len(piece) :]


def _set_field(data: bytes, field: Field, number: int) -> tuple[str, bytes]:
    number %= 1 << (8 * field.width)
    return f"{field.name} = {number}", _put(data, field.offset, number.to_bytes(field.width, "little"))


def _hostile_field(data: bytes, walker: _Walker, end: int, rng: random.Random) -> tuple[str, bytes]:
    return _set_field(data, rng.choice(walker.fields), rng.choice(HOSTILE))


def _nearby_field(data: bytes, walker: _Walker, end: int, rng: random.Random) -> tuple[str, bytes]:
    field = rng.choice(walker.fields)
    old = int.from_bytes(data[field.offset : field.offset + field.width], "little")
    return _set_field(data, field, old + rng.choice((-32, -2, -1, 1, 2, 32)))


def _cut(data: bytes, walker: _Walker, end: int, rng: random.Random) -> tuple[str, bytes]:
    field = rng.choice(walker.fields)
    at = rng.choice(
        (field.offset, field.offset + 1, field.offset + field.width, rng.randrange(end), rng.randrange(len(data)))
    )
    return f"cut at {at}", data[:at]


def _flip(data: bytes, start: int, stop: int, rng: random.Random) -> tuple[str, bytes]:
    mutated = bytearray(data)
    places = [rng.randrange(start, stop) for _ in range(rng.choice((1, 1, 1, 4, 32)))]
    for place in places:
        mutated[place] ^= 1 << rng.randrange(8)
    return f"bits flipped at {places}", bytes(mutated)


def _flip_head(data: bytes, walker: _Walker, end: int, rng: random.Random) -> tuple[str, bytes]:
    return _flip(data, 0, end, rng)


def _flip_data(data: bytes, walker: _Walker, end: int, rng: random.Random) -> tuple[str, bytes]:
    return _flip(data, end, len(data), rng)


def _swap(data: bytes, walker: _Walker, end: int, rng: random.Random) -> tuple[str, bytes]:
    """Swap the contents of two fields of the same width."""
    first = rng.choice(walker.fields)
    second = rng.choice([field for field in walker.fields if field.width == first.width])
    one = data[first.offset : first.offset + first.width]
    two = data[second.offset : second.offset + second.width]
    return f"{first.name} <-> {second.name}", _put(_put(data, first.offset, two), second.offset, one)


def _rename(data: bytes, walker: _Walker, end: int, rng: random.Random) -> tuple[str, bytes]:
    """Overwrite one text with another from the file, so that names appear twice, or with bytes that are not text."""
    offset, length = rng.choice(walker.texts)
    source, source_length = rng.choice(walker.texts)
    piece = rng.choice((data[source : source + min(length, source_length)], b"\xff" * length, b"\0" * length))
    return f"text at {offset} = {piece[:20]!r}", _put(data, offset, piece)


def _special_float(data: bytes, walker: _Walker, end: int, rng: random.Random) -> tuple[str, bytes]:
    at = rng.randrange(end, len(data) - 4) & ~3
    number = rng.choice((float("nan"), float("inf"), float("-inf"), 3.4e38, 1e-45))
    return f"{number} at {at}", _put(data, at, struct.pack("<f", number))


def _grow(data: bytes, walker: _Walker, end: int, rng: random.Random) -> tuple[str, bytes]:
    """Insert bytes, so that everything after them is displaced."""
    at, extra = rng.randrange(4, end), rng.choice((1, 4, 8, 32))
    return f"{extra} bytes inserted at {at}", data[:at] + rng.randbytes(extra) + data[at:]
