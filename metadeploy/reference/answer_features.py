"""What a verdict reads of an answer, computed in one pass over prompt and answer. The runtime gathers it on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from metadeploy import _core
from metadeploy.reference.two_pass import TwoPass
from metadeploy.runtime.types import AnswerFeatures, SentenceFeatures

__all__ = ["answer_features"]


@dataclass(frozen=True)
class _TokenFigures:
    """Figures of an answer's tokens, each [n]."""

    logprob: Tensor
    entropy: Tensor
    margin: Tensor

    def of(self, first: int, end: int) -> Tensor:
        """Return the figures of a stretch of tokens, in the order of `FIGURE_NAMES`."""
        logprob, entropy, margin = (values[first:end] for values in (self.logprob, self.entropy, self.margin))
        return torch.stack(
            [
                torch.tensor(float(end - first)).log(),
                *(logprob.sum(), logprob.mean(), logprob.min(), logprob[0]),
                *(entropy.mean(), entropy.max(), entropy[0]),
                *(margin.mean(), margin.min(), margin[0]),
            ]
        )


@torch.no_grad()
def answer_features(
    pipeline: TwoPass,
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int],
    pieces: Sequence[bytes],
    *,
    prompt_layers: Sequence[int],
    answer_layers: Sequence[int],
    inject: bool = True,
    gain: float | None = None,
    ended: bool = True,
) -> AnswerFeatures:
    """Compute what `MetaLlama.tap_answers` gathers of an answer.

    Args:
        pipeline: the base, with a Doubter if ``inject``.
        prompt_ids: the prompt, at least one id.
        answer_ids: the answer without its end token, at least one id.
        pieces: the bytes of each answer id, as text in UTF-8.
        prompt_layers: blocks whose clean output at the prompt's last token is wanted.
        answer_layers: blocks whose mean output over tokens of the answer is wanted.
        inject: whether the answer was generated with the injection.
        gain: factor of the injection; None uses the pipeline's.
        ended: False if the answer was cut off; no block has then processed its last token.
    """
    ids = [*prompt_ids, *answer_ids]
    n_prompt = len(prompt_ids)
    clean = pipeline.layer_outputs(prompt_ids, prompt_layers, inject=False)[:, -1]
    options: dict[str, Any] = {"inject": inject, "gain": gain, "n_prompt": n_prompt}
    outputs = pipeline.layer_outputs(ids, answer_layers, **options)[:, n_prompt:]
    if not ended:
        outputs = outputs[:, :-1]
    logits = pipeline.logits(ids, **options)[n_prompt - 1 : -1].double()
    logprobs = logits.log_softmax(-1)
    top = logits.topk(2).values
    figures = _TokenFigures(
        logprob=logprobs.gather(-1, torch.tensor(answer_ids)[:, None])[:, 0],
        entropy=-(logprobs.exp() * logprobs).sum(-1),
        margin=top[:, 0] - top[:, 1],
    )
    ends = list(accumulate(map(len, pieces)))

    def features(first: int, end: int, span: tuple[int, int]) -> SentenceFeatures:
        rows = outputs[:, first:end]
        means = rows.double().mean(1).float()
        last = rows[:, -1] if rows.shape[1] else torch.full_like(means, torch.nan)
        return SentenceFeatures(
            first, end - first, *span, means.numpy(), last.numpy(), figures.of(first, end).float().numpy()
        )

    sentences = []
    first = 0
    for begin, stop in _core.sentences(b"".join(pieces)):
        # a sentence ends with the token that completes it
        end = next(index for index, place in enumerate(ends, 1) if place >= stop)
        if end > first:
            sentences.append(features(first, end, (begin, stop)))
            first = end
    return AnswerFeatures(clean.numpy(), tuple(sentences), features(0, len(answer_ids), (0, ends[-1])))
