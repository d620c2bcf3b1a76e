"""Checkpoints of wrapped models: the prefixes that DDP, torch.compile and similar tools add to tensor names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from metadeploy.errors import CheckpointError
from metadeploy.export import load_wrapper
from metadeploy.sidecar.spec import EncoderType
from support.random_wrapper import random_wrapper, save_checkpoint

Rename = Callable[[str], str]
ENCODERS: tuple[EncoderType, ...] = ("selective", "multi_token", "transformer")


def checkpoint(folder: Path, encoder: EncoderType, rename: Rename, rename_ca: Rename | None = None) -> Path:
    """Write a checkpoint with other names for the tensors of the encoder and of each cross-attention."""
    config, tensors = random_wrapper(
        encoder, hidden_dim=32, target_layers=(1, 3), cross_attn_layers=(1, 2), num_layers=4
    )
    path = save_checkpoint(folder, config, tensors)
    contents = torch.load(path, weights_only=True)
    contents["encoder_state"] = {rename(name): tensor for name, tensor in contents["encoder_state"].items()}
    contents["ca_state"] = {
        layer: {(rename_ca or rename)(name): tensor for name, tensor in state.items()}
        for layer, state in contents["ca_state"].items()
    }
    torch.save(contents, path)
    return path


def after(prefix: str) -> Rename:
    return lambda name: prefix + name


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_wrapper(path)
    return str(caught.value)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    ("rename", "removed"),
    [
        (after("module."), "'module.'"),
        (after("_orig_mod."), "'_orig_mod.'"),
        (after("_orig_mod.module."), "'_orig_mod.' and 'module.'"),
        (after("module._orig_mod.module."), "'_orig_mod.' and 'module.'"),
        (after("_fsdp_wrapped_module._orig_mod."), "'_fsdp_wrapped_module.' and '_orig_mod.'"),
        # separately wrapped parts of a model
        (lambda name: name.replace(".0.", ".0._orig_mod."), "'_orig_mod.'"),
        (lambda name: name.replace("output_proj.", "output_proj._checkpoint_wrapped_module."), "'_checkpoint_wrapped_"),
    ],
)
def test_names_of_a_wrapped_model(encoder: EncoderType, rename: Rename, removed: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "wrapped", encoder, rename)
    wrapper = load_wrapper(path)
    plain = load_wrapper(checkpoint(tmp_path / "plain", encoder, str))
    assert wrapper.config == plain.config
    torch.testing.assert_close(wrapper.tensors, plain.tensors, rtol=0, atol=0)
    assert [note for note in wrapper.notes if removed in note and "left out" in note]
    assert not [note for note in plain.notes if "left out" in note]


def test_one_part_wrapped_and_the_other_not(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "selective", after("module."), str)
    assert load_wrapper(path).config.target_layers == (1, 3)
    path = checkpoint(tmp_path, "selective", str, after("_orig_mod."))
    assert load_wrapper(path).config.target_layers == (1, 3)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: name.replace("enc.", "enc.module.", 1).replace("ca.1.", "ca.1._orig_mod.module.", 1),
        lambda name: "module." + name.replace("enc.", "encoder_state._orig_mod.", 1).replace("ca.", "ca_state.", 1),
    ],
)
def test_safetensors(rename: Rename, tmp_path: Path) -> None:
    _, tensors = random_wrapper("selective", hidden_dim=32, target_layers=(1, 3), cross_attn_layers=(1, 2))
    metadata = {"target_layers": "[1, 3]"}
    save_file({rename(name): tensor for name, tensor in tensors.items()}, tmp_path / "x.safetensors", metadata)
    torch.testing.assert_close(load_wrapper(tmp_path / "x.safetensors").tensors, tensors, rtol=0, atol=0)


def n_faults(message: str) -> int:
    return max(1, len(message.splitlines()) - 1)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda state: {f"module.{name}" if i < 3 else name: t for i, (name, t) in enumerate(state.items())},
            "encoder_state: 3 of its 18 names begin with 'module.', like those of a model saved from Distributed",
        ),
        (
            lambda state: state | {f"_orig_mod.{next(iter(state))}": next(iter(state.values()))},
            "encoder_state: has 'layer_projectors.0.0.weight' twice, once from a wrapped model",
        ),
        (
            lambda state: {f"encoder.{name}": tensor for name, tensor in state.items()},
            "encoder_state: all its 18 names begin with 'encoder.', expected names such as 'output_norm.weight' (hint:",
        ),
    ],
)
def test_one_hint_in_place_of_a_fault_for_each_tensor(
    change: Callable[[dict[str, Any]], dict[str, Any]], fault: str, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path, "selective", str)
    contents = torch.load(path, weights_only=True)
    contents["encoder_state"] = change(contents["encoder_state"])
    torch.save(contents, path)
    message = refusal(path)
    assert fault in message
    assert n_faults(message) == 1


def test_a_hint_for_each_module_that_needs_one(tmp_path: Path) -> None:
    message = refusal(checkpoint(tmp_path, "selective", after("encoder."), after("attention.")))
    assert n_faults(message) == 3  # the encoder and two layers
    assert "ca_state['2']: all its 9 names begin with 'attention.'" in message


def test_many_strange_tensors_are_summed_up(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "selective", str)
    contents = torch.load(path, weights_only=True)
    contents["encoder_state"] |= {f"novelty.{i}.weight": torch.zeros(1) for i in range(100)}
    torch.save(contents, path)
    message = refusal(path)
    assert "tensor 'enc.novelty.0.weight' is not part of a selective wrapper as known here" in message
    assert "88 more tensors are not part of it, the last of them 'enc.novelty.99.weight'" in message
    assert n_faults(message) == 13
