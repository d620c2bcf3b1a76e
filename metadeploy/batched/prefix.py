"""Batches of prompts that begin alike: the beginning is computed once."""

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
    """The keys and values of what all prompts begin with.

    Only where a cache is plain keys and values: recurrent memories and sliding windows do not go on from a cached
    beginning with several tokens at once in transformers. There the prefix is empty, as it is for models that count
    distances by place in the cache.
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
        """Find and compute the common beginning of ``prompts``; at least one token of each stays outside."""
        # what the first and the last in order have in common, all have
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
        """No common beginning."""
        return cls((), None)

    def keys_values(self, first: int) -> Tensor:
        """Keys and values of the blocks from ``first`` on: [n_blocks, 2, n_kv_head, n_prefix, head_dim]."""
        layers = self._cache.layers[first:]
        return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in layers])

    def expanded(self, count: int) -> Any:
        """A cache of its own for a batch of ``count`` prompts; None where the prefix is empty."""
        if self._cache is None:
            return None
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(count)
        return cache


def takes_positions(base: FrozenBase) -> bool:
    """Whether a model can be told positions; else padding after a cached beginning would count as distance."""
    return "position_ids" in inspect.signature(base.model.forward).parameters


def plain_cache(cache: Any) -> bool:
    """Whether a cache holds keys and values of full attention and nothing else."""
    from transformers.cache_utils import DynamicLayer

    layers: list[Any] = getattr(cache, "layers", None) or []
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


@dataclass(frozen=True)
class LeftPadded:
    """A batch of token sequences that end together.

    Attributes:
        token_ids: [B, T], without the shared prefix.
        attention_mask: [B, n_prefix + T], 0 where padded.
        position_ids: [B, T], counted from the prompt's true beginning.
    """

    token_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """Arguments of a transformers model."""
        return {
            "input_ids": self.token_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }


def left_padded(
    sequences: Sequence[Sequence[int]], prefix: SharedPrefix | None, device: torch.device | None = None
) -> LeftPadded:
    """Put sequences, which follow ``prefix``, into one batch."""
    n_prefix = 0 if prefix is None else len(prefix)
    width = max(len(sequence) for sequence in sequences)
    token_ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.ones(len(sequences), n_prefix + width, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        token_ids[row, width - len(sequence) :] = torch.tensor(sequence, dtype=torch.long)
        mask[row, n_prefix : n_prefix + width - len(sequence)] = 0
    positions = (mask.cumsum(1) - 1)[:, n_prefix:].clamp(min=0)
    return LeftPadded(token_ids.to(device), mask.to(device), positions.to(device))
