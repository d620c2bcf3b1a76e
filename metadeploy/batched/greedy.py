"""Greedy answers to many prompts at once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metadeploy.batched.prefix import LeftPadded
from metadeploy.data.answers import IsComplete
from metadeploy.reference.base import FrozenBase

__all__ = ["AnswerOpening", "GreedyAnswer", "greedy_answers"]

#: Returns the context for a step, given which answers [n] of the batch still grow.
Around = Callable[[Tensor], AbstractContextManager[None]]


@dataclass(frozen=True)
class GreedyAnswer:
    """A greedy answer.

    Attributes:
        token_ids: its tokens, without the token that ended it.
        logprobs: natural log-probability of each token.
        ended: whether the model ended it, and not the length limit or `IsComplete`.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: bool


@dataclass(frozen=True)
class AnswerOpening:
    """The state at the beginning of the answers of a batch.

    Attributes:
        logits: [B, V] of the first token.
        cache: transformers' cache of the prompts; it can be used only once.
        attention_mask: [B, n] of the tokens in the cache.
        positions: [B, 1] of the last prompt token.
    """

    logits: Tensor
    cache: Any
    attention_mask: Tensor
    positions: Tensor

    @classmethod
    def of(cls, output: Any, batch: LeftPadded) -> AnswerOpening:
        """Return the state after a model's output for a batch of prompts."""
        return cls(output.logits[:, -1], output.past_key_values, batch.attention_mask, batch.position_ids[:, -1:])

    def rows(self, index: Tensor) -> AnswerOpening:
        """Return a copy of some rows [n] of the batch, which can be answered independently."""
        cache = copy.deepcopy(self.cache)
        cache.reorder_cache(index)
        return AnswerOpening(self.logits[index], cache, self.attention_mask[index], self.positions[index])


@torch.inference_mode()
def greedy_answers(
    base: FrozenBase,
    opening: AnswerOpening,
    *,
    stop_ids: set[int],
    max_new_tokens: int,
    is_complete: IsComplete,
    around: Around | None = None,
) -> list[GreedyAnswer]:
    """Generate the answers of a batch; an answer that is finished leaves the batch.

    Args:
        base: the model.
        opening: the state at the beginning of the answers.
        stop_ids: tokens that end an answer.
        max_new_tokens: maximum number of tokens of an answer.
        is_complete: called after each token; True ends that answer.
        around: context that each step after the first token is run in, for example an injection.

    Returns:
        The answers, in the order of the batch.
    """
    logits, cache, mask, positions = opening.logits, opening.cache, opening.attention_mask, opening.positions
    count = len(logits)
    tokens: list[list[int]] = [[] for _ in range(count)]
    logprobs: list[list[float]] = [[] for _ in range(count)]
    ended = [False] * count
    rows = torch.arange(count, device=logits.device)  # which answer each row of the batch belongs to
    for _ in range(max_new_tokens):
        best_logprobs, chosen = logits.float().log_softmax(-1).max(-1)
        active = []
        for batch_row, (row, token, logprob) in enumerate(
            zip(rows.tolist(), chosen.tolist(), best_logprobs.tolist(), strict=True)
        ):
            if token in stop_ids:
                ended[row] = True
                continue
            tokens[row].append(token)
            logprobs[row].append(logprob)
            if len(tokens[row]) < max_new_tokens and not is_complete(row, tokens[row]):
                active.append(batch_row)
        if not active:
            break
        if len(active) < len(rows):
            index = torch.tensor(active, device=logits.device)
            cache.reorder_cache(index)  # meant for beam search: selects rows, also of recurrent memories
            rows, chosen, mask, positions = rows[index], chosen[index], mask[index], positions[index]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions + 1
        with nullcontext() if around is None else around(rows):
            output = base.model(
                input_ids=chosen[:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        logits, cache = output.logits[:, -1], output.past_key_values
    return [GreedyAnswer(tuple(t), tuple(p), e) for t, p, e in zip(tokens, logprobs, ended, strict=True)]
