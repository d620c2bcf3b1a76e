"""The table of tensors: it predicts shapes from dimensions and infers dimensions from shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadeploy.sidecar.layout import dims_of, expected_tensors, infer, is_matrix, shape_faults, templates
from metadeploy.sidecar.spec import EncoderType, WrapperConfig


def config(encoder: EncoderType, n_target: int = 3, **sizes: int) -> WrapperConfig:
    return WrapperConfig(
        encoder_type=encoder,
        hidden_dim=sizes.get("D", 640),
        encoder_dim=sizes.get("E", 48),
        bottleneck_dim=sizes.get("B", 24),
        num_cognitive_tokens=sizes.get("C", 7) if encoder == "multi_token" else n_target,
        ca_num_heads=4,
        enc_num_heads=8,
        target_layers=tuple(range(n_target)),
        cross_attn_layers=(4, 9),
    )


def test_selective_by_hand() -> None:
    """Shapes of the selective encoder and the cross-attention, from the specification."""
    tensors = expected_tensors(dims_of(config("selective", n_target=2)))
    assert tensors["enc.layer_projectors.1.0.bias"] == (640,)
    assert tensors["enc.layer_projectors.1.1.weight"] == (48, 640)
    assert tensors["enc.layer_gates.0"] == (1,)
    assert tensors["enc.output_proj.0.weight"] == (48,)
    assert tensors["enc.output_proj.1.weight"] == (640, 48)
    assert tensors["enc.output_proj.3.bias"] == (640,)
    assert tensors["ca.9.down_proj.weight"] == (24, 640)
    assert tensors["ca.9.up_proj.weight"] == (640, 24)
    assert tensors["ca.4.q_proj.weight"] == (24, 24)
    assert tensors["ca.4.token_preference"] == (2,)
    assert tensors["ca.4.gate"] == (1,)
    assert len(tensors) == 2 * 5 + 8 + 2 * 9
    assert [name.split(".")[0] for name in tensors] == ["enc"] * 18 + ["ca"] * 18


def test_multi_token_by_hand() -> None:
    tensors = expected_tensors(dims_of(config("multi_token"), prenorm_projector=False))
    assert tensors["enc.layer_projectors.2.weight"] == (48, 640)
    assert tensors["enc.queries"] == (7, 48)
    assert tensors["enc.cross_attn.in_proj_weight"] == (144, 48)
    assert tensors["enc.cross_attn.in_proj_bias"] == (144,)
    assert tensors["ca.4.token_preference"] == (7,)
    assert len(tensors) == 3 + 5 + 8 + 2 * 9


def test_transformer_by_hand() -> None:
    dims = dims_of(config("transformer"), shared_projector=True, layer_pos_embed=True, n_blocks=2, ffn_dim=100)
    tensors = expected_tensors(dims)
    assert tensors["enc.shared_projector.1.weight"] == (48, 640)
    assert tensors["enc.layer_pos_embed"] == (3, 48)
    assert tensors["enc.blocks.1.ffn.0.weight"] == (100, 48)
    assert tensors["enc.blocks.1.ffn.2.weight"] == (48, 100)
    assert not [name for name in tensors if name.endswith("proj.bias") or ".ffn.0.bias" in name]
    assert "enc.output_proj.1.bias" not in tensors
    assert len(tensors) == 4 + 1 + 2 + 2 * 10 + 6 + 2 * 9


@st.composite
def any_dims(draw: st.DrawFn) -> tuple[WrapperConfig, dict[str, object]]:
    encoder: EncoderType = draw(st.sampled_from(("selective", "multi_token", "transformer")))
    size = st.integers(1, 999)
    dims = config(encoder, draw(st.integers(1, 12)), D=draw(size), E=draw(size), B=draw(size), C=draw(size))
    options: dict[str, object] = {}
    if encoder != "selective":
        options["prenorm_projector"] = draw(st.booleans())
    if encoder == "transformer":
        options |= {
            "shared_projector": draw(st.booleans()),
            "layer_pos_embed": draw(st.booleans()),
            "n_blocks": draw(st.integers(1, 3)),
            "ffn_dim": draw(size),
        }
    return dims, options


@given(any_dims())
def test_inference_undoes_prediction(drawn: tuple[WrapperConfig, dict[str, object]]) -> None:
    expected, options = drawn
    dims = dims_of(expected, **options)  # type: ignore[arg-type]
    shapes = expected_tensors(dims)
    inferred = infer(shapes)
    used = {dim[-1] for shape in templates_of(inferred).values() for dim in shape if dim != "1"}
    assert inferred.sizes == {symbol: size for symbol, size in dims.sizes.items() if symbol in used}
    assert replace(inferred, sizes={}) == replace(dims, sizes={})
    assert inferred.n_target == len(expected.target_layers)
    assert shape_faults(inferred, shapes) == ([], [])


def templates_of(dims: object) -> dict[str, tuple[str, ...]]:
    return templates(
        dims.encoder_type,  # type: ignore[attr-defined]
        prenorm_projector=dims.prenorm_projector,  # type: ignore[attr-defined]
        shared_projector=dims.shared_projector,  # type: ignore[attr-defined]
        layer_pos_embed=dims.layer_pos_embed,  # type: ignore[attr-defined]
    )


@given(any_dims(), st.data())
def test_the_odd_tensor_out_is_the_one_named(
    drawn: tuple[WrapperConfig, dict[str, object]], data: st.DataObject
) -> None:
    dims, options = drawn
    shapes = expected_tensors(dims_of(dims, **options))  # type: ignore[arg-type]
    # tensors whose dimensions other tensors share: the majority must outvote the wrong one
    name = data.draw(st.sampled_from([name for name in shapes if name.endswith((".gate", "norm.bias"))]))
    right = shapes[name]
    shapes[name] = (right[0] + 1,)
    faults, extras = shape_faults(infer(shapes), shapes)
    assert faults == [f"tensor '{name}' has shape {list(shapes[name])}, expected {list(right)}"]
    assert extras == []


def test_inference_from_no_tensors() -> None:
    inferred = infer({})
    assert (inferred.encoder_type, inferred.sizes, inferred.n_target, inferred.cross_attn_layers) == (
        None,
        {},
        None,
        (),
    )
    assert expected_tensors(inferred) == {}


def test_sizes_without_a_tensor_are_unknown() -> None:
    faults, _ = shape_faults(infer({"ca.3.gate": (1,)}, encoder_type="selective"), {"ca.3.gate": (1,)})
    assert "tensor 'ca.3.down_proj.weight' is missing, expected shape [?, ?]" in faults


def test_hostile_indices_do_not_enumerate_millions() -> None:
    inferred = infer({"enc.layer_projectors.99999999.0.bias": (4,), "enc.layer_gates.0": (1,)})
    assert inferred.n_projectors == 1


@pytest.mark.parametrize(
    ("name", "shape", "matrix"),
    [
        ("ca.1.q_proj.weight", (4, 4), True),
        ("enc.cross_attn.in_proj_weight", (12, 4), True),
        ("enc.blocks.0.ffn.0.weight", (8, 4), True),
        ("enc.queries", (3, 4), False),
        ("enc.layer_pos_embed", (3, 4), False),
        ("enc.output_norm.weight", (4,), False),
        ("ca.1.gate", (1,), False),
    ],
)
def test_is_matrix(name: str, shape: tuple[int, ...], matrix: bool) -> None:
    assert is_matrix(name, shape) is matrix
