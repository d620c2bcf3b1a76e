"""Small sidecars made by hand, and the faults that the readers of both languages find in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metadeploy.sidecar.spec import EncoderType, WrapperConfig
from support.handmade_gguf import BF16, F16, Gguf, Tensor, sidecar
from support.random_wrapper import random_wrapper


def wrapper(encoder: EncoderType = "selective") -> tuple[WrapperConfig, dict[str, NDArray[np.float32]]]:
    config, tensors = random_wrapper(encoder, hidden_dim=32, target_layers=(3, 1), cross_attn_layers=(1, 2))
    return config, {name: tensor.numpy() for name, tensor in tensors.items()}


def file(encoder: EncoderType = "selective", prefix: str = "meta_spider") -> Gguf:
    return sidecar(*wrapper(encoder), prefix=prefix)


def drop(name: str) -> Callable[[Gguf], Any]:
    return lambda gguf: gguf.tensors.remove(gguf.tensor(name))


def reshape(name: str, *shape: int) -> Callable[[Gguf], Any]:
    def change(gguf: Gguf) -> None:
        gguf.tensor(name).shape = shape
        gguf.tensor(name).data = bytes(4 * int(np.prod(shape)))

    return change


def poison(name: str, number: float, *, kind: int = 0) -> Callable[[Gguf], Any]:
    def change(gguf: Gguf) -> None:
        tensor = gguf.tensor(name)
        values = np.frombuffer(tensor.data, "<f4").copy()
        values[-1] = number
        if kind == F16:
            tensor.data = values.astype("<f2").tobytes()
        elif kind == BF16:
            tensor.data = (values.view("<u4") >> 16).astype("<u2").tobytes()
        else:
            tensor.data = values.tobytes()
        tensor.type = kind

    return change


def retype(name: str, kind: int) -> Callable[[Gguf], Any]:
    return lambda gguf: setattr(gguf.tensor(name), "type", kind)


def key(name: str, kind: str, content: Any) -> Callable[[Gguf], Any]:
    return lambda gguf: gguf.with_key(f"meta_spider.{name}", kind, content)


def without(name: str) -> Callable[[Gguf], Any]:
    return lambda gguf: gguf.without(f"meta_spider.{name}")


PROJECTORS = [
    *(f"projectors.{i}.{part}.{kind}" for i in (0, 1) for part in (0, 1) for kind in ("weight", "bias")),
    *(f"gates.{i}" for i in (0, 1)),
]

FAULTS: dict[str, tuple[Callable[[Gguf], Any], str]] = {
    "missing tensor": (drop("ca.2.up_proj.weight"), "tensor 'ca.2.up_proj.weight' is missing, expected shape [32, 16]"),
    "missing projector": (drop("enc.layer_projectors.0.1.bias"), "'enc.layer_projectors.0.1.bias' is missing"),
    "missing gate": (drop("enc.layer_gates.1"), "tensor 'enc.layer_gates.1' is missing, expected shape [1]"),
    "no projectors": (
        lambda gguf: [drop(f"enc.layer_{what}")(gguf) for what in PROJECTORS],
        "names 2 layers, but the tensors are for 0 target layers",
    ),
    "wrong width": (
        reshape("ca.1.k_proj.weight", 16, 40),
        "tensor 'ca.1.k_proj.weight' has shape [16, 40], expected [16, 32]",
    ),
    "wrong rank": (reshape("ca.1.gate", 2, 1), "tensor 'ca.1.gate' has shape [2, 1], expected [1]"),
    "transposed": (reshape("ca.1.up_proj.weight", 16, 32), "has shape [16, 32], expected [32, 16]"),
    "NaN": (poison("ca.1.v_proj.weight", np.nan), "tensor 'ca.1.v_proj.weight' has 1 values that are not finite"),
    "inf": (poison("enc.output_norm.bias", -np.inf), "tensor 'enc.output_norm.bias' has 1 values that are not finite"),
    "inf in F16": (poison("ca.1.v_proj.weight", np.inf, kind=F16), "1 values that are not finite"),
    "NaN in BF16": (poison("ca.1.v_proj.weight", np.nan, kind=BF16), "1 values that are not finite"),
    "type": (retype("ca.1.q_proj.weight", 26), "has type I32, expected one of F32, F16, BF16, Q8_0"),
    "unknown type": (retype("ca.1.q_proj.weight", 99), "has type type 99, expected one of"),
    "encoder type": (key("encoder_type", "str", "telepathic"), "'telepathic', expected one of selective, multi_token"),
    "other encoder": (
        key("encoder_type", "str", "transformer"),
        "'meta_spider.encoder_type' is 'transformer', but the tensors are those of a selective encoder",
    ),
    "hidden_dim": (key("hidden_dim", "u32", 2048), "'meta_spider.hidden_dim' is 2048, but the tensors say 32"),
    "bottleneck": (key("bottleneck_dim", "u32", 8), "'meta_spider.bottleneck_dim' is 8, but the tensors say 16"),
    "type of a key": (key("hidden_dim", "str", "32"), "key 'meta_spider.hidden_dim' has type str, expected u32"),
    "type of a list": (key("target_layers", "[str]", ["1"]), "key 'meta_spider.target_layers' has type [str]"),
    "no heads": (without("ca_num_heads"), "key 'meta_spider.ca_num_heads' is missing, expected a u32"),
    "zero heads": (key("ca_num_heads", "u32", 0), "has width 16 and 0 heads, expected a multiple"),
    "odd heads": (key("ca_num_heads", "u32", 5), "has width 16 and 5 heads, expected a multiple"),
    "too few targets": (key("target_layers", "[i32]", [1]), "names 1 layers, but the tensors are for 2 target layers"),
    "no targets": (without("target_layers"), "is absent, but the tensors are for 2 target layers"),
    "empty targets": (key("target_layers", "[i32]", []), "names 0 layers, but the tensors are for 2 target layers"),
    "repeated target": (key("target_layers", "[i32]", [1, 1]), "target_layers [1, 1] names a layer twice"),
    "negative target": (key("target_layers", "[i32]", [-1, 1]), "has [-1], expected layers from 0 to 999"),
    "no decoder has so many": (key("target_layers", "[i32]", [1, 1000]), "has [1000], expected layers from 0 to 999"),
    "number out of range": (key("hidden_dim", "u64", 2**40), "hidden_dim' is 1099511627776, expected 0 to"),
    "unknown type of a stranger": (
        lambda gguf: gguf.tensors.append(Tensor("x", (4,), bytes(16), type=99)),
        "tensor 'x' has type type 99, expected one of",
    ),
    "beyond the base": (
        key("base_block_count", "u32", 3),
        "target_layers has [3], expected layers from 0 to 2 (the base has 3 blocks)",
    ),
    "other cross layers": (
        key("cross_attn_layers", "[i32]", [1, 3]),
        "'meta_spider.cross_attn_layers' is [1, 3], but there are tensors for layers [1, 2]",
    ),
    "repeated cross layer": (key("cross_attn_layers", "[i32]", [1, 2, 2]), "names a layer twice"),
    "trigger": (key("trigger", "str", "fixed"), "meta_spider.trigger' is 'fixed', expected 'always'"),
    "gate activation": (key("gate_activation", "str", "sigmoid"), "gate activation 'sigmoid', expected 'tanh'"),
    "newer format": (key("format_version", "u32", 2), "format version 2, this metadeploy reads up to 1 (hint: update"),
    "format 0": (key("format_version", "u32", 0), "has format version 0, expected 1 to 1"),
    "inject_from": (key("inject_from", "str", "never"), "'never', expected one of prompt, last_prompt_token"),
    "type of tokens": (key("refusal_token_ids", "[str]", ["I"]), "'meta_spider.refusal_token_ids' has type [str]"),
    "refusal token": (key("refusal_token_ids", "[i32]", [3, -1]), "refusal_token_ids has -1, expected token ids"),
    "huge refusal token": (key("refusal_token_ids", "[u32]", [2**31]), "refusal_token_ids has 2147483648, expected"),
    "no refusal tokens": (key("refusal_token_ids", "[i32]", []), "refusal_token_ids has 0 entries, expected 1 to 1024"),
    "too many of them": (key("refusal_token_ids", "[i32]", [1] * 1025), "has 1025 entries, expected 1 to 1024"),
    "refusal bias, type": (key("refusal_bias", "u32", 1), "key 'meta_spider.refusal_bias' has type u32, expected f32"),
    "refusal bias": (key("refusal_bias", "f32", -100.25), "refusal_bias is -100.25, expected -100 to 100"),
    "refusal bias NaN": (key("refusal_bias", "f32", np.nan), "refusal_bias is nan, expected -100 to 100"),
    "refusal bias inf": (key("refusal_bias", "f32", np.inf), "refusal_bias is inf, expected -100 to 100"),
    "kwargs not JSON": (key("chat_template_kwargs", "str", "{nope"), "is not JSON"),
    "kwargs no object": (key("chat_template_kwargs", "str", "[1]"), "holds a JSON list, expected an object"),
}  # fmt: skip


#: Faults in a sidecar with a transformer of 2 blocks, width 32, inner width 48 and position embeddings.
TRANSFORMER_FAULTS: dict[str, tuple[Callable[[Gguf], Any], str]] = {
    "encoder_dim": (key("encoder_dim", "u32", 64), "'meta_spider.encoder_dim' is 64, but the tensors say 32"),
    "type of encoder_dim": (key("encoder_dim", "f32", 32.0), "'meta_spider.encoder_dim' has type f32, expected u32"),
    "blocks": (key("encoder_num_blocks", "u32", 3), "'meta_spider.encoder_num_blocks' is 3, but the tensors say 2"),
    "no blocks": (key("encoder_num_blocks", "u32", 0), "'meta_spider.encoder_num_blocks' is 0, but the tensors say 2"),
    "expansion": (
        key("encoder_ffn_expansion", "u32", 1),
        "'meta_spider.encoder_ffn_expansion' is 1, but the tensors have 48 inner for 32 outer units",
    ),
    "no expansion": (key("encoder_ffn_expansion", "u32", 0), "'meta_spider.encoder_ffn_expansion' is 0, but"),
    "huge expansion": (key("encoder_ffn_expansion", "u32", 2**31 - 1), "encoder_ffn_expansion' is 2147483647, but"),
    "embeddings unused": (
        key("use_layer_pos_embeddings", "u32", 0),
        "'meta_spider.use_layer_pos_embeddings' is 0, but the tensors say 1",
    ),
    "embeddings, 2": (
        key("use_layer_pos_embeddings", "u32", 2),
        "'meta_spider.use_layer_pos_embeddings' is 2, but the tensors say 1",
    ),
    "embeddings lost": (
        drop("enc.layer_pos_embed"),
        "'meta_spider.use_layer_pos_embeddings' is 1, but the tensors say 0",
    ),
    "last block lost": (
        lambda gguf: gguf.tensors.__setitem__(slice(None), [t for t in gguf.tensors if ".blocks.1." not in t.name]),
        "'meta_spider.encoder_num_blocks' is 2, but the tensors say 1",
    ),
}
