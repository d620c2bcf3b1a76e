"""The injection into the base's decoder blocks, for one prompt and the answer after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from metadeploy.reference.decoder import BlockHook
from metadeploy.reference.doubter import Doubter
from metadeploy.schedule import STATIC, InjectionSchedule


@dataclass(frozen=True, kw_only=True)
class Injection:
    """The injection in pass 2 and in the answer after it.

    Attributes:
        doubter: the wrapper.
        cognitive_tokens: [C, D], in the wrapper's dtype, by the position from which on they apply; ascending from 0.
        gain: factor of the injection. With 0 the base's outputs do not change, not even in the last bit.
        n_prompt: number of tokens of the prompt.
        schedule: how the injection changes over time.
        attention: if set, each pass stores the attention over the cognitive tokens in it, [H, T, C] by layer.
    """

    doubter: Doubter
    cognitive_tokens: Mapping[int, Tensor]
    gain: float
    n_prompt: int
    schedule: InjectionSchedule = STATIC
    attention: dict[int, Tensor] | None = None

    def renewed(self, position: int, cognitive_tokens: Tensor) -> Injection:
        """Return a copy with other cognitive tokens from a position on, which must be later than the earlier ones."""
        return replace(self, cognitive_tokens={**self.cognitive_tokens, position: cognitive_tokens})

    def gain_at(self, position: int) -> float:
        """Return the factor of the injection at a position of the sequence."""
        last_of_prompt = self.n_prompt - 1
        if self.doubter.config.inject_from == "last_prompt_token" and position < last_of_prompt:
            return 0.0
        return self.gain * self.schedule.strength(max(0, position - last_of_prompt))

    def hooks(self, *, n_past: int) -> dict[int, BlockHook]:
        """Return hooks for a pass whose first token is at position ``n_past`` of the sequence."""
        return {layer: self._hook(layer, n_past) for layer in self.doubter.config.cross_attn_layers}

    def _hook(self, layer: int, n_past: int) -> BlockHook:
        cross_attention = self.doubter.cross_attention(layer)

        def inject(hidden: Tensor) -> Tensor | None:
            after, weights = None, []
            for rows, tokens, gain in self._stretches(n_past, hidden.shape[1]):
                # convert to the wrapper's dtype, and back once, after the addition; if the base is on several devices,
                # this also copies between them
                before = hidden[:, rows].to(tokens)
                if self.attention is not None:
                    weights.append(cross_attention.attention(before[0], tokens))
                if gain != 0.0:
                    after = hidden.clone() if after is None else after
                    after[:, rows] = cross_attention(before, tokens, gain=gain).to(hidden)
            if self.attention is not None:
                self.attention[layer] = torch.cat(weights, dim=1)
            return after

        return inject

    def _stretches(self, n_past: int, n_tokens: int) -> Iterator[tuple[slice, Tensor, float]]:
        """Yield groups of adjacent tokens with equal injection: rows, cognitive tokens, gain."""

        def key_at(i: int) -> tuple[int, float]:
            position = n_past + i
            return max(start for start in self.cognitive_tokens if start <= position), self.gain_at(position)

        for (start, gain), group in groupby(range(n_tokens), key=key_at):
            indices = list(group)
            yield slice(indices[0], indices[-1] + 1), self.cognitive_tokens[start], gain
