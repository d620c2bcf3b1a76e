"""The compiled reader: never a crash, and the same verdict as the Python reader on every file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metadeploy.errors import SidecarError
from metadeploy.sidecar import Sidecar, keys, read_sidecar, write_sidecar
from metadeploy.sidecar.layout import dims_of, expected_tensors
from metadeploy.sidecar.spec import EncoderType, WrapperConfig
from support.core_reader import Answer, CoreReader
from support.gguf_mutations import mutations
from support.handmade_gguf import Gguf, Tensor, sidecar
from support.malformed_gguf import HANDMADE
from support.random_wrapper import random_wrapper
from support.sidecar_faults import FAULTS, TRANSFORMER_FAULTS, file

PER_ENCODER = 800  # 2,400 in all

ENCODERS: tuple[EncoderType, ...] = get_args(EncoderType)


@pytest.fixture(scope="module")
def core() -> Iterator[CoreReader]:
    with CoreReader() as reader:
        yield reader


def python_verdict(path: Path) -> Sidecar | str:
    try:
        return read_sidecar(path)
    except SidecarError as error:
        return str(error)


def agree(core: CoreReader, path: Path, what: str) -> Answer:
    """Assert that both readers load a file as the same wrapper, or both refuse it."""
    answer = core.read(path, what)
    verdict = python_verdict(path)
    assert (answer.error is None) == isinstance(verdict, Sidecar), f"{what}: {answer.error!r} against {verdict!r}"
    if isinstance(verdict, Sidecar):
        assert answer.encoded, what
        assert answer.config == described(verdict.config), what
        for name, shape in answer.shapes.items():
            assert tuple(shape) == verdict.tensors[name].shape, what
    else:
        assert answer.error is not None
        assert answer.error.startswith(f"sidecar '{path}': "), what
    return answer


def described(config: WrapperConfig) -> dict[str, Any]:
    """Return the configuration in the compiled reader's form, with ``chat_template_kwargs`` as in the file."""
    return {
        "encoder_type": config.encoder_type,
        "hidden_dim": config.hidden_dim,
        "encoder_dim": config.encoder_dim,
        "bottleneck_dim": config.bottleneck_dim,
        "num_cognitive_tokens": config.num_cognitive_tokens,
        "ca_num_heads": config.ca_num_heads,
        "enc_num_heads": config.enc_num_heads,
        "target_layers": list(config.target_layers),
        "cross_attn_layers": list(config.cross_attn_layers),
        "inject_from": config.inject_from,
        "refusal_text": config.refusal_text,
        "refusal_token_ids": list(config.refusal_token_ids or ()),
        "refusal_bias": config.refusal_bias,
        "prompt_format": config.prompt_format or "",
        "answer_suffix": config.answer_suffix or "",
        "chat_template_kwargs": json.dumps(dict(config.chat_template_kwargs)) if config.chat_template_kwargs else "",
        "base_block_count": config.base_block_count or 0,
        "checkpoint_sha256": config.checkpoint_sha256 or "",
        "kind": config.kind,
    }


@pytest.mark.parametrize(
    ("encoder", "outtype"), [("selective", "f32"), ("multi_token", "f16"), ("transformer", "q8_0")]
)
def test_mutations(encoder: EncoderType, outtype: Any, core: CoreReader, tmp_path: Path) -> None:
    config, tensors = random_wrapper(
        encoder, hidden_dim=32, target_layers=(1, 2), cross_attn_layers=(2, 3), num_layers=4, num_blocks=1
    )
    config = replace(config, refusal_token_ids=(5, 0, 2), refusal_bias=1.5)
    valid, path = tmp_path / "valid.gguf", tmp_path / "mutated.gguf"
    write_sidecar(valid, config, {name: tensor.numpy() for name, tensor in tensors.items()}, outtype=outtype)
    loads = 0
    for mutation in mutations(valid.read_bytes(), seed=23, count=PER_ENCODER):
        path.write_bytes(mutation.data)
        answer = core.read(path, mutation.name)
        verdict = python_verdict(path)
        assert (answer.error is None) == isinstance(verdict, Sidecar), f"{mutation.name}: {answer.error!r}, {verdict!r}"
        assert answer.error is None or answer.error.startswith(f"sidecar '{path}': "), mutation.name
        loads += answer.error is None
    # a broken mutator or a reader that refuses everything would be as bad as a crash
    assert PER_ENCODER // 50 < loads < PER_ENCODER // 2


@given(seed=st.integers(0, 2**32), encoder=st.sampled_from(ENCODERS))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutations_of_any_seed(seed: int, encoder: EncoderType, core: CoreReader, tmp_path: Path) -> None:
    path = tmp_path / "mutated.gguf"
    for mutation in mutations(file(encoder).build(), seed=seed, count=9):
        path.write_bytes(mutation.data)
        answer = core.read(path, mutation.name)
        assert (answer.error is None) == isinstance(python_verdict(path), Sidecar), f"{mutation.name}: {answer.error!r}"


@pytest.mark.parametrize("name", HANDMADE)
def test_handmade(name: str, core: CoreReader, tmp_path: Path) -> None:
    path = tmp_path / "handmade.gguf"
    path.write_bytes(HANDMADE[name][0])
    assert agree(core, path, name).error is not None


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str, core: CoreReader, tmp_path: Path) -> None:
    change, expected = FAULTS[name]
    gguf = file()
    change(gguf)
    path = tmp_path / "faulty.gguf"
    path.write_bytes(gguf.build())
    error = agree(core, path, name).error
    assert error is not None
    # both messages name the tensor; "unknown type" is refused by ggml's own reader, which also names it
    for subject in re.findall(r"'([a-z_.0-9]+\.[a-z_.0-9]+)'", expected):
        assert subject in error


@pytest.mark.parametrize("name", TRANSFORMER_FAULTS)
def test_fault_of_a_transformer(name: str, core: CoreReader, tmp_path: Path) -> None:
    change, expected = TRANSFORMER_FAULTS[name]
    gguf = file("transformer")
    change(gguf)
    path = tmp_path / "faulty.gguf"
    path.write_bytes(gguf.build())
    error = agree(core, path, name).error
    assert error is not None
    for subject in re.findall(r"'([a-z_.0-9]+\.[a-z_.0-9]+)'", expected):
        assert subject in error


def test_keys_of_a_transformer(core: CoreReader, tmp_path: Path) -> None:
    """Older files lack these keys, and other encoders ignore them: both readers accept both cases."""
    names = ("encoder_dim", "encoder_num_blocks", "encoder_ffn_expansion", "use_layer_pos_embeddings")
    path = tmp_path / "keys.gguf"
    path.write_bytes(file("transformer").without(*(f"meta_spider.{name}" for name in names)).build())
    assert agree(core, path, "absent").error is None
    gguf = file()
    for name in names:
        gguf.with_key(f"meta_spider.{name}", "u32", 7)
    path.write_bytes(gguf.build())
    assert agree(core, path, "of another encoder").error is None


def test_all_faults_at_once(core: CoreReader, tmp_path: Path) -> None:
    gguf = file()
    for name in ("missing tensor", "wrong width", "NaN", "hidden_dim", "too few targets", "inject_from", "odd heads"):
        FAULTS[name][0](gguf)
    path = tmp_path / "faulty.gguf"
    path.write_bytes(gguf.build())
    error = agree(core, path, "seven faults").error
    assert error is not None
    for culprit in ("ca.2.up_proj.weight", "ca.1.k_proj.weight", "ca.1.v_proj.weight", "hidden_dim", "target_layers"):
        assert culprit in error
    assert f": {len(error.splitlines()) - 1} faults\n" in error


def test_paths_that_are_no_files(core: CoreReader, tmp_path: Path) -> None:
    for path, expected in ((tmp_path, "is a directory"), (tmp_path / "absent.gguf", "does not exist")):
        assert expected in str(agree(core, path, str(path)).error)


@pytest.mark.parametrize("prefix", ["meta_spider", "daimon"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_files_of_the_framework_load(encoder: EncoderType, prefix: str, core: CoreReader, tmp_path: Path) -> None:
    config, tensors = random_wrapper(encoder, hidden_dim=32, target_layers=(3, 1), cross_attn_layers=(1, 2))
    gguf = sidecar(config, {name: tensor.numpy() for name, tensor in tensors.items()}, prefix=prefix)
    gguf.with_key(f"{prefix}.num_cognitive_tokens", "u32", 32)  # published files have this wrong value
    path = tmp_path / "framework.gguf"
    path.write_bytes(gguf.build())
    assert agree(core, path, "framework").config["num_cognitive_tokens"] == config.num_cognitive_tokens


@pytest.mark.parametrize(("kind", "content"), [("[i32]", [7]), ("[u32]", [0, 2**31 - 1]), ("[i32]", [1] * 1024)])
def test_refusal_in_tokens(kind: str, content: list[int], core: CoreReader, tmp_path: Path) -> None:
    gguf = file().with_key("meta_spider.refusal_token_ids", kind, content)
    path = tmp_path / "refusal.gguf"
    path.write_bytes(gguf.with_key("meta_spider.refusal_bias", "f32", -100.0).build())
    answer = agree(core, path, "refusal")
    assert (answer.config["refusal_token_ids"], answer.config["refusal_bias"]) == (content, -100.0)


def test_keys_that_follow_from_the_tensors_may_be_absent(core: CoreReader, tmp_path: Path) -> None:
    names = ("encoder_type", "hidden_dim", "bottleneck_dim", "num_cognitive_tokens", "cross_attn_layers")
    path = tmp_path / "bare.gguf"
    path.write_bytes(file().without(*(f"meta_spider.{name}" for name in names)).build())
    assert agree(core, path, "bare").error is None


def test_a_wrapper_that_injects_nothing_is_read(core: CoreReader, tmp_path: Path) -> None:
    gguf = file().without("meta_spider.cross_attn_layers")
    gguf.tensors = [tensor for tensor in gguf.tensors if tensor.name.startswith("enc.")]
    path = tmp_path / "encoder.gguf"
    path.write_bytes(gguf.with_key("meta_spider.num_cognitive_tokens", "u32", 32).build())
    assert agree(core, path, "encoder only").config["cross_attn_layers"] == []


@pytest.mark.parametrize("encoder", ENCODERS)
def test_tensors_of_others_are_ignored(encoder: EncoderType, core: CoreReader, tmp_path: Path) -> None:
    gguf = file(encoder)
    for name, shape in (
        ("enc.telemetry", (18,)),
        ("enc.layer_projectors.0.2.weight", (3, 5)),
        ("enc.layer_projectors.00.1.weight", (3, 5)),
        ("ca.1.extra.weight", (7,)),
        ("ca.1000.gate", (1,)),
        ("x", (2, 2, 2, 2)),
    ):
        gguf.tensors.append(Tensor.f32(name, np.full(shape, np.nan, dtype=np.float32)))
    path = tmp_path / "extra.gguf"
    path.write_bytes(gguf.build())
    answer = agree(core, path, "strange tensors")
    assert answer.error is None
    assert not any("extra" in name or name == "x" for name in answer.shapes)


@pytest.mark.parametrize("name", ["enc.shared_projector.weight", "enc.shared_projector.1.weight", "enc.queries"])
def test_a_tensor_of_another_encoder_does_no_harm(name: str, core: CoreReader, tmp_path: Path) -> None:
    gguf = file("selective")
    gguf.tensors.insert(0, Tensor.f32(name, np.zeros((3, 5), dtype=np.float32)))
    path = tmp_path / "mixed.gguf"
    path.write_bytes(gguf.build())
    assert agree(core, path, name).error is None


# --- drawn wrappers --------------------------------------------------------------------------------------------------


@st.composite
def wrappers(draw: st.DrawFn) -> Gguf:
    """A handmade sidecar of any kind and small size, with ones for weights."""
    encoder = draw(st.sampled_from(ENCODERS))
    enc_heads, ca_heads = draw(st.sampled_from((1, 2, 3))), draw(st.sampled_from((1, 2, 3)))
    n_target = draw(st.integers(1, 4))
    config = WrapperConfig(
        encoder_type=encoder,
        hidden_dim=draw(st.integers(1, 24)),
        encoder_dim=enc_heads * draw(st.integers(1, 8)),
        bottleneck_dim=ca_heads * draw(st.integers(1, 8)),
        num_cognitive_tokens=draw(st.integers(1, 5)) if encoder == "multi_token" else n_target,
        ca_num_heads=ca_heads,
        enc_num_heads=enc_heads,
        target_layers=tuple(draw(st.permutations(range(6)))[:n_target]),
        cross_attn_layers=tuple(sorted(draw(st.sets(st.integers(0, 999), min_size=1, max_size=3)))),
    )
    dims = dims_of(
        config,
        prenorm_projector=encoder == "selective" or draw(st.booleans()),
        shared_projector=encoder == "transformer" and draw(st.booleans()),
        layer_pos_embed=encoder == "transformer" and draw(st.booleans()),
        n_blocks=draw(st.integers(1, 2)) if encoder == "transformer" else 0,
        ffn_dim=draw(st.integers(1, 9)) if encoder == "transformer" else 0,
    )
    arrays = {name: np.ones(shape, dtype=np.float32) for name, shape in expected_tensors(dims).items()}
    return sidecar(config, arrays)


drawn = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(gguf=wrappers())
@drawn
def test_layouts_agree(gguf: Gguf, core: CoreReader, tmp_path: Path) -> None:
    path = tmp_path / "drawn.gguf"
    path.write_bytes(gguf.build())
    answer = agree(core, path, "drawn")
    assert answer.error is None
    assert {name: tuple(shape) for name, shape in answer.shapes.items()} == {
        tensor.name: tuple(tensor.shape) for tensor in gguf.tensors
    }


@given(gguf=wrappers(), data=st.data())
@drawn
def test_one_wrong_tensor_is_refused_by_both(gguf: Gguf, data: st.DataObject, core: CoreReader, tmp_path: Path) -> None:
    tensor = data.draw(st.sampled_from(gguf.tensors))
    change = data.draw(st.sampled_from(("delete", "rename", "reshape")))
    if change == "delete":
        gguf.tensors.remove(tensor)
    elif change == "rename":
        tensor.name += "x"
    else:
        axis = data.draw(st.integers(0, len(tensor.shape) - 1))
        shape = [n + 32 * (i == axis) for i, n in enumerate(tensor.shape)]
        tensor.shape, tensor.data = shape, bytes(4 * int(np.prod(shape)))
    path = tmp_path / "drawn.gguf"
    path.write_bytes(gguf.build())
    answer = agree(core, path, f"{change} {tensor.name}")
    if tensor.name.removesuffix("x") != "enc.layer_pos_embed":  # that one is optional
        assert answer.error is not None


@given(gguf=wrappers())
@drawn
def test_outer_dimensions_of_1_may_be_gone(gguf: Gguf, core: CoreReader, tmp_path: Path) -> None:
    expected = {tensor.name: tuple(tensor.shape) for tensor in gguf.tensors}
    for tensor in gguf.tensors:
        while len(tensor.shape) > 1 and tensor.shape[0] == 1:
            tensor.shape = tensor.shape[1:]
    path = tmp_path / "drawn.gguf"
    path.write_bytes(gguf.build())
    answer = agree(core, path, "squeezed")
    assert {name: tuple(shape) for name, shape in answer.shapes.items()} == expected


# --- names -----------------------------------------------------------------------------------------------------------


def test_key_names_are_the_same_in_both_languages(repo_root: Path) -> None:
    header = (repo_root / "csrc" / "sidecar" / "keys.h").read_text(encoding="utf-8")
    in_cpp = dict(re.findall(r'inline constexpr char (\w+)\[\] = "([^"]*)";', header))
    in_python = {name: value for name, value in vars(keys).items() if name.isupper()}
    in_cpp["ARCHITECTURE"] = in_cpp["ARCHITECTURE"].removeprefix("general")
    assert {name: value.removeprefix("{prefix}") for name, value in in_python.items()} | {
        "ARCHITECTURE": ".architecture"
    } == in_cpp
