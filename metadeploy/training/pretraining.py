"""Before the base takes part: the encoder learns alone, and the wrapper is pointed at the refusal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from metadeploy.reference.doubter import Doubter
from metadeploy.training.fit import Fitting, hash_seed
from metadeploy.training.lessons import Lessons
from metadeploy.training.objective import SHARPNESS
from metadeploy.training.settings import FitSettings
from metadeploy.training.wrapper import projector_dropout

__all__ = ["Pretrained", "aim", "pretrain"]

_BATCH: Final = 128


@dataclass(frozen=True)
class Pretrained:
    """What the encoder learnt alone.

    Attributes:
        direction: [D]: a token's product with it, meant over the tokens, are the log-odds of an error.
        losses: mean loss of each epoch (binary cross-entropy, nats).
    """

    direction: Tensor
    losses: list[float]


def pretrain(doubter: Doubter, lessons: Lessons, settings: FitSettings) -> Pretrained:
    """Teach the encoder alone to tell right from wrong, with a linear head.

    The head reads the mean of the tokens, as a cross-attention that looks everywhere alike does.

    Args:
        doubter: the wrapper; its encoder is changed.
        lessons: the questions.
        settings: epochs, rate and seed.

    Returns:
        What the head came to.
    """
    torch.manual_seed(hash_seed(settings.seed, 0))
    head = nn.Linear(doubter.config.hidden_dim, 1)
    nn.init.zeros_(head.weight)
    doubter.enc.requires_grad_(True).train()
    parameters = [*doubter.enc.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.pretrain_lr, weight_decay=settings.weight_decay)
    doubts = torch.tensor([example.doubt for example in lessons.examples])
    batches = math.ceil(len(doubts) / _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.pretrain_lr, total_steps=batches * settings.pretrain_epochs + 1, pct_start=0.1
    )
    history = []
    with projector_dropout(doubter, settings.dropout):
        for _ in range(settings.pretrain_epochs):
            total = 0.0
            for indices in torch.split(torch.randperm(len(doubts)), _BATCH):
                score = head(doubter(lessons.activations[indices].float()).mean(1))[:, 0]
                loss = nn.functional.binary_cross_entropy_with_logits(score, doubts[indices])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, settings.clip)
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(indices)
            history.append(total / len(doubts))
    return Pretrained(head.weight.detach()[0].clone(), history)


@torch.no_grad()
def aim(fitting: Fitting, direction: Tensor) -> None:
    """Let the last cross-attention begin with what the encoder knows, instead of having to find it.

    One channel of its first head carries the head's log-odds out of the cognitive tokens and moves the hidden states to
    where the refusal becomes more likely. No other channel of any layer puts out anything yet, and all of them go on
    learning.

    Args:
        fitting: the wrapper on its way; its last cross-attention is changed.
        direction: [D] of `pretrain`.
    """
    with torch.enable_grad():
        gradient = fitting.margin_gradient()
    if not float(gradient.norm()) > 0 or not float(direction.norm()) > 0:
        return  # a base, or an encoder, that gives nothing to begin with
    doubter = fitting.doubter
    last = doubter.cross_attention(doubter.config.cross_attn_layers[-1])
    out = SHARPNESS * gradient / (gradient.square().sum() * torch.tanh(last.gate))
    balance = torch.sqrt(out.norm() / direction.norm())
    last.v_proj.weight[0] = balance * direction.to(out)
    last.up_proj.weight[:, 0] = out / balance
