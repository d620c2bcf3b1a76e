"""Types of the runtime's arguments and results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AnswerFeatures",
    "CancelCallback",
    "FinishReason",
    "GenerationChunk",
    "GenerationResult",
    "Message",
    "Pass2Kind",
    "Prompt",
    "SentenceFeatures",
    "SentenceVerdict",
    "Timings",
    "TokenLogprob",
    "Verdict",
]

FinishReason: TypeAlias = Literal["stop", "length"]
#: The blocks that pass 2 evaluated: none, those from the lowest injected one on, or all.
Pass2Kind: TypeAlias = Literal["none", "tail", "full"]
#: Called while tokens are evaluated; True ends the call.
CancelCallback: TypeAlias = Callable[[], bool]


class Message(TypedDict):
    """One message of a conversation, as in OpenAI's API."""

    role: str
    content: str


#: A question or a conversation, to which the chat template is applied unless ``raw`` is True; or token ids, which are
#: used unchanged.
Prompt: TypeAlias = "str | Sequence[Message] | Sequence[int] | NDArray[np.integer[Any]]"


@dataclass(frozen=True)
class Timings:
    """Times and counts of one answer.

    Attributes:
        pass1_ms: time of pass 1 over the prompt, in milliseconds.
        encode_ms: time of the encoder and of the folding.
        pass2_ms: time of pass 2 over the prompt; 0 if nothing is injected.
        decode_ms: time of decoding the answer, including sampling.
        pass2: ``tail`` (pass 2 started at the lowest injected block, from hidden states that pass 1 cached), ``full``
            (pass 2 evaluated all blocks) or ``none`` (nothing is injected).
        hidden_bytes: memory of the cached hidden states.
        n_prompt: number of tokens of the prompt.
        n_reused: number of prompt tokens that pass 1 did not evaluate, because an earlier prompt began with the same
            tokens.
        n_generated: number of tokens of the answer, without its end token.
        n_refreshed: number of times that the cognitive tokens were computed again during the answer.
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
        """Speed of decoding; 0 before the first token."""
        return 1e3 * self.n_generated / self.decode_ms if self.decode_ms > 0 else 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """Natural log-probability of one generated token, before temperature and other sampling.

    Attributes:
        token_id: the token.
        text: its text; an incomplete UTF-8 character shows as U+FFFD. Empty for a control token, which is not shown.
        logprob: its log-probability.
        top: the most likely tokens at this position as (id, text, log-probability), most likely first. Control tokens
            have their name as text, such as ``<|im_end|>``.
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
class SentenceFeatures:
    """What a verdict reads of one sentence, or of a whole answer.

    Log-probabilities, entropies and margins are natural and of the model's own distribution, before temperature. The
    margin of a token is the largest log-probability at its place less the second largest.

    Attributes:
        first_token: its first token, counted in the answer from 0.
        n_tokens: number of its tokens.
        start: offset of its beginning in the answer's UTF-8 bytes, before a stop string is removed.
        end: offset of its end, after its closing punctuation.
        means: mean output of each tapped layer over its tokens, F32 [n_answer_layers, n_embd]. The last token of an
            answer that was cut off is left out, because no block has processed it; NaN if no token is left.
        last: output of each tapped layer at its last token that a block has processed, of the same shape.
        figures: F32 [11], the figures of `metadeploy.sidecar.verdict.FIGURE_NAMES` of its tokens' log-probabilities.
    """

    first_token: int
    n_tokens: int
    start: int
    end: int
    means: NDArray[np.float32]
    last: NDArray[np.float32]
    figures: NDArray[np.float32]


@dataclass(frozen=True)
class AnswerFeatures:
    """What a verdict reads; see :meth:`MetaLlama.tap_answers`.

    Attributes:
        prompt: output of each tapped layer at the prompt's last token, in the clean pass, F32 [n_prompt_layers,
            n_embd]; None if no clean pass went over the prompt (cognitive tokens were given).
        sentences: of each sentence, in order.
        answer: of all tokens.
    """

    prompt: NDArray[np.float32] | None
    sentences: tuple[SentenceFeatures, ...]
    answer: SentenceFeatures


@dataclass(frozen=True)
class SentenceVerdict:
    """The verdict on one sentence of an answer.

    Attributes:
        start: offset of its beginning in the text of the answer, in characters.
        end: offset of its end, after its closing punctuation.
        p_wrong: probability that it is wrong; None if no block of the base has processed any of its tokens.
    """

    start: int
    end: int
    p_wrong: float | None


@dataclass(frozen=True)
class Verdict:
    """What the verdict head of a sidecar concludes from an answer.

    Attributes:
        p_wrong: probability that the answer is wrong, in [0, 1]. Most heads judge the first sentence, because they are
            trained on questions with short answers; others judge the whole answer. None if it cannot be judged.
        sentences: the verdict on each sentence, in order.
        too_doubtful: whether ``p_wrong`` is above the limit of the call, or None; False if the call has no limit.
    """

    p_wrong: float | None
    sentences: tuple[SentenceVerdict, ...]
    too_doubtful: bool = False


@dataclass(frozen=True)
class GenerationResult:
    """A finished answer.

    Attributes:
        text: the answer, without the stop string that ended it.
        token_ids: its tokens, without the end-of-turn token.
        abstained: whether the first sentence is the trained refusal.
        finish_reason: ``stop`` (the model ended the answer, or a stop string did) or ``length``.
        logprobs: one entry for each token, or None if they were not requested.
        timings: times and counts.
        gain: strength of the injection; 0 if the base answered alone.
        doubt: the doubt, in (0, 1), which does not depend on the threshold. At the calibrated threshold of 0.5, a
            greedy answer becomes the refusal. None if the base answered alone, or if the tokens of the refusal are
            unknown.
        verdict: the verdict on the answer; None if the sidecar has no verdict head, or if the answer is the refusal.
        withheld: the answer that was withheld, as far as it was generated, because it is too doubtful; ``text`` is then
            the refusal. None if none was.
        features: what a verdict reads, if :meth:`MetaLlama.tap_answers` was called, else None.
    """

    text: str
    token_ids: tuple[int, ...]
    abstained: bool
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None
    timings: Timings
    gain: float
    doubt: float | None = None
    verdict: Verdict | None = None
    withheld: str | None = None
    features: AnswerFeatures | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class GenerationChunk:
    """One step of a streamed answer.

    Attributes:
        text: text that can be shown now; empty while a character or a stop string is incomplete.
        token_ids: the token of this step; empty in the last chunk if the model ended the answer.
        logprobs: one entry for each token, or None if they were not requested.
        doubt: as in `GenerationResult`; the same in all chunks.
        result: the whole answer in the last chunk, otherwise None.
        p_wrong: as in `Verdict`; None until the part of the answer that it judges is complete.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None
    doubt: float | None
    result: GenerationResult | None
    p_wrong: float | None = None
