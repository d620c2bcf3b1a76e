"""Encoders and cross-attention of the reference against NumPy float64, and against the framework's own vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metadeploy.errors import CheckpointError
from metadeploy.reference import (
    BottleneckCrossAttention,
    Doubter,
    MultiTokenEncoder,
    SelectiveEncoder,
    TransformerEncoder,
)
from metadeploy.sidecar.spec import WrapperConfig
from support import numpy_reference
from support.random_wrapper import random_wrapper
from tolerances import CA_TESTCASE_MAX_ABS, F32_MAX_ABS, F32_NMSE, F64_MAX_ABS

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference"


@st.composite
def wrappers(draw: st.DrawFn, encoder_type: str) -> tuple[WrapperConfig, dict[str, torch.Tensor]]:
    n_layers = draw(st.integers(1, 5))
    enc_heads, ca_heads = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 3]))
    return random_wrapper(
        encoder_type,  # type: ignore[arg-type]
        hidden_dim=draw(st.integers(2, 40)),
        target_layers=range(n_layers),
        cross_attn_layers=range(draw(st.integers(1, 2))),
        encoder_dim=enc_heads * draw(st.integers(2, 6)),
        bottleneck_dim=ca_heads * draw(st.integers(1, 6)),
        num_tokens=draw(st.integers(1, 7)) if encoder_type == "multi_token" else None,
        enc_num_heads=enc_heads,
        ca_num_heads=ca_heads,
        prenorm_projector=draw(st.booleans()),
        shared_projector=draw(st.booleans()),
        layer_pos_embed=draw(st.booleans()),
        num_blocks=draw(st.integers(1, 3)),
        ffn_dim=draw(st.integers(1, 12)),
        seed=draw(st.integers(0, 2**31)),
    )


def as_numpy(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): t.double().numpy() for n, t in tensors.items() if n.startswith(prefix)}


def encode(config: WrapperConfig, tensors: dict[str, torch.Tensor], activations: np.ndarray) -> np.ndarray:
    enc = as_numpy(tensors, "enc.")
    if config.encoder_type == "selective":
        return numpy_reference.selective(enc, activations)
    if config.encoder_type == "multi_token":
        return numpy_reference.multi_token(enc, activations, config.enc_num_heads)
    n_blocks = len({name.split(".")[1] for name in enc if name.startswith("blocks.")})
    return numpy_reference.transformer(enc, activations, config.enc_num_heads, n_blocks)


@pytest.mark.parametrize("encoder_type", ["selective", "multi_token", "transformer"])
@given(data=st.data())
@settings(max_examples=25)
def test_encoder_agrees_with_numpy(encoder_type: str, data: st.DataObject) -> None:
    config, tensors = data.draw(wrappers(encoder_type))
    activations = np.random.default_rng(0).normal(size=(len(config.target_layers), config.hidden_dim)) * 3
    expected = encode(config, tensors, activations)
    assert expected.shape == (config.num_cognitive_tokens, config.hidden_dim)
    actual = Doubter.from_tensors(config, tensors)(torch.from_numpy(activations).float()).numpy()
    exact = Doubter.from_tensors(config, tensors).double()(torch.from_numpy(activations)).numpy()
    np.testing.assert_allclose(exact, expected, rtol=0, atol=F64_MAX_ABS)
    # a LayerNorm over few values may divide by a very small spread; such cases are left out for float32
    if config.hidden_dim >= 16 and config.encoder_dim >= 8:
        np.testing.assert_allclose(actual, expected, rtol=0, atol=F32_MAX_ABS)
        assert ((actual - expected) ** 2).mean() <= F32_NMSE * (expected**2).mean()


@pytest.mark.parametrize("encoder_type", ["selective", "multi_token", "transformer"])
def test_encoder_takes_batches(encoder_type: str) -> None:
    config, tensors = random_wrapper(encoder_type, hidden_dim=12, target_layers=range(3), cross_attn_layers=[0])  # type: ignore[arg-type]
    doubter = Doubter.from_tensors(config, tensors).double()
    activations = torch.randn(2, 5, 3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = doubter(activations)
    assert together.shape == (2, 5, config.num_cognitive_tokens, 12)
    for i in range(2):
        for j in range(5):
            torch.testing.assert_close(together[i, j], doubter(activations[i, j]), rtol=0, atol=F64_MAX_ABS)


@given(data=st.data(), gain=st.sampled_from([1.0, 0.5, -2.0, 0.0]), n_positions=st.integers(1, 4))
@settings(max_examples=40)
def test_cross_attention_agrees_with_numpy(data: st.DataObject, gain: float, n_positions: int) -> None:
    config, tensors = data.draw(wrappers("selective"))
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(n_positions, config.hidden_dim)) * 5 + 1
    tokens = rng.normal(size=(config.num_cognitive_tokens, config.hidden_dim))
    expected = numpy_reference.cross_attention(as_numpy(tensors, "ca.0."), hidden, tokens, config.ca_num_heads, gain)
    layer = Doubter.from_tensors(config, tensors).double().cross_attention(0)
    actual = layer(torch.from_numpy(hidden), torch.from_numpy(tokens), gain=gain).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=F64_MAX_ABS)


def test_cross_attention_by_hand() -> None:
    """D = 2, B = 1, two tokens, and numbers that can be checked on paper."""
    layer = BottleneckCrossAttention(hidden_dim=2, bottleneck_dim=1, num_heads=1, num_tokens=2).double()
    with torch.no_grad():
        layer.down_proj.weight.copy_(torch.tensor([[1.0, 0.0]]))
        layer.q_proj.weight.fill_(1.0)
        layer.k_proj.weight.copy_(torch.tensor([[1.0, 0.0]]))
        layer.v_proj.weight.copy_(torch.tensor([[0.0, 1.0]]))
        layer.up_proj.weight.copy_(torch.tensor([[1.0], [2.0]]))
        layer.gate.fill_(0.5)
        layer.token_preference.copy_(torch.tensor([0.0, 1.0]))
    hidden = torch.tensor([[3.0, 1.0]], dtype=torch.float64)  # normalized to [1, -1], except for eps
    tokens = torch.tensor([[1.0, 10.0], [0.0, 20.0]], dtype=torch.float64)
    query = 1 / np.sqrt(1 + 1e-5)
    scores = np.array([query * 1 + 0, query * 0 + 1])  # keys 1 and 0, preferences 0 and 1
    weights = np.exp(scores) / np.exp(scores).sum()
    mixed = weights @ [10, 20]
    expected = np.array([3 + np.tanh(0.5) * mixed, 1 + np.tanh(0.5) * 2 * mixed])
    np.testing.assert_allclose(layer(hidden, tokens).detach().numpy()[0], expected, rtol=1e-12)
    np.testing.assert_allclose(layer.attention(hidden, tokens).detach().numpy()[0, 0], weights, rtol=1e-12)


def test_closed_gate_injects_nothing() -> None:
    layer = BottleneckCrossAttention(hidden_dim=8, bottleneck_dim=4, num_heads=2, num_tokens=3)
    hidden = torch.randn(5, 8)
    assert torch.equal(layer(hidden, torch.randn(3, 8)), hidden)


def test_ca_testcase() -> None:
    """The framework's own input and output of one layer."""
    folder = REFERENCE / "ca_testcase"
    if not folder.is_dir():
        pytest.skip("shared/reference/ca_testcase is not beside this checkout")
    # the file's config is plain data: nothing is executed
    checkpoint = torch.load(folder / "ca_doubter.pt", weights_only=True)
    (state,) = checkpoint["ca_state"].values()
    hidden, tokens, expected = (
        torch.from_numpy(np.fromfile(folder / f"ca_{name}.bin", dtype="<f4").reshape(-1, 64))
        for name in ("hidden", "cog", "ref")
    )
    layer = BottleneckCrossAttention(hidden_dim=64, bottleneck_dim=16, num_heads=4, num_tokens=len(tokens))
    layer.load_state_dict(state, strict=True)
    with torch.no_grad():
        actual = layer(hidden, tokens)
    assert (expected - hidden).abs().max() > 100 * CA_TESTCASE_MAX_ABS  # otherwise the residual alone would pass
    torch.testing.assert_close(actual, expected, rtol=0, atol=CA_TESTCASE_MAX_ABS)


def test_state_dict_has_the_sidecar_names() -> None:
    for encoder_type, shared in (("selective", False), ("multi_token", False), ("transformer", True)):
        config, tensors = random_wrapper(
            encoder_type,  # type: ignore[arg-type]
            hidden_dim=12,
            target_layers=range(3),
            cross_attn_layers=[1, 10],
            shared_projector=shared,
        )
        state = Doubter.from_tensors(config, tensors).state_dict()
        assert state.keys() == tensors.keys()
        assert all(torch.equal(state[name], tensors[name]) for name in tensors)


def test_modules_load_a_checkpoints_state_strictly() -> None:
    """The public constructors, as training uses them."""
    sizes = {"hidden_dim": 12, "encoder_dim": 8, "num_layers": 3}
    modules = {
        "selective": SelectiveEncoder(**sizes),
        "multi_token": MultiTokenEncoder(**sizes, num_tokens=5, num_heads=4),
        "transformer": TransformerEncoder(
            **sizes, num_blocks=2, num_heads=4, ffn_dim=48, prenorm_projector=True, layer_pos_embed=True
        ),
    }
    for encoder_type, module in modules.items():
        _, tensors = random_wrapper(
            encoder_type,  # type: ignore[arg-type]
            hidden_dim=12,
            target_layers=range(3),
            cross_attn_layers=[0],
            encoder_dim=8,
            num_tokens=5 if encoder_type == "multi_token" else None,
        )
        state = {n.removeprefix("enc."): t for n, t in tensors.items() if n.startswith("enc.")}
        module.load_state_dict(state, strict=True)


def test_from_tensors_copies_and_accepts_any_float() -> None:
    config, tensors = random_wrapper("selective", hidden_dim=12, target_layers=[0], cross_attn_layers=[0])
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    doubter = Doubter.from_tensors(config, halves)
    before = {name: tensor.clone() for name, tensor in doubter.state_dict().items()}
    assert all(tensor.dtype == torch.float32 for tensor in before.values())
    for tensor in halves.values():
        tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in doubter.state_dict().items())
    read_only = {name: tensor.numpy() for name, tensor in tensors.items()}
    for array in read_only.values():
        array.flags.writeable = False
    state = Doubter.from_tensors(config, read_only).state_dict()
    assert all(torch.equal(state[name], tensors[name]) for name in tensors)


def test_from_tensors_names_every_fault() -> None:
    config, tensors = random_wrapper("selective", hidden_dim=12, target_layers=[0, 1], cross_attn_layers=[3])
    del tensors["enc.output_norm.bias"]
    tensors["ca.3.k_proj.weight"] = torch.zeros(16, 13)
    with pytest.raises(CheckpointError) as caught:
        Doubter.from_tensors(config, tensors, source="checkpoint 'x.pt'")
    text = str(caught.value)
    assert text.startswith("checkpoint 'x.pt': 2 faults")
    assert "tensor 'ca.3.k_proj.weight' has shape [16, 13], expected [16, 12]" in text
    assert "tensor 'enc.output_norm.bias' is missing" in text


@pytest.mark.parametrize("change", [{"ca_num_heads": 3}, {"enc_num_heads": 5}, {"ca_num_heads": 0}])
def test_heads_must_divide_the_width(change: dict[str, int]) -> None:
    config, tensors = random_wrapper("multi_token", hidden_dim=12, target_layers=[0, 1], cross_attn_layers=[3])
    with pytest.raises(CheckpointError, match="multiple of"):
        Doubter.from_tensors(replace(config, **change), tensors)


def test_gates_are_reported_after_the_tanh() -> None:
    config, tensors = random_wrapper("selective", hidden_dim=12, target_layers=[0], cross_attn_layers=[2, 5])
    tensors["ca.2.gate"] = torch.tensor([0.3])
    tensors["ca.5.gate"] = torch.tensor([-1.0])
    assert Doubter.from_tensors(config, tensors).gates == pytest.approx({2: np.tanh(0.3), 5: np.tanh(-1.0)})
