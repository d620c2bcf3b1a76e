"""Sources of a wrapper's layers and settings: checkpoint, run.json, arguments, and finally the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from metadeploy.errors import CheckpointError, ModelMismatchError
from metadeploy.export import export, load_wrapper
from metadeploy.reference.doubter import Doubter, PendingDoubter
from metadeploy.sidecar import read_sidecar
from support.goal_anchor import save_goal_anchor
from support.handmade_gguf import Gguf
from support.random_wrapper import random_wrapper, save_checkpoint

LATE = (4, 5)  # of a base with 6 layers


def run_dir(folder: Path, *, version: str = "1.1", layers: tuple[int, ...] = LATE, **manifest: Any) -> Path:
    """A run directory whose run.json has only these settings. Format 1.1 lists the layers in the checkpoint."""
    config, tensors = random_wrapper("selective", hidden_dim=32, target_layers=layers, cross_attn_layers=layers)
    path = save_checkpoint(folder, config, tensors, format_version=version, run_json=False)
    (folder / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    return path


def base(folder: Path, n_layers: int = 6) -> Path:
    keys = [
        ("general.architecture", "str", "llama"),
        ("llama.embedding_length", "u32", 32),
        ("llama.block_count", "u32", n_layers),
    ]
    path = folder / "base.gguf"
    path.write_bytes(Gguf(keys).build())
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_wrapper(path, **options)
    return str(caught.value)


BOTH_LATE = {"target_layers": "late", "cross_attn_layers": "late"}


@pytest.mark.parametrize("with_base", [True, False])
def test_a_preset_beside_lists_in_the_checkpoint(with_base: bool, tmp_path: Path) -> None:
    """run.json as written by the framework's build-anchor: the preset as given, and no number of layers."""
    path = run_dir(tmp_path, **BOTH_LATE)
    report = export(path, base=base(tmp_path) if with_base else None)
    assert (report.config.target_layers, report.config.cross_attn_layers) == (LATE, LATE)
    assert read_sidecar(report.path).config.base_block_count == 6
    assert isinstance(Doubter.from_checkpoint(tmp_path), Doubter)


def test_all_beside_lists_in_the_checkpoint(tmp_path: Path) -> None:
    path = run_dir(tmp_path, layers=(0, 1, 2), target_layers="all", cross_attn_layers="all")
    assert load_wrapper(path).config.base_block_count == 3


def test_a_goal_anchor_as_the_framework_leaves_it(tmp_path: Path) -> None:
    save_goal_anchor(tmp_path, target_layers=LATE, cross_attn_layers=LATE)
    manifest = {"model_name": "org/base", "voice": "goal_anchor", **BOTH_LATE}
    (tmp_path / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    (tmp_path / "dataset.pt").touch()  # the other file is not a checkpoint
    assert export(tmp_path).config.target_layers == LATE


def test_the_base_resolves_presets(tmp_path: Path) -> None:
    path = run_dir(tmp_path, version="1.0", **BOTH_LATE)
    assert "target_layers in run.json is 'late', but the base's number of layers is unknown" in refusal(path)
    assert isinstance(Doubter.from_checkpoint(path), PendingDoubter)
    report = export(path, base=base(tmp_path))
    assert report.config.target_layers == LATE
    assert report.config.base_block_count == 6


def test_a_preset_of_layers_that_the_tensors_name(tmp_path: Path) -> None:
    path = run_dir(tmp_path, version="1.0", target_layers=list(LATE), cross_attn_layers="late")
    assert load_wrapper(path).config.base_block_count == 6
    assert isinstance(Doubter.from_checkpoint(path), Doubter)


def test_run_json_takes_precedence_over_the_base(tmp_path: Path) -> None:
    path = run_dir(tmp_path, version="1.0", num_layers=6, **BOTH_LATE)
    with pytest.raises(ModelMismatchError, match="has 9 layers, the wrapper was trained on 6"):
        export(path, base=base(tmp_path, n_layers=9))


@pytest.mark.parametrize(
    ("manifest", "fault"),
    [
        ({"target_layers": "all"}, "target_layers is [0, 1, 2, 3, 4, 5] in run.json, but [4, 5] in the checkpoint"),
        ({"target_layers": [3, 5]}, "target_layers is [3, 5] in run.json, but [4, 5] in the checkpoint"),
        (
            {"target_layers": "late", "num_layers": 9},
            "num_layers is 6 in 'late' in run.json beside the target_layers of the checkpoint, but 9 in run.json",
        ),
        (
            {"cross_attn_layers": "late", "num_layers": 9},
            "num_layers is 6 in 'late' in run.json beside the cross_attn_layers of the checkpoint, but 9 in run.json",
        ),
        ({"target_layers": "late:9"}, "target_layers is [6, 7, 8] in run.json, but [4, 5] in the checkpoint"),
    ],
)
def test_contradictions(manifest: dict[str, Any], fault: str, tmp_path: Path) -> None:
    assert fault in refusal(run_dir(tmp_path, **manifest))


def test_a_list_that_is_no_last_third(tmp_path: Path) -> None:
    message = refusal(run_dir(tmp_path, layers=(1, 4, 5), **BOTH_LATE))
    assert "target_layers is [4, 5] in run.json, but [1, 4, 5] in the checkpoint" in message


def test_another_base_than_the_preset_was_of(tmp_path: Path) -> None:
    path = run_dir(tmp_path, **BOTH_LATE)
    with pytest.raises(ModelMismatchError, match="has 9 layers, the wrapper was trained on 6"):
        export(path, base=base(tmp_path, n_layers=9))


# -- settings at the top level and in the config


def edited(path: Path, *, config: dict[str, Any] | None = None, **top: Any) -> Path:
    contents = torch.load(path, weights_only=True)
    contents["config"] |= config or {}
    torch.save(contents | top, path)
    return path


@pytest.mark.parametrize("place", ["top level", "config", "both"])
def test_sizes_at_the_top_level_or_in_the_config(place: str, tmp_path: Path) -> None:
    """Our checkpoints have them at the top level, as the framework requires. Older ones have them in the config."""
    sizes = {"hidden_dim": 32, "num_layers": 6}
    top = {} if place == "config" else sizes
    path = edited(run_dir(tmp_path), config={} if place == "top level" else sizes, **top)
    assert load_wrapper(path).config.base_block_count == 6


@pytest.mark.parametrize(
    ("key", "one", "two"),
    [("num_layers", 6, 7), ("hidden_dim", 32, 33), ("target_layers", [4, 5], [5, 4]), ("refusal_text", "a b c", "d")],
)
def test_two_places_that_disagree(key: str, one: Any, two: Any, tmp_path: Path) -> None:
    path = edited(run_dir(tmp_path), config={key: two}, **{key: one})
    assert f"{key} is {two!r} in the checkpoint's config, but {one!r} at its top level" in refusal(path)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"pool": "mean"}, "pool is 'mean' in the checkpoint, expected 'last'"),
        ({"pool": "concat_last_mean"}, "pool is 'concat_last_mean' in the checkpoint, expected 'last'"),
    ],
)
def test_features_that_the_runtime_lacks(config: dict[str, Any], fault: str, tmp_path: Path) -> None:
    path = run_dir(tmp_path)
    assert load_wrapper(edited(path, config={"pool": "last"})).config.target_layers == LATE
    assert fault in refusal(edited(path, config=config))


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (
            {"use_layer_pos_embeddings": False},
            "use_layer_pos_embeddings is False in the checkpoint, but the tensors have",
        ),
        (
            {"use_per_layer_projectors": False},
            "use_per_layer_projectors is False in the checkpoint, but the tensors have",
        ),
    ],
)
def test_parts_of_the_transformer_that_a_config_turns_off(config: dict[str, Any], fault: str, tmp_path: Path) -> None:
    path = save_goal_anchor(tmp_path, target_layers=LATE, cross_attn_layers=LATE)
    assert load_wrapper(edited(path, config=dict.fromkeys(config, True))).config.kind == "goal_anchor"
    assert fault in refusal(edited(path, config=config))


def test_an_order_that_the_framework_ignores_gives_a_warning(tmp_path: Path) -> None:
    wrapper = load_wrapper(run_dir(tmp_path, layers=(5, 4)))
    assert wrapper.config.target_layers == (5, 4)
    assert [note for note in wrapper.notes if "the framework would sort them" in note]
    assert not [note for note in load_wrapper(run_dir(tmp_path)).notes if "sort" in note]
