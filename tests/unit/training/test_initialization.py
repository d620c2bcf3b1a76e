"""A new wrapper and its five groups of parameters."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from metadeploy.reference.base import FrozenBase
from metadeploy.sidecar.spec import EncoderType
from metadeploy.training.initialization import parameter_groups
from support.lessons import fresh_doubter
from support.tiny_models import tiny_causal_lm


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return FrozenBase(tiny_causal_lm("llama"))


@pytest.mark.parametrize("encoder_type", get_args(EncoderType))
def test_the_groups_have_every_parameter_once(base: FrozenBase, encoder_type: str) -> None:
    doubter = fresh_doubter(base, encoder_type=encoder_type, num_cognitive_tokens=3)
    groups = parameter_groups(doubter, lr=0.01, weight_decay=0.1)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in doubter.parameters())

    names = {id(parameter): name for name, parameter in doubter.named_parameters()}
    members = {group["name"]: sorted(names[id(parameter)] for parameter in group["params"]) for group in groups}
    layer_gates = [f"enc.layer_gates.{index}" for index in range(3)] if encoder_type == "selective" else []
    assert members["gates"] == ["ca.3.gate", "ca.5.gate", *layer_gates]
    assert members["preferences"] == ["ca.3.token_preference", "ca.5.token_preference"]
    matrices = ("down_proj", "k_proj", "q_proj", "up_proj", "v_proj")
    assert members["cross_attention"] == [f"ca.{layer}.{name}.weight" for layer in (3, 5) for name in matrices]
    assert all(name.startswith("enc.") and name.count("bias") == 0 for name in members["encoder"])
    assert {"ca.3.norm.weight", "ca.3.norm.bias", "enc.output_norm.weight"} <= set(members["norms_and_biases"])

    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates == {
        "encoder": (0.01, 0.1),
        "cross_attention": (0.01, 0.1),
        "norms_and_biases": (0.01, 0.0),
        "gates": (pytest.approx(0.05), 0.0),
        "preferences": (pytest.approx(0.05), 0.0),
    }
    torch.optim.AdamW(groups)  # takes them as they are
