"""The clean pass over batches of prompts: activations at the last prompt token, and greedy answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metadeploy.batched.greedy import AnswerOpening, GreedyAnswer, greedy_answers
from metadeploy.batched.prefix import LeftPadded, SharedPrefix, left_padded
from metadeploy.data.answers import IsComplete
from metadeploy.reference.base import FrozenBase

__all__ = ["CleanPass", "Prefilled"]


@dataclass(frozen=True)
class Prefilled:
    """A batch of prompts after the clean pass.

    Attributes:
        activations: [B, n_layers, D] at the last prompt token, in the base's dtype, on its device.
        batch: the prompts, without the shared prefix.
        opening: the state at the beginning of the base's own answers.
    """

    activations: Tensor
    batch: LeftPadded
    opening: AnswerOpening


class CleanPass:
    """Evaluates batches of prompts with the base.

    Most prompts have a common beginning (the head of the template), which is computed once and shared.
    """

    def __init__(self, base: FrozenBase, *, layers: Sequence[int], stop_ids: set[int], prefix: SharedPrefix) -> None:
        """Prepare.

        Args:
            base: the frozen base.
            layers: layers whose outputs at the last prompt token are returned.
            stop_ids: tokens that end an answer.
            prefix: the common beginning of all prompts.
        """
        self._base = base
        self._layers = tuple(layers)
        self._stop_ids = stop_ids
        self._prefix = prefix

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefilled:
        """Evaluate a batch of prompts, whose token ids begin with the shared prefix."""
        captured: dict[int, Tensor] = {}

        def capture(layer: int) -> Callable[[Tensor], None]:
            return lambda hidden: captured.__setitem__(layer, hidden[:, -1].clone())

        batch = left_padded([prompt[len(self._prefix) :] for prompt in prompts], self._prefix, self._base.device)
        with self._base.stack.hooked({layer: capture(layer) for layer in self._layers}):
            output = self._base.model(
                **batch.inputs(),
                past_key_values=self._prefix.expanded(len(prompts)),
                use_cache=True,
                **self._base.last_logits,
            )
        # if the base is on several devices, so are the outputs of its layers
        rows = [captured[layer].to(self._base.device) for layer in self._layers]
        return Prefilled(torch.stack(rows, dim=1), batch, AnswerOpening.of(output, batch))

    def run(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, is_complete: IsComplete
    ) -> tuple[Tensor, list[GreedyAnswer]]:
        """Evaluate and answer a batch.

        Args:
            prompts: token ids of each prompt, which begin with the shared prefix.
            max_new_tokens: maximum number of tokens of an answer.
            is_complete: called after each token; True ends that answer.

        Returns:
            Activations [n, n_layers, D] in the base's dtype on the CPU, and the answers.
        """
        prefilled = self.prefill(prompts)
        answers = greedy_answers(
            self._base,
            prefilled.opening,
            stop_ids=self._stop_ids,
            max_new_tokens=max_new_tokens,
            is_complete=is_complete,
        )
        return prefilled.activations.cpu(), answers
