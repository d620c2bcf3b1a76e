"""Trains a verdict head in PyTorch: several small networks whose logits are averaged, written as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from metadeploy.metrics import auroc
from metadeploy.reference.verdict import MAX_DEVIATION, VerdictNetwork
from metadeploy.sidecar.verdict import VerdictConfig, VerdictHead
from metadeploy.verdict.answers import Answers
from metadeploy.verdict.settings import VerdictSettings

__all__ = ["TrainedNetworks", "train_head", "train_networks", "verdict_logits"]

_BATCH: Final = 128
_LEARNING_RATE: Final = 1e-3
_WEIGHT_DECAY: Final = 1e-2
#: Proportion of the inputs that are left out in training.
_INPUT_DROPOUT: Final = 0.1


def train_head(
    train: Answers,
    val: Answers,
    config: VerdictConfig,
    settings: VerdictSettings,
    *,
    progress: Callable[[int, int], None],
) -> VerdictHead:
    """Train a head.

    Args:
        train: the training questions.
        val: the validation questions, which choose the best epoch of each network.
        config: layers and sizes of one network; the head has ``n_networks`` times as many hidden units.
        settings: how to train.
        progress: called with the number of epochs that are done, and of all.

    Returns:
        The head, not calibrated.
    """
    layers = config.prompt_layers, config.answer_layers
    trained = train_networks(
        train.inputs(*layers), val.inputs(*layers), train.correct, val.correct, settings, progress=progress
    )
    networks, n = trained.networks, len(trained.networks)
    tensors = {
        "verdict.input.mean": trained.mean,
        "verdict.input.scale": trained.scale,
        "verdict.hidden.weight": torch.cat([network.hidden.weight for network in networks]).detach().numpy(),
        "verdict.hidden.bias": torch.cat([network.hidden.bias for network in networks]).detach().numpy(),
        "verdict.output.weight": torch.cat([network.output.weight / n for network in networks], dim=1).detach().numpy(),
        "verdict.output.bias": torch.stack([network.output.bias for network in networks]).mean(0).detach().numpy(),
    }
    # as the sidecar stores it, so that the calibration is that of the rounded head
    tensors["verdict.hidden.weight"] = tensors["verdict.hidden.weight"].astype(np.float16).astype(np.float32)
    return VerdictHead(replace(config, n_hidden=n * config.n_hidden), tensors)


@dataclass(frozen=True)
class TrainedNetworks:
    """Networks whose logits are averaged.

    Attributes:
        mean: float32 [n_inputs], subtracted from the inputs.
        scale: float32 [n_inputs], multiplied with the difference.
        networks: they read inputs that are normalized and clipped.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    networks: tuple[_Network, ...]

    def logits(self, inputs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the mean logits of errors, float64 [n], for inputs [n, n_inputs]."""
        rows = _normalized(inputs, self.mean, self.scale)
        with torch.no_grad():
            logits: NDArray[np.float64] = (
                torch.stack([network(rows) for network in self.networks]).double().mean(0).numpy()
            )
        return logits


def train_networks(
    inputs: NDArray[np.floating[Any]],
    val_inputs: NDArray[np.floating[Any]],
    correct: NDArray[np.bool_],
    val_correct: NDArray[np.bool_],
    settings: VerdictSettings,
    *,
    progress: Callable[[int, int], None],
) -> TrainedNetworks:
    """Train ``n_networks`` networks that predict errors.

    Args:
        inputs: [n, n_inputs] of the training questions.
        val_inputs: [n, n_inputs] of the validation questions, which choose the best epoch of each network.
        correct: bool [n] of the training questions.
        val_correct: bool [n] of the validation questions.
        settings: how to train.
        progress: called with the number of epochs that are done, and of all.
    """
    raw = np.asarray(inputs, dtype=np.float32)
    mean, deviation = raw.mean(axis=0), raw.std(axis=0)
    # an input that never changes says nothing; without a bound, its scale would be infinite
    scale = (1.0 / np.maximum(deviation, 1e-6)).astype(np.float32)
    rows, val_rows = _normalized(raw, mean, scale), _normalized(val_inputs, mean, scale)
    targets = torch.from_numpy((~correct).astype(np.float32))
    networks = []
    for number in range(settings.n_networks):
        generator = torch.Generator().manual_seed(settings.seed * 1000 + number)

        def report(epoch: int, number: int = number) -> None:
            progress(number * settings.epochs + epoch, settings.n_networks * settings.epochs)

        networks.append(_train_network(rows, targets, val_rows, val_correct, settings, generator, report))
    return TrainedNetworks(mean, scale, tuple(networks))


def verdict_logits(head: VerdictHead, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the head's logits before its calibration, float64 [n].

    Args:
        head: the head.
        inputs: float32 [n, n_inputs].
    """
    network = VerdictNetwork(head)
    with torch.no_grad():
        logits: NDArray[np.float64] = network(torch.from_numpy(inputs)).double().numpy()
    return logits


def _normalized(inputs: NDArray[np.floating[Any]], mean: NDArray[np.float32], scale: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.clip((inputs - mean) * scale, -MAX_DEVIATION, MAX_DEVIATION).astype(np.float32))


class _Network(nn.Module):
    """One network on normalized inputs."""

    def __init__(self, n_inputs: int, n_hidden: int, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_inputs, n_hidden)
        self.output = nn.Linear(n_hidden, 1)
        self.dropout = dropout
        for layer in (self.hidden, self.output):
            bound = layer.in_features**-0.5
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits [n]."""
        hidden = nn.functional.dropout(inputs, _INPUT_DROPOUT, self.training)
        hidden = nn.functional.gelu(self.hidden(hidden))
        logits: Tensor = self.output(nn.functional.dropout(hidden, self.dropout, self.training))[:, 0]
        return logits


def _train_network(
    inputs: Tensor,
    targets: Tensor,
    val_inputs: Tensor,
    val_correct: NDArray[np.bool_],
    settings: VerdictSettings,
    generator: torch.Generator,
    report: Callable[[int], None],
) -> _Network:
    """Train one network; return it as it was after the epoch with the best AUROC on the validation questions."""
    torch.manual_seed(generator.initial_seed())  # dropout takes no generator
    network = _Network(inputs.shape[1], settings.n_hidden, settings.dropout, generator)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    n_batches = -(-len(inputs) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _LEARNING_RATE, total_steps=settings.epochs * n_batches + 1
    )
    best, best_score = network.state_dict(), -1.0
    for epoch in range(settings.epochs):
        network.train()
        order = torch.randperm(len(inputs), generator=generator)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            optimizer.zero_grad()
            loss = binary_cross_entropy_with_logits(network(inputs[batch]), targets[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            score = auroc(network(val_inputs).double().numpy(), val_correct) or 0.0
        if score > best_score:
            best_score, best = score, {name: value.clone() for name, value in network.state_dict().items()}
        report(epoch + 1)
    network.load_state_dict(best)
    return network.eval()
