"""The benchmarks' random base: the real one's size, in the types that llama.cpp's quantizer chooses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from synthetic_base import ARCH, F32, Q4_K, Q6_K, SHAPES, synthetic_base, tensors, write_base
from synthetic_doubter import SHAPES as DOUBTERS
from synthetic_doubter import synthetic_doubter, write_checkpoint

from metadeploy import MetaLlama, _core
from metadeploy.sidecar import read_sidecar
from metadeploy.sidecar.gguf_file import read_gguf
from metadeploy.sidecar.layout import dims_of, expected_tensors


def test_it_has_the_size_of_the_real_one() -> None:
    sizes = {Q4_K: 144 / 256, Q6_K: 210 / 256, F32: 4.0}
    parts = list(tensors(SHAPES["qwen3.5-4b"]))
    assert sum(math.prod(dims) for _, dims, _ in parts) == pytest.approx(4.21e9, rel=0.01)
    assert sum(math.prod(dims) * sizes[kind] for _, dims, kind in parts) == pytest.approx(2.65e9, rel=0.02)


def test_types_match_llama_cpps_quantizer(tmp_path: Path) -> None:
    shape = replace(SHAPES["tiny"], n_block=32)
    source, target = tmp_path / "f32.gguf", tmp_path / "q4.gguf"
    write_base(tmp_path / "base.gguf", shape)
    as_f32(tmp_path / "base.gguf", source)
    _core.quantize(str(source), str(target), "Q4_K_M", 1)
    ours = {name: kind.name for name, _, kind in tensors(shape)}
    assert {name: info.type for name, info in read_gguf(target, role="base model").tensors.items()} == ours


def as_f32(source: Path, target: Path) -> None:
    """Return the same model with all matrices in F32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, ARCH)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            element = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=element)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_weights_have_mean_0_and_preserve_scale(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(synthetic_base(tmp_path, "tiny"))
    seen = set()
    for tensor in reader.tensors:
        if tensor.tensor_type in (Q4_K, Q6_K):
            weights = dequantize(tensor.data, tensor.tensor_type)
            assert weights.std() * math.sqrt(weights.shape[-1]) == pytest.approx(1.0, rel=0.05)
            assert abs(weights.mean()) < 0.1 * weights.std()
            seen.add(tensor.tensor_type)
    assert seen == {Q4_K, Q6_K}


def test_it_decodes_with_its_doubter(tmp_path: Path) -> None:
    base, sidecar = synthetic_base(tmp_path, "tiny"), synthetic_doubter(tmp_path, "tiny")
    prompt = list(range(40))
    with MetaLlama(base, sidecar, n_ctx=256) as llm:
        logits = {inject: llm.logits(prompt, inject=inject) for inject in (False, True)}
    assert all(np.isfinite(rows).all() and 0.1 < rows.std() < 30 for rows in logits.values())
    assert np.abs(logits[True] - logits[False]).max() > 1e-3


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reshape"):
        write_base(tmp_path / "base.gguf", replace(SHAPES["tiny"], n_embd=300))
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_is_as_large_as_the_published_one() -> None:
    config = DOUBTERS["qwen3.5-4b"]
    shapes = expected_tensors(dims_of(config))
    count = {part: sum(math.prod(s) for n, s in shapes.items() if n.startswith(part)) for part in ("enc.", "ca.")}
    assert sum(count.values()) == pytest.approx(44.1e6, rel=0.005)
    assert (4 * count["enc."] + 2 * count["ca."]) / 2**20 == pytest.approx(112, rel=0.01)


def test_export_reads_the_checkpoint(tmp_path: Path) -> None:
    config = replace(DOUBTERS["tiny"], inject_from="last_prompt_token")
    sidecar = read_sidecar(synthetic_doubter(tmp_path, "tiny", "last_prompt_token"))
    assert replace(sidecar.config, checkpoint_sha256=None) == config
    assert write_checkpoint(tmp_path / "again", config).name == "doubter_checkpoint.pt"
