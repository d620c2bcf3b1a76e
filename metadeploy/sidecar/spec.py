"""The typed description of a trained wrapper without its weights, which checkpoint, sidecar and runtime share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

__all__ = [
    "DEFAULT_REFUSAL_TEXT",
    "DEFAULT_THRESHOLD",
    "FORMAT_VERSION",
    "EncoderDtype",
    "EncoderType",
    "InjectFrom",
    "JSONValue",
    "Kind",
    "WrapperConfig",
]

#: Version of the sidecar format that this code writes; a reader refuses a newer one.
FORMAT_VERSION: Final = 1

#: The refusal that the framework trains, for a checkpoint or a sidecar without its own text.
DEFAULT_REFUSAL_TEXT: Final = "I'm not confident enough to answer this question accurately."

#: The doubt from which on a Doubter declines; at 0.5, the calibrated bias alone decides.
DEFAULT_THRESHOLD: Final = 0.5

EncoderType: TypeAlias = Literal["selective", "multi_token", "transformer"]
#: Types of the encoder in a checkpoint.
EncoderDtype: TypeAlias = Literal["float32", "float16", "bfloat16"]
#: Kinds of wrapper that can run. Readers accept other kinds, too, so that `metadeploy inspect` can show them.
Kind: TypeAlias = Literal["doubter", "goal_anchor"]
InjectFrom: TypeAlias = Literal["prompt", "last_prompt_token"]
JSONValue: TypeAlias = "bool | int | float | str | list[JSONValue] | dict[str, JSONValue] | None"


@dataclass(frozen=True, kw_only=True)
class WrapperConfig:
    """Shape and settings of a wrapper (encoder, cross-attention and gates) around a frozen base model.

    Layer ``i`` always means the OUTPUT of decoder block ``i`` of the base, counted from 0.

    Attributes:
        encoder_type: type of the encoder.
        hidden_dim: D, width of the base.
        encoder_dim: width of the encoder's tensors: B for selective and multi_token, E for transformer.
        bottleneck_dim: B of the cross-attention.
        num_cognitive_tokens: C; equals ``len(target_layers)`` for selective and transformer.
        ca_num_heads: attention heads of the cross-attention.
        enc_num_heads: attention heads of the multi_token and transformer encoders; unused for selective.
        target_layers: layers whose outputs at the last prompt token the encoder reads, in the encoder's order.
        cross_attn_layers: layers after which the wrapper injects, ascending.
        inject_from: ``prompt`` injects at every position, as in the framework; ``last_prompt_token`` from there on.
        refusal_text: the trained refusal.
        refusal_token_ids: its tokens in training, after the prompt and without end of turn; None if unknown.
        refusal_bias: calibrated bias of its first token's logit at the beginning of the answer, in nats.
        prompt_format: run.json's prompt format (``auto`` means the base's chat template); None if unknown.
        answer_suffix: text that the training prompts appended to the question; None if there was none.
        chat_template_kwargs: variables for the chat template, such as ``{"enable_thinking": False}``.
        base_model: name of the base that the wrapper was trained for (a hub id or a path); None if unknown.
        base_block_count: number of decoder blocks of that base; None if unknown.
        checkpoint_sha256: hex digest of the checkpoint file; None if unknown.
        kind: ``doubter``, or ``goal_anchor``, whose cognitive tokens come from a goal and stay over several turns.
            Files from others may have other kinds.
    """

    encoder_type: EncoderType
    hidden_dim: int
    encoder_dim: int
    bottleneck_dim: int
    num_cognitive_tokens: int
    ca_num_heads: int
    enc_num_heads: int
    target_layers: tuple[int, ...]
    cross_attn_layers: tuple[int, ...]
    inject_from: InjectFrom = "prompt"
    refusal_text: str = DEFAULT_REFUSAL_TEXT
    refusal_token_ids: tuple[int, ...] | None = None
    refusal_bias: float = 0.0
    prompt_format: str | None = None
    answer_suffix: str | None = None
    chat_template_kwargs: Mapping[str, JSONValue] = field(default_factory=dict)
    base_model: str | None = None
    base_block_count: int | None = None
    checkpoint_sha256: str | None = None
    kind: str = "doubter"

    @property
    def declines(self) -> bool:
        """Whether it was trained to decline with ``refusal_text``; only Doubters are."""
        return self.kind == "doubter"
