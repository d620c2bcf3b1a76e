"""Names of the sidecar's metadata keys: the Python twin of ``csrc/sidecar/keys.h``.

A test compares the two files. ``{prefix}`` is ``meta_spider`` in our files and the framework's published files, and
``daimon`` in the framework's newer files.
"""

from __future__ import annotations

from typing import Final

# architecture (value of general.architecture) and the key prefix that goes with it
ARCH_META_SPIDER: Final = "meta-spider"
ARCH_DAIMON: Final = "daimon"
PREFIX_META_SPIDER: Final = "meta_spider"
PREFIX_DAIMON: Final = "daimon"

# the framework's keys
ENCODER_TYPE: Final = "{prefix}.encoder_type"
HIDDEN_DIM: Final = "{prefix}.hidden_dim"
BOTTLENECK_DIM: Final = "{prefix}.bottleneck_dim"
NUM_COGNITIVE_TOKENS: Final = "{prefix}.num_cognitive_tokens"
CA_NUM_HEADS: Final = "{prefix}.ca_num_heads"
ENC_NUM_HEADS: Final = "{prefix}.enc_num_heads"
ENCODER_DIM: Final = "{prefix}.encoder_dim"
ENCODER_NUM_BLOCKS: Final = "{prefix}.encoder_num_blocks"
ENCODER_FFN_EXPANSION: Final = "{prefix}.encoder_ffn_expansion"
USE_LAYER_POS_EMBEDDINGS: Final = "{prefix}.use_layer_pos_embeddings"
TARGET_LAYERS: Final = "{prefix}.target_layers"
CROSS_ATTN_LAYERS: Final = "{prefix}.cross_attn_layers"
GATE_ACTIVATION: Final = "{prefix}.gate_activation"
KIND: Final = "{prefix}.kind"
TRIGGER: Final = "{prefix}.trigger"

# ours
FORMAT_VERSION: Final = "{prefix}.format_version"
REFUSAL_TEXT: Final = "{prefix}.refusal_text"
REFUSAL_TOKEN_IDS: Final = "{prefix}.refusal_token_ids"
REFUSAL_BIAS: Final = "{prefix}.refusal_bias"
INJECT_FROM: Final = "{prefix}.inject_from"
PROMPT_FORMAT: Final = "{prefix}.prompt_format"
ANSWER_SUFFIX: Final = "{prefix}.answer_suffix"
CHAT_TEMPLATE_KWARGS: Final = "{prefix}.chat_template_kwargs"
BASE_BLOCK_COUNT: Final = "{prefix}.base_block_count"
CHECKPOINT_SHA256: Final = "{prefix}.checkpoint_sha256"

# ours, of the verdict head
VERDICT_VERSION: Final = "{prefix}.verdict.version"
VERDICT_PROMPT_LAYERS: Final = "{prefix}.verdict.prompt_layers"
VERDICT_ANSWER_LAYERS: Final = "{prefix}.verdict.answer_layers"
VERDICT_FIGURES: Final = "{prefix}.verdict.figures"
VERDICT_WINDOW: Final = "{prefix}.verdict.window"
VERDICT_SLOPE: Final = "{prefix}.verdict.slope"
VERDICT_INTERCEPT: Final = "{prefix}.verdict.intercept"
VERDICT_MAX_ERRORS: Final = "{prefix}.verdict.guarantee.max_errors"
VERDICT_THRESHOLDS: Final = "{prefix}.verdict.guarantee.thresholds"
VERDICT_COVERAGES: Final = "{prefix}.verdict.guarantee.coverages"
VERDICT_DELTA: Final = "{prefix}.verdict.guarantee.delta"
VERDICT_N: Final = "{prefix}.verdict.guarantee.n"
VERDICT_QUESTIONS: Final = "{prefix}.verdict.guarantee.questions"
VERDICT_BASE_SHA256: Final = "{prefix}.verdict.base_sha256"
