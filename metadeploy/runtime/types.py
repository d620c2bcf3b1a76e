"""What the runtime takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CancelCallback",
    "FinishReason",
    "GenerationChunk",
    "GenerationResult",
    "Message",
    "Pass2Kind",
    "Prompt",
    "Timings",
    "TokenLogprob",
]

FinishReason: TypeAlias = Literal["stop", "length"]
#: Which blocks the injected pass went through: none of them, those from the lowest injection on, or all.
Pass2Kind: TypeAlias = Literal["none", "tail", "full"]
#: Asked while tokens are evaluated; True ends the call.
CancelCallback: TypeAlias = Callable[[], bool]


class Message(TypedDict):
    """One message of a conversation, as OpenAI's API has it."""

    role: str
    content: str


#: A question or a conversation, which go through the chat template unless ``raw`` is asked for; or token ids, as they
#: are.
Prompt: TypeAlias = "str | Sequence[Message] | Sequence[int] | NDArray[np.integer[Any]]"


@dataclass(frozen=True)
class Timings:
    """Where the time of one answer went.

    Attributes:
        pass1_ms: the clean pass over the prompt, in milliseconds.
        encode_ms: from activations to cognitive tokens to the tables that the injection reads.
        pass2_ms: the injected pass over the prompt; 0 where nothing is injected.
        decode_ms: the answer, sampling included.
        pass2: ``tail`` (the injected pass began at the lowest block that is injected into, with what the clean one had
            kept), ``full`` (it went through all blocks) or ``none`` (nothing is injected).
        hidden_bytes: memory of the hidden states that the clean pass kept for the injected one.
        n_prompt: tokens of the prompt.
        n_reused: those of them that the clean pass did not go through, because the prompt before began with them too.
        n_generated: tokens of the answer, its end excluded.
        n_refreshed: how often cognitive tokens were made anew while the answer grew.
    """

    pass1_ms: float
    encode_ms: float
    pass2_ms: float
    decode_ms: float
    pass2: Pass2Kind
    hidden_bytes: int
    n_prompt: int
    n_reused: int
    n_generated: int
    n_refreshed: int

    @property
    def tokens_per_second(self) -> float:
        """Rate of decoding; 0 before the first token."""
        return 1e3 * self.n_generated / self.decode_ms if self.decode_ms > 0 else 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """Natural log-probability of one generated token, before temperature and other sampling.

    Attributes:
        token_id: the token.
        text: its text; an incomplete UTF-8 character shows as U+FFFD. Empty for a control token, which is not shown.
        logprob: its log-probability.
        top: the most likely tokens at this place as (id, text, log-probability), most likely first; control tokens are
            spelt out, as in ``<|im_end|>``.
        raw: the bytes of the token, exact even for part of a character; None means the UTF-8 bytes of ``text``.
        top_raw: the bytes of each token in ``top``, empty for control tokens; None means the UTF-8 bytes of the texts.
    """

    token_id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...]
    raw: bytes | None = None
    top_raw: tuple[bytes, ...] | None = None


@dataclass(frozen=True)
class GenerationResult:
    """A finished answer.

    Attributes:
        text: the answer, without the stop string that ended it.
        token_ids: its tokens, without the end-of-turn token.
        abstained: whether the opening sentence is the refusal that the wrapper was trained to say.
        finish_reason: ``stop`` (the model ended, or a stop string came) or ``length``.
        logprobs: one entry for each token, or None where they were not asked for.
        timings: where the time went.
        gain: strength of the injection; 0 where the base answered alone.
        doubt: how near the answer was to beginning with the trained refusal, in (0, 1), whatever the threshold; 0.5 is
            where a greedy answer tips over as calibrated. None where the base answered alone, or where neither sidecar
            nor vocabulary tells the refusal's tokens.
    """

    text: str
    token_ids: tuple[int, ...]
    abstained: bool
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None
    timings: Timings
    gain: float
    doubt: float | None = None


@dataclass(frozen=True)
class GenerationChunk:
    """One step of a streamed answer.

    Attributes:
        text: what can be shown now; empty while a character or a stop string is incomplete.
        token_ids: the token of this step; empty in the last chunk where the model ended.
        logprobs: one entry for each token, or None where they were not asked for.
        doubt: as in `GenerationResult`; known from the first chunk on, and the same in all.
        result: the whole answer in the last chunk, else None.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None
    doubt: float | None
    result: GenerationResult | None
