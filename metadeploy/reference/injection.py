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
    """What pass 2 and the answer after it add to the base.

    Attributes:
        doubter: the wrapper.
        cognitive_tokens: [C, D], in the wrapper's dtype, by the position from which on they hold; ascending from 0.
        gain: factor of the injection; with 0 the base's outputs are not touched at all, so they stay bit for bit.
        n_prompt: number of tokens of the prompt.
        schedule: what becomes of it over time.
        attention: where given, each pass puts the attention over the cognitive tokens into it, [H, T, C] by layer.
    """

    doubter: Doubter
    cognitive_tokens: Mapping[int, Tensor]
    gain: float
    n_prompt: int
    schedule: InjectionSchedule = STATIC
    attention: dict[int, Tensor] | None = None

    def renewed(self, position: int, cognitive_tokens: Tensor) -> Injection:
        """The same with other cognitive tokens from a position on, which is later than all before."""
        return replace(self, cognitive_tokens={**self.cognitive_tokens, position: cognitive_tokens})

    def gain_at(self, position: int) -> float:
        """Factor of the injection at a position of the sequence."""
        last_of_prompt = self.n_prompt - 1
        if self.doubter.config.inject_from == "last_prompt_token" and position < last_of_prompt:
            return 0.0
        return self.gain * self.schedule.strength(max(0, position - last_of_prompt))

    def hooks(self, *, n_past: int) -> dict[int, BlockHook]:
        """Hooks for a pass whose first token stands at position ``n_past`` of the sequence."""
        return {layer: self._hook(layer, n_past) for layer in self.doubter.config.cross_attn_layers}

    def _hook(self, layer: int, n_past: int) -> BlockHook:
        cross_attention = self.doubter.cross_attention(layer)

        def inject(hidden: Tensor) -> Tensor | None:
            after, seen = None, []
            for where, tokens, gain in self._stretches(n_past, hidden.shape[1]):
                # raised to the wrapper's dtype and rounded back once, after the addition; a base that is spread over
                # several devices costs a copy besides
                before = hidden[:, where].to(tokens)
                if self.attention is not None:
                    seen.append(cross_attention.attention(before[0], tokens))
                if gain != 0.0:
                    after = hidden.clone() if after is None else after
                    after[:, where] = cross_attention(before, tokens, gain=gain).to(hidden)
            if self.attention is not None:
                self.attention[layer] = torch.cat(seen, dim=1)
            return after

        return inject

    def _stretches(self, n_past: int, n_tokens: int) -> Iterator[tuple[slice, Tensor, float]]:
        """The tokens of a pass in runs that the same is injected into: where, cognitive tokens, gain."""

        def what(i: int) -> tuple[int, float]:
            position = n_past + i
            return max(start for start in self.cognitive_tokens if start <= position), self.gain_at(position)

        for (start, gain), run in groupby(range(n_tokens), key=what):
            indices = list(run)
            yield slice(indices[0], indices[-1] + 1), self.cognitive_tokens[start], gain
