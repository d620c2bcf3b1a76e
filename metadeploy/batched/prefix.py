"""Batches of prompts with a common beginning, which is computed once."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metadeploy.reference.base import FrozenBase

__all__ = ["LeftPadded", "SharedPrefix", "left_padded"]


class SharedPrefix:
    """The keys and values of the common beginning of all prompts.

    This needs a cache of plain keys and values. In transformers, recurrent memories and sliding windows cannot continue
    from a cached beginning with several tokens at once. For these, and for models that measure distances by index in
    the cache, the prefix is empty.
    """

    def __init__(self, token_ids: tuple[int, ...], cache: Any) -> None:
        """Use ``SharedPrefix.of``."""
        self.token_ids = token_ids
        self._cache = cache

    def __len__(self) -> int:
        return len(self.token_ids)

    @classmethod
    @torch.inference_mode()
    def of(cls, base: FrozenBase, prompts: Sequence[Sequence[int]]) -> SharedPrefix:
        """Find and compute the common beginning of ``prompts``; at least one token of each is not part of it."""
        # all prompts have in common what the first and the last in sorted order have in common
        first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
        max_length = min(map(len, prompts)) - 1
        common = first[: next((i for i in range(max_length) if first[i] != last[i]), max_length)]
        if not common or not takes_positions(base):
            return cls.none()
        output = base.model(input_ids=torch.tensor([list(common)], device=base.device), use_cache=True)
        cache = getattr(output, "past_key_values", None)
        if not plain_cache(cache):
            return cls.none()
        return cls(common, cache)

    @classmethod
    def none(cls) -> SharedPrefix:
        """Return an empty prefix."""
        return cls((), None)

    def keys_values(self, first: int) -> Tensor:
        """Return keys and values of the blocks from ``first`` on: [n_blocks, 2, n_kv_head, n_prefix, head_dim]."""
        layers = self._cache.layers[first:]
        return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in layers])

    def expanded(self, count: int) -> Any:
        """Return a new cache for a batch of ``count`` prompts; None if the prefix is empty."""
        if self._cache is None:
            return None
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(count)
        return cache


def takes_positions(base: FrozenBase) -> bool:
    """Return whether a model takes positions. Otherwise, padding after a cached beginning would count as distance."""
    return "position_ids" in inspect.signature(base.model.forward).parameters


def plain_cache(cache: Any) -> bool:
    """Return whether a cache holds only keys and values of full attention."""
    from transformers.cache_utils import DynamicLayer

    layers: list[Any] = getattr(cache, "layers", None) or []
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


@dataclass(frozen=True)
class LeftPadded:
    """A batch of token sequences, padded on the left.

    Attributes:
        token_ids: [B, T], without the shared prefix.
        attention_mask: [B, n_prefix + T], 0 for padding.
        position_ids: [B, T], counted from the beginning of the prompt, without padding.
    """

    token_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """Return the arguments for a transformers model."""
        return {
            "input_ids": self.token_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }


def left_padded(
    sequences: Sequence[Sequence[int]], prefix: SharedPrefix | None, device: torch.device | None = None
) -> LeftPadded:
    """Build a batch of sequences that follow ``prefix``."""
    n_prefix = 0 if prefix is None else len(prefix)
    width = max(len(sequence) for sequence in sequences)
    token_ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.ones(len(sequences), n_prefix + width, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        token_ids[row, width - len(sequence) :] = torch.tensor(sequence, dtype=torch.long)
        mask[row, n_prefix : n_prefix + width - len(sequence)] = 0
    positions = (mask.cumsum(1) - 1)[:, n_prefix:].clamp(min=0)
    return LeftPadded(token_ids.to(device), mask.to(device), positions.to(device))
