"""Loading bases and wrappers into the reference, and its input and output of text."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from metadeploy.errors import CheckpointError, Error, MissingDependencyError, ModelLoadError, ModelMismatchError
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline, PendingDoubter
from metadeploy.sidecar.writer import write_sidecar
from support.gguf_tools import dequantize_gguf, write_tiny_gguf
from support.random_wrapper import random_wrapper, save_checkpoint
from support.tiny_models import byte_tokenizer, tiny_causal_lm

TARGET, CROSS = [2, 4], [3, 5]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a folder in Hugging Face format."""
    folder = tmp_path_factory.mktemp("base")
    tiny_causal_lm("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def pipe(base: Path) -> MetaSpiderPipeline:
    return MetaSpiderPipeline.from_pretrained(MetaSpiderConfig(model_name=str(base), device="cpu"))


def wrapper(**options: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    return random_wrapper(
        "selective", hidden_dim=64, **({"target_layers": TARGET, "cross_attn_layers": CROSS} | options)
    )


# --- the published way ---


def test_published_snippet(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code in published model cards runs after a change of the import. The checkpoint alone has no layers."""
    save_checkpoint(tmp_path, *wrapper(), run_json=False).rename(tmp_path / "doubter.pt")
    monkeypatch.chdir(tmp_path)
    model_name = str(base)

    from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline

    cfg = MetaSpiderConfig(
        model_name=model_name,
        device="cpu",
        dtype="float32",
        quantization=None,
        target_layers=TARGET,
        cross_attn_layers=CROSS,
    )
    pipe = MetaSpiderPipeline.from_pretrained(cfg)
    pipe.attach(Doubter.from_checkpoint("doubter.pt"))
    answer = pipe.generate("Who discovered penicillin?", max_new_tokens=12)
    assert isinstance(answer, str)
    pipe.set_gain(0.0)
    assert pipe.generate("Who discovered penicillin?", max_new_tokens=12) != answer


@pytest.mark.parametrize("encoder_type", ["selective", "multi_token", "transformer"])
@pytest.mark.parametrize("form", ["1.0 with run.json", "1.1", "folder", "sidecar"])
def test_every_form_gives_the_same_wrapper(
    encoder_type: Any, form: str, pipe: MetaSpiderPipeline, tmp_path: Path
) -> None:
    config, tensors = random_wrapper(encoder_type, hidden_dim=64, target_layers=TARGET, cross_attn_layers=CROSS)
    if form == "sidecar":
        path = tmp_path / "sidecar.gguf"
        write_sidecar(path, config, {name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        version = "1.1" if form == "1.1" else "1.0"
        path = save_checkpoint(tmp_path, config, tensors, format_version=version, run_json=form != "1.1")
        path = path.parent if form == "folder" else path
    doubter = Doubter.from_checkpoint(path)
    assert isinstance(doubter, Doubter)
    assert not doubter.training
    assert (doubter.config.target_layers, doubter.config.cross_attn_layers) == (tuple(TARGET), tuple(CROSS))
    state = doubter.state_dict()
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensors[name]) for name in tensors)
    pipe.attach(doubter)
    ids = pipe.tokenize("Hello")
    loaded = pipe.logits(ids)
    pipe.attach(Doubter.from_tensors(config, tensors))
    assert torch.equal(pipe.logits(ids), loaded)


def test_bfloat16_cross_attention_of_a_checkpoint(tmp_path: Path) -> None:
    config, tensors = wrapper()
    doubter = Doubter.from_checkpoint(save_checkpoint(tmp_path, config, tensors, ca_dtype=torch.bfloat16))
    assert isinstance(doubter, Doubter)
    weight = doubter.state_dict()["ca.3.k_proj.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, tensors["ca.3.k_proj.weight"].bfloat16().float())


# --- layers that the files do not tell ---


def test_pending_wrapper_takes_the_pipelines_layers(base: Path, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *wrapper(), run_json=False)
    pending = Doubter.from_checkpoint(path)
    assert isinstance(pending, PendingDoubter)
    model_name = str(base)
    for target, cross in ((TARGET, None), ("2,4", "3,5")):
        config = MetaSpiderConfig(model_name=model_name, device="cpu", target_layers=target, cross_attn_layers=cross)
        doubter = MetaSpiderPipeline.from_pretrained(config).attach(pending)
        assert (doubter.config.target_layers, doubter.config.cross_attn_layers) == (tuple(TARGET), tuple(CROSS))
    completed = Doubter.from_checkpoint(path, target_layers=[1, 0])
    assert isinstance(completed, Doubter)
    assert completed.config.target_layers == (1, 0)


def test_pending_wrapper_takes_the_bases_depth(pipe: MetaSpiderPipeline, tmp_path: Path) -> None:
    """run.json has the preset "late", which only the base resolves."""
    path = save_checkpoint(tmp_path, *wrapper(target_layers=[4, 5], cross_attn_layers=[4, 5]))
    manifest = json.loads((tmp_path / "run.json").read_text())
    manifest |= {"target_layers": "late", "cross_attn_layers": "late", "num_layers": None, "hidden_dim": None}
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    pending = Doubter.from_checkpoint(path)
    assert isinstance(pending, PendingDoubter)
    assert pipe.attach(pending).config.target_layers == (4, 5)
    completed = Doubter.from_checkpoint(path, num_layers=6)
    assert isinstance(completed, Doubter)


def test_pending_wrapper_without_any_layers(pipe: MetaSpiderPipeline, tmp_path: Path) -> None:
    pending = Doubter.from_checkpoint(save_checkpoint(tmp_path, *wrapper(), run_json=False))
    with pytest.raises(CheckpointError, match=r"nothing says which layers .* or in MetaSpiderConfig"):
        pipe.attach(pending)
    assert pipe.doubter is None


def test_contradictions_name_both_sides(base: Path, tmp_path: Path) -> None:
    bare = save_checkpoint(tmp_path / "bare", *wrapper(), run_json=False)
    config = MetaSpiderConfig(model_name=str(base), device="cpu", target_layers=[1, 2, 3], cross_attn_layers=[3, 4])
    pipe = MetaSpiderPipeline.from_pretrained(config)
    with pytest.raises(CheckpointError) as caught:
        pipe.attach(Doubter.from_checkpoint(bare))
    assert "[1, 2, 3]" in str(caught.value)
    assert "[3, 4]" in str(caught.value)
    assert "[3, 5]" in str(caught.value)
    full = save_checkpoint(tmp_path / "full", *wrapper())
    with pytest.raises(ModelMismatchError, match=r"target_layers \[2, 4\], MetaSpiderConfig says \[1, 2, 3\]"):
        pipe.attach(Doubter.from_checkpoint(full))
    with pytest.raises(CheckpointError, match="target_layers"):
        Doubter.from_checkpoint(full, target_layers=[0, 1])


@pytest.mark.parametrize("name", ["missing.pt", "missing.gguf", "text.pt"])
def test_unusable_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(Error, match=name):
        Doubter.from_checkpoint(tmp_path / name)


# --- bases ---


@pytest.mark.parametrize("option", [{"dtype": "float8"}, {"quantization": "int3"}])
def test_unknown_options(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ModelLoadError, match=f"MetaSpiderConfig: {name} is '.*', expected one of"):
        MetaSpiderConfig(model_name="x", **option)


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_dtype_of_the_base(base: Path, dtype: Any) -> None:
    pipe = MetaSpiderPipeline.from_pretrained(MetaSpiderConfig(model_name=str(base), device="cpu", dtype=dtype))
    expected = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    assert {parameter.dtype for parameter in pipe.model.parameters()} == {expected}
    assert pipe.layer_outputs([1, 2], [0], inject=False).dtype == torch.float32


def test_unusable_bases(tmp_path: Path) -> None:
    for name in (str(tmp_path), str(tmp_path / "missing.gguf")):
        with pytest.raises(ModelLoadError, match="base model"):
            MetaSpiderPipeline.from_pretrained(MetaSpiderConfig(model_name=name, device="cpu"))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and then nothing")
    with pytest.raises(ModelLoadError, match=r"broken\.gguf"):
        MetaSpiderPipeline.from_pretrained(MetaSpiderConfig(model_name=str(tmp_path / "broken.gguf"), device="cpu"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    with pytest.raises(ModelLoadError, match="is an encoder-decoder"):
        MetaSpiderPipeline.from_pretrained(MetaSpiderConfig(model_name=str(tmp_path), device="cpu"))


def test_unusable_device(base: Path) -> None:
    with pytest.raises(ModelLoadError, match="device is 'abacus'"):
        MetaSpiderPipeline.from_pretrained(MetaSpiderConfig(model_name=str(base), device="abacus"))


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4"])
def test_quantization_needs_bitsandbytes(base: Path, quantization: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hide("bitsandbytes", monkeypatch)
    config = MetaSpiderConfig(model_name=str(base), device="cpu", quantization=quantization)
    with pytest.raises(
        MissingDependencyError, match=r"needs bitsandbytes, not installed \(pip install 'metadeploy\[quantized\]'\)"
    ):
        MetaSpiderPipeline.from_pretrained(config)


def test_a_gguf_needs_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_gguf(tmp_path / "base.gguf")
    hide("accelerate", monkeypatch)
    config = MetaSpiderConfig(model_name=str(tmp_path / "base.gguf"), device="cpu")
    with pytest.raises(
        MissingDependencyError, match=r"needs accelerate, not installed \(pip install 'metadeploy\[reference\]'\)"
    ):
        MetaSpiderPipeline.from_pretrained(config)


def hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == package else find_spec(name, *args)
    )


def test_missing_torch_names_the_command() -> None:
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "import metadeploy.reference\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "pip install 'metadeploy[reference]'" in result.stderr


def test_gguf_base_and_its_dequantized_copy(tmp_path: Path) -> None:
    """Both load as the same model: the copy keeps everything but the type of the weights."""
    pytest.importorskip("accelerate", reason="transformers needs it to load GGUF files")
    original, copy = tmp_path / "tiny.gguf", tmp_path / "tiny-f32.gguf"
    write_tiny_gguf(original)
    dequantize_gguf(original, copy)
    readers = [gguf.GGUFReader(path) for path in (original, copy)]
    keys = [{k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")} for reader in readers]
    assert {key for key in keys[0] if keys[0][key] != keys[1][key]} == {"general.file_type"}
    assert keys[0].keys() == keys[1].keys()
    assert {tensor.tensor_type.name for tensor in readers[0].tensors} == {"Q8_0", "F32"}
    assert {tensor.tensor_type.name for tensor in readers[1].tensors} == {"F32"}
    for one, two in zip(readers[0].tensors, readers[1].tensors, strict=True):
        assert (one.name, one.shape.tolist()) == (two.name, two.shape.tolist())
        np.testing.assert_array_equal(gguf.dequantize(one.data, one.tensor_type), two.data)

    pipes = [
        MetaSpiderPipeline.from_pretrained(MetaSpiderConfig(model_name=str(path), device="cpu"))
        for path in (original, copy)
    ]
    assert (pipes[0].num_layers, pipes[0].hidden_dim, pipes[0].vocab_size) == (3, 32, 259)
    ids = pipes[0].tokenize("Hello")
    assert ids == pipes[1].tokenize("Hello")
    assert torch.equal(pipes[0].logits(ids, inject=False), pipes[1].logits(ids, inject=False))
    assert pipes[0].apply_chat_template("Hello") == "Hello"


# --- text ---


def test_chat_template_with_the_wrappers_settings(pipe: MetaSpiderPipeline, tmp_path: Path) -> None:
    assert pipe.apply_chat_template("Why?") == "<user>Why?</><assistant>"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert pipe.apply_chat_template(messages) == "<system>Be brief.</><user>Why?</><assistant>"
    save_checkpoint(tmp_path, *wrapper())
    manifest = json.loads((tmp_path / "run.json").read_text())
    manifest |= {"answer_suffix": " Answer:", "chat_template_kwargs": {"enable_thinking": False}}
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    pipe.attach(Doubter.from_checkpoint(tmp_path))
    assert pipe.apply_chat_template("Why?") == "<user>Why? Answer:</><assistant><think></think>"
    assert pipe.apply_chat_template(messages).endswith("<user>Why? Answer:</><assistant><think></think>")
    assert messages[-1]["content"] == "Why?"  # the caller's own list is left alone
    pipe.detach()
    assert pipe.apply_chat_template("Why?") == "<user>Why?</><assistant>"


def test_generate_is_generate_ids_of_the_template(pipe: MetaSpiderPipeline) -> None:
    pipe.attach(Doubter.from_tensors(*wrapper()))
    ids = pipe.tokenize("<user>Why?</><assistant>")
    expected = pipe.tokenizer.decode(pipe.generate_ids(ids, 10), skip_special_tokens=True)
    assert pipe.generate("Why?", max_new_tokens=10) == expected
    raw = pipe.tokenize("Why?", add_special=True)
    assert raw == [256, *pipe.tokenize("Why?")]
    expected = pipe.tokenizer.decode(pipe.generate_ids(raw, 10, gain=0.5), skip_special_tokens=True)
    assert pipe.generate("Why?", max_new_tokens=10, raw=True, gain=0.5) == expected
    base = pipe.tokenizer.decode(pipe.generate_ids(ids, 10, inject=False), skip_special_tokens=True)
    assert pipe.generate("Why?", max_new_tokens=10, inject=False) == base


def test_prompts_that_cannot_be_wrapped(pipe: MetaSpiderPipeline) -> None:
    for messages in ([], [{"role": "user"}], [{"content": "Why?"}]):
        with pytest.raises(Error, match="is not a conversation"):
            pipe.generate(messages)
    with pytest.raises(Error, match="expected a str with raw=True"):
        pipe.generate([{"role": "user", "content": "Why?"}], raw=True)
    pipe.tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(Error, match="does not accept the messages: no system role"):
        pipe.generate("Why?")
    pipe.tokenizer.chat_template = None
    with pytest.raises(Error, match="has no chat template"):
        pipe.generate("Why?")
