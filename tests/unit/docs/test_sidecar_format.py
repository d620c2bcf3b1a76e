"""docs/sidecar-format.md matches the code: every key, and every tensor with its shape."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np

from metadeploy.sidecar import DEFAULT_REFUSAL_TEXT, FORMAT_VERSION, WrapperConfig, keys, write_sidecar
from metadeploy.sidecar.examination import examine
from metadeploy.sidecar.layout import dims_of, expected_tensors, templates
from metadeploy.sidecar.rewriting import write_verdict
from metadeploy.sidecar.spec import EncoderType
from metadeploy.sidecar.verdict import VerdictConfig, verdict_tensors
from support.random_verdict import random_verdict

DOC = (Path(__file__).resolve().parents[3] / "docs" / "sidecar-format.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+?) \|", re.MULTILINE)
OURS = {value for name, value in vars(keys).items() if name.isupper() and "{prefix}." in str(value)}


def rows(start: str) -> dict[str, str]:
    """Return the first two columns of all table rows that begin with a text."""
    return {name: second for name, second in ROW.findall(DOC) if name.startswith(start)}


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    assert len(OURS) > 15
    assert set(rows("{prefix}.")) == OURS


def test_types_and_general_keys_are_those_written(tmp_path: Path) -> None:
    config = WrapperConfig(
        encoder_type="selective", hidden_dim=32, encoder_dim=32, bottleneck_dim=32, num_cognitive_tokens=1,
        ca_num_heads=4, enc_num_heads=8, target_layers=(1,), cross_attn_layers=(1,), prompt_format="auto",
        answer_suffix="?", chat_template_kwargs={"a": 1}, base_model="org/name", base_block_count=2,
        checkpoint_sha256="0" * 64, refusal_token_ids=(1, 2), refusal_bias=0.5,
    )  # fmt: skip
    written: dict[str, str] = {}
    for encoder in get_args(EncoderType):
        dims = dims_of(replace(config, encoder_type=encoder), n_blocks=1, ffn_dim=64)
        tensors = {name: np.zeros(shape, np.float32) for name, shape in expected_tensors(dims).items()}
        write_sidecar(tmp_path / "all.gguf", replace(config, encoder_type=encoder), tensors, outtype="q8_0", force=True)
        head = random_verdict(32, prompt_layers=(0,), answer_layers=(1,))
        write_verdict(tmp_path / "all.gguf", head, tmp_path / "all.gguf")
        written |= {key: value.type for key, value in examine(tmp_path / "all.gguf").file.metadata.items()}
    documented = {
        name.format(prefix=keys.PREFIX_META_SPIDER): kind
        for name, kind in (rows("{prefix}.") | rows("general.")).items()
    }
    assert documented.pop("general.alignment") == "u32"
    assert documented.pop("meta_spider.trigger") == "str"  # only read, never written
    assert written == documented


def test_every_tensor_is_documented_with_its_shape() -> None:
    expected: dict[str, str] = {}
    for encoder, *flags in product(get_args(EncoderType), *[(False, True)] * 3):
        if encoder == "selective" and flags != [True, False, False]:
            continue
        if encoder == "multi_token" and flags[1:] != [False, False]:
            continue
        prenorm, shared, embed = flags
        table = templates(encoder, prenorm_projector=prenorm, shared_projector=shared, layer_pos_embed=embed)
        for name, shape in table.items():
            text = f"[{', '.join(shape)}]"
            assert expected.setdefault(name, text) == text, "a name has the same shape in all encoders"
    head = VerdictConfig(prompt_layers=(), answer_layers=(0,), hidden_dim=1000, n_hidden=64)
    symbols = {1011: "I", 64: "H", 1: "1"}
    for name, sizes in verdict_tensors(head).items():
        expected[name] = f"[{', '.join(symbols[size] for size in sizes)}]"
    assert rows("enc.") | rows("ca.") | rows("verdict.") == expected


def test_constants() -> None:
    assert f"format version **{FORMAT_VERSION}**" in DOC
    assert DEFAULT_REFUSAL_TEXT in DOC
    for architecture in (keys.ARCH_META_SPIDER, keys.ARCH_DAIMON):
        assert f"`{architecture}`" in DOC
