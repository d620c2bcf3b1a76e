"""The check of a base model's metadata before export."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metadeploy.errors import ModelLoadError, ModelMismatchError
from metadeploy.sidecar import WrapperConfig
from metadeploy.sidecar.base_model import (
    HOOKED_ARCHITECTURES,
    UNHOOKED_ARCHITECTURES,
    UNSUPPORTED_HOOKS,
    check_base,
    read_base,
)
from support.handmade_gguf import Gguf

SOURCE = Path(__file__).resolve().parents[3] / "vendor" / "llama.cpp" / "src"
CONFIG = WrapperConfig(
    encoder_type="selective", hidden_dim=2560, encoder_dim=256, bottleneck_dim=256, num_cognitive_tokens=11,
    ca_num_heads=4, enc_num_heads=8, target_layers=tuple(range(21, 32)), cross_attn_layers=tuple(range(21, 32)),
    base_block_count=32,
)  # fmt: skip


def base(folder: Path, *, architecture: str = "qwen35", **numbers: int) -> Path:
    values: dict[str, Any] = {"embedding_length": 2560, "block_count": 32, **numbers}
    keys = [("general.architecture", "str", architecture), ("general.name", "str", "A base")]
    keys += [(f"{architecture}.{key}", "u32", value) for key, value in values.items()]
    path = folder / "base.gguf"
    path.write_bytes(Gguf(keys).build())
    return path


def test_a_base_that_fits(tmp_path: Path) -> None:
    checked = check_base(base(tmp_path, context_length=8192), CONFIG)
    assert (checked.architecture, checked.hidden_dim, checked.block_count) == ("qwen35", 2560, 32)
    assert (checked.name, checked.context_length, checked.supports_injection) == ("A base", 8192, True)


def test_blocks_for_prediction_of_several_tokens_do_not_count(tmp_path: Path) -> None:
    assert check_base(base(tmp_path, block_count=33, nextn_predict_layers=1), CONFIG).block_count == 32


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"embedding_length": 2048}, "has width 2048, the wrapper needs 2560 (wrong base model?)"),
        ({"block_count": 36}, "has 36 layers, the wrapper was trained on 32"),
        ({"architecture": "bert"}, "has architecture 'bert', which llama.cpp gives no place to inject in"),
        ({"architecture": "gemma3n"}, "has architecture 'gemma3n', which keeps several residual streams"),
        ({"architecture": "brandnew"}, "has architecture 'brandnew', which the pinned llama.cpp does not know"),
    ],
)
def test_a_base_that_does_not_fit(options: dict[str, Any], fault: str, tmp_path: Path) -> None:
    path = base(tmp_path, **options)
    with pytest.raises(ModelMismatchError) as caught:
        check_base(path, CONFIG)
    assert str(caught.value) == f"base model '{path}': {fault}"


def test_all_faults_at_once_and_layers_beyond(tmp_path: Path) -> None:
    path = base(tmp_path, architecture="plamo2", embedding_length=64, block_count=30)
    with pytest.raises(ModelMismatchError) as caught:
        check_base(path, replace(CONFIG, base_block_count=None))
    assert "3 faults" in str(caught.value)
    assert "has layers 0 to 29, the wrapper needs [30, 31]" in str(caught.value)


def test_files_that_are_no_base(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for keys, fault in (
        ([], "has no general.architecture"),
        ([("general.architecture", "str", "clip")], "lacks embedding_length or block_count"),
    ):
        path.write_bytes(Gguf(keys).build())
        with pytest.raises(ModelLoadError, match=fault):
            read_base(path)
    path.write_bytes(b"not a model")
    with pytest.raises(ModelLoadError, match=f"base model '{re.escape(str(path))}': is not a GGUF file"):
        read_base(path)


def graph_owners() -> dict[str, str | None]:
    """Architecture name -> class whose graph it builds: its own, its parent's, or one taken over with `using`."""
    names = dict(
        re.findall(r'\{\s*(LLM_ARCH_\w+),\s*"([^"]+)"', (SOURCE / "llama-arch.cpp").read_text(encoding="utf-8"))
    )
    model = (SOURCE / "llama-model.cpp").read_text(encoding="utf-8")
    classes = dict(re.findall(r"case (LLM_ARCH_\w+):\s*return new (llama_model_\w+)\(", model))
    header = (SOURCE / "models" / "models.h").read_text(encoding="utf-8")
    parents: dict[str, str] = {}
    graphs: dict[str, str] = {}
    for name, parent, body in re.findall(r"^struct (llama_model_\w+) : public (\w+) \{(.*?)^\};", header, re.M | re.S):
        parents[name] = parent
        if taken := re.search(r"using graph = (llama_model_\w+)::graph", body):
            graphs[name] = taken[1]
        elif re.search(r"struct graph\b", body):
            graphs[name] = name

    def owner(name: str | None) -> str | None:
        while name is not None and graphs.get(name) != name:
            name = graphs.get(name) or parents.get(name)
        return name

    return {text: owner(classes.get(symbol)) for symbol, text in names.items() if symbol != "LLM_ARCH_UNKNOWN"}


def graphs_with_hook() -> set[str]:
    """Classes whose graph calls build_cvec, in the constructor or another method; a mention in a comment is no call."""
    names: set[str] = set()
    for file in (SOURCE / "models").glob("*.cpp"):
        current: str | None = None
        for line in file.read_text(encoding="utf-8").splitlines():
            if method := re.match(r"(?!\s).*?\b(llama_model_\w+)::graph(?:<\w+>)?::\w+\(", line):
                current = method[1]
            elif line.startswith("}"):
                current = None
            elif current and "build_cvec(" in line.split("//")[0]:
                names.add(current)
    return names


@pytest.mark.skipif(not SOURCE.is_dir(), reason="vendor/llama.cpp is not unpacked")
def test_the_lists_match_the_pinned_source() -> None:
    owners, hooks = graph_owners(), graphs_with_hook()
    assert {name for name, owner in owners.items() if owner in hooks} == HOOKED_ARCHITECTURES
    assert {name for name, owner in owners.items() if owner not in hooks} == UNHOOKED_ARCHITECTURES
    assert set(UNSUPPORTED_HOOKS) < HOOKED_ARCHITECTURES
