"""What a trained wrapper is, apart from its weights: the typed spec between checkpoint, sidecar and runtime."""

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

#: What the framework trains its Doubters to say; used where a checkpoint or a sidecar does not name its own text.
DEFAULT_REFUSAL_TEXT: Final = "I'm not confident enough to answer this question accurately."

#: The doubt from which a Doubter declines; 0.5 leaves the decision to the bias that it was calibrated with.
DEFAULT_THRESHOLD: Final = 0.5

EncoderType: TypeAlias = Literal["selective", "multi_token", "transformer"]
#: Types that a checkpoint may store the encoder in.
EncoderDtype: TypeAlias = Literal["float32", "float16", "bfloat16"]
#: Kinds of wrapper that run; a reader lets others pass, for `metadeploy inspect` to show.
Kind: TypeAlias = Literal["doubter", "goal_anchor"]
InjectFrom: TypeAlias = Literal["prompt", "last_prompt_token"]
JSONValue: TypeAlias = "bool | int | float | str | list[JSONValue] | dict[str, JSONValue] | None"


@dataclass(frozen=True, kw_only=True)
class WrapperConfig:
    """Shape and settings of a wrapper (encoder, cross-attention and gates) around a frozen base model.

    Layer ``i`` always means the OUTPUT of decoder block ``i`` of the base, counted from 0.

    Attributes:
        encoder_type: which of the three encoders.
        hidden_dim: D, the base's embedding width.
        encoder_dim: B of the selective and multi_token encoders, E of the transformer encoder; as the tensors have it.
        bottleneck_dim: B of the cross-attention.
        num_cognitive_tokens: C; equals ``len(target_layers)`` for selective and transformer.
        ca_num_heads: attention heads of the cross-attention.
        enc_num_heads: attention heads inside the multi_token and transformer encoders; unused by selective.
        target_layers: whose last-prompt-token outputs the encoder reads, in the encoder's order.
        cross_attn_layers: after which the injection happens, ascending.
        inject_from: ``prompt`` = at every position (the framework's way); ``last_prompt_token`` = from there on.
        refusal_text: what the wrapper was trained to say when it does not know.
        refusal_token_ids: its tokens as trained, after the prompt and without end of turn; None where unknown.
        refusal_bias: calibrated logit bias of the first of them, added where the answer begins; in nats.
        prompt_format: run.json's prompt format (``auto`` = the base's chat template), None where unknown.
        answer_suffix: text that the training prompts appended to the question, None where there was none.
        chat_template_kwargs: variables for the chat template, e.g. ``{"enable_thinking": False}``.
        base_model: name of the base the wrapper was trained for (a hub id or a path), None where unknown.
        base_block_count: number of decoder blocks of that base, None where unknown.
        checkpoint_sha256: hex digest of the checkpoint file, None where unknown.
        kind: ``doubter``; or ``goal_anchor``, whose cognitive tokens are those of a goal and are kept over turns.
            Foreign files may hold other kinds.
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
        """Whether it was trained to say ``refusal_text``: a Doubter was, other kinds were not."""
        return self.kind == "doubter"
