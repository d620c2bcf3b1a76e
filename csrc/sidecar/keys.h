// Names of the sidecar's metadata keys: the C++ twin of metadeploy/sidecar/keys.py (a test compares the two).
// Keys follow the prefix that goes with the architecture, "meta_spider" or "daimon".
#pragma once

namespace metadeploy::keys {

inline constexpr char ARCHITECTURE[] = "general.architecture";

inline constexpr char ARCH_META_SPIDER[] = "meta-spider";
inline constexpr char ARCH_DAIMON[] = "daimon";
inline constexpr char PREFIX_META_SPIDER[] = "meta_spider";
inline constexpr char PREFIX_DAIMON[] = "daimon";

// the framework's keys
inline constexpr char ENCODER_TYPE[] = ".encoder_type";
inline constexpr char HIDDEN_DIM[] = ".hidden_dim";
inline constexpr char BOTTLENECK_DIM[] = ".bottleneck_dim";
inline constexpr char NUM_COGNITIVE_TOKENS[] = ".num_cognitive_tokens";
inline constexpr char CA_NUM_HEADS[] = ".ca_num_heads";
inline constexpr char ENC_NUM_HEADS[] = ".enc_num_heads";
inline constexpr char ENCODER_DIM[] = ".encoder_dim";
inline constexpr char ENCODER_NUM_BLOCKS[] = ".encoder_num_blocks";
inline constexpr char ENCODER_FFN_EXPANSION[] = ".encoder_ffn_expansion";
inline constexpr char USE_LAYER_POS_EMBEDDINGS[] = ".use_layer_pos_embeddings";
inline constexpr char TARGET_LAYERS[] = ".target_layers";
inline constexpr char CROSS_ATTN_LAYERS[] = ".cross_attn_layers";
inline constexpr char GATE_ACTIVATION[] = ".gate_activation";
inline constexpr char KIND[] = ".kind";
inline constexpr char TRIGGER[] = ".trigger";

// ours
inline constexpr char FORMAT_VERSION[] = ".format_version";
inline constexpr char REFUSAL_TEXT[] = ".refusal_text";
inline constexpr char REFUSAL_TOKEN_IDS[] = ".refusal_token_ids";
inline constexpr char REFUSAL_BIAS[] = ".refusal_bias";
inline constexpr char INJECT_FROM[] = ".inject_from";
inline constexpr char PROMPT_FORMAT[] = ".prompt_format";
inline constexpr char ANSWER_SUFFIX[] = ".answer_suffix";
inline constexpr char CHAT_TEMPLATE_KWARGS[] = ".chat_template_kwargs";
inline constexpr char BASE_BLOCK_COUNT[] = ".base_block_count";
inline constexpr char CHECKPOINT_SHA256[] = ".checkpoint_sha256";

// ours, of the verdict head
inline constexpr char VERDICT_VERSION[] = ".verdict.version";
inline constexpr char VERDICT_PROMPT_LAYERS[] = ".verdict.prompt_layers";
inline constexpr char VERDICT_ANSWER_LAYERS[] = ".verdict.answer_layers";
inline constexpr char VERDICT_FIGURES[] = ".verdict.figures";
inline constexpr char VERDICT_WINDOW[] = ".verdict.window";
inline constexpr char VERDICT_SLOPE[] = ".verdict.slope";
inline constexpr char VERDICT_INTERCEPT[] = ".verdict.intercept";
inline constexpr char VERDICT_MAX_ERRORS[] = ".verdict.guarantee.max_errors";
inline constexpr char VERDICT_THRESHOLDS[] = ".verdict.guarantee.thresholds";
inline constexpr char VERDICT_COVERAGES[] = ".verdict.guarantee.coverages";
inline constexpr char VERDICT_DELTA[] = ".verdict.guarantee.delta";
inline constexpr char VERDICT_N[] = ".verdict.guarantee.n";
inline constexpr char VERDICT_QUESTIONS[] = ".verdict.guarantee.questions";
inline constexpr char VERDICT_BASE_SHA256[] = ".verdict.base_sha256";

} // namespace metadeploy::keys
