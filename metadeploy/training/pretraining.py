"""Before the base takes part: the encoder learns alone, and the wrapper is pointed at the refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from metadeploy.reference.doubter import Doubter
from metadeploy.training.initialization import projector_dropout, standardise
from metadeploy.training.losses import SHARPNESS
from metadeploy.training.settings import FitSettings
from metadeploy.training.targets import Lessons
from metadeploy.training.trainer import Fitting, hash_seed

__all__ = ["Pretrained", "aim", "pretrain", "softened"]

_BATCH: Final = 128
#: What a second opinion counts beside the verdict.
_TRUST: Final = 0.5


@dataclass(frozen=True)
class Pretrained:
    """What an encoder learnt alone.

    Attributes:
        direction: [D]: a token's product with it, meant over the tokens, are the log-odds of an error, less ``bias``.
        bias: scalar.
        losses: mean loss of each epoch (binary cross-entropy, nats).
    """

    direction: Tensor
    bias: Tensor
    losses: list[float]


def softened(
    fresh: Callable[[], Doubter],
    lessons: Lessons,
    settings: FitSettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Ask encoders that have not seen a question, nor another one about the same, for a second opinion on it.

    A verdict is one bit, and partly luck: the base would have got the question right in other words. What encoders
    make of the activations says how far it could have been known, and teaches the order of questions of one kind.

    Args:
        fresh: makes a new wrapper.
        lessons: the questions.
        settings: folds, and how each of them learns.
        progress: called with folds done and in all.

    Returns:
        [n] float32: how much to doubt each question, half by its verdict and half by the second opinion.
    """
    about = [record.question.entity or record.question.question for record in lessons.records]
    subjects = sorted(set(about))
    folds = min(settings.folds, len(subjects))
    places = np.random.default_rng((settings.seed, folds)).permutation(len(subjects)) % max(folds, 1)
    fold_of = dict(zip(subjects, places.tolist(), strict=True))
    parts = torch.tensor([fold_of[subject] for subject in about])
    doubts = lessons.doubts
    for fold in range(folds):
        progress(fold, folds)
        seen, unseen = (parts != fold).nonzero()[:, 0], (parts == fold).nonzero()[:, 0]
        if not len(seen):
            return doubts  # a single subject: nobody else to ask
        torch.manual_seed(hash_seed(settings.seed, 0, fold))
        doubter = fresh()
        standardise(doubter, lessons.activations[seen])
        learnt = pretrain(doubter, lessons.at(seen.tolist()), settings)
        odds = _log_odds(doubter.eval(), learnt, lessons.activations[unseen])
        doubts[unseen] = (1 - _TRUST) * doubts[unseen] + _TRUST * torch.sigmoid(odds)
    progress(folds, folds)
    return doubts


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
    doubts, device = lessons.doubts, next(doubter.enc.parameters()).device
    head = nn.Linear(doubter.config.hidden_dim, 1, device=device)
    nn.init.zeros_(head.weight)
    doubter.enc.requires_grad_(True).train()
    parameters = [*doubter.enc.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.pretrain_lr, weight_decay=settings.weight_decay)
    batches = math.ceil(len(doubts) / _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.pretrain_lr, total_steps=batches * settings.pretrain_epochs + 1, pct_start=0.1
    )
    history = []
    with projector_dropout(doubter, settings.dropout):
        for _ in range(settings.pretrain_epochs):
            total = 0.0
            for indices in torch.split(torch.randperm(len(doubts)), _BATCH):
                tokens = doubter(lessons.activations[indices].to(device).float())
                loss = nn.functional.binary_cross_entropy_with_logits(
                    head(tokens.mean(1))[:, 0], doubts[indices].to(device)
                )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, settings.clip)
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(indices)
            history.append(total / len(doubts))
    return Pretrained(head.weight.detach()[0].clone(), head.bias.detach()[0].clone(), history)


@torch.no_grad()
def _log_odds(doubter: Doubter, learnt: Pretrained, activations: Tensor) -> Tensor:
    """What an encoder and its head make of activations [n, N, D]: [n] on the CPU."""
    parts = torch.split(activations, _BATCH)
    tokens = (doubter(part.to(learnt.direction.device).float()).mean(1) for part in parts)
    return torch.cat([(each @ learnt.direction + learnt.bias).cpu() for each in tokens])


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
