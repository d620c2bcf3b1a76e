"""Every tolerance of a numerical comparison, in one place, each with its reason.

``NMSE`` is the mean squared error divided by the mean square of the expected values.
"""

from __future__ import annotations

from typing import Final

# float64 PyTorch against float64 NumPy, same formula: only the order of summation differs, over at most a few hundred
# terms of order 1, with 1e-16 each
F64_MAX_ABS: Final = 1e-11

# the same in float32, 6e-8 each: 3e-6 at most over thousands of drawn encoders, with room for other summation orders
F32_MAX_ABS: Final = 1e-4
F32_NMSE: Final = 1e-10

# the framework's own vectors, computed in float32 by another implementation; values up to about 4
CA_TESTCASE_MAX_ABS: Final = 1e-5

# logits of a tiny model (spread by about 3) in float32 against float64, through 6 to 8 blocks
F32_LOGITS_MAX_ABS: Final = 1e-4

# a base in bfloat16 has 8 bits of mantissa: one rounding of a value of magnitude up to 8 is off by up to 2^-6
BF16_ROUNDING_MAX_ABS: Final = 2.0**-6

# compiled runtime against PyTorch, F32 weights and F32 cache, NMSE over all positions: some 20 times what was measured
# (llama 1e-12, qwen3 1e-12). qwen35: PyTorch's own DeltaNet is off by 8e-4 from float64, llama.cpp's by 2e-4. gemma3:
# ggml looks tanh-GELU up in a table of F16 values.
_TINY_DENSE: Final = {"activations": 1e-11, "cognitive tokens": 1e-11, "hidden states": 1e-11, "logits": 3e-11}
TINY: Final = {
    "llama": _TINY_DENSE,
    "qwen3": _TINY_DENSE,
    "qwen3_5": {"activations": 1e-9, "cognitive tokens": 1e-9, "hidden states": 1e-8, "logits": 1e-8},
    "gemma3": {"activations": 1e-5, "cognitive tokens": 1e-5, "hidden states": 1e-5, "logits": 1e-5},
}

# hidden states of a single token, where the others are means over many: 2.6e-8 measured, after 60 steps of the DeltaNet
ONE_TOKEN_NMSE: Final = {"qwen3_5": 1e-7}

# figures of an answer's log-probabilities, on logits that spread by about 3, summed over up to 20 tokens
FIGURES_MAX_ABS: Final = {"llama": 1e-4, "qwen3": 1e-4, "qwen3_5": 3e-3, "gemma3": 3e-2}

# verdicts of a random head on such features; measured 2e-3 on gemma3
P_WRONG_MAX_ABS: Final = {"llama": 1e-5, "qwen3_5": 1e-3, "gemma3": 5e-3}

# SmolLM2-135M dequantized to F32, trained Doubter: measured 6e-12 and 1.1e-4, on logits that spread over some 40
SMOLLM2_F32_NMSE: Final = 5e-11
SMOLLM2_F32_LOGITS_MAX_ABS: Final = 5e-4

# proportion of 50 prompts with the same decision, answer or refusal, as on F32 weights
QUANTISED_MIN_AGREEMENT: Final = {"Q8_0": 0.96, "Q4_1": 0.90, "Q4_K_M": 0.86}

# flash attention on the CPU uses another kernel for few tokens than for many, which sums in F16: 4e-4 measured on
# activations of SmolLM2-135M in Q4_1
FLASH_ATTN_NMSE: Final = 2e-3

# a prompt through a quantized base in other batches, without flash attention: kernels for one row and for several rows
# sum in another order. A difference in the last digit can change the rounding to 8 bits before the next product, and
# these differences add up. SmolLM2-135M in Q4_1 on AMD EPYC 7xx3 ("Milan", no AMX): no difference between 8, 16 and 512
# rows; one row at a time 7e-4 on activations, 0.06 on log-probabilities, 1e-4 on doubt. Processors with AMX use
# other instructions for several rows; the limits leave them about four times as much. A fault gives about 1.
QUANT_SPLIT_NMSE: Final = 3e-3
QUANT_SPLIT_LOGPROB_MAX_ABS: Final = 0.25
QUANT_SPLIT_DOUBT_MAX_ABS: Final = 0.02

# the same prompt cut into other batches: kernels for F32 products of few and of many rows sum in another order.
# On log-probabilities of tiny models, whose logits spread by about 3, 4e-6 measured; gemma: 4e-4, because a last digit
# can move its GELU to the next entry of ggml's table of F16 values.
BATCH_SPLIT_MAX_ABS: Final = {"gemma": 5e-3, "others": 1e-4}

# one row at a time against many, tiny model with Q8_0 weights: on processors with AVX2 and without AVX-512 (seen on an
# AMD EPYC "Milan") ggml's kernels for one row sum in another order, and a last digit can move the 8-bit rounding of an
# activation by a step. 8e-3 measured on log-probabilities and 4e-2 on logits, which spread by about 3; no difference on
# an Intel processor with AMX.
ONE_ROW_MAX_ABS: Final = 0.1

# doubt is a sigmoid, of slope 1/4 at most, of a difference of two logits: 1e-6 measured, and 2e-5 on qwen3_5
TINY_DOUBT_MAX_ABS: Final = 1e-4
# 2e-6 measured on 20 questions
SMOLLM2_DOUBT_MAX_ABS: Final = 5e-5

# training's upper blocks against the whole model in float64, logits and gradients, of the greatest value: only the
# order of summation differs
CUT_F64: Final = 1e-10
CUT_F32_INSIDE: Final = 1e-5

# many prompts at once against one at a time: products of one row and of several in every token after the first;
# 5e-4 measured for gemma, 1.4e-4 for qwen3_5, whose DeltaNet is that far from float64 anyway, 1e-5 for the others
BATCH_MAX_ABS: Final = {"gemma": 5e-3, "qwen3_5": 1e-3, "others": 1e-4}

# how close two tokens must be in log-probability for PyTorch and the runtime to choose differently between them, if
# many random answers are compared: gemma's logits are off by 2.5e-3 in the mean (TINY), and the worst of 49152 by more
TIED: Final = {"gemma3": 2e-2}

# the cross-attention folded against unfolded, NMSE of logits of tiny models: other orders of F32 sums, in the
# blocks above; 5e-13 measured, and 7e-10 for gemma2, whose GELU is looked up in a table of F16 values
UNFOLDED_NMSE: Final = {"gemma2": 1e-8, "others": 1e-11}

# one instance after many operations against a fresh one without caches (test_state_fuzz): log-probabilities, doubt, and
# what inspection calls return, relative to their greatest value if that is above 1. Reuse and batches change how many
# rows a product has, and so the order of its F32 sums (BATCH_MAX_ABS). moe: if two experts are nearly tied, the last
# digit decides which one computes; those of the tiny model differ by 1 %. A leak changes a log-probability by 0.1.
STATE_MAX_ABS: Final = {
    "gemma2": 5e-3,
    "small_gemma3": 5e-3,
    "small_qwen35": 1e-3,
    "small_moe": 2e-2,
    "others": 2e-4,
}

# real bases dequantized to F32, random wrappers, NMSE of the worst row (AMD EPYC "Milan"). qwen2 differs in the order
# of F32 sums: 5e-12, 1e-11, 1e-10 and 1e-10 measured. gemma3 has a GELU that ggml looks up in a table of F16 values,
# and hidden states with a few very large dimensions: 4e-8, 7e-8, 1e-6 and 3e-6 measured.
REAL_F32_NMSE: Final = {
    "qwen2": {"activations": 1e-10, "cognitive tokens": 1e-10, "hidden states": 2e-9, "logits": 2e-9},
    "gemma3": {"activations": 1e-6, "cognitive tokens": 1e-6, "hidden states": 2e-5, "logits": 5e-5},
}
# the Q4_K_M files against PyTorch on their F32 weights, mean KL of the first token in nats: ggml rounds activations to
# 8 bits in products with quantized weights. 0.0008 measured for qwen2 and 0.036 for gemma3, whose activations have
# outliers.
REAL_Q4_K_M_MEAN_KL: Final = {"qwen2": 0.01, "gemma3": 0.15}
# an aim for the slow tests with a trained wrapper, not a measurement
REAL_Q4_K_M_MIN_AGREEMENT: Final = 0.8
