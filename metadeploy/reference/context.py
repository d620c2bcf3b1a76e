"""Sequences that grow token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metadeploy.reference.base import FrozenBase, keep_outputs
from metadeploy.reference.decoder import BlockHook
from metadeploy.reference.doubter import Doubter
from metadeploy.reference.injection import Injection


class Context:
    """A sequence in the base that grows with the model's cache.

    A model without a cache evaluates the whole sequence again each time, with the same injections.
    """

    def __init__(self, base: FrozenBase) -> None:
        """Begin an empty sequence."""
        self._base = base
        self._token_ids: list[int] = []
        self._cache: Any = None

    def feed(
        self,
        token_ids: Sequence[int],
        *,
        injection: Injection | None = None,
        hooks: Mapping[int, BlockHook] | None = None,
    ) -> Tensor:
        """Add one or more tokens, and return the logits [V] after the last one."""
        n_past = 0 if self._cache is None else len(self._token_ids)
        self._token_ids += token_ids
        output = self._base.forward(
            self._token_ids[n_past:],
            injection=injection,
            hooks=hooks,
            n_past=n_past,
            cache=self._cache,
            use_cache=True,
            last_only=True,
        )
        self._cache = output.cache
        return output.logits[-1]


class CleanContext:
    """A sequence without injection, and the activations at its end."""

    def __init__(self, base: FrozenBase, doubter: Doubter) -> None:
        """Begin an empty sequence."""
        self._context = Context(base)
        self._doubter = doubter

    def feed(self, token_ids: Sequence[int]) -> Tensor:
        """Add one or more tokens.

        Returns:
            The activations at the last one: [n_target, D], on the device and in the dtype of the encoder.
        """
        layers = self._doubter.config.target_layers
        like = next(self._doubter.enc.parameters())
        outputs: dict[int, Tensor] = {}
        self._context.feed(token_ids, hooks=keep_outputs(layers, outputs, last_only=True))
        return torch.stack([outputs[layer][-1].to(like) for layer in layers])
