"""Pretrain the encoder without the base, compute soft labels, and initialize the injection towards the refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from metadeploy.reference.doubter import Doubter
from metadeploy.training.initialization import projector_dropout, standardize
from metadeploy.training.losses import SHARPNESS
from metadeploy.training.settings import FitSettings
from metadeploy.training.targets import LabeledSplit
from metadeploy.training.trainer import Trainer, hash_seed

__all__ = ["Pretrained", "cross_fit_labels", "init_from_probe", "pretrain"]

_BATCH: Final = 128
#: Weight of the out-of-fold prediction in a soft label; the hard label has the rest.
_OUT_OF_FOLD_WEIGHT: Final = 0.5


@dataclass(frozen=True)
class Pretrained:
    """The linear head that was trained together with an encoder.

    Attributes:
        direction: [D] weights. Their product with the mean cognitive token, plus ``bias``, is the log-odds of an error.
        bias: scalar.
        losses: mean loss of each epoch (binary cross-entropy, nats).
    """

    direction: Tensor
    bias: Tensor
    losses: list[float]


def cross_fit_labels(
    new_doubter: Callable[[], Doubter],
    split: LabeledSplit,
    settings: FitSettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Return soft labels: the mean of the hard labels and out-of-fold predictions.

    A hard label is one bit, and partly chance: the base might answer the same question correctly in another wording.
    The predictions of encoders from the activations show how predictable an error is, and order the questions of one
    kind. All questions about one subject are in the same fold, so no encoder predicts a subject that it was trained on.

    Args:
        new_doubter: creates a new wrapper.
        split: the questions.
        settings: number of folds, and the settings of each pretraining.
        progress: called with the number of folds that are done, and of all folds.

    Returns:
        [n] float32 soft labels.
    """
    subject_of = [record.question.entity or record.question.question for record in split.records]
    subjects = sorted(set(subject_of))
    folds = min(settings.folds, len(subjects))
    fold_numbers = np.random.default_rng((settings.seed, folds)).permutation(len(subjects)) % max(folds, 1)
    fold_of = dict(zip(subjects, fold_numbers.tolist(), strict=True))
    fold_of_question = torch.tensor([fold_of[subject] for subject in subject_of])
    doubts = split.doubts
    for fold in range(folds):
        progress(fold, folds)
        seen, unseen = (fold_of_question != fold).nonzero()[:, 0], (fold_of_question == fold).nonzero()[:, 0]
        if not len(seen):
            return doubts  # a single subject: there is no other fold to learn from
        torch.manual_seed(hash_seed(settings.seed, 0, fold))
        doubter = new_doubter()
        standardize(doubter, split.activations[seen])
        pretrained = pretrain(doubter, split.at(seen.tolist()), settings)
        log_odds = _log_odds(doubter.eval(), pretrained, split.activations[unseen])
        doubts[unseen] = (1 - _OUT_OF_FOLD_WEIGHT) * doubts[unseen] + _OUT_OF_FOLD_WEIGHT * torch.sigmoid(log_odds)
    progress(folds, folds)
    return doubts


def pretrain(doubter: Doubter, split: LabeledSplit, settings: FitSettings) -> Pretrained:
    """Train the encoder with a linear head to predict the base's errors.

    The head reads the mean of the cognitive tokens, like a cross-attention with uniform attention weights.

    Args:
        doubter: the wrapper; its encoder is changed in place.
        split: the questions.
        settings: epochs, learning rate and seed.

    Returns:
        The trained head.
    """
    torch.manual_seed(hash_seed(settings.seed, 0))
    doubts, device = split.doubts, next(doubter.enc.parameters()).device
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
                tokens = doubter(split.activations[indices].to(device).float())
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
def _log_odds(doubter: Doubter, pretrained: Pretrained, activations: Tensor) -> Tensor:
    """Return the log-odds [n] that an encoder and its head predict from activations [n, N, D], on the CPU."""
    batches = torch.split(activations, _BATCH)
    tokens = (doubter(batch.to(pretrained.direction.device).float()).mean(1) for batch in batches)
    return torch.cat([(mean_tokens @ pretrained.direction + pretrained.bias).cpu() for mean_tokens in tokens])


@torch.no_grad()
def init_from_probe(trainer: Trainer, direction: Tensor) -> None:
    """Initialize the last cross-attention so that it already uses what the encoder has learned.

    One channel of its first head reads the log-odds of an error from the cognitive tokens and moves the hidden states
    in the direction that makes the refusal more likely. All other channels of all layers still output 0. Training
    changes all of them.

    Args:
        trainer: the trainer; the last cross-attention of its wrapper is changed in place.
        direction: [D] weights of the pretrained head.
    """
    with torch.enable_grad():
        gradient = trainer.margin_gradient()
    if not float(gradient.norm()) > 0 or not float(direction.norm()) > 0:
        return  # the base or the encoder gives no direction to start from
    doubter = trainer.doubter
    last = doubter.cross_attention(doubter.config.cross_attn_layers[-1])
    output_vector = SHARPNESS * gradient / (gradient.square().sum() * torch.tanh(last.gate))
    balance = torch.sqrt(output_vector.norm() / direction.norm())
    last.v_proj.weight[0] = balance * direction.to(output_vector)
    last.up_proj.weight[:, 0] = output_vector / balance
