"""Doubt: the score that decides whether an answer begins with the trained refusal.

Let r be the first token of the refusal, m = logit(r) - max of all other logits at the beginning of the answer, and b
the wrapper's calibrated bias. Then doubt = sigmoid(m + b). It is above 0.5 exactly if a greedy answer begins with the
refusal.
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
    """The refusal and its alternative at the beginning of an answer.

    Attributes:
        refusal: first token of the refusal.
        best_other: most likely other token.
        value: the doubt, in (0, 1).
    """

    refusal: int
    best_other: int
    value: float

    def greedy_token(self, threshold: float) -> int:
        """Return the first token of a greedy answer that declines from ``threshold`` on: 0 always, 1 never."""
        declines = threshold < 1 and self.value >= threshold
        return self.refusal if declines else self.best_other


def read_doubt(logits: Tensor, refusal: int, *, bias: float = 0.0) -> DoubtReading:
    """Compare the refusal's first token with all others.

    Args:
        logits: [V], the model's logits at the beginning of the answer, before any sampling.
        refusal: first token of the refusal, 0 to V - 1.
        bias: the wrapper's bias, in nats.
    """
    others = logits.detach().to(torch.float64, copy=True)
    logit = others[refusal].clone()
    others[refusal] = -torch.inf
    best_other = int(others.argmax())
    return DoubtReading(refusal, best_other, float(torch.sigmoid(logit - others[best_other] + bias)))


def refusal_token(tokenizer: Any, config: WrapperConfig, *, last_prompt_token: int) -> int:
    """Return the first token of the refusal after a prompt.

    If the wrapper has the trained tokens, it is the first of them. Otherwise the refusal is tokenized after the text of
    the prompt's last token, because many tokenizers have different tokens for a word at the beginning of a text and
    after a line break.

    Args:
        tokenizer: a tokenizer of transformers.
        config: the wrapper's config.
        last_prompt_token: the token before the answer.

    Raises:
        Error: the tokenizer returns no token for the refusal.
    """
    if config.refusal_token_ids is not None:
        return config.refusal_token_ids[0]

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    before = tokenizer.decode([last_prompt_token])
    head, whole = encode(before), encode(before + config.refusal_text)
    if whole[: len(head)] != head:
        head, whole = [], encode(config.refusal_text)  # a token spans the boundary, so tokenize the refusal alone
    if len(whole) == len(head):
        raise Error(f"tokenizer: returns no token for the refusal {config.refusal_text!r}, expected at least one")
    return whole[len(head)]
