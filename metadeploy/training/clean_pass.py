"""The clean pass over many questions at once: activations at the last prompt token, and the greedy answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metadeploy.reference.base import FrozenBase
from metadeploy.training.prefix import SharedPrefix, left_padded

__all__ = ["CleanAnswer", "CleanPass"]

#: Whether an answer, given its token ids so far, is complete enough for the purpose.
IsComplete = Callable[[Sequence[int]], bool]


@dataclass(frozen=True)
class CleanAnswer:
    """What the base says by itself.

    Attributes:
        token_ids: the greedy answer, without the token that ended it.
        logprobs: natural log-probability of each of them.
        ended: whether the model ended it (not the length limit, nor `IsComplete`).
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: bool


class CleanPass:
    """Runs batches of prompts through the base.

    Prompts mostly begin alike (the template's head); that part is computed once and shared.
    """

    def __init__(self, base: FrozenBase, *, layers: Sequence[int], stop_ids: set[int], prefix: SharedPrefix) -> None:
        """Prepare.

        Args:
            base: the frozen base.
            layers: whose outputs at the last prompt token are wanted.
            stop_ids: tokens that end an answer.
            prefix: the common beginning of all prompts to come.
        """
        self._base = base
        self._layers = tuple(layers)
        self._stop_ids = stop_ids
        self._prefix = prefix

    @torch.inference_mode()
    def run(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, is_complete: IsComplete
    ) -> tuple[Tensor, list[CleanAnswer]]:
        """One batch.

        Args:
            prompts: token ids of each prompt, which begin with the shared prefix.
            max_new_tokens: most tokens of an answer.
            is_complete: asked after each token; True ends that answer.

        Returns:
            Activations [n, n_layers, D] in the base's dtype on the CPU, and the answers.
        """
        seen: dict[int, Tensor] = {}

        def keep(layer: int) -> Callable[[Tensor], None]:
            return lambda hidden: seen.__setitem__(layer, hidden[:, -1].clone())

        batch = left_padded([prompt[len(self._prefix) :] for prompt in prompts], self._prefix, self._base.device)
        with self._base.stack.hooked({layer: keep(layer) for layer in self._layers}):
            output = self._base.model(
                **batch.inputs(), past_key_values=self._prefix.expanded(len(prompts)), use_cache=True, logits_to_keep=1
            )
        activations = torch.stack([seen[layer].cpu() for layer in self._layers], dim=1)
        return activations, self._answers(output, batch, max_new_tokens, is_complete)

    def _answers(self, output: Any, batch: Any, max_new_tokens: int, is_complete: IsComplete) -> list[CleanAnswer]:
        count = len(batch.token_ids)
        tokens: list[list[int]] = [[] for _ in range(count)]
        logprobs: list[list[float]] = [[] for _ in range(count)]
        ended = [False] * count
        rows = list(range(count))  # which answer each row of the batch belongs to
        mask, positions = batch.attention_mask, batch.position_ids[:, -1:]
        for _ in range(max_new_tokens):
            best, chosen = output.logits[:, -1].float().log_softmax(-1).max(-1)
            going = []
            for place, (row, token, logprob) in enumerate(zip(rows, chosen.tolist(), best.tolist(), strict=True)):
                if token in self._stop_ids:
                    ended[row] = True
                    continue
                tokens[row].append(token)
                logprobs[row].append(logprob)
                if not is_complete(tokens[row]):
                    going.append(place)
            if not going:
                break
            cache = output.past_key_values
            if len(going) < len(rows):  # finished answers leave the batch
                index = torch.tensor(going, device=chosen.device)
                cache.batch_select_indices(index)
                chosen, mask, positions = chosen[index], mask[index], positions[index]
                rows = [rows[place] for place in going]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = positions + 1
            output = self._base.model(
                input_ids=chosen[:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        return [CleanAnswer(tuple(t), tuple(p), e) for t, p, e in zip(tokens, logprobs, ended, strict=True)]


def mean_logprob(answer: CleanAnswer) -> float:
    """Mean natural log-probability of the answer's tokens; 0 for an empty one."""
    return math.fsum(answer.logprobs) / len(answer.logprobs) if answer.logprobs else 0.0
