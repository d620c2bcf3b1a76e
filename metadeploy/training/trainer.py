"""The training loop: lessons in, a trained wrapper out."""

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
from metadeploy.training.examples import Batch, Kept
from metadeploy.training.initialization import parameter_groups, projector_dropout
from metadeploy.training.losses import Losses, losses
from metadeploy.training.settings import FitSettings
from metadeploy.training.targets import Lessons

__all__ = ["Epoch", "FitSettings", "Fitting", "hash_seed"]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One row of the training curves.

    Attributes:
        epoch: counted from 1.
        loss, decision, wording, keeping: training losses.
        val_decision: the decision's loss on the validation questions.
        val_auroc: of the doubt margin for the base's errors.
        val_auroc_within: the same within categories, mean over them.
        lr: at the epoch's end.
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
        """What the best epoch is chosen by: overall and within categories count alike."""
        return (self.val_auroc + self.val_auroc_within) / 2


class Fitting:
    """A wrapper that is being trained.

    Attributes:
        doubter: the wrapper, as of the last step.
        history: the epochs so far.
        best: the wrapper's tensors after the best epoch so far.
        bias: what the refusal's first token gets in the decision, so that the base begins undecided.
    """

    def __init__(
        self,
        upper: UpperBlocks,
        doubter: Doubter,
        settings: FitSettings,
        *,
        train: tuple[Lessons, list[Kept]],
        val: tuple[Lessons, list[Kept]],
        prefix: SharedPrefix,
        refusal_token: int,
    ) -> None:
        """Prepare; nothing is computed yet."""
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
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._rate)

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or none of the last ones was better."""
        done = len(self.history)
        return done >= self._settings.epochs or (done > 0 and done - self.best_epoch >= self._settings.patience)

    @property
    def best_epoch(self) -> int:
        """Number of the best epoch so far."""
        return max(self.history, key=lambda row: row.score).epoch

    @property
    def n_steps(self) -> int:
        """Steps of an epoch."""
        n_taught = len(self._train[0].examples) - len(self._declined) + self._n_declined
        return math.ceil(n_taught / self._settings.batch_size)

    def begin(self, n_examples: int = 1024) -> None:
        """Find the bias, by the uninjected margins of the first training questions.

        Of a set that is sorted by kind these are of one or two kinds. That will do: drawn from all of them, training
        ends the same (docs/evaluation.md).
        """
        lessons, kept = self._train
        shown = range(min(n_examples, len(kept)))
        margins, _ = self.margins(lessons.at(shown), [kept[i] for i in shown], gain=0.0)
        self.bias = -float(margins.mean())

    def teach(self, doubts: Tensor) -> None:
        """Let the training questions be doubted otherwise, by [n] in [0, 1]; what is to be said stays the same."""
        lessons, kept = self._train
        self._train = lessons.doubted(doubts), kept

    def run_epoch(self, progress: Callable[[int, int], None] | None = None) -> Epoch:
        """Go over the lessons once, and look at the validation questions.

        Args:
            progress: called after each step with steps done and in all.

        Returns:
            The epoch's row, which is also in ``history``.
        """
        number = len(self.history) + 1
        # those of the questions to be declined that it goes over stand for all of them
        weight = len(self._declined) / max(1, self._n_declined)
        settings = self._settings
        sums, n_done = np.zeros(4), 0
        torch.manual_seed(hash_seed(settings.seed, number))
        with self._upper.active(), projector_dropout(self.doubter, settings.dropout):
            self.doubter.train()
            for done, indices in enumerate(self._batches(number), start=1):
                found = self._losses(*self._train, indices, keeps=True, declined_weight=weight)
                loss = found.total(decision_weight=settings.decision_weight, keep_weight=settings.keep_weight)
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(self.doubter.parameters(), settings.clip)
                self._optimizer.step()
                self._schedule.step()
                values = [float(each.detach()) for each in (loss, found.decision, found.wording, found.keeping)]
                sums += np.array(values) * len(indices)
                n_done += len(indices)
                if progress is not None:
                    progress(done, self.n_steps)
        margins, decision = self.margins(*self._val)
        doubts, right = 1 / (1 + np.exp(-(margins + self.bias))), self._val[0].base_correct
        mean = sums / n_done
        row = Epoch(
            epoch=number,
            loss=float(mean[0]),
            decision=float(mean[1]),
            wording=float(mean[2]),
            keeping=float(mean[3]),
            val_decision=decision,
            val_auroc=_or_chance(auroc(doubts, right)),
            val_auroc_within=_or_chance(macro_auroc(doubts, right, self._val[0].categories)),
            lr=float(self._schedule.get_last_lr()[0]),
        )
        if all(row.score > earlier.score for earlier in self.history):
            # before it is in the history: Ctrl-C between the two must not leave a best epoch without its tensors
            self.best = {name: tensor.detach().clone() for name, tensor in self.doubter.state_dict().items()}
        self.history.append(row)
        return row

    def margin_gradient(self, n_examples: int = 256) -> Tensor:
        """Where to the output of the last injected block would have to move for doubt to grow: [D], float32.

        The mean gradient of the uninjected doubt margins of the first training questions, at the last prompt token.
        """
        indices = np.arange(min(n_examples, len(self._train[1])))
        shift = torch.zeros(self.doubter.config.hidden_dim, device=self._upper.base.device, requires_grad=True)
        hook = {self.doubter.config.cross_attn_layers[-1]: lambda hidden: hidden + shift.to(hidden)}
        with self._upper.active(), self._upper.base.stack.hooked(hook):
            found = self._losses(*self._train, indices, first_only=True, gain=0.0)
            (gradient,) = torch.autograd.grad(found.margin.mean(), shift)
        return gradient

    @torch.no_grad()
    def margins(self, lessons: Lessons, kept: list[Kept], *, gain: float = 1.0) -> tuple[NDArray[np.float64], float]:
        """Doubt margins [n] of questions, and the mean of the decision's loss."""
        self.doubter.eval()
        margins, total = np.zeros(len(kept)), 0.0
        with self._upper.active():
            for start in range(0, len(kept), 128):
                indices = np.arange(start, min(start + 128, len(kept)))
                found = self._losses(lessons, kept, indices, first_only=True, gain=gain)
                margins[indices] = found.margin.cpu().numpy()
                total += float(found.decision) * len(indices)
        return margins, total / max(len(kept), 1)

    def state(self) -> dict[str, Any]:
        """All that is needed to go on after an interruption between epochs."""
        return {
            "doubter": self.doubter.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "bias": self.bias,
            "doubts": self._train[0].doubts,
            "history": [asdict(row) for row in self.history],
            "best": self.best,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.doubter.load_state_dict(state["doubter"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.bias = state["bias"]
        self.teach(state["doubts"])
        self.history = [Epoch(**row) for row in state["history"]]
        self.best = copy.copy(state["best"])

    def _losses(
        self,
        lessons: Lessons,
        kept: list[Kept],
        indices: NDArray[np.intp],
        *,
        first_only: bool = False,
        keeps: bool = False,
        gain: float = 1.0,
        declined_weight: float = 1.0,
    ) -> Losses:
        batch = self._batch(lessons, kept, indices, first_only=first_only)
        activations = lessons.activations[torch.from_numpy(indices)].to(batch.hidden.device).float()
        tokens = self.doubter(activations)
        with injected(self._upper.base, self.doubter, tokens, batch.injected, gain=gain):
            logits = self._upper.logits(batch, batch.rows, batch.positions)
        return losses(
            logits,
            batch,
            self._refusal_token,
            own_logits=self._own_logits(lessons, kept, indices) if keeps else None,
            bias=self.bias,
            declined_weight=declined_weight,
        )

    @torch.no_grad()
    def _own_logits(self, lessons: Lessons, kept: list[Kept], indices: NDArray[np.intp]) -> Tensor | None:
        """What the base alone says where the targets are its own words: [n_own, V]."""
        answered = np.array([index for index in indices if lessons.examples[index].n_own], dtype=np.intp)
        if not len(answered):
            return None
        batch = self._batch(lessons, kept, answered)
        return self._upper.logits(batch, batch.rows[batch.is_own], batch.positions[batch.is_own])

    def _batch(
        self, lessons: Lessons, kept: list[Kept], indices: NDArray[np.intp], *, first_only: bool = False
    ) -> Batch:
        return Batch.of(
            [lessons.examples[i] for i in indices],
            [kept[i] for i in indices],
            first=self._upper.first,
            prefix=self._prefix,
            device=self._upper.base.device,
            first_only=first_only,
        )

    def _batches(self, epoch: int) -> Iterator[NDArray[np.intp]]:
        """Batches in an order that only seed and epoch decide.

        Drawn at random and not by length, which would save padding: refusals are longer than most answers, so batches
        of like length would teach nothing but refusing, or nothing but answering, at a time.
        """
        generator = np.random.default_rng((self._settings.seed, epoch))
        left_out = generator.permutation(self._declined)[self._n_declined :]
        order = generator.permutation(np.setdiff1d(np.arange(len(self._train[1])), left_out))
        size = self._settings.batch_size
        yield from (order[start : start + size] for start in range(0, len(order), size))

    @property
    def _n_declined(self) -> int:
        """Questions to be declined that an epoch goes over."""
        return at_least(self._settings.refusal_share, len(self._declined))

    def _rate(self, step: int) -> float:
        """Factor of the learning rates: a linear rise over the warm-up, then half a cosine down to 0."""
        total = self._settings.epochs * self.n_steps
        rise = max(1, nearest(self._settings.warmup, total))
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, total - rise))))


def _or_chance(area: float | None) -> float:
    """0.5 where there is nothing to tell apart."""
    return 0.5 if area is None else area


def hash_seed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
