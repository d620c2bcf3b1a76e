"""Training examples, their cached states, and batches of them.

Training does not change what the base computes below and before the injection, so these states are computed once and
cached. They are the hidden states that the lowest cross-attention layer's block outputs. If the injection starts at the
last prompt token, they also include the keys and values of the prompt in the blocks above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from metadeploy.batched.prefix import SharedPrefix, plain_cache, takes_positions
from metadeploy.reference.base import FrozenBase
from metadeploy.sidecar.spec import InjectFrom

__all__ = ["Batch", "CachedStates", "Example", "compute_states"]

_BATCH_SIZE: Final = 64


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question with its targets.

    Attributes:
        prompt_ids: tokens of the prompt, up to the beginning of the answer.
        target_ids: target tokens, including the token that ends the turn.
        declines: whether the targets are the refusal.
        doubt: label in [0, 1]: 1 to refuse, 0 to answer; values between are soft labels.
        n_own: number of leading targets that are the base's own words.
    """

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    declines: bool
    doubt: float
    n_own: int


@dataclass(frozen=True)
class CachedStates:
    """The states of one example that do not depend on the wrapper.

    Attributes:
        hidden: [T, D] output of the lowest cross-attention layer's block, before any injection, at the positions that
            training evaluates: from ``start`` on.
        start: the first position that training evaluates.
        n_clean: number of evaluated positions before the first injected one.
        keys_values: [n_upper, 2, n_kv_head, n, head_dim] of the prompt's positions from the shared prefix to
            ``start``; None if training evaluates these positions.
    """

    hidden: Tensor
    start: int
    n_clean: int
    keys_values: Tensor | None


@torch.inference_mode()
def compute_states(
    base: FrozenBase,
    examples: Sequence[Example],
    *,
    first: int,
    inject_from: InjectFrom,
    prefix: SharedPrefix,
    progress: Callable[[int, int], None] | None = None,
) -> list[CachedStates]:
    """Compute the states that training reads from a cache.

    Args:
        base: the frozen base with all its blocks.
        examples: the examples.
        first: the lowest block that training runs; the block below it is the lowest cross-attention layer.
        inject_from: the position at which the injection starts.
        prefix: common beginning of the prompts.
        progress: called after each batch with the number of examples that are done, and of all examples.

    Returns:
        The states of each example.
    """
    states: dict[int, CachedStates] = {}
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt_ids) + len(examples[i].target_ids))
    for start in range(0, len(order), _BATCH_SIZE):
        batch = order[start : start + _BATCH_SIZE]
        for index, state in zip(
            batch, _compute_batch(base, [examples[i] for i in batch], first, inject_from, prefix), strict=True
        ):
            states[index] = state
        if progress is not None:
            progress(len(states), len(examples))
    return [states[index] for index in range(len(examples))]


def _compute_batch(
    base: FrozenBase, examples: Sequence[Example], first: int, inject_from: InjectFrom, prefix: SharedPrefix
) -> Iterator[CachedStates]:
    # pad on the right: later tokens do not change earlier states
    sequences = [example.prompt_ids[len(prefix) :] + example.target_ids[:-1] for example in examples]
    token_ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        token_ids[row, : len(sequence)] = torch.tensor(sequence)
    captured: dict[str, Tensor] = {}

    def capture(hidden: Tensor) -> None:
        captured["hidden"] = hidden.clone()

    with base.stack.hooked({first - 1: capture}):
        output = base.model(
            input_ids=token_ids.to(base.device),
            past_key_values=prefix.expanded(len(examples)),
            use_cache=True,
            **base.last_logits,
        )
    cache: Any = output.past_key_values
    hidden = captured["hidden"]
    from_last = inject_from == "last_prompt_token"
    # no block above the last one needs keys and values
    cached = from_last and takes_positions(base) and plain_cache(cache) and first < len(cache.layers)
    for row, example in enumerate(examples):
        n_prompt = len(example.prompt_ids)
        start = n_prompt - 1 if cached else len(prefix)
        rows = hidden[row, start - len(prefix) : n_prompt - len(prefix) + len(example.target_ids) - 1]
        keys_values = None
        if cached:
            keys_values = torch.stack(
                [
                    torch.stack([layer.keys[row, :, len(prefix) : start], layer.values[row, :, len(prefix) : start]])
                    for layer in cache.layers[first:]
                ]
            ).cpu()
        yield CachedStates(rows.to("cpu", copy=True), start, n_prompt - 1 - start if from_last else 0, keys_values)


@dataclass(frozen=True)
class Batch:
    """A batch of examples, padded on the right.

    Attributes:
        hidden: [B, T, D].
        position_ids: [B, T].
        attention_mask: [B, n_past + T].
        cache: keys and values of the n_past earlier positions; None if there are none.
        injected: [B, T] bool, the positions that the wrapper injects into.
        rows, positions: [n] indices of the hidden state that predicts each target; grouped by example.
        targets: [n] token ids.
        is_first: [n] bool, whether it is the first target of its example.
        is_own: [n] bool, whether it is one of the base's own words.
        declines: [B] bool, whether the targets are the refusal.
        doubt: [B] labels.
    """

    hidden: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    cache: Any
    injected: Tensor
    rows: Tensor
    positions: Tensor
    targets: Tensor
    is_first: Tensor
    is_own: Tensor
    declines: Tensor
    doubt: Tensor

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        states: Sequence[CachedStates],
        *,
        first: int,
        prefix: SharedPrefix,
        device: torch.device,
        first_only: bool = False,
    ) -> Batch:
        """Build a batch.

        Args:
            examples: the examples.
            states: their cached states.
            first: the lowest block that training runs.
            prefix: common beginning of the prompts.
            device: device of the batch.
            first_only: include only the first target of each example.
        """
        n_targets = [1 if first_only else len(example.target_ids) for example in examples]
        n_prompts = [len(example.prompt_ids) for example in examples]
        lengths = [
            n_prompt - state.start + count - 1
            for n_prompt, state, count in zip(n_prompts, states, n_targets, strict=True)
        ]
        width, count = max(lengths), len(examples)
        like = states[0].hidden
        hidden = like.new_zeros(count, width, like.shape[1])
        injected = torch.zeros(count, width, dtype=torch.bool)
        for row, (state, length) in enumerate(zip(states, lengths, strict=True)):
            hidden[row, :length] = state.hidden[:length]
            injected[row, state.n_clean :] = True
        starts = torch.tensor([state.start for state in states])
        cache, past_mask = _past_cache(states, first, prefix, device)
        rows = [row for row, n in enumerate(n_targets) for _ in range(n)]
        positions = [
            n_prompt - 1 - state.start + i
            for n_prompt, state, n in zip(n_prompts, states, n_targets, strict=True)
            for i in range(n)
        ]
        targets = [t for example, n in zip(examples, n_targets, strict=True) for t in example.target_ids[:n]]
        return cls(
            hidden=hidden.to(device),
            position_ids=(starts[:, None] + torch.arange(width)).to(device),
            attention_mask=torch.cat([past_mask, torch.ones(count, width, dtype=torch.long)], dim=1).to(device),
            cache=cache,
            injected=injected.to(device),
            rows=torch.tensor(rows, device=device),
            positions=torch.tensor(positions, device=device),
            targets=torch.tensor(targets, device=device),
            is_first=torch.tensor([i == 0 for n in n_targets for i in range(n)], device=device),
            is_own=torch.tensor(
                [i < example.n_own for example, n in zip(examples, n_targets, strict=True) for i in range(n)],
                dtype=torch.bool,
                device=device,
            ),
            declines=torch.tensor([example.declines for example in examples], device=device),
            doubt=torch.tensor([example.doubt for example in examples], device=device),
        )


def _past_cache(
    states: Sequence[CachedStates], first: int, prefix: SharedPrefix, device: torch.device
) -> tuple[Any, Tensor]:
    """Return a cache of the positions before the batch's own, and its part of the attention mask, [B, n_past]."""
    from transformers import DynamicCache

    count = len(states)
    parts = [part.keys_values for part in states]
    if all(part is None for part in parts):
        # training evaluates the prefix, too, because an injection may change its keys and values
        return None, torch.zeros(count, 0, dtype=torch.long)
    lengths = [0 if part is None else part.shape[3] for part in parts]
    n_past = len(prefix) + max(lengths)
    like = next(part for part in parts if part is not None)
    n_upper, _, n_head, _, head_dim = like.shape
    past = like.new_zeros(n_upper, 2, count, n_head, n_past, head_dim)
    mask = torch.zeros(count, n_past, dtype=torch.long)
    if len(prefix):
        past[:, :, :, :, : len(prefix)] = prefix.keys_values(first)[:, :, None].to(past)
        mask[:, : len(prefix)] = 1
    for row, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        assert part is not None
        past[:, :, row, :, len(prefix) : len(prefix) + length] = part
        mask[row, len(prefix) : len(prefix) + length] = 1
    past = past.to(device)
    cache = DynamicCache()
    empty = past.new_zeros(1).expand(count, n_head, n_past, head_dim)
    for index in range(first):
        cache.update(empty, empty, index)  # the model reads the length of the cache from the first layer
    for index in range(n_upper):
        cache.update(past[index, 0], past[index, 1], first + index)
    return cache, mask
