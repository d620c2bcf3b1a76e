"""Verdict heads in sidecars: written, read by both readers, and refused if they are malformed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metadeploy import _core
from metadeploy.errors import SidecarError
from metadeploy.sidecar import examine, read_sidecar, write_sidecar
from metadeploy.sidecar.editing import edit_sidecar
from metadeploy.sidecar.rewriting import write_verdict
from metadeploy.sidecar.verdict import FIGURE_NAMES, VerdictHead, verdict_keys
from support.core_reader import CoreReader
from support.handmade_gguf import Gguf, Tensor
from support.random_verdict import random_verdict
from support.sidecar_faults import file, wrapper


@pytest.fixture(scope="module")
def core() -> Iterator[CoreReader]:
    with CoreReader() as reader:
        yield reader


@pytest.fixture
def sidecar(tmp_path: Path) -> Path:
    config, tensors = wrapper()
    return write_sidecar(tmp_path / "wrapper.gguf", config, tensors).path


def head(**options: Any) -> VerdictHead:
    return random_verdict(32, **{"prompt_layers": (2,), "answer_layers": (1, 3)} | options)


def same(one: VerdictHead, other: VerdictHead) -> bool:
    return one.config == other.config and all(
        np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors
    )


def test_figures_have_the_same_names_in_both_languages() -> None:
    assert tuple(_core.FIGURE_NAMES) == FIGURE_NAMES


@pytest.mark.parametrize(
    "options",
    [{}, {"window": "answer"}, {"guarantees": ()}, {"prompt_layers": ()}, {"answer_layers": ()}, {"n_hidden": 1}],
)
def test_a_head_is_read_as_it_was_written(
    options: dict[str, Any], sidecar: Path, tmp_path: Path, core: CoreReader
) -> None:
    expected = head(**options)
    path = write_verdict(sidecar, expected, tmp_path / "judged.gguf")
    result = read_sidecar(path)
    assert result.verdict is not None and same(result.verdict, expected)
    assert result.config == read_sidecar(sidecar).config
    assert not [oddity for oddity in result.oddities if "verdict" in oddity]
    answer = core.read(path, "a head")
    assert answer.error is None and not [name for name in answer.shapes if name.startswith("verdict.")]


def test_the_rest_of_the_file_stays(sidecar: Path, tmp_path: Path) -> None:
    before = read_sidecar(sidecar)
    after = read_sidecar(write_verdict(sidecar, head(), tmp_path / "judged.gguf"))
    for name, values in before.tensors.items():
        assert np.array_equal(values, after.tensors[name])
    assert {key: after.metadata[key] for key in before.metadata} == before.metadata


def test_another_head_replaces_the_first(sidecar: Path) -> None:
    write_verdict(sidecar, head(), sidecar)
    other = head(prompt_layers=(0, 1), window="answer", guarantees=(), seed=7)
    size = sidecar.stat().st_size
    write_verdict(sidecar, other, sidecar)
    result = read_sidecar(sidecar)
    assert result.verdict is not None and same(result.verdict, other)
    write_verdict(sidecar, head(), sidecar)
    result = read_sidecar(sidecar)
    assert result.verdict is not None and same(result.verdict, head())
    assert sidecar.stat().st_size == size  # nothing of the heads before is left


def test_edits_keep_the_head(sidecar: Path) -> None:
    write_verdict(sidecar, head(), sidecar)
    edit_sidecar(sidecar, values={"name": "another"})
    result = read_sidecar(sidecar)
    assert result.verdict is not None and same(result.verdict, head())


def test_a_head_for_another_base_is_refused(sidecar: Path) -> None:
    before = sidecar.read_bytes()
    with pytest.raises(SidecarError, match=re.escape("'verdict.hidden.weight' has shape [8, 155], expected [8, 107]")):
        write_verdict(sidecar, random_verdict(48, prompt_layers=(2,), answer_layers=(1, 3)), sidecar)
    assert sidecar.read_bytes() == before


# --- malformed heads -------------------------------------------------------------------------------------------------


def judged() -> Gguf:
    """A sidecar with a head, made by hand."""
    gguf = file()
    for key, value in verdict_keys(head().config, "meta_spider").items():
        gguf.keys.append((key, value.type, value.value))
    gguf.tensors += [Tensor.f32(name, values) for name, values in head().tensors.items()]
    return gguf


def key(name: str, kind: str, content: Any) -> Callable[[Gguf], Any]:
    full = f"meta_spider.verdict.{name}"
    return lambda gguf: gguf.without(full).keys.append((full, kind, content))


def without_key(name: str) -> Callable[[Gguf], Any]:
    return lambda gguf: gguf.without(f"meta_spider.verdict.{name}")


def tensor(name: str, *shape: int, value: float = 0.5) -> Callable[[Gguf], Any]:
    def change(gguf: Gguf) -> None:
        gguf.tensors = [existing for existing in gguf.tensors if existing.name != name]
        if shape:
            gguf.tensors.append(Tensor.f32(name, np.full(shape, value, np.float32)))

    return change


FAULTS: dict[str, tuple[Callable[[Gguf], Any], str]] = {
    "no version": (without_key("version"), "verdict.version' is missing"),
    "a later version": (key("version", "u32", 2), "is 2, expected 1"),
    "version of another type": (key("version", "str", "1"), "has type str, expected u32"),
    "no layers": (
        lambda gguf: (key("prompt_layers", "[i32]", [])(gguf), key("answer_layers", "[i32]", [])(gguf)),
        "names no layers",
    ),
    "a negative layer": (key("answer_layers", "[i32]", [1, -3]), "has layer -3, expected layers from 0"),
    "a layer twice": (key("answer_layers", "[i32]", [3, 3]), "twice"),
    "too many layers": (key("answer_layers", "[i32]", list(range(17))), "has 17 entries, expected at most 16"),
    "a layer too many": (key("answer_layers", "[i32]", [0, 1, 3]), "'verdict.hidden.weight' has shape"),
    "layers of another type": (key("prompt_layers", "[f32]", [1.0]), "has type [f32], expected [i32]"),
    "other figures": (key("figures", "str", "logprob_sum"), "is 'logprob_sum', expected 'log_n_tokens,"),
    "no figures": (without_key("figures"), "is '', expected 'log_n_tokens,"),
    "another window": (key("window", "str", "paragraph"), "is 'paragraph', expected one of first_sentence, answer"),
    "slope that is not a number": (key("slope", "f32", float("nan")), "expected -1000 to 1000"),
    "huge intercept": (key("intercept", "f32", 1e9), "expected -1000 to 1000"),
    "slope of another type": (key("slope", "u32", 1), "has type u32, expected f32"),
    "fewer thresholds": (key("guarantee.thresholds", "[f32]", [0.1]), "has 2 entries for 1 thresholds"),
    "descending error rates": (key("guarantee.max_errors", "[f32]", [0.5, 0.25]), "not in ascending order"),
    "an error rate above 1": (key("guarantee.max_errors", "[f32]", [0.5, 1.5]), "expected rates from 0 to 1"),
    "a coverage that is not a number": (key("guarantee.coverages", "[f32]", [0.5, float("nan")]), "expected rates"),
    "too many guarantees": (key("guarantee.max_errors", "[f32]", [0.5] * 101), "has 101 entries, expected at most 100"),
    "delta above 1": (key("guarantee.delta", "f32", 2.0), "expected 0 to 1"),
    "a negative n": (key("guarantee.n", "i32", -1), "is -1, expected 0 to"),
    "no weights": (tensor("verdict.hidden.weight"), "tensor 'verdict.hidden.weight' is missing"),
    "no means": (tensor("verdict.input.mean"), "tensor 'verdict.input.mean' is missing, expected shape [107]"),
    "fewer inputs": (tensor("verdict.hidden.weight", 8, 106), "has shape [8, 106], expected [8, 107]"),
    "other hidden units": (tensor("verdict.hidden.bias", 9), "has shape [9], expected [8]"),
    "too many hidden units": (tensor("verdict.hidden.weight", 4097, 1), "has 4097 hidden units, expected at most 4096"),
    "weights that are not finite": (
        tensor("verdict.output.weight", 1, 8, value=np.inf),
        "8 values that are not finite",
    ),
    "keys without tensors": (
        lambda gguf: [tensor(name)(gguf) for name in head().tensors],
        "tensor 'verdict.hidden.weight' is missing",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_both_readers_refuse_a_malformed_head(name: str, core: CoreReader, tmp_path: Path) -> None:
    change, expected = FAULTS[name]
    gguf = judged()
    change(gguf)
    path = tmp_path / "malformed.gguf"
    path.write_bytes(gguf.build())
    faults = examine(path).faults
    assert any(expected in fault for fault in faults), faults
    assert expected in (core.read(path, name).error or ""), core.read(path, name).error


def test_the_head_made_by_hand_is_valid(core: CoreReader, tmp_path: Path) -> None:
    path = tmp_path / "valid.gguf"
    path.write_bytes(judged().build())
    assert core.read(path, "valid").error is None
    result = read_sidecar(path)
    assert result.verdict is not None and same(result.verdict, head())
