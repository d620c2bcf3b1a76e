"""The compiled encoders and the folded cross-attention against PyTorch, with drawn shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tolerances
from metadeploy import _core
from metadeploy.reference import Doubter
from metadeploy.sidecar import WrapperConfig, write_sidecar
from metadeploy.sidecar.spec import EncoderType
from support.parity import nmse
from support.random_wrapper import random_wrapper


@st.composite
def shapes(draw: st.DrawFn, encoder_type: str) -> dict[str, Any]:
    """Arguments of ``random_wrapper`` for one encoder."""
    ca_heads = draw(st.sampled_from([1, 2, 4, 8]))
    enc_heads = draw(st.sampled_from([1, 2, 4]))
    n_layers = draw(st.integers(1, 12))
    targets = draw(st.lists(st.integers(0, n_layers - 1), min_size=1, max_size=6, unique=True))
    injected = draw(st.lists(st.integers(0, n_layers - 1), min_size=1, max_size=3, unique=True))
    return {
        "encoder_type": encoder_type,
        "hidden_dim": draw(st.integers(1, 20)) * draw(st.sampled_from([1, 4, 8])) + 1,
        "target_layers": targets,
        "cross_attn_layers": injected,
        "encoder_dim": enc_heads * draw(st.integers(1, 12)),
        "bottleneck_dim": ca_heads * draw(st.integers(1, 9)),
        "ca_num_heads": ca_heads,
        "enc_num_heads": enc_heads,
        "num_tokens": draw(st.integers(1, 9)) if encoder_type == "multi_token" else None,
        "prenorm_projector": draw(st.booleans()),
        "shared_projector": draw(st.booleans()),
        "layer_pos_embed": draw(st.booleans()),
        "num_blocks": draw(st.integers(1, 3)),
        "ffn_dim": draw(st.integers(1, 40)),
        "gate": draw(st.floats(-1.5, 1.5)),
        "seed": draw(st.integers(0, 2**16)),
    }


def both_sides(folder: Path, arguments: dict[str, Any]) -> tuple[WrapperConfig, Doubter, _core.HostWrapper]:
    """Return one random wrapper in PyTorch and, through a sidecar, in the runtime."""
    encoder_type = arguments["encoder_type"]
    config, tensors = random_wrapper(encoder_type, **{k: v for k, v in arguments.items() if k != "encoder_type"})
    path = folder / "wrapper.gguf"
    write_sidecar(path, config, {name: tensor.numpy() for name, tensor in tensors.items()}, force=True)
    return config, Doubter.from_tensors(config, tensors, source="drawn"), _core.HostWrapper(str(path))


@pytest.mark.parametrize("encoder_type", ["selective", "multi_token", "transformer"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_encoder_and_injection(encoder_type: str, data: st.DataObject, tmp_path: Path) -> None:
    arguments = data.draw(shapes(encoder_type))
    config, reference, compiled = both_sides(tmp_path, arguments)
    rng = np.random.default_rng(arguments["seed"])

    activations = rng.normal(size=(len(config.target_layers), config.hidden_dim)).astype(np.float32)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(activations)).numpy()
    tokens = compiled.encode(activations)
    assert tokens.shape == expected.shape == (config.num_cognitive_tokens, config.hidden_dim)
    np.testing.assert_allclose(tokens, expected, rtol=0, atol=tolerances.F32_MAX_ABS)

    gain = data.draw(st.sampled_from([1.0, 0.5, -1.0, 2.0]))
    hidden = (5 * rng.normal(size=(data.draw(st.integers(1, 40)), config.hidden_dim))).astype(np.float32)
    for layer in config.cross_attn_layers:
        module = reference.cross_attention(layer)
        with torch.inference_mode():
            after = module(torch.from_numpy(hidden), torch.from_numpy(expected), gain=gain).numpy()
            attention = module.attention(torch.from_numpy(hidden), torch.from_numpy(expected)).numpy()
        out, weights = compiled.inject(layer, hidden, expected, gain)
        np.testing.assert_allclose(out, after, rtol=0, atol=tolerances.F32_MAX_ABS)
        np.testing.assert_allclose(weights, attention.swapaxes(0, 1), rtol=0, atol=tolerances.F32_MAX_ABS)


def test_published_shape(tmp_path: Path) -> None:
    """The shape of the published Qwen3.5-4B Doubter: 2560 wide, 11 layers, bottleneck 256."""
    layers = list(range(21, 32))
    config, reference, compiled = both_sides(
        tmp_path,
        {
            "encoder_type": "selective",
            "hidden_dim": 2560,
            "target_layers": layers,
            "cross_attn_layers": layers,
            "encoder_dim": 256,
            "bottleneck_dim": 256,
        },
    )
    rng = np.random.default_rng(0)
    activations = rng.normal(size=(11, 2560)).astype(np.float32)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(activations)).numpy()
    assert nmse(compiled.encode(activations), expected) < tolerances.F32_NMSE
    hidden = rng.normal(size=(33, config.hidden_dim)).astype(np.float32)
    for layer in (21, 31):
        with torch.inference_mode():
            after = reference.cross_attention(layer)(torch.from_numpy(hidden), torch.from_numpy(expected)).numpy()
        out, _ = compiled.inject(layer, hidden, expected)
        assert nmse(out - hidden, after - hidden) < tolerances.F32_NMSE


def test_gain_zero_injects_nothing(tmp_path: Path) -> None:
    config, _, compiled = both_sides(
        tmp_path,
        {"encoder_type": "selective", "hidden_dim": 24, "target_layers": [0], "cross_attn_layers": [1], "gate": 1.0},
    )
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(5, 24)).astype(np.float32)
    tokens = rng.normal(size=(config.num_cognitive_tokens, 24)).astype(np.float32)
    assert np.array_equal(compiled.inject(1, hidden, tokens, 0.0)[0], hidden)
    assert not np.array_equal(compiled.inject(1, hidden, tokens, 1.0)[0], hidden)


def test_the_frameworks_own_vectors(reference_dir: Path, tmp_path: Path) -> None:
    """Cross-attention weights, inputs and outputs from another implementation."""
    folder = reference_dir / "ca_testcase"
    state = torch.load(folder / "ca_doubter.pt", weights_only=True)["ca_state"][0]
    config, tensors = random_wrapper(
        "multi_token",
        hidden_dim=64,
        target_layers=[0],
        cross_attn_layers=[0],
        bottleneck_dim=16,
        num_tokens=5,  # the encoder is drawn: the test case has none
    )
    tensors |= {f"ca.0.{name}": tensor.float() for name, tensor in state.items()}
    path = tmp_path / "ca.gguf"
    write_sidecar(path, config, {name: tensor.numpy() for name, tensor in tensors.items()})

    def read(name: str, rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.fromfile(folder / f"ca_{name}.bin", dtype="<f4").reshape(rows, 64)

    out, _ = _core.HostWrapper(str(path)).inject(0, read("hidden", 3), read("cog", 5))
    np.testing.assert_allclose(out, read("ref", 3), rtol=0, atol=tolerances.CA_TESTCASE_MAX_ABS)


@pytest.mark.parametrize("encoder_type", ["selective", "multi_token", "transformer"])
def test_any_number_of_layers_has_room_in_the_graphs(encoder_type: EncoderType, tmp_path: Path) -> None:
    for n_layers in (1, 2, 7, 8, 15, 16, 31, 32, 64):  # sizes that fill a graph or nearly fill it
        layers = range(n_layers)
        for n_target in {1, n_layers}:  # an encoder's graph with many nodes, and one with few
            config, tensors = random_wrapper(
                encoder_type, hidden_dim=4, target_layers=layers[:n_target], cross_attn_layers=layers, bottleneck_dim=4
            )
            path = tmp_path / "wrapper.gguf"
            write_sidecar(path, config, {name: tensor.numpy() for name, tensor in tensors.items()}, force=True)
            tokens = _core.HostWrapper(str(path)).encode(np.zeros((n_target, 4), np.float32))
            assert np.isfinite(tokens).all()
