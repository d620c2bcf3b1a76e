"""Checks before training that the upper blocks alone compute the same as the whole model.

`upper_blocks` assumes that a block takes only the hidden states from the blocks below. Most models work that way, but
not all. One pass over a few examples shows whether this model does, with the installed versions of the libraries.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from metadeploy.batched.prefix import SharedPrefix
from metadeploy.batched.upper_blocks import UpperBlocks, selected_rows
from metadeploy.errors import ModelMismatchError
from metadeploy.reference.base import FrozenBase
from metadeploy.training.examples import Batch, CachedStates, Example

__all__ = ["TOLERANCE_16_BIT", "TOLERANCE_32_BIT", "check_cut", "cut_error"]

#: Largest allowed difference of the logits, as NMSE about each position's mean. In 32 bits only the order of sums
#: differs.
TOLERANCE_32_BIT: Final = 1e-5
#: Largest allowed difference in 16 bits or quantized: each block rounds, and the blocks above propagate the error.
TOLERANCE_16_BIT: Final = 2e-2

#: The exceptions that models raise if an input is missing.
_RAISED: Final = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def check_cut(
    upper: UpperBlocks, examples: Sequence[Example], states: Sequence[CachedStates], prefix: SharedPrefix
) -> None:
    """Compare the upper blocks with the whole model on a few examples.

    Args:
        upper: the upper blocks, not active.
        examples: the examples.
        states: their cached states.
        prefix: common beginning of their prompts.

    Raises:
        ModelMismatchError: the logits differ by more than the tolerance, or the upper blocks cannot run alone.
    """
    if not examples:
        return
    base = upper.base
    subject = f"base model {type(base.model).__name__}: its blocks from {upper.first} on"
    try:
        error = cut_error(upper, examples, states, prefix)
    except torch.OutOfMemoryError:
        raise
    except _RAISED as raised:
        raise ModelMismatchError(
            f"{subject} do not run on the hidden states of block {upper.first - 1} alone, expected blocks that need "
            f"nothing else (metadeploy train does not support this model: {type(raised).__name__}: "
            f"{textwrap.shorten(str(raised), 200)})"
        ) from raised
    tolerance = _tolerance(base)
    if not error <= tolerance:  # NaN must fail too
        raise ModelMismatchError(
            f"{subject} compute other logits on the cached hidden states than the whole model: they differ by an NMSE "
            f"of {error:.2g}, expected at most {tolerance:g} (has the model changed since these were cached? Then use "
            "--restart. Otherwise metadeploy train does not support this model)"
        )


@torch.no_grad()
def cut_error(
    upper: UpperBlocks, examples: Sequence[Example], states: Sequence[CachedStates], prefix: SharedPrefix
) -> float:
    """Return the NMSE of the upper blocks' logits against the whole model's, about each position's mean."""
    base = upper.base
    batch = Batch.of(examples, states, first=upper.first, prefix=prefix, device=base.device)
    expected = _whole_model_logits(base, examples)
    with upper.active():
        actual = upper.logits(batch, batch.rows, batch.positions).float()
    expected, actual = (logits - logits.mean(dim=1, keepdim=True) for logits in (expected, actual))
    return float((actual - expected).square().mean() / expected.square().mean())


def _whole_model_logits(base: FrozenBase, examples: Sequence[Example]) -> Tensor:
    """Return the logits [n, V] of the whole model at all targets."""
    sequences = [example.prompt_ids + example.target_ids[:-1] for example in examples]
    token_ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        token_ids[row, : len(sequence)] = torch.tensor(sequence)
    target_positions = [
        (row, len(example.prompt_ids) - 1 + i)
        for row, example in enumerate(examples)
        for i in range(len(example.target_ids))
    ]
    rows, positions = torch.tensor(target_positions, device=base.device).unbind(1)
    base.model.eval()
    with selected_rows(base.model, rows, positions):
        output = base.model(input_ids=token_ids.to(base.device), use_cache=False)
    logits: Tensor = output.logits[0]
    return logits.float()


def _tolerance(base: FrozenBase) -> float:
    quantized = getattr(base.model, "is_quantized", False)
    return TOLERANCE_32_BIT if base.model.dtype.itemsize >= 4 and not quantized else TOLERANCE_16_BIT
