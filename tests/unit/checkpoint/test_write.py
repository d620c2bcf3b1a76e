"""The checkpoint of a trained wrapper: it is written and read back in the framework's format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from metadeploy.checkpoint.load import load_wrapper
from metadeploy.demo.assets import CHECKPOINT
from metadeploy.reference.base import FrozenBase
from metadeploy.reference.doubter import Doubter
from metadeploy.sidecar.spec import EncoderType
from support.lessons import fresh_doubter, some_activations
from support.tiny_models import tiny_causal_lm

ENCODERS = get_args(EncoderType)


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return FrozenBase(tiny_causal_lm("llama"))


@pytest.mark.parametrize("encoder_type", ENCODERS)
def test_a_checkpoint_gives_the_wrapper_back(base: FrozenBase, encoder_type: str, tmp_path: Path) -> None:
    n_tokens = 5 if encoder_type == "multi_token" else 3
    doubter = fresh_doubter(base, encoder_type=encoder_type, num_cognitive_tokens=n_tokens, encoder_dim=24)
    doubter.config = replace(
        doubter.config,
        inject_from="last_prompt_token",
        refusal_text="No idea.",
        refusal_token_ids=(7, 8, 9),
        refusal_bias=-1.25,
    )
    path = tmp_path / "doubter_checkpoint.pt"
    doubter.save_checkpoint(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]

    wrapper = load_wrapper(path)
    unused = {"enc_num_heads": 2} if encoder_type == "selective" else {}
    assert replace(wrapper.config, checkpoint_sha256=None, **unused) == doubter.config
    stored = {
        name: tensor.bfloat16().float() if name.startswith("ca.") else tensor
        for name, tensor in doubter.state_dict().items()
    }
    loaded = Doubter.from_checkpoint(path)
    assert isinstance(loaded, Doubter)
    assert loaded.state_dict().keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in loaded.state_dict().items())
    activations = some_activations(2, doubter)
    doubter.requires_grad_(False).eval()  # like a loaded wrapper, so that PyTorch's attention takes the same path
    assert torch.equal(loaded(activations), doubter(activations))


def test_the_frameworks_keys(base: FrozenBase, tmp_path: Path) -> None:
    """The file has the keys of format 1.1, in types that need no code of this project."""
    path = tmp_path / "doubter_checkpoint.pt"
    contents: dict[str, dict[str, Any]] = {}
    for encoder_type in ENCODERS:
        fresh_doubter(base, encoder_type=encoder_type).save_checkpoint(path)
        contents[encoder_type] = torch.load(path, weights_only=True)
    for encoder_type, content in contents.items():
        assert content["format_version"] == "1.1"
        assert (content["target_layers"], content["cross_attn_layers"]) == ([1, 3, 5], [3, 5])
        shared = {"encoder_type": encoder_type, "ca_bottleneck_dim": 16, "ca_num_heads": 2, "encoder_bottleneck": 16}
        assert shared.items() <= content["config"].items()
        assert {tensor.dtype for tensor in content["encoder_state"].values()} == {torch.float32}
        # the keys are text: the framework compares them with its modules' names and loads nothing if they differ
        assert list(content["ca_state"]) == ["3", "5"]
        assert {tensor.dtype for tensor in content["ca_state"]["3"].values()} == {torch.bfloat16}
        assert "output_norm.weight" in content["encoder_state"]
        assert {"gate", "token_preference", "norm.weight", "up_proj.weight"} <= content["ca_state"]["5"].keys()
    assert {
        "transformer_encoder_dim": 16,
        "transformer_num_blocks": 2,
        "transformer_num_heads": 2,
        "transformer_ffn_expansion": 4,
    }.items() <= contents["transformer"]["config"].items()


#: The keys of the framework's DoubterConfig that concern the wrapper. The framework refuses unknown keys.
DOUBTER_CONFIG = frozenset(
    {
        "encoder_type",
        "encoder_bottleneck",
        "ca_bottleneck_dim",
        "ca_num_heads",
        "num_cognitive_tokens",
        "transformer_encoder_dim",
        "transformer_num_blocks",
        "transformer_num_heads",
        "transformer_ffn_expansion",
    }
)


@pytest.mark.parametrize("encoder_type", ENCODERS)
def test_the_config_has_only_keys_that_the_framework_takes(base: FrozenBase, encoder_type: str, tmp_path: Path) -> None:
    doubter = fresh_doubter(base, encoder_type=encoder_type)
    doubter.save_checkpoint(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert content["config"].keys() <= DOUBTER_CONFIG
    config = doubter.config
    assert (content["hidden_dim"], content["num_layers"]) == (config.hidden_dim, config.base_block_count)
    # without the refusal's tokens, the key is left out, because the framework would refuse an empty list
    assert load_wrapper(tmp_path / "a.pt").config.refusal_token_ids is None


def test_the_shipped_checkpoint_too() -> None:
    content = torch.load(CHECKPOINT, weights_only=True)
    assert content["config"].keys() <= DOUBTER_CONFIG
    assert (content["hidden_dim"], content["num_layers"]) == (576, 30)
    assert list(content["ca_state"]) == [str(layer) for layer in range(20, 30)]


def test_the_same_bytes_for_the_same_wrapper(base: FrozenBase, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        fresh_doubter(base).save_checkpoint(tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_a_trained_wrapper_moves_to_the_cpu_for_its_file(base: FrozenBase, tmp_path: Path) -> None:
    fresh_doubter(base).requires_grad_(True).save_checkpoint(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    tensors = [*content["encoder_state"].values(), *content["ca_state"]["3"].values()]
    assert not any(tensor.requires_grad for tensor in tensors)
