"""The training loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metadeploy._exact import at_least, nearest
from metadeploy.batched.injection import injected
from metadeploy.batched.prefix import SharedPrefix
from metadeploy.batched.upper_blocks import UpperBlocks
from metadeploy.metrics import auroc, macro_auroc
from metadeploy.reference.doubter import Doubter
from metadeploy.training.examples import Batch, CachedStates
from metadeploy.training.initialization import parameter_groups, projector_dropout
from metadeploy.training.losses import Losses, losses
from metadeploy.training.settings import FitSettings
from metadeploy.training.targets import LabeledSplit

__all__ = ["Epoch", "FitSettings", "Trainer", "hash_seed"]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One row of the training curves.

    Attributes:
        epoch: counted from 1.
        loss, decision, wording, keeping: training losses, see `losses`.
        val_decision: loss of the decision on the validation questions.
        val_auroc: AUROC of the doubt margin for the base's errors.
        val_auroc_within: the same within categories, as the mean over categories.
        lr: learning rate at the end of the epoch.
    """

    epoch: int
    loss: float
    decision: float
    wording: float
    keeping: float
    val_decision: float
    val_auroc: float
    val_auroc_within: float
    lr: float

    @property
    def score(self) -> float:
        """Return the score that selects the best epoch: the mean of the overall and the within-category AUROC."""
        return (self.val_auroc + self.val_auroc_within) / 2


class Trainer:
    """Trains a wrapper.

    Attributes:
        doubter: the wrapper after the last step.
        history: the epochs so far.
        best: tensors of the wrapper after the best epoch so far.
        bias: offset of the refusal's first token in the decision, so that its log-odds start near 0.
    """

    def __init__(
        self,
        upper: UpperBlocks,
        doubter: Doubter,
        settings: FitSettings,
        *,
        train: tuple[LabeledSplit, list[CachedStates]],
        val: tuple[LabeledSplit, list[CachedStates]],
        prefix: SharedPrefix,
        refusal_token: int,
    ) -> None:
        """Create optimizer and schedule; nothing is computed yet."""
        self.doubter = doubter.to(upper.base.device).requires_grad_(True).train()
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.bias = 0.0
        self._settings = settings
        self._train, self._val = train, val
        self._declined = np.flatnonzero([example.declines for example in train[0].examples])
        self._prefix = prefix
        self._refusal_token = refusal_token
        self._upper = upper
        upper.base.model.requires_grad_(False)
        self._optimizer = torch.optim.AdamW(
            parameter_groups(doubter, lr=settings.lr, weight_decay=settings.weight_decay)
        )
        self._lr_schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._lr_factor)

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or none of the last ``patience`` epochs was better."""
        n_done = len(self.history)
        return n_done >= self._settings.epochs or (n_done > 0 and n_done - self.best_epoch >= self._settings.patience)

    @property
    def best_epoch(self) -> int:
        """Number of the best epoch so far."""
        return max(self.history, key=lambda row: row.score).epoch

    @property
    def n_steps(self) -> int:
        """Number of steps of an epoch."""
        n_examples = len(self._train[0].examples) - len(self._declined) + self._n_declined
        return math.ceil(n_examples / self._settings.batch_size)

    def estimate_bias(self, n_examples: int = 1024) -> None:
        """Set the bias from the uninjected margins of the first training questions.

        If the set is sorted by category, these questions are from one or two categories. This is good enough: a sample
        from all categories gives the same results (docs/evaluation.md).
        """
        split, states = self._train
        indices = range(min(n_examples, len(states)))
        margins, _ = self.margins(split.at(indices), [states[i] for i in indices], gain=0.0)
        self.bias = -float(margins.mean())

    def set_soft_labels(self, doubts: Tensor) -> None:
        """Replace the labels of the training questions by [n] in [0, 1]; the target tokens stay the same."""
        split, states = self._train
        self._train = split.with_doubts(doubts), states

    def run_epoch(self, progress: Callable[[int, int], None] | None = None) -> Epoch:
        """Train on the examples once, and evaluate on the validation questions.

        Args:
            progress: called after each step with the number of steps that are done, and of all steps.

        Returns:
            The epoch, which is also appended to ``history``.
        """
        number = len(self.history) + 1
        # an epoch samples the questions to be declined; the weight makes the sample count for all of them
        weight = len(self._declined) / max(1, self._n_declined)
        settings = self._settings
        sums, n_done = np.zeros(4), 0
        torch.manual_seed(hash_seed(settings.seed, number))
        with self._upper.active(), projector_dropout(self.doubter, settings.dropout):
            self.doubter.train()
            for step, indices in enumerate(self._batches(number), start=1):
                batch_losses = self._losses(*self._train, indices, with_keeping=True, declined_weight=weight)
                loss = batch_losses.total(decision_weight=settings.decision_weight, keep_weight=settings.keep_weight)
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(self.doubter.parameters(), settings.clip)
                self._optimizer.step()
                self._lr_schedule.step()
                values = [
                    float(loss_value.detach())
                    for loss_value in (loss, batch_losses.decision, batch_losses.wording, batch_losses.keeping)
                ]
                sums += np.array(values) * len(indices)
                n_done += len(indices)
                if progress is not None:
                    progress(step, self.n_steps)
        margins, decision = self.margins(*self._val)
        doubts, correct = 1 / (1 + np.exp(-(margins + self.bias))), self._val[0].base_correct
        mean = sums / n_done
        row = Epoch(
            epoch=number,
            loss=float(mean[0]),
            decision=float(mean[1]),
            wording=float(mean[2]),
            keeping=float(mean[3]),
            val_decision=decision,
            val_auroc=_or_chance(auroc(doubts, correct)),
            val_auroc_within=_or_chance(macro_auroc(doubts, correct, self._val[0].categories)),
            lr=float(self._lr_schedule.get_last_lr()[0]),
        )
        if all(row.score > earlier.score for earlier in self.history):
            # before the append: Ctrl-C between the two must not leave a best epoch without its tensors
            self.best = {name: tensor.detach().clone() for name, tensor in self.doubter.state_dict().items()}
        self.history.append(row)
        return row

    def margin_gradient(self, n_examples: int = 256) -> Tensor:
        """Return the direction [D] in which the last injected block's output must move to raise doubt, float32.

        This is the mean gradient of the uninjected doubt margins of the first training questions, at the last prompt
        token.
        """
        indices = np.arange(min(n_examples, len(self._train[1])))
        shift = torch.zeros(self.doubter.config.hidden_dim, device=self._upper.base.device, requires_grad=True)
        hook = {self.doubter.config.cross_attn_layers[-1]: lambda hidden: hidden + shift.to(hidden)}
        with self._upper.active(), self._upper.base.stack.hooked(hook):
            batch_losses = self._losses(*self._train, indices, first_only=True, gain=0.0)
            (gradient,) = torch.autograd.grad(batch_losses.margin.mean(), shift)
        return gradient

    @torch.no_grad()
    def margins(
        self, split: LabeledSplit, states: list[CachedStates], *, gain: float = 1.0
    ) -> tuple[NDArray[np.float64], float]:
        """Return the doubt margins [n] of questions, and the mean decision loss."""
        self.doubter.eval()
        margins, total = np.zeros(len(states)), 0.0
        with self._upper.active():
            for start in range(0, len(states), 128):
                indices = np.arange(start, min(start + 128, len(states)))
                batch_losses = self._losses(split, states, indices, first_only=True, gain=gain)
                margins[indices] = batch_losses.margin.cpu().numpy()
                total += float(batch_losses.decision) * len(indices)
        return margins, total / max(len(states), 1)

    def state(self) -> dict[str, Any]:
        """Return everything that is needed to continue after an interruption between epochs."""
        return {
            "doubter": self.doubter.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._lr_schedule.state_dict(),
            "bias": self.bias,
            "doubts": self._train[0].doubts,
            "history": [asdict(row) for row in self.history],
            "best": self.best,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.doubter.load_state_dict(state["doubter"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._lr_schedule.load_state_dict(state["schedule"])
        self.bias = state["bias"]
        self.set_soft_labels(state["doubts"])
        self.history = [Epoch(**row) for row in state["history"]]
        self.best = copy.copy(state["best"])

    def _losses(
        self,
        split: LabeledSplit,
        states: list[CachedStates],
        indices: NDArray[np.intp],
        *,
        first_only: bool = False,
        with_keeping: bool = False,
        gain: float = 1.0,
        declined_weight: float = 1.0,
    ) -> Losses:
        batch = self._batch(split, states, indices, first_only=first_only)
        activations = split.activations[torch.from_numpy(indices)].to(batch.hidden.device).float()
        tokens = self.doubter(activations)
        with injected(self._upper.base, self.doubter, tokens, batch.injected, gain=gain):
            logits = self._upper.logits(batch, batch.rows, batch.positions)
        return losses(
            logits,
            batch,
            self._refusal_token,
            own_logits=self._own_logits(split, states, indices) if with_keeping else None,
            bias=self.bias,
            declined_weight=declined_weight,
        )

    @torch.no_grad()
    def _own_logits(self, split: LabeledSplit, states: list[CachedStates], indices: NDArray[np.intp]) -> Tensor | None:
        """Return the logits [n_own, V] of the base alone at its own words."""
        answered = np.array([index for index in indices if split.examples[index].n_own], dtype=np.intp)
        if not len(answered):
            return None
        batch = self._batch(split, states, answered)
        return self._upper.logits(batch, batch.rows[batch.is_own], batch.positions[batch.is_own])

    def _batch(
        self, split: LabeledSplit, states: list[CachedStates], indices: NDArray[np.intp], *, first_only: bool = False
    ) -> Batch:
        return Batch.of(
            [split.examples[i] for i in indices],
            [states[i] for i in indices],
            first=self._upper.first,
            prefix=self._prefix,
            device=self._upper.base.device,
            first_only=first_only,
        )

    def _batches(self, epoch: int) -> Iterator[NDArray[np.intp]]:
        """Yield batches in an order that depends only on seed and epoch.

        The order is random. Batches of similar length would save padding, but refusals are longer than most answers, so
        such batches would hold only refusals or only answers.
        """
        generator = np.random.default_rng((self._settings.seed, epoch))
        left_out = generator.permutation(self._declined)[self._n_declined :]
        order = generator.permutation(np.setdiff1d(np.arange(len(self._train[1])), left_out))
        size = self._settings.batch_size
        yield from (order[start : start + size] for start in range(0, len(order), size))

    @property
    def _n_declined(self) -> int:
        """Number of questions to be declined in each epoch."""
        return at_least(self._settings.refusal_share, len(self._declined))

    def _lr_factor(self, step: int) -> float:
        """Return the factor of the learning rates: a linear warmup, then half a cosine down to 0."""
        total = self._settings.epochs * self.n_steps
        rise = max(1, nearest(self._settings.warmup, total))
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, total - rise))))


def _or_chance(area: float | None) -> float:
    """Return 0.5 if the AUROC is undefined."""
    return 0.5 if area is None else area


def hash_seed(*numbers: int) -> int:
    """Combine several numbers into one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
