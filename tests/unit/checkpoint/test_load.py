"""Loading checkpoints: valid and refused files, and that nothing inside is ever executed."""

from __future__ import annotations

import argparse
import datetime
import enum
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from metadeploy.checkpoint import files
from metadeploy.errors import CheckpointError, MissingDependencyError
from metadeploy.export import load_wrapper
from metadeploy.sidecar import WrapperConfig
from metadeploy.sidecar.spec import EncoderType
from support.random_wrapper import random_wrapper, save_checkpoint

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "metadeploy" / "demo" / "data" / "smollm2_doubter"
#: Real checkpoints of the framework: format 1.0, with a config that states 32 tokens for a wrapper with 10.
REFERENCE = ROOT.parent / "shared" / "reference" / "smollm2_doubter"
CA_ONLY = ROOT.parent / "shared" / "reference" / "ca_testcase" / "ca_doubter.pt"
ENCODERS: tuple[EncoderType, ...] = ("selective", "multi_token", "transformer")


def wrapper(encoder: EncoderType = "selective", **options: Any) -> tuple[WrapperConfig, dict[str, torch.Tensor]]:
    arguments = {"hidden_dim": 32, "target_layers": (3, 1), "cross_attn_layers": (1, 2), "num_layers": 4, **options}
    return random_wrapper(encoder, **arguments)


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """Edit the contents of a checkpoint and return its path."""
    contents = torch.load(path, weights_only=True)
    edit(contents)
    torch.save(contents, path)
    return path


def manifest(folder: Path, **changes: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_wrapper(path, **options)
    return str(caught.value)


# -- valid checkpoints


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("version", [None, "1.0", "1.1"])
def test_loads(encoder: EncoderType, version: str | None, tmp_path: Path) -> None:
    config, tensors = wrapper(encoder)
    config = replace(config, base_model="org/base", answer_suffix="!", chat_template_kwargs={"enable_thinking": False})
    path = save_checkpoint(tmp_path, config, tensors, format_version=version, ca_dtype=torch.bfloat16)
    loaded = load_wrapper(path)
    assert loaded.config == replace(config, prompt_format="auto")
    assert set(loaded.tensors) == set(tensors)
    assert loaded.tensors["ca.1.k_proj.weight"].dtype == torch.bfloat16
    torch.testing.assert_close(
        loaded.tensors["enc.output_norm.weight"], tensors["enc.output_norm.weight"], rtol=0, atol=0
    )


def test_a_run_directory_and_either_kind_of_layer_key(tmp_path: Path) -> None:
    config, tensors = wrapper()
    for text_keys in (True, False):
        save_checkpoint(tmp_path, config, tensors, text_layer_keys=text_keys)
        assert load_wrapper(tmp_path).config.cross_attn_layers == (1, 2)


def test_layers_from_a_1_1_checkpoint_alone(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper(), format_version="1.1", run_json=False)
    loaded = load_wrapper(path)
    assert loaded.config.target_layers == (3, 1)
    assert loaded.config.base_block_count is None


def test_layers_from_flags_alone(tmp_path: Path) -> None:
    config, tensors = wrapper(target_layers=(2, 3), num_layers=4)
    path = save_checkpoint(tmp_path, config, tensors, run_json=False)
    assert load_wrapper(path, target_layers="2-3").config.target_layers == (2, 3)
    assert load_wrapper(path, target_layers=[3, 2], cross_attn_layers="2,1", hidden_dim=32).config.target_layers == (
        3,
        2,
    )
    loaded = load_wrapper(path, target_layers="late:4")
    assert (loaded.config.target_layers, loaded.config.base_block_count) == ((2, 3), 4)
    assert load_wrapper(path, target_layers="late", num_layers=4).config.target_layers == (2, 3)
    message = refusal(path)
    assert "nothing says which 2 layers the encoder reads" in message
    assert "--target-layers" in message


def test_presets_in_run_json(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper(target_layers=(2, 3), cross_attn_layers=(2, 3)))
    manifest(tmp_path, target_layers="late", cross_attn_layers="late")
    assert load_wrapper(path).config.target_layers == (2, 3)
    manifest(tmp_path, num_layers=None)
    assert "target_layers in run.json is 'late', but the base's number of layers is unknown" in refusal(path)


def test_run_json_elsewhere_and_unknown_keys(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "run", *wrapper())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "run.json").rename(tmp_path / "elsewhere" / "run.json")
    manifest(tmp_path / "elsewhere", novelty={"a": 1}, hidden_dim=None)
    for given in (tmp_path / "elsewhere", tmp_path / "elsewhere" / "run.json"):
        assert load_wrapper(path, run_json=given).config.hidden_dim == 32


def test_our_own_settings_from_run_json_or_the_checkpoint(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper())
    manifest(tmp_path, inject_from="last_prompt_token", refusal_text="No idea.")
    config = load_wrapper(path).config
    assert (config.inject_from, config.refusal_text) == ("last_prompt_token", "No idea.")
    change(path, lambda contents: contents["config"].update(inject_from="prompt"))
    assert "inject_from is 'last_prompt_token' in run.json, but 'prompt' in the checkpoint" in refusal(path)


def test_the_refusals_tokens_and_bias(tmp_path: Path) -> None:
    config, tensors = wrapper()
    path = save_checkpoint(tmp_path, replace(config, refusal_token_ids=(57, 5248, 0), refusal_bias=-0.75), tensors)
    loaded = load_wrapper(path).config
    assert (loaded.refusal_token_ids, loaded.refusal_bias) == ((57, 5248, 0), -0.75)
    manifest(tmp_path, refusal_token_ids=[57, 5248, 0], refusal_bias=-0.75)
    assert load_wrapper(path).config == loaded
    manifest(tmp_path, refusal_token_ids=[57], refusal_bias=0.25)
    message = refusal(path)
    assert "refusal_token_ids is [57] in run.json, but [57, 5248, 0] in the checkpoint" in message
    assert "refusal_bias is 0.25 in run.json, but -0.75 in the checkpoint" in message
    # run.json alone is enough
    path = save_checkpoint(tmp_path, config, tensors)
    manifest(tmp_path, refusal_token_ids=[3], refusal_bias=1)
    loaded = load_wrapper(path).config
    assert (loaded.refusal_token_ids, loaded.refusal_bias) == ((3,), 1.0)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("refusal_token_ids", "57", "refusal_token_ids is '57' in the checkpoint, expected a list of token ids"),
        ("refusal_token_ids", [True], "refusal_token_ids is [True] in the checkpoint, expected a list of token ids"),
        ("refusal_token_ids", [], "refusal_token_ids has 0 entries, expected 1 to 1024"),
        ("refusal_token_ids", [3, -1], "refusal_token_ids has -1, expected token ids from 0"),
        ("refusal_bias", "0.5", "refusal_bias is '0.5' in the checkpoint, expected a number"),
        ("refusal_bias", 10**400, "in the checkpoint, expected a number"),
        ("refusal_bias", float("nan"), "refusal_bias is nan, expected -100 to 100"),
        ("refusal_bias", -101, "refusal_bias is -101.0, expected -100 to 100"),
    ],
)
def test_a_refusal_that_cannot_be(key: str, value: object, expected: str, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper())
    assert expected in refusal(change(path, lambda contents: contents["config"].update({key: value})))


def test_run_json_with_a_refusal_of_another_type(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper())
    manifest(tmp_path, refusal_token_ids="57", refusal_bias="high")
    message = refusal(path)
    assert "key 'refusal_token_ids' is \"57\", expected a list of whole numbers" in message
    assert "key 'refusal_bias' is \"high\", expected a number" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    config, tensors = wrapper()
    path = save_checkpoint(tmp_path, config, {name: tensor.to(dtype) for name, tensor in tensors.items()})
    assert load_wrapper(path).config == replace(config, prompt_format="auto")


def test_scalars_without_a_dimension(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper())

    def squeeze(contents: dict[str, Any]) -> None:
        contents["ca_state"]["1"]["gate"] = contents["ca_state"]["1"]["gate"].reshape(())
        contents["encoder_state"]["layer_gates.0"] = contents["encoder_state"]["layer_gates.0"].reshape(())

    loaded = load_wrapper(change(path, squeeze))
    assert loaded.tensors["ca.1.gate"].shape == loaded.tensors["enc.layer_gates.0"].shape == (1,)


def test_plain_containers_and_the_format_before_1_6(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper())
    contents = torch.load(path, weights_only=True)
    contents["encoder_state"] = OrderedDict(contents["encoder_state"])
    torch.save(contents, path, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    assert load_wrapper(path).config.hidden_dim == 32


@pytest.mark.parametrize("names", ["enc", "encoder_state"])
def test_safetensors(names: str, tmp_path: Path) -> None:
    config, tensors = wrapper()
    heads = {"encoder_type": "selective", "ca_num_heads": 4, "transformer_num_heads": 4}
    starts = ("enc.", "ca.") if names == "enc" else ("encoder_state.", "ca_state.")
    renamed = {
        name.replace("enc.", starts[0], 1) if name.startswith("enc.") else name.replace("ca.", starts[1], 1): tensor
        for name, tensor in tensors.items()
    }
    path = tmp_path / "doubter.safetensors"
    metadata = {"config": json.dumps(heads), "target_layers": "[3, 1]", "model_name": "org/base", "num_layers": "4"}
    save_file(renamed, path, metadata)
    loaded = load_wrapper(path)
    assert loaded.config == replace(config, base_model="org/base")
    torch.testing.assert_close(loaded.tensors, tensors, rtol=0, atol=0)
    save_file(renamed, path)
    assert load_wrapper(tmp_path, target_layers="3,1", num_layers=4).config.ca_num_heads == 4


def test_missing_heads_are_the_frameworks_defaults_with_a_warning(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper("multi_token"))
    change(path, lambda contents: [contents["config"].pop(key) for key in ("ca_num_heads", "transformer_num_heads")])
    loaded = load_wrapper(path)
    assert (loaded.config.ca_num_heads, loaded.config.enc_num_heads) == (4, 8)
    assert [note for note in loaded.notes if "framework's default of 4 heads" in note]
    assert [note for note in loaded.notes if "framework's default of 8 heads for the multi_token encoder" in note]


@pytest.mark.parametrize("folder", [SHIPPED, REFERENCE], ids=["as trained here", "as the framework writes it"])
def test_real_ones(folder: Path) -> None:
    if not folder.is_dir():
        pytest.skip("the reference data are not beside this checkout")
    loaded = load_wrapper(folder)
    assert loaded.config.num_cognitive_tokens == 10
    assert loaded.config.target_layers == loaded.config.cross_attn_layers == tuple(range(20, 30))
    assert (loaded.config.hidden_dim, loaded.config.base_block_count) == (576, 30)
    assert loaded.config.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    trap = "num_cognitive_tokens 32 in the checkpoint has no effect for a selective encoder; the tensors have 10"
    assert loaded.notes == ((trap,) if folder == REFERENCE else ())
    assert loaded.config.inject_from == ("prompt" if folder == REFERENCE else "last_prompt_token")


# -- files that are no checkpoints


class Config:
    """A configuration object, which some trainers pickle."""

    encoder_type = "selective"


class Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.witness),)


def test_a_config_object_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper())
    for config, name in ((Config(), "Config"), (argparse.Namespace(a=1), "argparse.Namespace")):
        contents = torch.load(path, weights_only=True)
        torch.save({**contents, "config": config}, tmp_path / "object.pt")
        message = refusal(tmp_path / "object.pt")
        assert name in message
        assert "loading them would run code, which is refused" in message
        assert f"torch.save(plain(checkpoint, plain), '{tmp_path / 'object_plain.pt'}')" in message


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_pickles_are_not_run(legacy: bool, tmp_path: Path) -> None:
    witness = tmp_path / "was_run"
    path = tmp_path / "hostile.pt"
    contents = {"config": Hostile(witness), "encoder_state": {}, "ca_state": {}}
    torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
    message = refusal(path)
    assert "mkdir" in message
    assert "attack" in message
    assert "weights_only=False" not in message, "there is no hint for such a file"
    assert not witness.exists()


class Mode(enum.Enum):
    LATE = "late"


@dataclass
class Trained:
    """Some trainers store their results in such a class."""

    epochs: Any
    where: Path


@dataclass
class Slotted:
    __slots__ = ("rate",)
    rate: Any


#: Values that weights_only refuses, and their replacements by the code in the message.
REFUSED: dict[str, tuple[Any, Any]] = {
    "float64": (np.float64(1e-3), 1e-3),
    "float32": (np.float32(0.5), 0.5),
    "int64": (np.int64(7), 7),
    "bool": (np.bool_(True), True),
    "str": (np.str_("text"), "text"),
    "array": (np.arange(3), [0, 1, 2]),
    "key": ({np.int64(21): 0.5, (1, 2): 1}, {"21": 0.5, "[1, 2]": 1}),
    "path": (Path("runs") / "a", str(Path("runs") / "a")),
    "enum": (Mode.LATE, "late"),
    "namespace": (argparse.Namespace(a=np.int32(3), b=[Path("x")]), {"a": 3, "b": ["x"]}),
    "dataclass": (Trained(epochs=np.int64(6), where=Path("y")), {"epochs": 6, "where": "y"}),
    "slots": (Slotted(rate=np.float16(2.0)), {"rate": 2.0}),
    "deep": ({"a": [({"b": np.float64(0.25)},)]}, {"a": [[{"b": 0.25}]]}),
    "range": (range(2, 4), [2, 3]),
    "date": (datetime.date(2026, 1, 2), "2026-01-02"),
}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        *((name, "config") for name in REFUSED),
        *((name, place) for name in ("float64", "path", "deep") for place in ("top level", "config itself")),
    ],
)
def test_the_advice_given_works(name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code in the message makes the checkpoint loadable, both as a program and pasted into an interpreter."""
    value, expected = REFUSED[name]
    path = save_checkpoint(tmp_path, *wrapper())
    contents = torch.load(path, weights_only=True)
    if place == "config itself":
        contents["config"] = argparse.Namespace(**contents["config"], novelty=value)
    else:
        (contents["config"] if place == "config" else contents)["novelty"] = value
    torch.save(contents, path)
    message = refusal(path)
    recipe = "\n".join(line.removeprefix("      ") for line in message.splitlines() if line.startswith("      "))
    monkeypatch.chdir("/")
    exec(recipe)
    plain = tmp_path / "doubter_checkpoint_plain.pt"
    assert load_wrapper(plain).config.hidden_dim == 32
    content = torch.load(plain, weights_only=True)
    assert (content if place == "top level" else content["config"])["novelty"] == expected
    for part in ("encoder_state", "ca_state"):
        torch.testing.assert_close(content[part], dict(contents[part]), rtol=0, atol=0)


def test_the_advice_given_works_as_a_script(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper())
    change(path, lambda contents: contents["config"].update(learning_rate=np.float64(1e-3), folder=Path("runs")))
    message = refusal(path)
    script = tmp_path / "recipe.py"
    lines = [line.removeprefix("      ") for line in message.splitlines() if line.startswith("      ")]
    script.write_text("\n".join(lines), encoding="utf-8")
    subprocess.run([sys.executable, script], check=True, cwd="/")
    assert load_wrapper(tmp_path / "doubter_checkpoint_plain.pt").config.hidden_dim == 32


def test_truncated_zip_and_legacy_files(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper())
    whole = path.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "is truncated or damaged" in refusal(path)
    path.write_bytes(whole)
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:length])
        message = refusal(path)
        assert "damaged" in message
        assert "pickle" in message


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "is empty (interrupted copy or download?)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is neither a PyTorch nor a safetensors file"),
        (b"GGUF\3\0\0\0" + bytes(40), "is a GGUF file already (hint: metadeploy inspect"),
        (b"\x10\0\0\0\0\0\0\0{not json at all", "is not a valid safetensors file"),
        (b"\xff\xff\xff\xff\xff\xff\0\0{", "is not a valid safetensors file"),
        (pickle.dumps([1, 2], protocol=2), "damaged"),
    ],
)
def test_files_that_are_no_checkpoints(data: bytes, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    message = refusal(path)
    assert message.startswith(f"checkpoint '{path}': ")
    assert fault in message


def test_other_zip_archives(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for member, fault in (("notes.txt", "not one that torch.save writes"), ("x/constants.pkl", "TorchScript program")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, b"")
        assert fault in refusal(path)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "absent.pt")
    assert "holds no checkpoint, expected doubter_checkpoint.pt" in refusal(tmp_path)
    for name in ("b.pt", "a.safetensors"):
        (tmp_path / name).touch()
    assert "holds several checkpoints: a.safetensors, b.pt (hint: name the one to use)" in refusal(tmp_path)


def test_run_json_that_cannot_be_used(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper())
    assert "does not exist" in refusal(path, run_json=tmp_path / "absent.json")
    other = tmp_path / "other.json"
    for text, fault in (
        ("{", "is not JSON"),
        ("[1]", "holds a JSON list, expected an object"),
        ("\udc00", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ):
        other.write_bytes(text.encode("utf-8", "surrogatepass"))
        assert fault in refusal(path, run_json=other)
    other.write_text(json.dumps({"target_layer": [1], "refusal_txt": "No."}), encoding="utf-8")
    message = refusal(path, run_json=other)
    assert "key 'target_layer' is not known, expected 'target_layers'" in message
    assert "key 'refusal_txt' is not known, expected 'refusal_text'" in message
    wrong = {"hidden_dim": "32", "target_layers": [1.5], "chat_template_kwargs": [], "num_layers": True}
    other.write_text(json.dumps(wrong), encoding="utf-8")
    message = refusal(path, run_json=other)
    assert "4 faults" in message
    assert """key 'hidden_dim' is "32", expected a positive whole number""" in message


# -- structure and contradictions


STRUCTURE: dict[str, tuple[Any, str]] = {
    "list": ([1], "holds a list, expected a dict with config, encoder_state, ca_state"),
    "tensor": (torch.zeros(2), "holds a Tensor, expected a dict"),
    "state dict": ({"a.weight": torch.zeros(2)}, "lacks 'config', 'encoder_state', 'ca_state'; it holds 'a.weight'"),
    "types": ({"config": 1, "encoder_state": [], "ca_state": None}, "'config' is a int, expected a dict"),
    "layer key": (
        {"config": {}, "encoder_state": {}, "ca_state": {"x": {}}},
        "has the key 'x', expected a layer number",
    ),
    "layer state": ({"config": {}, "encoder_state": {}, "ca_state": {1: 2}}, "ca_state[1] is a int"),
    "no tensor": ({"config": {}, "encoder_state": {"a": 1.0}, "ca_state": {}}, "encoder_state['a'] is a float"),
    "twice": (
        {"config": {}, "encoder_state": {}, "ca_state": {1: {"gate": torch.zeros(1)}, "1": {}}},
        "ca_state has layer 1 twice",
    ),
    "no encoder": ({"config": {}, "encoder_state": {}, "ca_state": {}}, "encoder_state is empty"),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_structure(name: str, tmp_path: Path) -> None:
    contents, fault = STRUCTURE[name]
    torch.save(contents, tmp_path / "x.pt")
    assert fault in refusal(tmp_path / "x.pt")


def config_is(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda contents: contents["config"].update(values)


def encoder_has(name: str, tensor: torch.Tensor) -> Callable[[dict[str, Any]], Any]:
    return lambda contents: contents["encoder_state"].update({name: tensor})


CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "bottleneck": (config_is(ca_bottleneck_dim=64), "ca_bottleneck_dim is 64 in the checkpoint, but 16 in the tensors"),
    "encoder width": (
        config_is(encoder_bottleneck=64),
        "encoder_bottleneck is 64 in the checkpoint, but 32 in the tensors",
    ),
    "encoder": (
        config_is(encoder_type="transformer"),
        "'transformer' in the checkpoint, but 'selective' in the tensors",
    ),
    "heads": (config_is(ca_num_heads=5), "the cross-attention has width 16 and 5 heads, expected a multiple"),
    "type": (config_is(ca_num_heads="4"), "ca_num_heads in the checkpoint is '4', expected a positive whole number"),
    "own layers": (
        lambda contents: contents.update(target_layers=[1, 2]),
        "target_layers is [3, 1] in run.json, but [1, 2] in the checkpoint",
    ),
    "version": (
        lambda contents: contents.update(format_version="2.0"),
        "has format_version '2.0', expected 1.x (hint: upd",
    ),
    "missing": (lambda contents: contents["ca_state"]["1"].pop("gate"), "tensor 'ca.1.gate' is missing"),
    "no layers": (lambda contents: contents["ca_state"].clear(), "ca_state is empty"),
    "extra": (encoder_has("novelty.weight", torch.zeros(3)), "tensor 'enc.novelty.weight' is not part of a selective"),
    "shape": (encoder_has("output_norm.bias", torch.zeros(3)), "'enc.output_norm.bias' has shape [3], expected [32]"),
    "NaN": (
        encoder_has("output_norm.bias", torch.full((32,), torch.nan)),
        "'enc.output_norm.bias' has values that are not",
    ),
    "beyond F32": (
        encoder_has("output_norm.bias", torch.full((32,), 1e300, dtype=torch.float64)),
        "not finite in float32",
    ),
    "integers": (
        encoder_has("output_norm.bias", torch.zeros(32, dtype=torch.int32)),
        "has dtype int32, expected floating",
    ),
    "sparse": (encoder_has("output_norm.bias", torch.zeros(32).to_sparse()), "is sparse, quantized or without data"),
    "bomb": (
        encoder_has("output_norm.bias", torch.zeros(1).expand(10**6, 10**6)),
        "has shape [1000000, 1000000], more than the file of",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradiction(name: str, tmp_path: Path) -> None:
    edit, fault = CONTRADICTIONS[name]
    assert fault in refusal(change(save_checkpoint(tmp_path, *wrapper()), edit))


def test_tokens_of_multi_token_and_sizes_of_transformer(tmp_path: Path) -> None:
    path = change(save_checkpoint(tmp_path, *wrapper("multi_token")), config_is(num_cognitive_tokens=32))
    assert "num_cognitive_tokens is 32 in the checkpoint, but 4 in the tensors" in refusal(path)
    edit = config_is(transformer_num_blocks=3, transformer_encoder_dim=64, transformer_ffn_expansion=4)
    message = refusal(change(save_checkpoint(tmp_path, *wrapper("transformer")), edit))
    assert "transformer_num_blocks is 3 in the checkpoint, but 2 in the tensors" in message
    assert "transformer_encoder_dim is 64 in the checkpoint, but 32 in the tensors" in message
    assert (
        "transformer_ffn_expansion is 4 in the checkpoint, but the tensors have 48 inner for 32 outer units" in message
    )


def test_all_contradictions_at_once_naming_both_sides(tmp_path: Path) -> None:
    path = change(save_checkpoint(tmp_path, *wrapper()), config_is(ca_bottleneck_dim=64))
    manifest(tmp_path, hidden_dim=64, encoder_type="multi_token", cross_attn_layers=[1])
    message = refusal(path, target_layers="0-2", num_layers=5, hidden_dim=48)
    for part in (
        "ca_bottleneck_dim is 64 in the checkpoint, but 16 in the tensors",
        "hidden_dim is 64 in run.json, but 32 in the tensors",
        "hidden_dim is 48 in --hidden-dim, but 32 in the tensors",
        "encoder_type is 'multi_token' in run.json, but 'selective' in the tensors",
        "target_layers is [0, 1, 2] in --target-layers, but [3, 1] in run.json",
        "cross_attn_layers is [1] in run.json, but [1, 2] in the tensors",
        "num_layers is 5 in --num-layers, but 4 in run.json",
    ):
        assert part in message
    assert "7 faults" in message


def test_wrong_number_of_target_layers(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper())
    manifest(tmp_path, target_layers=[1, 2, 3])
    assert "target_layers [1, 2, 3] in run.json are 3, but the tensors are for 2 layers" in refusal(path)


def test_unknown_names_of_safetensors(tmp_path: Path) -> None:
    save_file(
        {"model.x": torch.zeros(1), "enc.a": torch.zeros(1), "encoder_state.a": torch.ones(1)},
        tmp_path / "x.safetensors",
    )
    message = refusal(tmp_path / "x.safetensors")
    assert "tensor 'model.x' has an unknown name" in message
    assert "tensor 'enc.a' is there twice, under two names" in message


@pytest.mark.skipif(not CA_ONLY.exists(), reason="the reference data are not beside this checkout")
def test_a_checkpoint_without_an_encoder() -> None:
    assert "encoder_state is empty, expected the encoder's tensors" in refusal(CA_ONLY)


def test_missing_torch_gives_the_command_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_checkpoint(tmp_path, *wrapper())

    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(files.importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match=r"pip install 'metadeploy\[export\]'"):
        load_wrapper(path)
