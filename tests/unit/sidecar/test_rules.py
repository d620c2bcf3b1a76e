"""Both readers and the writer check the sizes in a file before they enumerate or allocate anything by them."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metadeploy._json import MAX_JSON_DEPTH
from metadeploy.checkpoint.load import load_wrapper
from metadeploy.errors import CheckpointError, SidecarError
from metadeploy.sidecar import read_sidecar, rules, write_sidecar
from metadeploy.sidecar.layout import dims_of, expected_tensors
from metadeploy.sidecar.rules import size_faults, table_faults
from support.core_reader import CoreReader
from support.handmade_gguf import Gguf, Tensor, sidecar
from support.sidecar_faults import file, wrapper

I8 = 24
BOUNDS = {name: value for name, value in vars(rules).items() if name.startswith("MAX_")}


@pytest.fixture(scope="module")
def core() -> Iterator[CoreReader]:
    with CoreReader() as reader:
        yield reader


# --- one table of bounds ---------------------------------------------------------------------------------------------


def test_bounds_are_the_same_in_both_languages(repo_root: Path) -> None:
    constants = {}
    for header in ("sidecar/rules.h", "parse_json.h"):
        text = (repo_root / "csrc" / header).read_text(encoding="utf-8")
        for name, value in re.findall(r"inline constexpr \w+ (MAX_\w+) = ([^;]+);", text):
            constants[name] = eval(value.replace("INT32_MAX", str(2**31 - 1)).replace(".0f", ".0"))
    assert constants == BOUNDS | {"MAX_JSON_DEPTH": MAX_JSON_DEPTH}


def test_bounds_are_documented(repo_root: Path) -> None:
    text = (repo_root / "docs" / "sidecar-format.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(MAX_\w+)` \| (\d+) \|", text, re.MULTILINE)
    assert {name: int(value) for name, value in rows} == BOUNDS | {"MAX_JSON_DEPTH": MAX_JSON_DEPTH}


# --- sizes that tensors state ----------------------------------------------------------------------------------------


def zeros(name: str, *shape: int) -> Tensor:
    """A tensor of one byte for each element: a small file states large sizes."""
    return Tensor(name, shape, bytes(int(np.prod(shape))), I8)


def replaced(gguf: Gguf, tensor: Tensor) -> Gguf:
    gguf.tensors = [existing for existing in gguf.tensors if existing.name != tensor.name] + [tensor]
    return gguf


def only(*tensors: Tensor) -> Callable[[], Gguf]:
    def make() -> Gguf:
        gguf = file()
        gguf.tensors = list(tensors)
        return gguf

    return make


def with_key(name: str, kind: str, content: Any) -> Callable[[], Gguf]:
    return lambda: file().with_key(name, kind, content)


SIZES: dict[str, tuple[Callable[[], Gguf], str]] = {
    "target layers": (
        only(zeros("enc.layer_pos_embed", 500_000, 1)),
        "the number of target layers is 500000, expected at most 1000",
    ),
    "target layers of 1001": (
        only(zeros("enc.layer_pos_embed", 1001, 8)),
        "the number of target layers is 1001, expected at most 1000",
    ),
    "cognitive tokens": (
        only(zeros("enc.queries", 1025, 1)),
        "the number of cognitive tokens is 1025, expected at most 1024",
    ),
    "width": (only(zeros("enc.output_norm.weight", 65537)), "the width of the base is 65537, expected at most 65536"),
    "encoder": (only(zeros("enc.input_norm.bias", 65537)), "the width of the encoder is 65537, expected at most 65536"),
    "bottleneck": (
        only(zeros("ca.3.down_proj.weight", 65537, 1)),
        "the bottleneck of the cross-attention is 65537, expected at most 65536",
    ),
    "feed-forward": (
        only(zeros("enc.blocks.0.ffn.0.weight", 262145, 1)),
        "the inner width of the feed-forward is 262145, expected at most 262144",
    ),
}

# each file has the tensors of a valid file
COUNTS: dict[str, tuple[Callable[[], Gguf], str]] = {
    "keys": (
        lambda: Gguf([("general.architecture", "str", "x"), *((f"k{i}", "u8", 0) for i in range(4096))], []),
        "4097",
    ),
    "tensors": (lambda: Gguf([], [Tensor(f"t{i}", (1,), bytes(4)) for i in range(16385)]), "16385"),
    "tensors that are not there": (lambda: Gguf([], [], n_tensors=2**40), str(2**40)),
    "text": (with_key("x.y", "str", "a" * (2**20 + 1)), "1048577"),
    "text in an array": (with_key("x.y", "[str]", ["a", "a" * (2**20 + 1)]), "1048577"),
    "array": (with_key("x.y", "[u8]", [0] * (2**20 + 1)), "1048577"),
    "layers": (with_key("meta_spider.target_layers", "[i32]", [1] * (2**20 + 1)), "1048577"),
    "name of a key": (with_key("k" * 65536, "u8", 0), "65536"),
    "head": (
        lambda: Gguf([(f"k{i}", "str", "a" * 2**20) for i in range(65)], []),
        "more than 67108864 bytes",
    ),
    "zero byte in a text": (with_key("meta_spider.kind", "str", "doubter\0x"), "zero byte"),
    "zero byte in a key": (with_key("meta_spider.kind\0x", "str", "doubter"), "zero byte"),
    "no bool": (with_key("x.y", "bool", 2), "expected a bool"),
    "no bool in an array": (with_key("x.y", "[bool]", [1, 2]), "bool"),
    "alignment": (lambda: Gguf([("general.alignment", "u32", 2**21)], []), "2097152"),
}


def refusals(path: Path, gguf: Gguf, name: str, core: CoreReader) -> tuple[str, str]:
    """Write a sidecar that both readers have to refuse, and return what each says, in Python and in C++."""
    path.write_bytes(gguf.build())
    with pytest.raises(SidecarError) as caught:
        read_sidecar(path)
    error = core.read(path, name).error
    assert error is not None
    assert error.startswith(f"sidecar '{path}': ")
    assert str(caught.value).startswith(f"sidecar '{path}': ")
    return str(caught.value), error


@pytest.mark.parametrize("name", SIZES)
def test_sizes_beyond_their_bounds(name: str, core: CoreReader, tmp_path: Path) -> None:
    make, fault = SIZES[name]
    for message in refusals(tmp_path / "large.gguf", make(), name, core):
        assert fault in message
        assert "missing" not in message, "such a size must not be enumerated"


@pytest.mark.parametrize("name", COUNTS)
def test_counts_beyond_their_bounds(name: str, core: CoreReader, tmp_path: Path) -> None:
    make, fault = COUNTS[name]
    for message in refusals(tmp_path / "large.gguf", make(), name, core):
        assert fault in message
        assert len(message) < 1000


def test_values_at_their_bounds_load(core: CoreReader, tmp_path: Path) -> None:
    gguf = file().with_key("x.text", "str", "a" * 2**20).with_key("x.array", "[u8]", [1] * 2**20)
    gguf.with_key("k" * 65535, "u8", 0)
    path = tmp_path / "large.gguf"
    path.write_bytes(gguf.build())
    read_sidecar(path)
    assert core.read(path, "at its bounds").error is None


def test_tables_beyond_their_bound(core: CoreReader, tmp_path: Path) -> None:
    """A file of some kilobytes can require a huge table, because more tokens and heads enlarge the file very little."""
    config, arrays = wrapper("multi_token")
    config = replace(config, hidden_dim=257, encoder_dim=1, bottleneck_dim=1024, num_cognitive_tokens=1024)
    config = replace(config, ca_num_heads=1024, enc_num_heads=1, target_layers=(1,), cross_attn_layers=(2,))
    expected = expected_tensors(dims_of(config))
    path = tmp_path / "large.gguf"
    arrays = {name: np.zeros(shape, np.float32) for name, shape in expected.items()}
    path.write_bytes(sidecar(config, arrays).build())
    fault = "the tables of an injection have 257 x 1024 x 1024 entries"
    with pytest.raises(SidecarError, match=fault):
        read_sidecar(path)
    assert fault in str(core.read(path, "tables").error)
    with pytest.raises(SidecarError, match=fault):
        write_sidecar(tmp_path / "written.gguf", config, arrays)
    assert not (tmp_path / "written.gguf").exists()


def test_the_largest_models_are_within_the_bounds() -> None:
    assert size_faults({"D": 18432, "E": 4096, "B": 4096, "C": 126, "F": 73728, "N": 126}) == []
    assert table_faults(18432, 126, 8) == []
    assert len(table_faults(2**31, 2**31, 2**31)) == 1


def test_long_texts_are_shown_in_part(core: CoreReader, tmp_path: Path) -> None:
    gguf = file()
    for name in ("encoder_type", "gate_activation", "trigger", "inject_from", "chat_template_kwargs"):
        gguf.with_key(f"meta_spider.{name}", "str", "ß" * 100_000)
    path = tmp_path / "long.gguf"
    path.write_bytes(gguf.build())
    with pytest.raises(SidecarError) as caught:
        read_sidecar(path)
    assert len(str(caught.value)) < 2000
    error = core.read(path, "long texts").error
    assert error is not None
    assert len(error) < 2000


def test_many_faults_are_counted(core: CoreReader, tmp_path: Path) -> None:
    gguf = Gguf([("general.architecture", "str", "meta-spider")], [])
    gguf.tensors = [Tensor(f"ca.{i}.gate", (1,), struct.pack("<f", np.nan)) for i in range(300)]
    path = tmp_path / "many.gguf"
    path.write_bytes(gguf.build())
    with pytest.raises(SidecarError, match=r"\n  - and \d+ more$") as caught:
        read_sidecar(path)
    assert len(str(caught.value).splitlines()) == 102
    error = core.read(path, "many faults").error
    assert error is not None
    assert len(error.splitlines()) == 102


def test_a_checkpoint_cannot_state_them_either(tmp_path: Path) -> None:
    path = tmp_path / "doubter_checkpoint.pt"
    state = {"layer_pos_embed": torch.zeros(500_000, 1)}
    torch.save({"config": {}, "encoder_state": state, "ca_state": {}}, path)
    with pytest.raises(CheckpointError, match="the number of target layers is 500000, expected at most 1000"):
        load_wrapper(path)
