"""Doubt: how near an answer is to beginning with the trained refusal, and where it tips over.

With r the first token of the refusal, m = logit(r) - max of all other logits where the answer begins, and b the
wrapper's calibrated bias, doubt = sigmoid(m + b): above 0.5 exactly where a greedy answer begins with the refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metadeploy.errors import Error
from metadeploy.sidecar.spec import WrapperConfig

__all__ = ["DoubtReading", "read_doubt", "refusal_token"]


@dataclass(frozen=True)
class DoubtReading:
    """What the logits say of a refusal where an answer begins.

    Attributes:
        refusal: token that a refusal begins with.
        best_other: most likely token besides.
        value: the doubt, in (0, 1).
    """

    refusal: int
    best_other: int
    value: float

    def greedy_token(self, threshold: float) -> int:
        """The first token of a greedy answer that declines where doubt reaches ``threshold``: 0 always, 1 never."""
        declines = threshold < 1 and self.value >= threshold
        return self.refusal if declines else self.best_other


def read_doubt(logits: Tensor, refusal: int, *, bias: float = 0.0) -> DoubtReading:
    """Compare the refusal's first token with all the others.

    Args:
        logits: [V], where the answer begins: the model's own, before any sampling.
        refusal: token that a refusal begins with, 0 to V - 1.
        bias: the wrapper's, in nats.
    """
    others = logits.detach().to(torch.float64, copy=True)
    logit = others[refusal].clone()
    others[refusal] = -torch.inf
    best_other = int(others.argmax())
    return DoubtReading(refusal, best_other, float(torch.sigmoid(logit - others[best_other] + bias)))


def refusal_token(tokenizer: Any, config: WrapperConfig, *, last_prompt_token: int) -> int:
    """The token that a refusal begins with after a prompt.

    As trained where the wrapper says so. Else as the refusal is tokenised after the text of the prompt's last token,
    for many tokenizers give the first word of a text another token than the same word after a line break.

    Args:
        tokenizer: of transformers.
        config: the wrapper's.
        last_prompt_token: what the answer comes after.

    Raises:
        Error: the tokenizer makes no token of the refusal.
    """
    if config.refusal_token_ids is not None:
        return config.refusal_token_ids[0]

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    before = tokenizer.decode([last_prompt_token])
    head, whole = encode(before), encode(before + config.refusal_text)
    if whole[: len(head)] != head:
        head, whole = [], encode(config.refusal_text)  # the two grow together: no boundary to look behind
    if len(whole) == len(head):
        raise Error(f"tokenizer: makes no token of the refusal {config.refusal_text!r}, expected at least one")
    return whole[len(head)]
