"""From what the base did to what the wrapper is taught."""

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

__all__ = ["Lessons", "make_lessons"]


@dataclass(frozen=True)
class Lessons:
    """One split, ready to be learnt.

    Attributes:
        examples: what to say and how much to doubt, one for each question.
        activations: [n, N, D] of the target layers.
        records: where they come from.
    """

    examples: list[Example]
    activations: Tensor
    records: list[Record]

    @property
    def doubts(self) -> Tensor:
        """[n] float32: how much to doubt each question."""
        return torch.tensor([example.doubt for example in self.examples], dtype=torch.float32)

    def doubted(self, doubts: Tensor) -> Lessons:
        """The same, doubted otherwise.

        Args:
            doubts: [n] in [0, 1].
        """
        examples = [
            dataclasses.replace(example, doubt=doubt)
            for example, doubt in zip(self.examples, doubts.tolist(), strict=True)
        ]
        return dataclasses.replace(self, examples=examples)

    def at(self, indices: Sequence[int]) -> Lessons:
        """Some of them."""
        return Lessons(
            [self.examples[i] for i in indices], self.activations[list(indices)], [self.records[i] for i in indices]
        )

    @property
    def base_correct(self) -> NDArray[np.bool_]:
        """[n] whether the base was right."""
        return np.array([record.correct for record in self.records])

    @property
    def categories(self) -> NDArray[np.str_]:
        """[n] kinds of question."""
        return np.array([record.question.category for record in self.records])


def make_lessons(
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
) -> Lessons:
    """Say for each question what the wrapper is to make the base say.

    Where the base was right, its own words; else the refusal; both with the token that ends the turn.

    Args:
        collected: what the base did.
        tokenizer: the base's.
        target_layers: which activations the encoder is to read.
        refusal_ids: the refusal's tokens, without the end of the turn.
        end_of_turn: the token that ends the turn.
        answer_suffix: as collected.
        chat_template_kwargs: as collected.
        self_correction: share of the wrong ones that are taught the accepted answer in place of the refusal.
        seed: of that choice.

    Returns:
        The lessons, in the order of the records.
    """
    draw = random.Random(seed)
    encode: Callable[[str], list[int]] = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    examples = []
    for record in collected.records:
        text = render_chat(
            tokenizer,
            record.question.question,
            answer_suffix=answer_suffix,
            template_kwargs=chat_template_kwargs,
        )
        corrects = not record.correct and draw.random() < self_correction
        ending = [end_of_turn]
        if record.correct:
            said: Sequence[int] = record.answer_ids
            if not record.complete:  # it would have gone on
                ending = []
        else:
            said = encode(f"{record.question.answers[0]}.") if corrects else refusal_ids
        declines = not record.correct and not corrects
        examples.append(
            Example(
                prompt_ids=tuple(encode(text)),
                target_ids=(*said, *ending),
                declines=declines,
                doubt=float(declines),
                n_own=len(record.answer_ids) if record.correct else 0,
            )
        )
    return Lessons(examples, collected.layers_at(target_layers), collected.records)
