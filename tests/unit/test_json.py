"""The JSON parsers of Python and the core accept the same texts and read the same values."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metadeploy import _core
from metadeploy._json import MAX_JSON_DEPTH, JSONFault, build, parse, read, read_lines, read_object
from metadeploy.errors import Error, RunDirError

DEEP = "[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH

REFUSED = {
    "nothing": "",
    "space": " \n",
    "one too deep": f"[{DEEP}]",
    "one too deep, objects": '{"a":' * (MAX_JSON_DEPTH + 1) + "1" + "}" * (MAX_JSON_DEPTH + 1),
    "very deep": "[" * 200_000,
    "very deep and closed": "[" * 200_000 + "]" * 200_000,
    "deep in an object": '{"a":' + "[" * 200_000 + "]" * 200_000 + "}",
    "a key twice": '{"a": 1, "b": 2, "a": 3}',
    "a key twice, escaped": '{"a": 1, "\\u0061": 1}',
    "a key twice inside": '[{"x": {"": 1, "": 2}}]',
    "NaN": "NaN",
    "NaN inside": '{"a": NaN}',
    "infinity": "Infinity",
    "minus infinity": "[-Infinity]",
    "number beyond a double": "1e400",
    "number just beyond a double": "1.7976931348623159e308",
    "whole number beyond 64 bits": "18446744073709551616",
    "negative one": "-9223372036854775809",
    "very long whole number": "1" * 10_000,
    "half a surrogate pair": '"\\ud83d"',
    "the other half": '{"a": ["\\ude00"]}',
    "half a pair as a key": '{"\\ud83d": 1}',
    "pair in the wrong order": '"\\ude00\\ud83d"',
    "more text": "{} {}",
    "comma at the end": "[1,]",
    "single quotes": "{'a': 1}",
    "control character": '"a\nb"',
    "unfinished": '{"a": [1, 2',
    "zero byte": '{"a": 1}\0',
    "zero byte and more": "1\0 nonsense",
    "zero byte in a string": '"\0"',
    "two marks": "\ufeff\ufeff1",
    "mark at the end": "1\ufeff",
    "leading zero": "01",
    "plus": "+1",
    "no digits after the point": "1.",
    "comment": "/* x */ 1",
    "true in Python": "True",
    "other digits": "\u0661",
    "no-break space": "\u00a01",
}  # fmt: skip

ACCEPTED = {
    "as deep as may be": DEEP,
    "brackets in a string": json.dumps("[" * 1000),
    "wide": "[" + "[]," * 1000 + "{}]",
    "mark": '\ufeff{"a": 1}',
    "largest": "18446744073709551615",
    "least": "-9223372036854775808",
    "minus zero": "[-0, -0.0, 0e5]",
    "largest double": "1.7976931348623157e308",
    "rounds to zero": "1e-400",
    "pair": '"\\ud83d\\ude00"',
    "zero character": '"\\u0000"',
    "U+2028": '"\u2028"',
    "empty key": '{"": {"": null}}',
    "spaces": ' \t\r\n{ "a" : [ true , false , null , 1.5e3 ] } \n',
    "order of the keys": '{"b": 1, "a": 2}',
}  # fmt: skip


def verdict(text: str) -> Any:
    """The value that both parsers read from a text; None if they refuse it."""
    try:
        ours = parse(text)
    except JSONFault as fault:
        assert 0 < len(str(fault)) < 200
        with pytest.raises(ValueError) as caught:
            _core.parse_json(text.encode("utf-8", "surrogatepass"))
        assert 0 < len(str(caught.value)) < 200
        return None
    theirs = parse(_core.parse_json(text.encode()))
    # as text: 1 and 1.0 and True are equal in Python
    assert json.dumps(theirs) == json.dumps(ours)
    return (ours,)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_both(name: str) -> None:
    assert verdict(REFUSED[name]) is None


@pytest.mark.parametrize("name", ACCEPTED)
def test_read_by_both(name: str) -> None:
    assert verdict(ACCEPTED[name]) is not None


@given(text=st.text(alphabet='{}[],:"\\ \n\t\0truefalsn0123456789.eE+-uaDd\ufeffé\U0001f600', max_size=40))
@settings(max_examples=1000)
def test_one_verdict_on_any_text(text: str) -> None:
    verdict(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(value=values, indent=st.sampled_from((None, 1)), ascii_only=st.booleans(), data=st.data())
@settings(max_examples=500)
def test_one_verdict_near_json(value: Any, indent: int | None, ascii_only: bool, data: st.DataObject) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    verdict(text)
    at = data.draw(st.integers(0, len(text)))
    verdict(text[:at] + data.draw(st.text(alphabet='{}[]",:\\0e-', max_size=2)) + text[at + 1 :])


@given(data=st.binary(max_size=30))
@settings(max_examples=500)
def test_bytes_that_are_no_text(data: bytes) -> None:
    try:
        verdict(data.decode())
    except UnicodeDecodeError:
        with pytest.raises(ValueError):
            _core.parse_json(data)
        with pytest.raises(ValueError):
            _core.parse_json(b'{"a": "' + data + b'"}')


# --- files -----------------------------------------------------------------------------------------------------------


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "x.json"

    def fault(content: bytes) -> str:
        path.write_bytes(content)
        with pytest.raises(RunDirError) as caught:
            read_object(path, subject="thing 'x'", error=RunDirError)
        return str(caught.value)

    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_object(path, subject="x", error=RunDirError) == {"a": 1}
    assert fault(b"[1]") == "thing 'x': holds a JSON list, expected an object"
    assert fault(b'{\n"a" 1}') == "thing 'x': is not JSON: Expecting ':' delimiter at line 2, column 5"
    assert fault(b'{"a": "\xff"}') == "thing 'x': is not JSON: byte 7 is not UTF-8"
    assert fault('{"a": 1}'.encode("utf-16")) == "thing 'x': is not JSON: byte 0 is not UTF-8"
    assert fault(b"[" * 200_000) == "thing 'x': is not JSON: nested deeper than 64 arrays and objects"
    with pytest.raises(RunDirError, match=r"thing: does not exist"):
        read(tmp_path / "absent", subject="thing", error=RunDirError)
    with pytest.raises(RunDirError, match=r"thing: cannot be read: Is a directory"):
        read(tmp_path, subject="thing", error=RunDirError)


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "\u2028"}\n\n[1]\r\n{', encoding="utf-8")
    lines = read_lines(path, subject="lines 'x'", error=Error)
    assert next(lines) == (1, {"a": "\u2028"})
    assert next(lines) == (3, [1])
    with pytest.raises(Error, match=r"^lines 'x': line 4 is not JSON: Expecting property name"):
        next(lines)


# --- dataclasses -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inner:
    name: str
    score: float | None = None


@dataclass(frozen=True)
class Outer:
    one: Inner
    many: tuple[Inner, ...]
    flags: tuple[bool, ...]
    count: int
    extra: dict[str, Any]
    ratio: float = 0.5


OUTER = Outer(Inner("a", 1.5), (Inner("b"), Inner("c", 2.0)), (True,), 3, {"x": [1]})


def test_dataclasses_come_back() -> None:
    assert build(Outer, parse(json.dumps(asdict(OUTER)))) == OUTER
    assert build(Inner, {"name": "x", "score": 1}) == Inner("x", 1.0)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"count": "3"}, "count is a string, expected a whole number"),
        ({"count": True}, "count is a boolean, expected a whole number"),
        ({"count": 3.0}, "count is a number, expected a whole number"),
        ({"ratio": None}, "ratio is null, expected a number"),
        ({"ratio": False}, "ratio is a boolean, expected a number"),
        ({"one": []}, "one is a list, expected an object"),
        ({"one": {"name": None}}, "one.name is null, expected a string"),
        ({"one": {"score": 1}}, "one lacks name"),
        ({"many": {}}, "many is an object, expected a list"),
        ({"many": [{"name": "b"}, {"name": 1}]}, "many[1].name is a whole number, expected a string"),
        ({"flags": [1]}, "flags[0] is a whole number, expected a boolean"),
        ({"extra": "x"}, "extra is a string, expected an object"),
        ({"new": 1}, 'the value has the unknown key "new"'),
    ],
)
def test_fields_of_another_type(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(JSONFault) as caught:
        build(Outer, asdict(OUTER) | {"many": [], "flags": []} | change)
    assert str(caught.value) == fault


def test_no_object_and_a_missing_field() -> None:
    with pytest.raises(JSONFault, match="the value is a list, expected an object"):
        build(Outer, [])
    with pytest.raises(JSONFault, match="the value lacks one"):
        build(Outer, {})
