"""Writes the seeds of tests/fuzz/corpus for sidecars: one small valid file of each kind of wrapper.

``python tests/fuzz/make_corpus.py``, in an environment with metadeploy[test]. The other seeds are
texts, written by hand.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from metadeploy.sidecar.verdict import verdict_keys  # noqa: E402
from support.handmade_gguf import Tensor, sidecar  # noqa: E402
from support.random_verdict import random_verdict  # noqa: E402
from support.random_wrapper import random_wrapper  # noqa: E402

KINDS = {
    "selective": {"encoder_type": "selective"},
    "multi_token": {"encoder_type": "multi_token", "num_tokens": 3},
    "transformer": {"encoder_type": "transformer", "num_blocks": 1, "ffn_dim": 4},
    "shared": {"encoder_type": "transformer", "num_blocks": 1, "ffn_dim": 4, "shared_projector": True},
    "plain": {"encoder_type": "multi_token", "prenorm_projector": False},
}


def write(folder: Path, hidden_dim: int) -> None:
    for name, options in KINDS.items():
        config, tensors = random_wrapper(
            hidden_dim=hidden_dim, encoder_dim=4, bottleneck_dim=4, target_layers=(1, 0), cross_attn_layers=(1, 2),
            num_layers=3, ca_num_heads=2, enc_num_heads=2, **options,
        )  # fmt: skip
        gguf = sidecar(config, {key: tensor.numpy() for key, tensor in tensors.items()})
        if name != "plain":
            gguf.with_key("meta_spider.format_version", "u32", 1)
            gguf.with_key("meta_spider.base_block_count", "u32", 3)
            gguf.with_key("meta_spider.kind", "str", "doubter")
            gguf.with_key("meta_spider.inject_from", "str", "last_prompt_token" if name == "shared" else "prompt")
            gguf.with_key("meta_spider.refusal_text", "str", "No.")
            gguf.with_key("meta_spider.refusal_token_ids", "[i32]", [46, 5])
            gguf.with_key("meta_spider.refusal_bias", "f32", 0.5)
            gguf.with_key("meta_spider.answer_suffix", "str", "?")
            gguf.with_key("meta_spider.chat_template_kwargs", "str", '{"x": [1, null, "y"]}')
        (folder / f"{name}.gguf").write_bytes(gguf.build())
        if name == "selective":
            head = random_verdict(hidden_dim, prompt_layers=(1,), answer_layers=(0, 2), n_hidden=2)
            gguf.keys += [
                (key, value.type, value.value) for key, value in verdict_keys(head.config, "meta_spider").items()
            ]
            gguf.tensors += [Tensor.f32(key, values) for key, values in head.tensors.items()]
            (folder / "judged.gguf").write_bytes(gguf.build())
    foreign = replace(config, encoder_type="multi_token")
    gguf = sidecar(foreign, {key: tensor.numpy() for key, tensor in tensors.items()}, prefix="daimon")
    (folder / "daimon.gguf").write_bytes(gguf.build())


if __name__ == "__main__":
    write(HERE / "corpus" / "sidecar", hidden_dim=8)
    write(HERE / "corpus" / "attach", hidden_dim=32)
