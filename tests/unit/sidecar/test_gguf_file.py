"""Malformed files give a clear error or load; they never cause a crash, a hang or a huge allocation."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metadeploy.errors import ModelLoadError, SidecarError
from metadeploy.sidecar import read_sidecar, write_sidecar
from metadeploy.sidecar.gguf_file import read_gguf
from metadeploy.sidecar.spec import EncoderType
from support.gguf_mutations import mutations
from support.handmade_gguf import F32, Gguf, Tensor
from support.malformed_gguf import HANDMADE, KEY, WEIGHT
from support.random_wrapper import random_wrapper

ENCODERS: tuple[EncoderType, ...] = ("selective", "multi_token", "transformer")
PER_ENCODER = 800


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small valid sidecar of each encoder, with the types f32, f16 and q8_0."""
    folder = tmp_path_factory.mktemp("valid")
    files = {}
    for encoder, outtype in zip(ENCODERS, ("f32", "f16", "q8_0"), strict=True):
        config, tensors = random_wrapper(
            encoder, hidden_dim=32, target_layers=(1, 2), cross_attn_layers=(2, 3), num_layers=4, num_blocks=1
        )
        path = folder / f"{encoder}.gguf"
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        write_sidecar(path, config, arrays, outtype=outtype)  # type: ignore[arg-type]
        files[encoder] = path.read_bytes()
    return files


@pytest.mark.parametrize("encoder", ENCODERS)
def test_mutations_end_in_an_error_or_a_load(encoder: str, valid: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "mutated.gguf"
    outcomes = {"error": 0, "load": 0}
    for mutation in mutations(valid[encoder], seed=11, count=PER_ENCODER):
        path.write_bytes(mutation.data)
        try:
            sidecar = read_sidecar(path)
        except SidecarError as error:
            assert str(error).startswith(f"sidecar '{path}': "), mutation.name
            outcomes["error"] += 1
        else:
            assert all(np.isfinite(array).all() for array in sidecar.tensors.values()), mutation.name
            outcomes["load"] += 1
    # a broken mutator or a reader that refuses everything would be as bad as a crash
    assert outcomes["error"] > PER_ENCODER // 2
    assert outcomes["load"] > PER_ENCODER // 50


@given(seed=st.integers(0, 2**32), encoder=st.sampled_from(ENCODERS))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutations_of_any_seed(seed: int, encoder: str, valid: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "mutated.gguf"
    for mutation in mutations(valid[encoder], seed=seed, count=9):
        path.write_bytes(mutation.data)
        try:
            read_sidecar(path)
        except SidecarError as error:
            assert f"'{path}'" in str(error), mutation.name


def test_mutations_are_the_same_every_time(valid: dict[str, bytes]) -> None:
    first, second = (list(mutations(valid["selective"], seed=3, count=40)) for _ in range(2))
    assert first == second
    assert len({mutation.data for mutation in first}) > 30


@given(data=st.binary(max_size=400), head=st.sampled_from([b"", b"GGUF", b"GGUF\x03\0\0\0", b"GGUF\x02\0\0\0"]))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_bytes(data: bytes, head: bytes, tmp_path: Path) -> None:
    path = tmp_path / "arbitrary.gguf"
    path.write_bytes(head + data)
    with pytest.raises(SidecarError):
        read_sidecar(path)


@pytest.mark.parametrize("name", HANDMADE)
def test_handmade(name: str, tmp_path: Path) -> None:
    data, expected = HANDMADE[name]
    path = tmp_path / "handmade.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(SidecarError) as caught:
        read_sidecar(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"sidecar '{path}': ")
    assert expected in message
    assert peak < 1 << 20, "a file of some hundred bytes must not cause allocations of megabytes"


def test_truncation_at_every_byte_of_the_head(tmp_path: Path) -> None:
    data = Gguf([KEY, ("k", "[str]", ["a", "b"])], [WEIGHT]).build()
    path = tmp_path / "cut.gguf"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(SidecarError):
            read_gguf(path)
    path.write_bytes(data)
    assert read_gguf(path).tensors["w"].shape == (2, 4)


def test_role_decides_the_class_of_errors(tmp_path: Path) -> None:
    for role, error in (("sidecar", SidecarError), ("base model", ModelLoadError)):
        with pytest.raises(error, match=f"{role} '.*absent.gguf': does not exist"):
            read_gguf(tmp_path / "absent.gguf", role=role)  # type: ignore[arg-type]
        with pytest.raises(error, match="is a directory"):
            read_gguf(tmp_path, role=role)  # type: ignore[arg-type]


def test_values_of_every_type(tmp_path: Path) -> None:
    keys = [
        ("a", "u8", 200), ("b", "i8", -3), ("c", "u16", 60000), ("d", "i16", -300), ("e", "u32", 4_000_000_000),
        ("f", "i32", -5), ("g", "f32", 0.5), ("h", "bool", 1), ("i", "str", "größer"), ("j", "u64", 2**60),
        ("k", "[i32]", [1, -2]), ("l", "[str]", ["x", ""]), ("m", "[bool]", [1, 0]), ("n", "[f32]", [0.25]),
    ]  # fmt: skip
    path = tmp_path / "values.gguf"
    path.write_bytes(Gguf(keys, [WEIGHT], version=2).build())
    metadata = read_gguf(path).metadata
    assert [(key, metadata[key].type, metadata[key].value) for key in metadata] == [
        (key, kind, bool(content) if kind == "bool" else content) for key, kind, content in keys
    ]
    assert metadata["h"].value is True


def test_unknown_tensor_types_do_not_hinder_reading_metadata(tmp_path: Path) -> None:
    path = tmp_path / "future.gguf"
    path.write_bytes(Gguf([KEY], [Tensor("w", (2, 4), bytes(32), type=99), Tensor("v", (8,), bytes(32), F32)]).build())
    file = read_gguf(path)
    assert (file.tensors["w"].type, file.tensors["w"].nbytes) == ("type 99", None)
    with pytest.raises(ValueError, match="unknown type"):
        file.raw("w")
    assert file.f32("v").shape == (8,)
