"""What a wrapper is taught about each question, and the parts of the base's work that stay the same while it learns.

The kept part of an example is what lies below and before the injection: the hidden states that the lowest
cross-attention layer's block puts out and, for a wrapper that acts from the last prompt token on, the keys and values
of the prompt in the blocks above, since nothing ever changes them.
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

__all__ = ["Batch", "Example", "Kept", "keep"]

_KEEP_BATCH: Final = 64


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question's lesson.

    Attributes:
        prompt_ids: the prompt, up to where the answer begins.
        target_ids: what is to be said, the token that ends the turn included.
        declines: whether the targets are the refusal.
        doubt: in [0, 1]: how strongly the first token is to be the refusal's.
        n_own: so many of the targets, from the first on, are the base's own words.
    """

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    declines: bool
    doubt: float
    n_own: int


@dataclass(frozen=True)
class Kept:
    """The part of one example that does not depend on the wrapper.

    Attributes:
        hidden: [T, D] put out by the lowest cross-attention layer's block, before any injection, at the positions that
            are run while training: from ``start`` on.
        start: position of the first of them.
        n_clean: how many of them come before the first injected one.
        keys_values: [n_upper, 2, n_kv_head, n, head_dim] of the prompt's positions from the shared prefix to
            ``start``; None where those positions are run.
    """

    hidden: Tensor
    start: int
    n_clean: int
    keys_values: Tensor | None


@torch.inference_mode()
def keep(
    base: FrozenBase,
    examples: Sequence[Example],
    *,
    first: int,
    inject_from: InjectFrom,
    prefix: SharedPrefix,
    progress: Callable[[int, int], None] | None = None,
) -> list[Kept]:
    """Compute the kept parts.

    Args:
        base: the frozen base, whole.
        examples: the lessons.
        first: the lowest block that is run while training; the one below it is the lowest cross-attention layer.
        inject_from: where the injection starts.
        prefix: common beginning of the prompts.
        progress: called after each batch with examples done and in all.

    Returns:
        One for each example.
    """
    kept: dict[int, Kept] = {}
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt_ids) + len(examples[i].target_ids))
    for at in range(0, len(order), _KEEP_BATCH):
        batch = order[at : at + _KEEP_BATCH]
        for index, found in zip(
            batch, _keep_batch(base, [examples[i] for i in batch], first, inject_from, prefix), strict=True
        ):
            kept[index] = found
        if progress is not None:
            progress(len(kept), len(examples))
    return [kept[index] for index in range(len(examples))]


def _keep_batch(
    base: FrozenBase, examples: Sequence[Example], first: int, inject_from: InjectFrom, prefix: SharedPrefix
) -> Iterator[Kept]:
    # padded on the right: what comes later changes nothing before it
    sequences = [example.prompt_ids[len(prefix) :] + example.target_ids[:-1] for example in examples]
    token_ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        token_ids[row, : len(sequence)] = torch.tensor(sequence)
    seen: dict[str, Tensor] = {}

    def see(hidden: Tensor) -> None:
        seen["hidden"] = hidden.clone()

    with base.stack.hooked({first - 1: see}):
        output = base.model(
            input_ids=token_ids.to(base.device),
            past_key_values=prefix.expanded(len(examples)),
            use_cache=True,
            **base.last_logits,
        )
    cache: Any = output.past_key_values
    hidden = seen["hidden"]
    from_last = inject_from == "last_prompt_token"
    # above the last block nothing looks back
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
        yield Kept(rows.to("cpu", copy=True), start, n_prompt - 1 - start if from_last else 0, keys_values)


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the right.

    Attributes:
        hidden: [B, T, D].
        position_ids: [B, T].
        attention_mask: [B, n_past + T].
        cache: keys and values of the n_past positions before; None where there are none.
        injected: [B, T] bool, where the wrapper acts.
        rows, positions: [n] where in the batch each target token is predicted from; an example's in one run.
        targets: [n] token ids.
        is_first: [n] bool, first target of its example.
        is_own: [n] bool, what the base said by itself.
        declines: [B] bool.
        doubt: [B].
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
        kept: Sequence[Kept],
        *,
        first: int,
        prefix: SharedPrefix,
        device: torch.device,
        first_only: bool = False,
    ) -> Batch:
        """Put examples together.

        Args:
            examples: the lessons.
            kept: their kept parts.
            first: the lowest block that is run.
            prefix: common beginning of the prompts.
            device: where the batch goes.
            first_only: leave out all but the first target of each.
        """
        n_targets = [1 if first_only else len(example.target_ids) for example in examples]
        n_prompts = [len(example.prompt_ids) for example in examples]
        lengths = [
            n_prompt - part.start + count - 1 for n_prompt, part, count in zip(n_prompts, kept, n_targets, strict=True)
        ]
        width, count = max(lengths), len(examples)
        like = kept[0].hidden
        hidden = like.new_zeros(count, width, like.shape[1])
        injected = torch.zeros(count, width, dtype=torch.bool)
        for row, (part, length) in enumerate(zip(kept, lengths, strict=True)):
            hidden[row, :length] = part.hidden[:length]
            injected[row, part.n_clean :] = True
        starts = torch.tensor([part.start for part in kept])
        cache, past_mask = _past(kept, first, prefix, device)
        rows = [row for row, n in enumerate(n_targets) for _ in range(n)]
        positions = [
            n_prompt - 1 - part.start + i
            for n_prompt, part, n in zip(n_prompts, kept, n_targets, strict=True)
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


def _past(kept: Sequence[Kept], first: int, prefix: SharedPrefix, device: torch.device) -> tuple[Any, Tensor]:
    """A cache with what comes before the batch's positions, and its part of the attention mask [B, n_past]."""
    from transformers import DynamicCache

    count = len(kept)
    parts = [part.keys_values for part in kept]
    if all(part is None for part in parts):
        # the prefix is run with the rest, injected or not; its keys and values depend on that
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
        cache.update(empty, empty, index)  # the model asks the first layer how long the cache is
    for index in range(n_upper):
        cache.update(past[index, 0], past[index, 1], first + index)
    return cache, mask
