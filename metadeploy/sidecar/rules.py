"""Rules for a wrapper's settings, for every kind of file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from metadeploy.errors import shown
from metadeploy.sidecar import keys
from metadeploy.sidecar.layout import Dims
from metadeploy.sidecar.spec import EncoderType

__all__ = [
    "MAX_ALIGNMENT",
    "MAX_ARRAY",
    "MAX_CALIBRATION",
    "MAX_COGNITIVE_TOKENS",
    "MAX_GUARANTEES",
    "MAX_HEAD_BYTES",
    "MAX_INNER_WIDTH",
    "MAX_INT",
    "MAX_KEYS",
    "MAX_KEY_BYTES",
    "MAX_LAYERS",
    "MAX_REFUSAL_BIAS",
    "MAX_REFUSAL_TOKENS",
    "MAX_TABLE",
    "MAX_TENSORS",
    "MAX_TEXT_BYTES",
    "MAX_VERDICT_HIDDEN",
    "MAX_VERDICT_LAYERS",
    "MAX_WIDTH",
    "TRANSFORMER_KEYS",
    "cognitive_token_faults",
    "heads_faults",
    "layer_order_faults",
    "refusal_faults",
    "size_faults",
    "table_faults",
    "transformer_key_faults",
    "transformer_keys",
]

# Bounds of the file. Real files have 20 to 30 keys, 150 to 2000 tensors and a head of about 100 kB.

#: Bytes of the head, which is everything before the tensors' data.
MAX_HEAD_BYTES: Final = 64 << 20
MAX_KEYS: Final = 4096
#: 1000 layers of a selective wrapper have 14 tensors each.
MAX_TENSORS: Final = 16384
#: GGUF's own bound.
MAX_KEY_BYTES: Final = 65535
MAX_TEXT_BYTES: Final = 1 << 20
#: Entries in an array.
MAX_ARRAY: Final = 1 << 20
MAX_ALIGNMENT: Final = 1 << 20

# Bounds of the wrapper. The largest bases have 126 blocks of width 18432.

#: Larger numbers make no sense in a sidecar, and the compiled reader counts in 32 bits.
MAX_INT: Final = 2**31 - 1
#: No decoder has more blocks; names of tensors have at most three digits for a layer.
MAX_LAYERS: Final = 1000
#: Width of the base, the encoder or the bottleneck.
MAX_WIDTH: Final = 65536
#: Inner width of the transformer's feed-forward, usually four times the encoder's width.
MAX_INNER_WIDTH: Final = 262144
#: Real wrappers have one for each target layer, or a few dozen.
MAX_COGNITIVE_TOKENS: Final = 1024
#: Entries of a folded table, hidden_dim * cognitive tokens * heads: 18432 * 126 * 8 are 19 million.
MAX_TABLE: Final = 1 << 28
#: Keys that repeat the shape of a transformer encoder, which follows from the tensors. Other encoders lack these keys.
TRANSFORMER_KEYS: Final = (
    keys.ENCODER_DIM,
    keys.ENCODER_NUM_BLOCKS,
    keys.ENCODER_FFN_EXPANSION,
    keys.USE_LAYER_POS_EMBEDDINGS,
)
#: A refusal is a sentence.
MAX_REFUSAL_TOKENS: Final = 1024
#: Logits of language models differ by a few tens, so a larger bias cannot come from a calibration.
MAX_REFUSAL_BIAS: Final = 100.0

# Bounds of the verdict head. Heads read one to four layers, and have 128 to 512 hidden units.

#: Layers at the prompt's last token, and layers of the answer.
MAX_VERDICT_LAYERS: Final = 16
MAX_VERDICT_HIDDEN: Final = 4096
#: Slope and intercept of a calibration.
MAX_CALIBRATION: Final = 1000.0
#: Error rates with a guarantee.
MAX_GUARANTEES: Final = 100

#: Symbol of a size in the tables of tensors -> its description and its bound.
_SIZES: Final = {
    "D": ("the width of the base", MAX_WIDTH),
    "E": ("the width of the encoder", MAX_WIDTH),
    "B": ("the bottleneck of the cross-attention", MAX_WIDTH),
    "F": ("the inner width of the feed-forward", MAX_INNER_WIDTH),
    "C": ("the number of cognitive tokens", MAX_COGNITIVE_TOKENS),
    "N": ("the number of target layers", MAX_LAYERS),
}


def size_faults(sizes: Mapping[str, int]) -> list[str]:
    """Return faults for sizes beyond their bounds. Call it before code loops or allocates by these sizes.

    Args:
        sizes: size by symbol (D, E, B, F, C, N), as they follow from the tensors.

    Returns:
        Phrases without a subject; empty if there are no faults.
    """
    return [
        f"the tensors say that {what} is {sizes[symbol]}, expected at most {maximum}"
        for symbol, (what, maximum) in _SIZES.items()
        if sizes.get(symbol, 0) > maximum
    ]


def table_faults(hidden_dim: int, n_tokens: int, n_heads: int) -> list[str]:
    """Return a fault if the tables of an injection are too large.

    Args:
        hidden_dim: width of the base.
        n_tokens: number of cognitive tokens.
        n_heads: number of heads of the cross-attention.

    Returns:
        Phrases without a subject; empty if there are no faults.
    """
    if hidden_dim * n_tokens * n_heads <= MAX_TABLE:
        return []
    return [
        f"the tables of an injection have {hidden_dim} x {n_tokens} x {n_heads} entries (width, cognitive tokens, "
        f"heads), expected at most {MAX_TABLE}"
    ]


def layer_order_faults(
    target_layers: tuple[int, ...], cross_attn_layers: tuple[int, ...], n_blocks: int | None
) -> list[str]:
    """Return faults of layer lists: layers that are negative, repeated, or beyond the base's last block.

    Args:
        target_layers: layers that the encoder reads.
        cross_attn_layers: layers after which the wrapper injects.
        n_blocks: number of decoder blocks of the base; None if unknown.

    Returns:
        Phrases without a subject; empty if there are no faults.
    """
    faults = []
    for what, layers in (("target_layers", target_layers), ("cross_attn_layers", cross_attn_layers)):
        if len(set(layers)) != len(layers):
            faults.append(f"{what} {shown(list(layers))} names a layer twice")
        end = MAX_LAYERS if n_blocks is None else min(n_blocks, MAX_LAYERS)
        outside = [layer for layer in layers if not 0 <= layer < end]
        if outside:
            hint = "" if n_blocks is None else f" (the base has {n_blocks} blocks)"
            faults.append(f"{what} has {shown(outside)}, expected layers from 0 to {end - 1}{hint}")
    return faults


def heads_faults(
    encoder_type: EncoderType, encoder_dim: int, bottleneck_dim: int, enc_heads: int, ca_heads: int
) -> list[str]:
    """Return faults of head counts: a width must be a multiple of its number of heads.

    Args:
        encoder_type: type of the encoder; selective encoders have no heads.
        encoder_dim: width of the encoder.
        bottleneck_dim: width of the cross-attention.
        enc_heads: heads of the encoder.
        ca_heads: heads of the cross-attention.

    Returns:
        Phrases without a subject; empty if there are no faults.
    """
    faults = []
    if ca_heads < 1 or bottleneck_dim % ca_heads:
        faults.append(f"the cross-attention has width {bottleneck_dim} and {ca_heads} heads, expected a multiple")
    if encoder_type != "selective" and (enc_heads < 1 or encoder_dim % enc_heads):
        faults.append(f"the encoder has width {encoder_dim} and {enc_heads} heads, expected a multiple")
    return faults


def cognitive_token_faults(encoder_type: EncoderType | None, n_tokens: int | None, n_target: int | None) -> list[str]:
    """Return faults of the number of cognitive tokens: all encoders except multi_token have one per target layer.

    Args:
        encoder_type: type of the encoder; None if unknown.
        n_tokens: C; None if unknown.
        n_target: N; None if unknown.

    Returns:
        Phrases without a subject; empty if there are no faults, or if a number is unknown.
    """
    if encoder_type in (None, "multi_token") or None in (n_tokens, n_target) or n_tokens == n_target:
        return []
    return [
        f"the tensors have {n_tokens} cognitive tokens for {n_target} target layers, "
        f"expected as many for a {encoder_type} encoder"
    ]


def refusal_faults(token_ids: tuple[int, ...] | None, bias: float) -> list[str]:
    """Return faults of the refusal's tokens and bias.

    Args:
        token_ids: tokens of the refusal; None if unknown.
        bias: bias of the first token's logit.

    Returns:
        Phrases without a subject; empty if there are no faults.
    """
    faults = []
    if token_ids is not None and not 1 <= len(token_ids) <= MAX_REFUSAL_TOKENS:
        faults.append(f"refusal_token_ids has {len(token_ids)} entries, expected 1 to {MAX_REFUSAL_TOKENS}")
    wrong = [token for token in token_ids or () if not 0 <= token <= MAX_INT]
    if wrong:
        faults.append(f"refusal_token_ids has {wrong[0]}, expected token ids from 0 to {MAX_INT}")
    if not abs(bias) <= MAX_REFUSAL_BIAS:  # NaN must fail too
        faults.append(f"refusal_bias is {bias}, expected -{MAX_REFUSAL_BIAS:g} to {MAX_REFUSAL_BIAS:g}")
    return faults


def transformer_keys(dims: Dims) -> dict[str, int | None]:
    """Return the keys that repeat the shape of a transformer encoder. The framework's reader needs them.

    Args:
        dims: dimensions of the tensors.

    Returns:
        Value by key. A value is None if it does not follow from the tensors; the expansion is also None if the inner
        width of the feed-forward is not a multiple of the encoder's width. Empty for other encoders.
    """
    if dims.encoder_type != "transformer":
        return {}
    width, inner = dims.sizes.get("E"), dims.sizes.get("F")
    return {
        keys.ENCODER_DIM: width,
        keys.ENCODER_NUM_BLOCKS: dims.n_blocks,
        keys.ENCODER_FFN_EXPANSION: inner // width if width and inner and inner % width == 0 else None,
        keys.USE_LAYER_POS_EMBEDDINGS: int(dims.layer_pos_embed),
    }


def transformer_key_faults(dims: Dims, declared_values: Mapping[str, int | None]) -> list[str]:
    """Return faults of the keys that repeat the shape of a transformer encoder.

    Args:
        dims: dimensions of the tensors.
        declared_values: the values in a file, by key; None if the file lacks the key.

    Returns:
        Phrases that begin with the key's name; empty if there are no faults or the keys do not apply.
    """
    faults = []
    for key, from_tensors in transformer_keys(dims).items():
        declared, name = declared_values.get(key), f"key '{key}'"
        if declared is None or declared == from_tensors:
            continue
        if from_tensors is not None:
            faults.append(f"{name} is {declared}, but the tensors say {from_tensors}")
        elif "E" in dims.sizes and "F" in dims.sizes:
            faults.append(
                f"{name} is {declared}, but the tensors have {dims.sizes['F']} inner for {dims.sizes['E']} outer units"
            )
    return faults
