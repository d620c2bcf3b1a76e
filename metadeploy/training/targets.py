"""Build training targets from the base's own answers."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeploy.reference.prompts import render_chat
from metadeploy.training.examples import Example
from metadeploy.training.records import Collected, Record

__all__ = ["LabeledSplit", "build_targets"]


@dataclass(frozen=True)
class LabeledSplit:
    """One split with its training targets.

    Attributes:
        examples: tokens and labels, one example for each question.
        activations: [n, N, D] of the target layers.
        records: the collected data of each question.
    """

    examples: list[Example]
    activations: Tensor
    records: list[Record]

    @property
    def doubts(self) -> Tensor:
        """The label of each question, [n] float32."""
        return torch.tensor([example.doubt for example in self.examples], dtype=torch.float32)

    def with_doubts(self, doubts: Tensor) -> LabeledSplit:
        """Return a copy with other labels.

        Args:
            doubts: [n] in [0, 1].
        """
        examples = [
            dataclasses.replace(example, doubt=doubt)
            for example, doubt in zip(self.examples, doubts.tolist(), strict=True)
        ]
        return dataclasses.replace(self, examples=examples)

    def at(self, indices: Sequence[int]) -> LabeledSplit:
        """Return a split with some of the questions."""
        return LabeledSplit(
            [self.examples[i] for i in indices], self.activations[list(indices)], [self.records[i] for i in indices]
        )

    @property
    def base_correct(self) -> NDArray[np.bool_]:
        """Whether the base was right, [n]."""
        return np.array([record.correct for record in self.records])

    @property
    def categories(self) -> NDArray[np.str_]:
        """The category of each question, [n]."""
        return np.array([record.question.category for record in self.records])


def build_targets(
    collected: Collected,
    tokenizer: Any,
    *,
    target_layers: Sequence[int],
    refusal_ids: Sequence[int],
    end_of_turn: int,
    answer_suffix: str | None,
    chat_template_kwargs: dict[str, Any],
    self_correction: float = 0.0,
    seed: int = 0,
) -> LabeledSplit:
    """Build the targets of each question.

    If the base was right, the targets are its own words, otherwise the refusal. Both end with the token that ends the
    turn.

    Args:
        collected: the base's answers and activations.
        tokenizer: the base's tokenizer.
        target_layers: layers whose activations the encoder reads.
        refusal_ids: tokens of the refusal, without the token that ends the turn.
        end_of_turn: the token that ends the turn.
        answer_suffix: the answer suffix of the collected data.
        chat_template_kwargs: the template variables of the collected data.
        self_correction: proportion of the base's errors whose targets are the accepted answer, not the refusal.
        seed: seed of the selection of the errors.

    Returns:
        The labeled split, in the order of the records.
    """
    rng = random.Random(seed)
    encode: Callable[[str], list[int]] = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    examples = []
    for record in collected.records:
        text = render_chat(
            tokenizer,
            record.question.question,
            answer_suffix=answer_suffix,
            template_kwargs=chat_template_kwargs,
        )
        is_corrected = not record.correct and rng.random() < self_correction
        ending = [end_of_turn]
        if record.correct:
            words: Sequence[int] = record.answer_ids
            if not record.complete:  # the answer was cut off, so the turn does not end here
                ending = []
        else:
            words = encode(f"{record.question.answers[0]}.") if is_corrected else refusal_ids
        declines = not record.correct and not is_corrected
        examples.append(
            Example(
                prompt_ids=tuple(encode(text)),
                target_ids=(*words, *ending),
                declines=declines,
                doubt=float(declines),
                n_own=len(record.answer_ids) if record.correct else 0,
            )
        )
    return LabeledSplit(examples, collected.layers_at(target_layers), collected.records)
