"""Sidecars are read back unchanged: by our reader, by gguf's, and by the rules of the framework's reader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from metadeploy import _core
from metadeploy._json import parse
from metadeploy.errors import SidecarError
from metadeploy.sidecar import Metadata, WrapperConfig, read_sidecar, write_sidecar
from metadeploy.sidecar.layout import is_matrix
from metadeploy.sidecar.spec import EncoderType
from metadeploy.sidecar.writer import LazyArray, OutType
from support.random_wrapper import random_wrapper

Arrays = dict[str, NDArray[np.float32]]
# largest relative error of one rounding; for Q8_0 relative to the block's largest value: half a step of 1/127, and the
# F16 scale's own rounding
ROUNDING = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8, "q8_0": 0.5 / 127 + 2.0**-11}


def wrapper(encoder: EncoderType, **options: Any) -> tuple[WrapperConfig, Arrays]:
    arguments: dict[str, Any] = {
        "hidden_dim": 64, "target_layers": (1, 2, 5), "cross_attn_layers": (2, 5), "num_layers": 8, **options
    }  # fmt: skip
    config, tensors = random_wrapper(encoder, **arguments)
    return config, {name: tensor.numpy() for name, tensor in tensors.items()}


@st.composite
def wrappers(draw: st.DrawFn) -> tuple[WrapperConfig, Arrays]:
    encoder: EncoderType = draw(st.sampled_from(("selective", "multi_token", "transformer")))
    layers = st.lists(st.integers(0, 30), min_size=1, max_size=4, unique=True)
    heads = draw(st.sampled_from((1, 2, 4)))
    return wrapper(
        encoder,
        hidden_dim=draw(st.integers(1, 80)),
        target_layers=draw(layers),
        cross_attn_layers=draw(layers),
        num_layers=31,
        encoder_dim=heads * draw(st.integers(1, 24)),
        bottleneck_dim=heads * draw(st.integers(1, 24)),
        num_tokens=draw(st.integers(1, 7)) if encoder == "multi_token" else None,
        ca_num_heads=heads,
        enc_num_heads=heads,
        prenorm_projector=draw(st.booleans()),
        shared_projector=draw(st.booleans()),
        layer_pos_embed=draw(st.booleans()),
        num_blocks=draw(st.integers(1, 2)),
        ffn_dim=draw(st.integers(1, 40)),
        seed=draw(st.integers(0, 9)),
    )


@given(made=wrappers(), outtype=st.sampled_from(("f32", "f16", "bf16", "q8_0")))
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(made: tuple[WrapperConfig, Arrays], outtype: OutType, tmp_path: Path) -> None:
    config, arrays = made
    path = tmp_path / "made.gguf"
    report = write_sidecar(path, config, arrays, outtype=outtype, force=True)
    sidecar = read_sidecar(path)
    assert sidecar.config == config
    assert sidecar.oddities == ()
    assert list(sidecar.tensors) == list(arrays)
    assert report.n_parameters == sum(array.size for array in arrays.values())
    assert sum(report.tensor_types.values()) == len(arrays)
    for name, array in arrays.items():
        stored = sidecar.tensors[name]
        assert (stored.dtype, stored.shape) == (np.float32, array.shape)
        if outtype == "f32" or not is_matrix(name, array.shape):
            np.testing.assert_array_equal(stored, array)
        else:
            scale = np.abs(array).max(axis=-1, keepdims=True) if outtype == "q8_0" else np.abs(array)
            # one part in a million for the float32 arithmetic; 1e-7 for values that are subnormal in F16
            assert (np.abs(stored - array) <= ROUNDING[outtype] * scale * (1 + 1e-6) + 1e-7).all(), name


def test_every_setting_survives(tmp_path: Path) -> None:
    config, arrays = wrapper("selective")
    config = replace(
        config,
        inject_from="last_prompt_token",
        refusal_text="Das weiß ich nicht. 🤷",
        refusal_token_ids=(2**31 - 1, 0, 7),
        refusal_bias=-1.25,
        prompt_format="auto",
        answer_suffix="\nAnswer briefly.",
        chat_template_kwargs={"enable_thinking": False, "thinking": False, "deep": {"list": [1, None, "x"]}},
        base_model="Qwen/Qwen3.5-4B",
        checkpoint_sha256="ab" * 32,
        kind="goal_anchor",
    )
    path = tmp_path / "made.gguf"
    write_sidecar(path, config, arrays, metadata=Metadata(name="N", version="2.1", license="mit", description="D"))
    sidecar = read_sidecar(path)
    assert sidecar.config == config
    expected = {
        "general.architecture": "meta-spider",
        "general.type": "adapter",
        "general.name": "N",
        "general.version": "2.1",
        "general.license": "mit",
        "general.description": "D",
        "general.base_model.count": 1,
        "general.base_model.0.name": "Qwen3.5-4B",
        "general.base_model.0.organization": "Qwen",
        "general.base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen3.5-4B",
        "general.file_type": 0,
        "meta_spider.format_version": 1,
    }
    assert {key: sidecar.metadata[key] for key in expected} == expected
    assert json.loads(sidecar.metadata["meta_spider.chat_template_kwargs"]) == config.chat_template_kwargs


@pytest.mark.parametrize(
    ("base", "name", "organization"),
    [("a/b", "b", "a"), ("/home/me/models/x.gguf", "x.gguf", None), ("C:\\models\\y", "y", None), ("./z/", "z", None)],
)
def test_base_model_never_shows_directories(base: str, name: str, organization: str | None, tmp_path: Path) -> None:
    config, arrays = wrapper("selective", num_layers=None)
    write_sidecar(tmp_path / "made.gguf", replace(config, base_model=base), arrays)
    metadata = read_sidecar(tmp_path / "made.gguf").metadata
    assert metadata["general.base_model.0.name"] == name
    assert metadata.get("general.base_model.0.organization") == organization
    assert "meta_spider.base_block_count" not in metadata


@pytest.mark.parametrize(
    ("outtype", "file_type", "quantized"),
    [("f32", 0, False), ("f16", 1, False), ("bf16", 32, False), ("q8_0", 7, True)],
)
def test_file_type_and_quantization_version(outtype: OutType, file_type: int, quantized: bool, tmp_path: Path) -> None:
    config, arrays = wrapper("transformer", ffn_dim=64)
    report = write_sidecar(tmp_path / "made.gguf", config, arrays, outtype=outtype)
    metadata = read_sidecar(tmp_path / "made.gguf").metadata
    assert metadata["general.file_type"] == file_type
    assert ("general.quantization_version" in metadata) is quantized
    small = {"F32"} if outtype == "f32" else {"F32", "F16", outtype.upper()}
    assert set(report.tensor_types) <= small


def test_q8_0_falls_back_if_rows_do_not_divide(tmp_path: Path) -> None:
    config, arrays = wrapper("selective", bottleneck_dim=20)  # rows of 20 in q_proj and up_proj
    report = write_sidecar(tmp_path / "made.gguf", config, arrays, outtype="q8_0")
    assert report.tensor_types["F16"] == 4
    assert report.notes == ("4 matrices are F16, not Q8_0: their rows (20) are not a multiple of 32",)


@pytest.mark.parametrize("encoder", ["selective", "multi_token", "transformer"])
def test_only_weight_matrices_change_type(encoder: EncoderType, tmp_path: Path) -> None:
    config, arrays = wrapper(encoder)
    write_sidecar(tmp_path / "made.gguf", config, arrays, outtype="f16")
    for tensor in GGUFReader(tmp_path / "made.gguf").tensors:
        matrix = len(tensor.shape) == 2 and tensor.name.endswith("weight")
        assert tensor.tensor_type == (GGMLQuantizationType.F16 if matrix else GGMLQuantizationType.F32), tensor.name


#: Keys of a sidecar from which the framework's llama.cpp reader builds its graph. For the transformer encoder, its
#: defaults would give other results: no blocks, an expansion of 4, position embeddings.
FRAMEWORK_KEYS = frozenset(
    "encoder_type hidden_dim bottleneck_dim num_cognitive_tokens ca_num_heads enc_num_heads".split()  # noqa: SIM905
)
FRAMEWORK_TRANSFORMER_KEYS = frozenset(
    "encoder_dim encoder_num_blocks encoder_ffn_expansion use_layer_pos_embeddings".split()  # noqa: SIM905
)


@pytest.mark.parametrize("embeds", [True, False])
@pytest.mark.parametrize("n_blocks", [1, 3])
def test_the_frameworks_reader_finds_the_shape_of_a_transformer(n_blocks: int, embeds: bool, tmp_path: Path) -> None:
    config, arrays = wrapper(
        "transformer", prenorm_projector=False, layer_pos_embed=embeds, num_blocks=n_blocks, ffn_dim=96
    )
    write_sidecar(tmp_path / "made.gguf", config, arrays)
    fields = GGUFReader(tmp_path / "made.gguf").fields
    for key in FRAMEWORK_KEYS | FRAMEWORK_TRANSFORMER_KEYS:
        kind = GGUFValueType.STRING if key == "encoder_type" else GGUFValueType.UINT32
        assert fields[f"meta_spider.{key}"].types == [kind], key
    expected = {
        "encoder_dim": 32,
        "encoder_num_blocks": n_blocks,
        "encoder_ffn_expansion": 3,
        "use_layer_pos_embeddings": int(embeds),
    }
    assert {key: fields[f"meta_spider.{key}"].contents() for key in FRAMEWORK_TRANSFORMER_KEYS} == expected
    assert read_sidecar(tmp_path / "made.gguf").config == config


def test_a_fractional_expansion_is_left_out(tmp_path: Path) -> None:
    config, arrays = wrapper("transformer", ffn_dim=48)  # 1.5 times the encoder's width
    write_sidecar(tmp_path / "made.gguf", config, arrays)
    sidecar = read_sidecar(tmp_path / "made.gguf")
    assert FRAMEWORK_TRANSFORMER_KEYS - {key.removeprefix("meta_spider.") for key in sidecar.metadata} == {
        "encoder_ffn_expansion"
    }
    assert sidecar.oddities == ()


@pytest.mark.parametrize("encoder", ["selective", "multi_token"])
def test_other_encoders_have_no_keys_of_the_transformer(encoder: EncoderType, tmp_path: Path) -> None:
    config, arrays = wrapper(encoder)
    write_sidecar(tmp_path / "made.gguf", config, arrays)
    written = {key.removeprefix("meta_spider.") for key in read_sidecar(tmp_path / "made.gguf").metadata}
    assert written >= FRAMEWORK_KEYS
    assert not written & FRAMEWORK_TRANSFORMER_KEYS


@pytest.mark.parametrize("encoder", ["selective", "multi_token", "transformer"])
def test_loads_by_the_frameworks_rules(encoder: EncoderType, tmp_path: Path) -> None:
    """F32 files have the framework's keys, types and names, ne = [in, out], and scalars as [1]."""
    config, arrays = wrapper(encoder)
    write_sidecar(tmp_path / "made.gguf", config, arrays)
    reader = GGUFReader(tmp_path / "made.gguf")
    u32, i32, string = GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.STRING
    expected: dict[str, tuple[list[GGUFValueType], Any]] = {
        "general.architecture": ([string], "meta-spider"),
        "meta_spider.encoder_type": ([string], encoder),
        "meta_spider.gate_activation": ([string], "tanh"),
        "meta_spider.hidden_dim": ([u32], 64),
        "meta_spider.bottleneck_dim": ([u32], 16),
        "meta_spider.num_cognitive_tokens": ([u32], config.num_cognitive_tokens),
        "meta_spider.ca_num_heads": ([u32], 4),
        "meta_spider.enc_num_heads": ([u32], 4),
        "meta_spider.target_layers": ([GGUFValueType.ARRAY, i32], [1, 2, 5]),
        "meta_spider.cross_attn_layers": ([GGUFValueType.ARRAY, i32], [2, 5]),
    }
    for key, (types, content) in expected.items():
        field = reader.fields[key]
        assert (field.types, field.contents()) == (types, content), key
    assert {tensor.name for tensor in reader.tensors} == set(arrays)
    for tensor in reader.tensors:
        array = arrays[tensor.name]
        assert tensor.tensor_type == GGMLQuantizationType.F32
        assert list(tensor.shape) == list(array.shape[::-1])
        assert len(tensor.name.encode()) < 64
        np.testing.assert_array_equal(tensor.data.reshape(array.shape), array)
    assert list(reader.get_tensor([t.name for t in reader.tensors].index("ca.2.gate")).shape) == [1]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"refusal_token_ids": ()}, "refusal_token_ids has 0 entries, expected 1 to 1024"),
        ({"refusal_token_ids": (1,) * 1025}, "refusal_token_ids has 1025 entries, expected 1 to 1024"),
        ({"refusal_token_ids": (5, -1)}, "refusal_token_ids has -1, expected token ids from 0 to 2147483647"),
        ({"refusal_token_ids": (2**31,)}, "refusal_token_ids has 2147483648, expected token ids from 0"),
        ({"refusal_bias": 100.5}, "refusal_bias is 100.5, expected -100 to 100"),
        ({"refusal_bias": float("nan")}, "refusal_bias is nan, expected -100 to 100"),
        ({"refusal_bias": float("-inf")}, "refusal_bias is -inf, expected -100 to 100"),
    ],
)
def test_a_refusal_that_cannot_be_is_not_written(changes: dict[str, Any], fault: str, tmp_path: Path) -> None:
    config, arrays = wrapper("selective")
    with pytest.raises(SidecarError) as caught:
        write_sidecar(tmp_path / "made.gguf", replace(config, **changes), arrays)
    assert fault in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_at_its_limits_is_written(tmp_path: Path) -> None:
    config, arrays = wrapper("selective")
    config = replace(config, refusal_token_ids=(0,) * 1024, refusal_bias=-100.0)
    write_sidecar(tmp_path / "made.gguf", config, arrays)
    assert read_sidecar(tmp_path / "made.gguf").config == config


def test_lazy_arrays_are_made_one_at_a_time(tmp_path: Path) -> None:
    config, arrays = wrapper("selective")
    loaded: list[str] = []
    written: list[tuple[int, int]] = []

    def lazy(name: str) -> LazyArray:
        def load() -> NDArray[np.float32]:
            assert len(loaded) == len(written), "the tensor before must be written first"
            loaded.append(name)
            return arrays[name]

        return LazyArray(arrays[name].shape, load)

    lazies = {name: lazy(name) for name in arrays}
    write_sidecar(tmp_path / "made.gguf", config, lazies, progress=lambda done, total: written.append((done, total)))
    assert loaded == list(arrays)
    assert written[-1][0] == written[-1][1] == 4 * sum(array.size for array in arrays.values())
    np.testing.assert_array_equal(read_sidecar(tmp_path / "made.gguf").tensors["ca.2.gate"], arrays["ca.2.gate"])


@pytest.mark.parametrize("outtype", ["f16", "bf16", "q8_0"])
def test_overflow_names_the_tensor(outtype: OutType, tmp_path: Path) -> None:
    config, arrays = wrapper("selective")
    arrays["ca.2.k_proj.weight"] = arrays["ca.2.k_proj.weight"].copy()
    arrays["ca.2.k_proj.weight"][3, 4] = 3.4e38
    with pytest.raises(SidecarError, match=rf"tensor 'ca.2.k_proj.weight' .*too large for {outtype.upper()} .*f32"):
        write_sidecar(tmp_path / "made.gguf", config, arrays, outtype=outtype)
    assert list(tmp_path.iterdir()) == []
    write_sidecar(tmp_path / "made.gguf", config, arrays)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_written(bad: float, tmp_path: Path) -> None:
    config, arrays = wrapper("selective")
    arrays["enc.output_norm.bias"] = np.full_like(arrays["enc.output_norm.bias"], bad)
    with pytest.raises(SidecarError, match=r"tensor 'enc.output_norm.bias' has values that are not finite"):
        write_sidecar(tmp_path / "made.gguf", config, arrays)
    assert list(tmp_path.iterdir()) == []


def test_a_wrapper_that_contradicts_itself_is_not_written(tmp_path: Path) -> None:
    config, arrays = wrapper("selective")
    del arrays["ca.5.norm.bias"]
    arrays["enc.mystery"] = np.zeros(3, np.float32)
    wrong = replace(config, hidden_dim=65, ca_num_heads=3, target_layers=(1, 2, 8), cross_attn_layers=(2, 6))
    with pytest.raises(SidecarError) as caught:
        write_sidecar(tmp_path / "made.gguf", wrong, arrays)
    message = str(caught.value)
    for part in (
        "tensor 'ca.5.norm.bias' is missing, expected shape [64]",
        "tensor 'enc.mystery' is not part of a selective wrapper",
        "hidden_dim is 65 in the config, but 64 in the tensors",
        "cross_attn_layers is (2, 6) in the config, but (2, 5) in the tensors",
        "target_layers has [8], expected layers from 0 to 7 (the base has 8 blocks)",
        "the cross-attention has width 16 and 3 heads, expected a multiple",
    ):
        assert part in message
    assert list(tmp_path.iterdir()) == []


DEEP: Any = "x"
for _ in range(200_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"chat_template_kwargs": {"x": float("nan")}}, "chat_template_kwargs cannot be written as JSON: Out of range"),
        ({"chat_template_kwargs": {"x": [float("inf")]}}, "chat_template_kwargs cannot be written as JSON"),
        ({"chat_template_kwargs": {"x": {1, 2}}}, "chat_template_kwargs cannot be written as JSON: Object of type set"),
        ({"chat_template_kwargs": {"x": np.int64(1)}}, "chat_template_kwargs cannot be written as JSON"),
        ({"chat_template_kwargs": {"x": DEEP}}, "chat_template_kwargs cannot be written as JSON"),
        ({"chat_template_kwargs": {"x": 2**64}}, "key 'meta_spider.chat_template_kwargs' is not JSON"),
        ({"chat_template_kwargs": {"x": "\ud83d"}}, "key 'meta_spider.chat_template_kwargs' is not JSON"),
        ({"chat_template_kwargs": {"x": "y" * 2**20}}, "expected at most 1048576"),
        ({"chat_template_kwargs": {1: "one", "1": "text"}}, 'an object has the key "1" twice'),
        ({"refusal_text": "half \ud83d"}, "refusal_text holds half a surrogate pair"),
        ({"refusal_text": "a\0b"}, "has a zero byte in the value of 'meta_spider.refusal_text'"),
        ({"answer_suffix": 7}, "answer_suffix is 7, expected text"),
        ({"prompt_format": ["auto"]}, "prompt_format is ['auto'], expected text"),
        ({"kind": "k" * 2**21}, "expected at most 1048576"),
        ({"base_model": "org/\udc00"}, "base_model holds half a surrogate pair"),
        ({"inject_from": "never"}, "'meta_spider.inject_from' is 'never', expected one of"),
        ({"base_block_count": -1}, "base_block_count is -1, expected a whole number from 0 to 2147483647"),
        ({"ca_num_heads": 2**40}, "ca_num_heads is 1099511627776, expected a whole number"),
        ({"enc_num_heads": True}, "enc_num_heads is True, expected a whole number"),
        ({"target_layers": (1, 2, 2**33)}, "target_layers has [8589934592], expected layers from 0 to"),
        ({"refusal_bias": "high"}, "refusal_bias is 'high', expected a number"),
        ({"refusal_token_ids": (1, 2.0)}, "refusal_token_ids is [1, 2.0], expected whole numbers"),
    ],
)
def test_wrappers_that_a_reader_would_refuse_are_not_written(
    changes: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    config, arrays = wrapper("selective")
    path = tmp_path / "made.gguf"
    with pytest.raises(SidecarError) as caught:
        write_sidecar(path, replace(config, **changes), arrays)
    assert str(caught.value).startswith(f"sidecar '{path}': ")
    assert fault in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["name", "version", "license", "description"])
def test_descriptions_that_a_reader_would_refuse_are_not_written(field: str, tmp_path: Path) -> None:
    config, arrays = wrapper("selective")
    for value in ("a\0b", "\ud83d", "x" * (2**20 + 1), 5):
        with pytest.raises(SidecarError):
            write_sidecar(tmp_path / "made.gguf", config, arrays, metadata=Metadata(**{field: value}))
    assert list(tmp_path.iterdir()) == []


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
texts = st.text(st.characters(codec=None), max_size=8) | st.none()
numbers = st.integers(-1, 40) | st.sampled_from((2**31 - 1, 2**31, 2**32, 2**64))
changes = st.fixed_dictionaries(
    {},
    optional={
        "kind": texts | st.sampled_from(("doubter", "goal_anchor")),
        "inject_from": st.sampled_from(("prompt", "last_prompt_token", "x")),
        "refusal_text": texts,
        "refusal_token_ids": st.none() | st.lists(numbers, max_size=3).map(tuple),
        "refusal_bias": st.floats() | st.integers(-101, 101),
        "prompt_format": texts,
        "answer_suffix": texts,
        "chat_template_kwargs": st.dictionaries(st.text(st.characters(codec=None), max_size=3), anything, max_size=3),
        "base_model": texts | st.just("org/name"),
        "base_block_count": st.none() | numbers,
        "checkpoint_sha256": texts,
        "ca_num_heads": numbers,
        "enc_num_heads": numbers,
        "target_layers": st.permutations((1, 2, 5)).map(tuple) | st.just((1, 1, 2)),
    },
)


@given(changes=changes, encoder=st.sampled_from(("selective", "multi_token", "transformer")), described=texts)
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_both_readers_take(
    changes: dict[str, Any], encoder: EncoderType, described: str | None, tmp_path: Path
) -> None:
    config, arrays = wrapper(encoder)
    config = replace(config, **changes)
    path = tmp_path / "made.gguf"
    try:
        write_sidecar(path, config, arrays, metadata=Metadata(description=described), force=True)
    except SidecarError:
        return
    ours = read_sidecar(path).config
    theirs, shapes = _core.read_sidecar(str(path))
    assert set(shapes) == set(arrays)
    assert ours.target_layers == tuple(theirs["target_layers"]) == config.target_layers
    assert ours.kind == theirs["kind"]
    assert ours.chat_template_kwargs == (parse(theirs["chat_template_kwargs"]) if config.chat_template_kwargs else {})
