"""GGUF files made by hand that a reader must refuse, each with a part of the message."""

from __future__ import annotations

import struct

from support.handmade_gguf import Q8_0, Gguf, Tensor, text

KEY = ("general.architecture", "str", "meta-spider")
WEIGHT = Tensor("w", (2, 4), bytes(32))

HANDMADE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"hello, world", "is not a GGUF file"),
    "zip": (b"PK\x03\x04" + bytes(40), "a PyTorch checkpoint"),
    "magic only": (b"GGUF", "ends inside the version"),
    "version 1": (Gguf([KEY], version=1).build(), "has GGUF version 1, expected 2 or 3"),
    "version 4": (Gguf([KEY], version=4).build(), "has GGUF version 4, expected 2 or 3"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is a big-endian GGUF file"),
    "count of tensors": (Gguf([KEY], n_tensors=2**60).build(), "claims 1152921504606846976 for the number of tensors"),
    "count of keys": (Gguf([KEY], n_kv=2**63).build(), "for the number of metadata keys"),
    "one key too many": (Gguf([KEY], n_kv=2).build(), "metadata key 1"),
    "one tensor too many": (Gguf([KEY], [WEIGHT], n_tensors=2).build(), "tensor 1"),
    "key twice": (Gguf([KEY, KEY]).build(), "has the metadata key 'general.architecture' twice"),
    "tensor twice": (Gguf([KEY], [WEIGHT, WEIGHT]).build(), "has the tensor 'w' twice"),
    "nameless key": (Gguf([("", "u32", 1)]).build(), "has a name of 0 bytes"),
    "key not UTF-8": (Gguf([("k", "u32", 1)]).build().replace(text("k"), text(b"\xff")), "not UTF-8"),
    "string not UTF-8": (
        Gguf([("k", "str", "vv")]).build().replace(b"vv", b"\xff\xfe"),
        "not UTF-8 in the value of 'k'",
    ),
    "zero byte in a key": (Gguf([("k\0k", "u32", 1)]).build(), "zero byte"),
    "value type": (
        Gguf([("k", "u32", 1)]).build().replace(text("k") + b"\4", text("k") + b"\x63"),
        "value type 99 at 'k'",
    ),
    "bool of 2": (Gguf([("k", "bool", 2)]).build(), "expected a bool"),
    "bools of 2": (Gguf([("k", "[bool]", [0, 2])]).build(), "expected bools"),
    "nested array": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 0) + bytes(64),
        "an array of arrays",
    ),
    "array count": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 5, 2**61) + bytes(64),
        "claims 2305843009213693952 for the length of the value of 'k'",
    ),
    "array of strings count": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**30) + bytes(64),
        "claims 1073741824 for the length of the value of 'k'",
    ),
    "string length": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IQ", 8, 2**64 - 1) + bytes(64),
        "claims 18446744073709551615",
    ),
    "alignment 0": (Gguf([("general.alignment", "u32", 0)]).build(), "general.alignment 0, expected a power of two"),
    "alignment 24": (Gguf([("general.alignment", "u32", 24)]).build(), "general.alignment 24"),
    "alignment as text": (Gguf([("general.alignment", "str", "32")]).build(), "general.alignment of type str"),
    "no dimensions": (Gguf([KEY], [Tensor("w", (), bytes(4))]).build(), "0 dimensions"),
    "five dimensions": (Gguf([KEY], [Tensor("w", (1, 1, 1, 1, 1), bytes(4))]).build(), "5 dimensions"),
    "empty tensor": (Gguf([KEY], [Tensor("w", (0, 4), b"")]).build(), "an empty tensor 'w' of shape [0, 4]"),
    "overflowing shape": (Gguf([KEY], [Tensor("w", (2**33, 2**33), bytes(64))]).build(), "but the file has"),
    "shape beyond the file": (Gguf([KEY], [Tensor("w", (100, 100), bytes(64))]).build(), "(truncated?)"),
    "offset beyond the file": (Gguf([KEY], [Tensor("w", (2, 4), bytes(32), offset=1 << 40)]).build(), "(truncated?)"),
    "offset not aligned": (
        Gguf([KEY], [Tensor("w", (2, 4), bytes(64), offset=4)]).build(),
        "expected a multiple of 32",
    ),
    "overlap": (
        Gguf([KEY], [Tensor("a", (2, 8), bytes(64)), Tensor("b", (2, 4), bytes(32), offset=32)]).build(),
        "tensor 'b' has offset 32, expected 64, the end of the tensor before it",
    ),
    "gap": (
        Gguf([KEY], [Tensor("a", (2, 4), bytes(64)), Tensor("b", (2, 4), bytes(32), offset=64)]).build(),
        "tensor 'b' has offset 64, expected 32",
    ),
    "rows of no block": (
        Gguf([KEY], [Tensor("w", (2, 4), bytes(68), Q8_0)]).build(),
        "rows of 4 elements cannot be Q8_0",
    ),
    "name of 64 bytes": (Gguf([KEY], [Tensor("w" * 64, (2, 4), bytes(32))]).build(), "a name of 64 bytes"),
    "no architecture": (Gguf([("k", "u32", 1)]).build(), "key 'general.architecture' is missing"),
    "another architecture": (Gguf([("general.architecture", "str", "llama")]).build(), "has architecture 'llama'"),
    "architecture as a number": (Gguf([("general.architecture", "u32", 3)]).build(), "has architecture 3"),
}
