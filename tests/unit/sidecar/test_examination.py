"""Validation: it reports every kind of fault, all at once, and accepts the peculiarities of published files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metadeploy.errors import SidecarError
from metadeploy.sidecar import DEFAULT_REFUSAL_TEXT, Sidecar, examine, read_sidecar
from metadeploy.sidecar.spec import EncoderType
from support.handmade_gguf import Q4_0, Gguf, Tensor, sidecar
from support.sidecar_faults import FAULTS, TRANSFORMER_FAULTS, file, wrapper

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference" / "ca_testcase" / "ca_sidecar.gguf"


def read(gguf: Gguf, folder: Path) -> Sidecar:
    path = folder / "handmade.gguf"
    path.write_bytes(gguf.build())
    return read_sidecar(path)


@pytest.mark.parametrize("name", TRANSFORMER_FAULTS)
def test_fault_of_a_transformer(name: str, tmp_path: Path) -> None:
    change, expected = TRANSFORMER_FAULTS[name]
    gguf = file("transformer")
    change(gguf)
    with pytest.raises(SidecarError) as caught:
        read(gguf, tmp_path)
    assert expected in str(caught.value)


def test_a_transformer_without_the_keys_of_its_shape_is_only_odd(tmp_path: Path) -> None:
    """Our older files lack these keys. The framework writes them only for goal anchors."""
    names = ("encoder_dim", "encoder_num_blocks", "encoder_ffn_expansion", "use_layer_pos_embeddings")
    loaded = read(file("transformer").without(*(f"meta_spider.{name}" for name in names)), tmp_path)
    assert loaded.config == wrapper("transformer")[0]
    assert sum("and the framework's reader needs it" in oddity for oddity in loaded.oddities) == 3  # 48 is not n × 32


def test_other_encoders_ignore_keys_of_a_transformer(tmp_path: Path) -> None:
    assert read(file().with_key("meta_spider.encoder_num_blocks", "u32", 7), tmp_path).config == wrapper()[0]


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str, tmp_path: Path) -> None:
    change, expected = FAULTS[name]
    gguf = file()
    change(gguf)
    with pytest.raises(SidecarError) as caught:
        read(gguf, tmp_path)
    assert str(caught.value).startswith(f"sidecar '{tmp_path / 'handmade.gguf'}': ")
    assert expected in str(caught.value)


def test_the_handmade_file_itself_is_fine(tmp_path: Path) -> None:
    loaded = read(file(), tmp_path)
    assert loaded.config.target_layers == (3, 1)
    assert loaded.config.refusal_text == DEFAULT_REFUSAL_TEXT
    assert loaded.config.inject_from == "prompt"


def test_all_faults_at_once(tmp_path: Path) -> None:
    gguf = file()
    chosen = ("missing tensor", "wrong width", "NaN", "hidden_dim", "too few targets", "inject_from", "odd heads")
    for name in chosen:
        FAULTS[name][0](gguf)
    with pytest.raises(SidecarError) as caught:
        read(gguf, tmp_path)
    message = str(caught.value)
    assert f": {len(message.splitlines()) - 1} faults\n" in message
    for name in chosen:
        assert FAULTS[name][1] in message


def test_a_flood_of_missing_tensors_is_summed_up(tmp_path: Path) -> None:
    gguf = file()
    gguf.tensors.append(Tensor("enc.layer_projectors.900.0.bias", (32,), bytes(128)))
    with pytest.raises(SidecarError, match=r"more tensors are missing, the last of them") as caught:
        read(gguf, tmp_path)
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize("encoder", ["selective", "multi_token", "transformer"])
@pytest.mark.parametrize("prefix", ["meta_spider", "daimon"])
def test_files_of_the_framework_load(encoder: EncoderType, prefix: str, tmp_path: Path) -> None:
    config, arrays = wrapper(encoder)
    loaded = read(sidecar(config, arrays, prefix=prefix), tmp_path)
    assert loaded.config == config
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded.tensors[name], array)
    assert loaded.oddities == ("key 'general.name' is absent", "key 'general.type' is absent")


def test_wrong_number_of_cognitive_tokens_is_only_odd(tmp_path: Path) -> None:
    loaded = read(file().with_key("meta_spider.num_cognitive_tokens", "u32", 32), tmp_path)
    assert loaded.config.num_cognitive_tokens == 2
    assert (
        "key 'meta_spider.num_cognitive_tokens' is 32, but the tensors have 2 cognitive tokens, which are used"
        in loaded.oddities
    )


def test_keys_that_follow_from_the_tensors_may_be_absent(tmp_path: Path) -> None:
    names = (
        "encoder_type",
        "hidden_dim",
        "bottleneck_dim",
        "num_cognitive_tokens",
        "cross_attn_layers",
        "enc_num_heads",
    )
    loaded = read(file().without(*(f"meta_spider.{name}" for name in names), "meta_spider.gate_activation"), tmp_path)
    config, _ = wrapper()
    assert loaded.config.hidden_dim == config.hidden_dim
    assert loaded.config.cross_attn_layers == config.cross_attn_layers
    assert sum("is absent; the tensors" in oddity for oddity in loaded.oddities) == 5


def test_heads_of_an_encoder_that_has_them_are_required(tmp_path: Path) -> None:
    with pytest.raises(SidecarError, match=r"'meta_spider.enc_num_heads' is missing"):
        read(file("multi_token").without("meta_spider.enc_num_heads"), tmp_path)


def test_empty_list_is_absent(tmp_path: Path) -> None:
    config, arrays = wrapper()
    encoder_only = {name: array for name, array in arrays.items() if name.startswith("enc.")}
    loaded = read(sidecar(config, encoder_only).without("meta_spider.cross_attn_layers"), tmp_path)
    assert loaded.config.cross_attn_layers == ()
    assert "there are no cross-attention layers: this wrapper injects nothing" in loaded.oddities


@pytest.mark.parametrize("prefix", ["meta_spider", "daimon"])
def test_goal_anchor_loads(prefix: str, tmp_path: Path) -> None:
    loaded = read(file("transformer", prefix).with_key(f"{prefix}.kind", "str", "goal_anchor"), tmp_path)
    assert loaded.config.kind == "goal_anchor"
    assert "is of kind 'goal_anchor', not a doubter" in loaded.oddities


def test_tensors_of_others_are_odd_and_ignored(tmp_path: Path) -> None:
    gguf = file()
    gguf.tensors.append(Tensor("enc.telemetry", (18,), bytes(18), type=Q4_0 + 22))  # I8
    loaded = read(gguf, tmp_path)
    assert "tensor 'enc.telemetry' is not part of this kind of wrapper; ignored" in loaded.oddities


def test_layers_out_of_order_are_odd(tmp_path: Path) -> None:
    loaded = read(file().with_key("meta_spider.cross_attn_layers", "[i32]", [2, 1]), tmp_path)
    assert loaded.config.cross_attn_layers == (1, 2)
    assert "key 'meta_spider.cross_attn_layers' is not in ascending order: [2, 1]" in loaded.oddities


def test_tensors_are_a_mapping(tmp_path: Path) -> None:
    loaded = read(file(), tmp_path)
    assert len(loaded.tensors) == len(list(loaded.tensors))
    assert "ca.1.gate" in loaded.tensors
    with pytest.raises(KeyError):
        loaded.tensors["ca.99.gate"]


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference data are not beside this checkout")
def test_incomplete_sidecar_of_the_framework() -> None:
    examined = examine(REFERENCE)
    assert examined.config is None
    assert "has no encoder tensors (enc.*)" in examined.faults
    assert examined.dims.cross_attn_layers == (0,)


def test_keys_without_effect_are_odd(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    gguf = (
        file().with_key("meta_spider.refusal_txt", "str", "No.").with_key("meta_spider.prompt_format", "str", "alpaca")
    )
    path.write_bytes(gguf.build())
    examined = examine(path)
    assert examined.faults == ()
    assert "key 'meta_spider.refusal_txt' is not part of this format; ignored" in examined.oddities
    assert any("prompt_format' is 'alpaca', which has no effect" in oddity for oddity in examined.oddities)
