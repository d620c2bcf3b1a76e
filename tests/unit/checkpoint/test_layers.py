"""Layer lists in all spellings that users may write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadeploy.checkpoint.layers import LayerSpec, parse_layers, preset_block_count


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("21-31", tuple(range(21, 32))),
        ("1,5,7-9", (1, 5, 7, 8, 9)),
        (" 3 , 1 ", (3, 1)),
        ("0", (0,)),
        ("late:32", tuple(range(21, 32))),
        ("late:30", tuple(range(20, 30))),
        ("late:1", (0,)),
        ("late:2", (1,)),
        ("all:3", (0, 1, 2)),
        ([4, 2], (4, 2)),
        ((7,), (7,)),
    ],
)
def test_accepted(spec: LayerSpec, layers: tuple[int, ...]) -> None:
    assert parse_layers(spec) == layers


@given(st.integers(1, 1000))
def test_presets_with_the_number_given_apart(count: int) -> None:
    assert (
        parse_layers("late", num_layers=count) == parse_layers(f"late:{count}") == tuple(range(2 * count // 3, count))
    )
    assert parse_layers("all", num_layers=count) == parse_layers(f"all:{count}") == tuple(range(count))


@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True))
def test_lists_and_their_text_are_the_same(layers: list[int]) -> None:
    assert parse_layers(",".join(map(str, layers))) == parse_layers(layers) == tuple(layers)


@pytest.mark.parametrize(
    ("spec", "num_layers", "fault"),
    [
        ("", None, "expected for instance '21-31'"),
        ("middle", None, "is 'middle', expected"),
        ("1-", None, "is '1-', expected"),
        ("-3", None, "is '-3', expected"),
        ("1..3", None, "is '1..3', expected"),
        ("late", None, "number of layers is unknown"),
        ("all", None, "number of layers is unknown"),
        ("late:0", None, "is for 0 layers"),
        ("all:99999999", None, "is for 99999999 layers, expected 1 to 1000"),
        ("late:32", 30, "is 'late:32', but the base has 30 layers"),
        ("5-3", None, "the range '5-3', expected an ascending one"),
        ("0-999999999", None, "expected an ascending one of at most 1000 layers"),
        ("1,1", None, "names a layer twice"),
        ("1-3,2", None, "names a layer twice"),
        ("29-31", 30, "has [30, 31], expected layers from 0 to 29 (the base has 30 layers)"),
        ([], None, "is empty"),
        ([-1], None, "has [-1], expected layers from 0"),
        ([1.5], None, "expected whole numbers"),
        ([True], None, "expected whole numbers"),
    ],
)
def test_refused(spec: LayerSpec, num_layers: int | None, fault: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_layers(spec, num_layers=num_layers)
    assert fault in str(caught.value)


def test_preset_block_count() -> None:
    assert [preset_block_count(spec) for spec in ("late:32", "all:7", "late", "21-31", [1])] == [
        32,
        7,
        None,
        None,
        None,
    ]
